"""What the lower rungs do element by element: activations by integer code, and the two passes of a layer.

Imports `_jit` only. A kernel chooses its activation by code instead of taking a function: a function
passed to compiled code makes Numba miss its cache, and compile again for each one. The codes are the
places in ``reference.ACTIVATIONS``; a test holds the two together.

``one`` is 1 in the arrays' own dtype. Numba types a bare literal as int64 or float64, and float32 with
either of them becomes float64: slower, and other bits than NumPy's.
"""

from math import exp, tanh
from typing import Any

from ._jit import jit

IDENTITY, RELU, TANH, SIGMOID = range(4)

MSE, MAE, HUBER, CROSS_ENTROPY, BINARY_CROSS_ENTROPY = range(5)
"""Losses, by the code under which compiled kernels choose one."""


@jit
def sigmoid(z: Any, one: Any) -> Any:
    """1 / (1 + exp(-z)), from the exponential that cannot overflow."""
    e = exp(-abs(z))
    return (e if z < one - one else one) / (one + e)


@jit
def activate(code: int, z: Any, one: Any) -> Any:
    """The activation of one element."""
    if code == RELU:
        zero = one - one
        return zero if z < zero else z  # not max(): it would turn NaN into 0
    if code == TANH:
        return tanh(z)
    if code == SIGMOID:
        return sigmoid(z, one)
    return z


@jit
def derivative(code: int, z: Any, one: Any) -> Any:
    """The activation's derivative at one element, from z."""
    if code == RELU:
        return one if z > one - one else one - one
    if code == TANH:
        t = tanh(z)
        return one - t * t
    if code == SIGMOID:
        return sigmoid(z, one) * sigmoid(-z, one)
    return one


@jit
def add_bias_and_activate(Z: Any, b: Any, activation: int, A: Any) -> None:
    """Z <- Z + b;  A = activation(Z).  The pass that ends a layer's forward product."""
    one = Z.dtype.type(1)
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            z = Z[i, j] + b[j]
            Z[i, j] = z
            A[i, j] = activate(activation, z, one)


@jit
def gradient_at_z(Z: Any, dL_dA: Any, activation: int, dZ: Any, db: Any) -> None:
    """dZ = dL_dA * activation'(Z);  db = sum of dZ's rows.  The pass that begins a layer's backward products."""
    one = Z.dtype.type(1)
    db[:] = 0
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            d = dL_dA[i, j] * derivative(activation, Z[i, j], one)
            dZ[i, j] = d
            db[j] += d
