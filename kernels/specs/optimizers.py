"""The optimizers' update rules: one record each, from which everything that lists them is generated.

A rule is elementwise over the parameters and given by two plain Python functions, which use nothing but `math`:

- ``constants(hyper, rate, step)`` computes the values that all elements share, in float64, once per kernel call;
- ``rule(p, g, s0, s1, constants)`` returns the new ``(p, s0, s1)`` of one element. It casts the constants to p's type,
  which LLVM hoists out of the loop. A state that the rule does not use is returned unchanged.

The CPU compiles both, CUDA as device functions. Parameters and states are `flushed` before they are stored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .base import Array, Choice, by_name, rounding


@dataclass(frozen=True)
class OptimizerSpec(Choice):
    """An update rule, elementwise over the parameters.

    Attributes
    ----------
    name : str
    code : int
        The integer by which compiled code chooses it: its position in `OPTIMIZERS`, which assigns it.
    constants : callable
        ``(hyper, rate, step) -> tuple of float``; ``hyper`` holds the hyperparameters, ``step`` counts from 1.
    rule : callable
        ``(p, g, s0, s1, constants) -> (p, s0, s1)``.
    state : tuple of str
        Names of the state vectors, each as long as the parameters and 0 before the first step.
    hyperparameters : tuple of str
        Names, in the order of ``hyper``; the learning rate is passed separately.
    """

    constants: Callable[[Any, float, int], tuple[float, ...]]
    rule: Callable[[Any, Any, Any, Any, tuple[float, ...]], tuple[Any, Any, Any]]
    state: tuple[str, ...] = ()
    hyperparameters: tuple[str, ...] = ()

    @property
    def state_vectors(self) -> int:
        """Number of state vectors."""
        return len(self.state)


HYPER_SIZE = 8
"""Length of the float64 vector in which hyperparameters are passed."""


LEAST_STATE = 2.0**-126
"""The smallest normal float32. Without gradients a state decays to denormal numbers, with which CPUs compute a hundred
times slower, and stays there; so does a weight under l2 or weight decay."""


def flushed(x: Any) -> Any:
    """Return 0 if abs(x) is below LEAST_STATE, whatever the dtype, else x."""
    real = type(x)
    return real(0) if abs(x) < real(LEAST_STATE) else x


# --------------------------------------------------------------------------------- gradient descent


def sgd_constants(hyper: Any, rate: float, step: int) -> tuple[float, ...]:
    """(rate,)."""
    return (rate,)


def sgd_rule(p: Any, g: Any, s0: Any, s1: Any, constants: Any) -> tuple[Any, Any, Any]:
    """p <- p - rate g."""
    return p - type(p)(constants[0]) * g, s0, s1


def momentum_constants(hyper: Any, rate: float, step: int) -> tuple[float, ...]:
    """(rate, momentum)."""
    return rate, hyper[0]


def momentum_rule(p: Any, g: Any, s0: Any, s1: Any, constants: Any) -> tuple[Any, Any, Any]:
    """v <- momentum v + g;  p <- p - rate v."""
    real = type(p)
    velocity = real(constants[1]) * s0 + g
    return p - real(constants[0]) * velocity, velocity, s1


def nesterov_rule(p: Any, g: Any, s0: Any, s1: Any, constants: Any) -> tuple[Any, Any, Any]:
    """v <- momentum v + g;  p <- p - rate (g + momentum v)."""
    real = type(p)
    momentum = real(constants[1])
    velocity = momentum * s0 + g
    return p - real(constants[0]) * (g + momentum * velocity), velocity, s1


# --------------------------------------------------------------------------------------------- adam


def adam_constants(hyper: Any, rate: float, step: int) -> tuple[float, ...]:
    """Factor of the parameters, corrected rate, 1 / (1 - beta2^step), beta1, 1 - beta1, beta2, 1 - beta2, epsilon.

    Computed in float64, where 1 - beta2 does not cancel, and with math.pow, since Numba turns ** with an integer into
    repeated squaring, whose error grows with the step (1e-13 at 1000).
    """
    beta1, beta2 = hyper[0], hyper[1]
    keep = 1 - rate * hyper[3]  # 1 without decay: the bits are then plain Adam's
    corrected_rate = rate / (1 - math.pow(beta1, float(step)))
    correction2 = 1 / (1 - math.pow(beta2, float(step)))
    return keep, corrected_rate, correction2, beta1, 1 - beta1, beta2, 1 - beta2, hyper[2]


def adam_rule(p: Any, g: Any, s0: Any, s1: Any, constants: Any) -> tuple[Any, Any, Any]:
    """Adam (Kingma and Ba 2015, algorithm 1), with decoupled weight decay (Loshchilov and Hutter 2019).

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;  p <- p - rate weight_decay p;
    p <- p - rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon).
    """
    real = type(p)
    mean = real(constants[3]) * s0 + real(constants[4]) * g
    square = real(constants[5]) * s1 + real(constants[6]) * g * g
    root = math.sqrt(square * real(constants[2])) + real(constants[7])
    return real(constants[0]) * p - real(constants[1]) * mean / root, mean, square


# ------------------------------------------------------------------------------------------ rmsprop


def rmsprop_constants(hyper: Any, rate: float, step: int) -> tuple[float, ...]:
    """(rate, alpha, 1 - alpha, epsilon), in float64, where 1 - alpha does not cancel."""
    return rate, hyper[0], 1 - hyper[0], hyper[1]


def rmsprop_rule(p: Any, g: Any, s0: Any, s1: Any, constants: Any) -> tuple[Any, Any, Any]:
    """v <- alpha v + (1 - alpha) g^2;  p <- p - rate g / (sqrt(v) + epsilon)."""
    real = type(p)
    square = real(constants[1]) * s0 + real(constants[2]) * g * g
    return p - real(constants[0]) * g / (math.sqrt(square) + real(constants[3])), square, s1


# -------------------------------------------------------------------------------------------- table

OPTIMIZERS = by_name(
    OptimizerSpec("none", sgd_constants, sgd_rule),  # leaves the parameters unchanged and the gradient readable
    OptimizerSpec("sgd", sgd_constants, sgd_rule),
    OptimizerSpec("momentum", momentum_constants, momentum_rule, ("velocity",), ("momentum",)),
    OptimizerSpec("nesterov", momentum_constants, nesterov_rule, ("velocity",), ("momentum",)),
    OptimizerSpec("adam", adam_constants, adam_rule, ("mean", "square"), ("beta1", "beta2", "epsilon", "weight_decay")),
    OptimizerSpec("rmsprop", rmsprop_constants, rmsprop_rule, ("square",), ("alpha", "epsilon")),
)
"""Every update rule by name, in the order of the codes."""

OPTIMIZER_BY_CODE = tuple(OPTIMIZERS.values())

# ------------------------------------------------------------------------------- public operations


class Step(NamedTuple):
    """Arguments of a public update, parsed: the rule, its arrays and its numbers."""

    spec: OptimizerSpec
    parameters: Array
    gradient: Array
    state: tuple[Array, ...]
    hyper: tuple[float, ...]
    rate: float
    step: int


@dataclass(frozen=True)
class UpdateSpec:
    """A public in-place update operation: one rule, or several from which an argument selects one.

    Its variants are called with ``(parameters, gradient, *state, *numbers)``.

    Attributes
    ----------
    operation : str
        The public function's name.
    rules : tuple of str
        Names of the rules, at most three; the last one has every state.
    choose : callable
        ``(*numbers) -> (index of the rule, hyper, rate, step)``, a plain function that the CPU compiles.
    options : dict
        Numbers of the cases to check, by option; the first case is also timed.
    bound : callable
        As in `OpSpec`.
    flops : int
        Floating-point operations per element.
    """

    operation: str
    rules: tuple[str, ...]
    choose: Callable[..., tuple[int, tuple[float, ...], float, int]]
    options: dict[str, tuple[Any, ...]]
    bound: Callable[[tuple[Any, ...], tuple[Array, ...], float], tuple[Array, ...]]
    flops: int

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the state arrays; a ``square`` is never negative."""
        return OPTIMIZERS[self.rules[-1]].state

    def parse(self, arguments: tuple[Any, ...]) -> Step:
        """Parse the arguments of a call."""
        numbers = 2 + len(self.state)
        index, hyper, rate, step = self.choose(*arguments[numbers:])
        return Step(OPTIMIZERS[self.rules[index]], arguments[0], arguments[1], arguments[2:numbers], hyper, rate, step)


