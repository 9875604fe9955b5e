"""The update rules: one record each, from which everything that lists optimizers is generated.

A rule is two plain functions, which the CPU's kernels and CUDA's compile and `reference` states a second time in NumPy.
``coefficients`` computes, once a step and in float64, what all elements share; ``element`` updates one element in the
dtype of the parameters. Neither calls a helper. ``docs/extending.md`` shows how to add a rule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OptimizerSpec:
    """An update rule, elementwise over the parameters.

    Attributes
    ----------
    name : str
    code : int
        The integer by which compiled code chooses it: its position in `OPTIMIZERS`.
    state : tuple of str
        Names of its state vectors, at most two, each as long as the parameters and zero before the first step.
    hyperparameters : tuple of str
        Names, in the order of the float64 vector (8,) that update kernels take; the learning rate is apart.
    coefficients : callable
        ``(rate, step, hyper) -> (c0, ..., c7)``: what all elements share, in float64; step counts from 1.
    element : callable
        ``(p, g, s, t, c) -> (p, s, t)``: one parameter, its gradient and its state before and after the step. A
        state that the rule does not have is 0 and is ignored.
    equation : str
        The rule in words of mathematics, for docstrings and documentation.
    source : str
        Where the rule was published.
    """

    name: str
    code: int
    state: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    coefficients: Callable[[float, int, Any], tuple[float, ...]]
    element: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]
    equation: str = ""
    source: str = ""

    @property
    def state_vectors(self) -> int:
        """Number of state vectors."""
        return len(self.state)


HYPER_SIZE = 8
"""Length of the vector of hyper-parameters that update kernels take; unused places are 0."""

# ---------------------------------------------------------------------------------------- gradient descent


def _rate_and_momentum(rate: float, step: int, hyper: Any) -> tuple[float, ...]:
    return rate, hyper[0], 0.0, 0.0, 0.0, 0.0, 0.0, 0.0


def _none(p: Any, g: Any, s: Any, t: Any, c: Any) -> tuple[Any, Any, Any]:
    return p, s, t


def _sgd(p: Any, g: Any, s: Any, t: Any, c: Any) -> tuple[Any, Any, Any]:
    return p - c[0] * g, s, t


def _momentum(p: Any, g: Any, s: Any, t: Any, c: Any) -> tuple[Any, Any, Any]:
    velocity = c[1] * s + g
    return p - c[0] * velocity, velocity, t


def _nesterov(p: Any, g: Any, s: Any, t: Any, c: Any) -> tuple[Any, Any, Any]:
    velocity = c[1] * s + g
    return p - c[0] * (g + c[1] * velocity), velocity, t


# -------------------------------------------------------------------------------------------------- Adam


def _adam_coefficients(rate: float, step: int, hyper: Any) -> tuple[float, ...]:
    beta1, beta2, epsilon, weight_decay = hyper[0], hyper[1], hyper[2], hyper[3]
    # math.pow, since Numba turns ** with an integer into repeated squaring, whose error grows with the step.
    corrected_rate = rate / (1 - math.pow(beta1, float(step)))
    correction2 = 1 / (1 - math.pow(beta2, float(step)))
    # 1 - beta is taken here, in float64: in float32 it would lose digits. Without decay the last factor is exactly 1.
    return corrected_rate, beta1, 1 - beta1, beta2, 1 - beta2, correction2, epsilon, 1 - rate * weight_decay


def _adam(p: Any, g: Any, s: Any, t: Any, c: Any) -> tuple[Any, Any, Any]:
    mean = c[1] * s + c[2] * g
    square = c[3] * t + c[4] * g * g
    return c[7] * p - c[0] * mean / (math.sqrt(square * c[5]) + c[6]), mean, square


OPTIMIZERS: dict[str, OptimizerSpec] = {
    spec.name: spec
    for spec in (
        OptimizerSpec("none", 0, (), (), _rate_and_momentum, _none),  # computes the gradient and changes nothing
        OptimizerSpec(
            name="sgd",
            code=1,
            state=(),
            hyperparameters=(),
            coefficients=_rate_and_momentum,
            element=_sgd,
            equation="p <- p - rate g",
        ),
        OptimizerSpec(
            name="momentum",
            code=2,
            state=("velocity",),
            hyperparameters=("momentum",),
            coefficients=_rate_and_momentum,
            element=_momentum,
            equation="v <- momentum v + g;  p <- p - rate v",
        ),
        OptimizerSpec(
            name="nesterov",
            code=3,
            state=("velocity",),
            hyperparameters=("momentum",),
            coefficients=_rate_and_momentum,
            element=_nesterov,
            equation="v <- momentum v + g;  p <- p - rate (g + momentum v)",
            source="Sutskever et al. 2013, in PyTorch's form",
        ),
        OptimizerSpec(
            name="adam",
            code=4,
            state=("mean", "square"),
            hyperparameters=("beta1", "beta2", "epsilon", "weight_decay"),
            coefficients=_adam_coefficients,
            element=_adam,
            equation="m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;  "
            "p <- (1 - rate weight_decay) p - rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)",
            source="Kingma and Ba 2015, algorithm 1; decoupled decay: Loshchilov and Hutter 2019",
        ),
    )
}
"""Every update rule by name, in the order of the codes."""

OPTIMIZER_BY_CODE = tuple(OPTIMIZERS.values())
