"""Scalar natural logarithm and softplus, which LLVM vectorises in a loop."""

from typing import Any

import numpy as np

from ...jit.decorator import jit
from .bits import by_dtype, constant, exponent, pair, polynomial, significand
from .exp import LN2_HIGH, LN2_LOW, exp_nonpositive
from .sigmoid import sigmoid

# p of 2 atanh(s) = 2 s + s z p(z), z = s^2, |s| <= (sqrt(2) - 1) / (sqrt(2) + 1); error 0.014, 0.012.
_P = pair(
    (0.29871904850006104, 0.39977559447288513, 0.6666677594184875),
    (
        0.14798785706650455, 0.15313785318544873, 0.18183573934942587, 0.22222198404022342, 0.2857142874386761,
        0.3999999999940888, 0.6666666666666735,
    ),
)  # fmt: skip
_SMALLEST_NORMAL = pair(2.0**-126, 2.0**-1022)


@jit(scalar=True)
def log(x: Any) -> Any:
    """Natural logarithm: x = 2^k (1 + f), log(1 + f) = 2 atanh(s) with s = f / (2 + f).

    Summed as f - (f^2/2 - s (f^2/2 + z p(z))), as in fdlibm, so that the rounding error of s matters little.
    """
    zero, infinity = constant(x, 0.0), constant(x, np.inf)
    subnormal = x < by_dtype(x, _SMALLEST_NORMAL)
    normal = x * constant(x, 2.0**54) if subnormal else x
    k = exponent(normal) + (constant(x, -54.0) if subnormal else zero)
    f = significand(normal) - constant(x, 1.0)
    s = f / (constant(x, 2.0) + f)
    z = s * s
    half_square = constant(x, 0.5) * f * f
    tail = s * (half_square + z * polynomial(z, by_dtype(x, _P))) + k * by_dtype(x, LN2_LOW)
    y = k * by_dtype(x, LN2_HIGH) - ((half_square - tail) - f)
    y = y if x < infinity else x  # infinity, NaN
    undefined = -infinity if x == zero else constant(x, np.nan)
    return y if x > zero else undefined


@jit(scalar=True)
def log1p_unit(x: Any) -> Any:
    """log(1 + x) for 0 <= x <= 1, corrected for the rounding of 1 + x, so that small results keep their digits."""
    one = constant(x, 1.0)
    u = one + x
    return log(u) + (x - (u - one)) / u


@jit(scalar=True)
def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    zero = constant(x, 0.0)
    return (zero if x < zero else x) + log1p_unit(exp_nonpositive(-abs(x)))


@jit(scalar=True)
def softplus_derivative(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return sigmoid(x)