def _choose_sgd(rate: float, momentum: float, nesterov: bool) -> tuple[int, tuple[float, ...], float, int]:
    return 0 if momentum == 0 else (2 if nesterov else 1), (momentum,), rate, 1


def _sgd_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    parameters, gradient, velocity, rate, momentum, nesterov = arguments
    new_velocity = np.abs(gradient) + np.abs(momentum * velocity)
    step = np.abs(gradient) + momentum * new_velocity if nesterov else new_velocity
    return rounding(parameters, rate * step, eps=eps) / 2, rounding(new_velocity, eps=eps) / 2


def _choose_adam(rate: float, *numbers: Any) -> tuple[int, tuple[float, ...], float, int]:
    return 0, numbers[:4], rate, numbers[4]


def _adam_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    parameters, gradient, mean, square, rate, beta1, beta2, epsilon, _, step = arguments
    new_mean = beta1 * np.abs(mean) + (1 - beta1) * np.abs(gradient)  # sums magnitudes, since m and g may cancel
    new_square = beta2 * square + (1 - beta2) * gradient**2
    move = rate * new_mean / (1 - beta1**step) / (np.sqrt(new_square / (1 - beta2**step)) + epsilon)
    return tuple(rounding(*terms, eps=eps) for terms in ((parameters, move), (new_mean,), (new_square,)))


def _choose_rmsprop(rate: float, alpha: float, epsilon: float) -> tuple[int, tuple[float, ...], float, int]:
    return 0, (alpha, epsilon), rate, 1


def _rmsprop_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    parameters, gradient, square, rate, alpha, epsilon = arguments
    new_square = alpha * square + (1 - alpha) * gradient**2
    move = rate * np.abs(gradient) / (np.sqrt(new_square) + epsilon)
    return rounding(parameters, move, eps=eps), rounding(new_square, eps=eps)


_SGD = {"momentum": (0.1, 0.9, False), "plain": (0.1, 0.0, False), "nesterov": (0.1, 0.9, True)}
_ADAM = {
    "later": (0.1, 0.9, 0.999, 1e-8, 0.0, 1000),
    "first": (0.1, 0.9, 0.999, 1e-8, 0.0, 1),
    "decay": (0.1, 0.9, 0.999, 1e-8, 0.5, 1000),
}
_RMSPROP = {"usual": (0.1, 0.99, 1e-8), "coarse": (0.1, 0.5, 0.1)}

UPDATES = {
    spec.operation: spec
    for spec in (
        UpdateSpec("sgd_update", ("sgd", "momentum", "nesterov"), _choose_sgd, _SGD, _sgd_bound, flops=4),
        UpdateSpec("adam_update", ("adam",), _choose_adam, _ADAM, _adam_bound, flops=12),
        UpdateSpec("rmsprop_update", ("rmsprop",), _choose_rmsprop, _RMSPROP, _rmsprop_bound, flops=8),
    )
}
"""Every public update by operation."""
