"""The optimizers' updates in NumPy: the oracle, and the implementation behind ``backend="numpy"``.

Each rule is stated once, independently of the functions in `specs.optimizers`. All work for any float dtype.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..specs.optimizers import LEAST_STATE, OPTIMIZER_BY_CODE, UPDATES, UpdateSpec
from .activations import Array


def _sgd(p: Array, g: Array, state: Sequence[Array], hyper: Sequence[float], rate: float, step: int) -> None:
    """p <- p - rate g."""
    p -= rate * g


def _momentum(p: Array, g: Array, state: Sequence[Array], hyper: Sequence[float], rate: float, step: int) -> None:
    """v <- momentum v + g;  p <- p - rate v."""
    velocity, momentum = state[0], hyper[0]
    velocity *= momentum
    velocity += g
    p -= rate * velocity


def _nesterov(p: Array, g: Array, state: Sequence[Array], hyper: Sequence[float], rate: float, step: int) -> None:
    """v <- momentum v + g;  p <- p - rate (g + momentum v): PyTorch's form (Sutskever et al. 2013)."""
    velocity, momentum = state[0], hyper[0]
    velocity *= momentum
    velocity += g
    p -= rate * (g + momentum * velocity)


def _adam(p: Array, g: Array, state: Sequence[Array], hyper: Sequence[float], rate: float, step: int) -> None:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1); step counts from 1.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    p <- p - rate weight_decay p, decoupled (AdamW, Loshchilov and Hutter 2019, in PyTorch's form)
    p <- p - rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
    """
    mean, square = state[0], state[1]
    beta1, beta2, epsilon, weight_decay = hyper[:4]
    mean *= beta1
    mean += (1 - beta1) * g
    square *= beta2
    square += (1 - beta2) * g**2
    p *= 1 - rate * weight_decay
    corrected_mean = mean / (1 - beta1**step)
    corrected_square = square / (1 - beta2**step)
    p -= rate * corrected_mean / (np.sqrt(corrected_square) + epsilon)


def _rmsprop(p: Array, g: Array, state: Sequence[Array], hyper: Sequence[float], rate: float, step: int) -> None:
    """v <- alpha v + (1 - alpha) g^2;  p <- p - rate g / (sqrt(v) + epsilon): PyTorch's form (Hinton 2012)."""
    square, (alpha, epsilon) = state[0], hyper[:2]
    square *= alpha
    square += (1 - alpha) * g**2
    p -= rate * g / (np.sqrt(square) + epsilon)


RULES: dict[str, Callable[..., None]] = {
    "none": lambda *arguments: None,
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
    "rmsprop": _rmsprop,
}
"""The rule of every optimizer by name, in place: ``(p, g, state, hyper, rate, step)``."""


def update(
    code: int, p: Array, g: Array, state: Sequence[Array], hyper: Sequence[float], rate: float, step: int
) -> None:
    """Apply an update rule in place.

    Parameters
    ----------
    code : int
        The rule's code in `OPTIMIZERS`.
    p, g : ndarray, shape (P,)
        The parameters and their gradient.
    state : sequence of ndarray
        The rule's state vectors, each (P,).
    hyper : sequence of float
        The hyperparameters, in the order of the rule's spec; Python floats, so that float32 arrays stay float32.
    rate : float
    step : int
        Counts from 1.
    """
    _apply(OPTIMIZER_BY_CODE[code].name, p, g, state, hyper, rate, step)


def _apply(rule: str, p: Array, g: Array, state: Sequence[Array], *numbers: Any) -> None:
    RULES[rule](p, g, state, *numbers)
    for vector in (p, *state) if rule != "none" else ():
        vector[np.abs(vector) < LEAST_STATE] = 0


def _operation(spec: UpdateSpec) -> Callable[..., None]:
    def run(*arguments: Any) -> None:
        rule, p, g, state, *numbers = spec.parse(arguments)
        _apply(rule.name, p, g, state, *numbers)

    return run


globals().update({name: _operation(spec) for name, spec in UPDATES.items()})

if TYPE_CHECKING:  # the operations are generated from the rules

    def __getattr__(name: str) -> Any: ...
