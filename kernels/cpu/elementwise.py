"""What the lower rungs do element by element: activations by integer code, and the two passes of a layer.

Imports `_jit` only. A kernel chooses its activation by code instead of taking a function: a function
passed to compiled code makes Numba miss its cache, and compile again for each one. The codes are the
places in ``reference.ACTIVATIONS``; a test holds the two together.

``one`` is 1 in the arrays' own dtype. Numba types a bare literal as int64 or float64, and float32 with
either of them becomes float64: slower, and other bits than NumPy's.
"""

from math import erfc, exp, isfinite, tanh
from typing import Any

from ..jit.decorator import jit
from ..specs.codes import GELU, LEAKY_RELU, RELU, SIGMOID, SILU, TANH


@jit
def sigmoid(z: Any, one: Any) -> Any:
    """1 / (1 + exp(-z)), from the exponential that cannot overflow."""
    e = exp(-abs(z))
    return (e if z < one - one else one) / (one + e)


@jit
def clamp(z: Any, limit: Any) -> Any:
    """Z within -limit..limit, NaN included: beyond, one factor is 0, and 0 times infinity would be NaN."""
    return -limit if z < -limit else (limit if z > limit else z)


@jit
def normal_cdf(z: Any, one: Any) -> Any:
    """Phi(z) = erfc(-z / sqrt 2) / 2, the share of the normal distribution below z."""
    real = type(one)
    return real(0.5) * erfc(z * real(-0.7071067811865476))


@jit
def gelu(z: Any, one: Any) -> Any:
    """Z Phi(z)."""
    low = type(one)(-40)
    return (low if z < low else z) * normal_cdf(z, one)


@jit
def gelu_derivative(z: Any, one: Any) -> Any:
    """Phi(z) + z phi(z), where phi is the normal density."""
    real = type(one)
    near = clamp(z, real(150))
    return normal_cdf(z, one) + near * real(0.3989422804014327) * exp(-near * near * real(0.5))


@jit
def silu(z: Any, one: Any) -> Any:
    """Z sigmoid(z), below 0 as z e^(z/2) e^(z/2) / (1 + e^z), where the last product alone may underflow."""
    half = exp(-abs(z) * type(one)(0.5))
    low = type(one)(-800)
    return ((low if z < low else z) * half * half if z < one - one else z) / (one + half * half)


@jit
def silu_derivative(z: Any, one: Any) -> Any:
    """S (1 + z (1 - S)), where S = sigmoid(z)."""
    s = sigmoid(z, one)
    return s + clamp(z, type(one)(800)) * s * sigmoid(-z, one)


@jit
def activate(code: int, z: Any, one: Any) -> Any:
    """The activation of one element."""
    zero = one - one
    if code == RELU:
        return zero if z < zero else z  # not max(): it would turn NaN into 0
    if code == TANH:
        return tanh(z)
    if code == SIGMOID:
        return sigmoid(z, one)
    if code == LEAKY_RELU:
        return z if z > zero else z * type(one)(0.01)
    if code == GELU:
        return gelu(z, one)
    if code == SILU:
        return silu(z, one)
    return z


@jit
def derivative(code: int, z: Any, one: Any) -> Any:
    """The activation's derivative at one element, from z."""
    zero = one - one
    if code == RELU:
        return one if z > zero else zero
    if code == TANH:
        t = tanh(z)
        return one - t * t
    if code == SIGMOID:
        return sigmoid(z, one) * sigmoid(-z, one)
    if code == LEAKY_RELU:
        return one if z > zero else type(one)(0.01)
    if code == GELU:
        return gelu_derivative(z, one)
    if code == SILU:
        return silu_derivative(z, one)
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


@jit
def all_finite(values: Any) -> bool:
    """Whether a vector holds neither NaN nor infinity: 1.0 us for 9610 float32, where NumPy's two passes take 2.3."""
    bad = 0
    for i in range(values.size):
        bad |= not isfinite(values[i])
    return bad == 0
