"""optimizers."""

import math
from math import sqrt
from typing import Any

from numba import types

from ..jit.call_by_address import by_address
from ..jit.decorator import jit

# ------------------------------------------------------------------------------------------ updates


@by_address(lambda real: (*[types.Array(real, 1, "C")] * 3, *[types.float64] * 2, types.boolean))
@jit
def sgd_update(
    parameters: Any, gradient: Any, velocity: Any, learning_rate: float, momentum: float, nesterov: bool
) -> None:
    """v <- momentum v + g;  p <- p - learning_rate v, with nesterov p <- p - learning_rate (g + momentum v).

    In place; with momentum 0, v is left alone. Elementwise: slices of the vectors give the bits of the whole.
    """
    rate = parameters.dtype.type(learning_rate)
    mu = parameters.dtype.type(momentum)
    if momentum == 0:
        for i in range(parameters.size):
            parameters[i] -= rate * gradient[i]
    elif nesterov:
        for i in range(parameters.size):
            velocity[i] = mu * velocity[i] + gradient[i]
            parameters[i] -= rate * (gradient[i] + mu * velocity[i])
    else:
        for i in range(parameters.size):
            velocity[i] = mu * velocity[i] + gradient[i]
            parameters[i] -= rate * velocity[i]


@by_address(lambda real: (*[types.Array(real, 1, "C")] * 4, *[types.float64] * 5, types.intp))
@jit
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
    """Adam with bias correction and decoupled weight decay, in one pass over memory, in place.

    Equations in ``reference.adam_update``. Elementwise: slices of the vectors give the bits of the whole.
    """
    dtype = parameters.dtype.type
    keep1, keep2 = dtype(beta1), dtype(beta2)
    take1, take2 = dtype(1 - beta1), dtype(1 - beta2)
    # The scalar part in float64: 1 - beta2 cancels in float32. math.pow, since Numba turns ** with an integer
    # into repeated squaring, whose error grows with step (1e-13 at 1000).
    rate = dtype(learning_rate / (1 - math.pow(beta1, float(step))))
    correction2 = dtype(1 / (1 - math.pow(beta2, float(step))))
    guard = dtype(epsilon)
    keep = dtype(1 - learning_rate * weight_decay)  # 1 without decay: the bits are then plain Adam's
    for i in range(parameters.size):
        g = gradient[i]
        mean[i] = keep1 * mean[i] + take1 * g
        square[i] = keep2 * square[i] + take2 * g * g
        parameters[i] = keep * parameters[i] - rate * mean[i] / (sqrt(square[i] * correction2) + guard)
