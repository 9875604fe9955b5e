"""Optimizers: hyper-parameters as frozen dataclasses.

Their state lives in the Trainer, their arithmetic in the kernels. Imports `fastnet.kernels`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ._checks import number
from .kernels.contracts import Array
from .kernels.variants import highest


@dataclass(frozen=True)
class SGD:
    """Gradient descent, with momentum if wanted.

    v <- momentum v + gradient;  parameters <- parameters - learning_rate v

    Parameters
    ----------
    learning_rate : float, default 0.01
        Step size, above 0.
    momentum : float, default 0.0
        How much of the last step to keep, 0 <= momentum < 1.

    Raises
    ------
    TypeError
        If a hyper-parameter is not a number.
    ValueError
        If a hyper-parameter is out of range.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0

    vectors: ClassVar[int] = 1
    """State vectors, each as long as the parameters: the velocity."""

    def __post_init__(self) -> None:
        number("SGD learning_rate", self.learning_rate, above=0)
        number("SGD momentum", self.momentum, least=0, below=1)

    def update(self, rung: str, parameters: Array, gradient: Array, state: Sequence[Array], step: int) -> None:
        """One step in place; ``step`` counts from 1."""
        highest("sgd_update", rung)(
            parameters, gradient, *state, float(self.learning_rate), float(self.momentum), False
        )


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1).

    Parameters
    ----------
    learning_rate : float, default 0.001
        Step size, above 0.
    beta1, beta2 : float, default 0.9 and 0.999
        How much of the running mean of the gradient, and of its square, to keep; 0 <= beta < 1.
    epsilon : float, default 1e-8
        Keeps the division finite, above 0.

    Raises
    ------
    TypeError
        If a hyper-parameter is not a number.
    ValueError
        If a hyper-parameter is out of range.
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    vectors: ClassVar[int] = 2
    """State vectors, each as long as the parameters: the running mean of the gradient and of its square."""

    def __post_init__(self) -> None:
        number("Adam learning_rate", self.learning_rate, above=0)
        number("Adam beta1", self.beta1, least=0, below=1)
        number("Adam beta2", self.beta2, least=0, below=1)
        number("Adam epsilon", self.epsilon, above=0)

    def update(self, rung: str, parameters: Array, gradient: Array, state: Sequence[Array], step: int) -> None:
        """One step in place; ``step`` counts from 1."""
        hyper = (float(self.learning_rate), float(self.beta1), float(self.beta2), float(self.epsilon))
        highest("adam_update", rung)(parameters, gradient, *state, *hyper, 0.0, step)
