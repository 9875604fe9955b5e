"""Update rules over vectors of parameters, compiled from their specs; in place.

One kernel for each rule, a single pass over memory that LLVM vectorises. The rules are elementwise, so slices of the
vectors get the bits of the whole.
"""

import functools
from typing import Any

import numpy as np
from numba import types

from ..jit.call_by_address import by_address
from ..jit.decorator import jit
from ..specs.optimizers import HYPER_SIZE, OPTIMIZER_BY_CODE, OPTIMIZERS
from .elementwise import named


def _signature(real: Any) -> tuple[Any, ...]:
    vector = types.Array(real, 1, "C")
    return vector, vector, vector, vector, types.Array(types.float64, 1, "C"), types.float64, types.intp


@functools.cache
def update_kernel(code: int) -> Any:
    """Return the kernel of an update rule: ``(parameters, gradient, state0, state1, hyper, rate, step)``.

    Vectors are of one length and one float dtype, those of a state that the rule does not have of no elements; hyper is
    float64 (8,), in the order of the spec's hyperparameters; step counts from 1. Parameters and state are updated in
    place. The kernel can be called by address, with `update` as the prototype.
    """
    spec = OPTIMIZER_BY_CODE[code]
    element, coefficients = jit(scalar=True)(spec.element), jit(scalar=True)(spec.coefficients)
    states = spec.state_vectors

    def kernel(parameters: Any, gradient: Any, state0: Any, state1: Any, hyper: Any, rate: float, step: int) -> None:
        real = parameters.dtype.type
        c0, c1, c2, c3, c4, c5, c6, c7 = coefficients(rate, step, hyper)
        c = (real(c0), real(c1), real(c2), real(c3), real(c4), real(c5), real(c6), real(c7))
        zero = real(0)
        for i in range(parameters.size):
            if states == 0:
                parameters[i], _, _ = element(parameters[i], gradient[i], zero, zero, c)
            elif states == 1:
                parameters[i], state0[i], _ = element(parameters[i], gradient[i], state0[i], zero, c)
            else:
                parameters[i], state0[i], state1[i] = element(parameters[i], gradient[i], state0[i], state1[i], c)

    return by_address(_signature)(jit(named(f"update_{spec.name}", kernel)))


update = update_kernel(OPTIMIZERS["none"].code)
"""Prototype of the kernels that `update_kernel` returns, for `call`."""


_SGD, _MOMENTUM, _NESTEROV, _ADAM = (
    update_kernel(OPTIMIZERS[name].code) for name in ("sgd", "momentum", "nesterov", "adam")
)


@functools.lru_cache
def _hyper(*values: float) -> Any:
    """Return the vector of hyper-parameters that kernels take, which is only read."""
    hyper = np.zeros(HYPER_SIZE)
    hyper[: len(values)] = values
    return hyper


def sgd_update(
    parameters: Any, gradient: Any, velocity: Any, learning_rate: float, momentum: float, nesterov: bool
) -> None:
    """Gradient descent, in place; with momentum 0, the velocity is left alone."""
    kernel = _SGD if momentum == 0 else _NESTEROV if nesterov else _MOMENTUM
    kernel(parameters, gradient, velocity, velocity, _hyper(momentum), learning_rate, 1)


def adam_update(
    parameters: Any,
    gradient: Any,
    mean: Any,
    square: Any,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    step: int,
) -> None:
    """Adam with bias correction and decoupled weight decay, in place."""
    _ADAM(parameters, gradient, mean, square, _hyper(beta1, beta2, epsilon, weight_decay), learning_rate, step)
