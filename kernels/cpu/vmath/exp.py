"""Scalar e^x, which LLVM vectorises in a loop, and the steps that tanh, sigmoid and erf share with it."""

from typing import Any

from ...jit.decorator import jit
from .bits import by_dtype, constant, pair, polynomial, power_of_two

# q of e^r = 1 + r + r^2 q(r), |r| <= ln(2)/2; error relative to e^r - 1: 0.23 (float32), 0.22 (float64).
Q = pair(
    (0.0013861132320016623, 0.008366535417735577, 0.04166753962635994, 0.1666654348373413, 0.4999999701976776),
    (
        2.5045919370562887e-08, 2.762225159912939e-07, 2.7557425075861907e-06, 2.4801516286181174e-05,
        0.00019841269709309594, 0.0013888888920558, 0.008333333333388395, 0.04166666666661986, 0.16666666666666602, 0.5,
    ),
)  # fmt: skip
LOG2_E = 1.4426950408889634
# ln 2 in two parts. The first has 15 bits in float32, 42 in float64, so that n times it is exact.
LN2_HIGH = pair(0.693145751953125, 0.6931471805598903)
LN2_LOW = pair(1.428606765330187e-06, 5.497923018708371e-14)
# Below this e^x is 0.
LOWEST = pair(-104.5, -746.0)
# Adding 1.5 * 2^mantissa rounds to an integer. The rest is the exponent's bias for 2^n, for 2^64 2^n, and for 2^n / 2.
_ROUND = pair(1.5 * 2**23 + 127, 1.5 * 2**52 + 1023)
_ROUND_RAISED = pair(1.5 * 2**23 + 127 + 64, 1.5 * 2**52 + 1023 + 64)
ROUND_HALVED = pair(1.5 * 2**23 + 126, 1.5 * 2**52 + 1022)


@jit(scalar=True)
def remainder(x: Any, n: Any) -> Any:
    """x - n ln 2, in two steps; the first one is exact."""
    return x - n * by_dtype(x, LN2_HIGH) - n * by_dtype(x, LN2_LOW)


@jit(scalar=True)
def exp_near_0(r: Any) -> Any:
    """e^r for a remainder r, to 0.90 ulp.  1 + (r + r^2 q) would take one multiplication more and reach 1.03 ulp."""
    one = constant(r, 1.0)
    return (polynomial(r, by_dtype(r, Q)) * r + one) * r + one


@jit(scalar=True)
def raised_exp(x: Any, rest: Any) -> Any:
    """2^64 e^(x + rest) for x <= 0 for which 2^(n + 64), n the nearest integer to x log2 e, is a normal number.

    One power of two suffices: the caller's multiplication by 2^-64 rounds once, even to subnormals.
    """
    magic = by_dtype(x, _ROUND_RAISED)
    t = x * constant(x, LOG2_E) + magic
    r = remainder(x, t - magic) + rest
    return exp_near_0(r) * power_of_two(t)


@jit(scalar=True)
def exp_of_sum(x: Any, rest: Any) -> Any:
    """e^(x + rest) for x <= 0, where the rest is a few rounding errors of x."""
    lowest = by_dtype(x, LOWEST)
    x = lowest if lowest > x else x
    return raised_exp(x, rest) * constant(x, 2.0**-64)


@jit(scalar=True)
def exp_nonpositive(x: Any) -> Any:
    """e^x for x <= 0, with one power of two; any x would take a comparison and three integer operations more."""
    return exp_of_sum(x, constant(x, -0.0))  # LLVM removes the addition of -0.0


# Below this e^x - 1 rounds to -1 in both dtypes; at this x, 2^n is still normal.
_FLAT = -40.0


@jit(scalar=True)
def expm1_nonpositive(x: Any) -> Any:
    """e^x - 1 for x <= 0, as 2^n (e^r - 1) + (2^n - 1), in which little cancels."""
    x = constant(x, _FLAT) if constant(x, _FLAT) > x else x  # this order keeps NaN
    magic = by_dtype(x, _ROUND)
    t = x * constant(x, LOG2_E) + magic
    r, scale = remainder(x, t - magic), power_of_two(t)
    return scale * (polynomial(r, by_dtype(r, Q)) * (r * r) + r) + (scale - constant(x, 1.0))


@jit(scalar=True)
def elu(x: Any) -> Any:
    """x where x > 0, else e^x - 1."""
    below = expm1_nonpositive(x)
    return x if x > constant(x, 0.0) else below


@jit(scalar=True)
def elu_derivative(x: Any) -> Any:
    """1 where x > 0, else e^x."""
    below = exp_nonpositive(x)
    return constant(x, 1.0) if x > constant(x, 0.0) else below
