"""e^x for one number, which a plain loop vectorises, and the steps that tanh, sigmoid and erf share with it."""

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
# ln 2 in two parts: the first has 15 digits in float32, 42 in float64, so that n times it is exact.
LN2_HIGH = pair(0.693145751953125, 0.6931471805598903)
LN2_LOW = pair(1.428606765330187e-06, 5.497923018708371e-14)
# Below this e^x is 0.
LOWEST = pair(-104.5, -746.0)
# 1.5 * 2^mantissa rounds to an integer; what is added is the bias of 2^n's exponent: for 2^64 as much, and for half.
_ROUND = pair(1.5 * 2**23 + 127, 1.5 * 2**52 + 1023)
_ROUND_RAISED = pair(1.5 * 2**23 + 127 + 64, 1.5 * 2**52 + 1023 + 64)
ROUND_HALVED = pair(1.5 * 2**23 + 126, 1.5 * 2**52 + 1022)


@jit(scalar=True)
def remainder(x: Any, n: Any) -> Any:
    """x - n ln 2, in two steps of which the first is exact."""
    return x - n * by_dtype(x, LN2_HIGH) - n * by_dtype(x, LN2_LOW)


@jit(scalar=True)
def exp_near_0(r: Any) -> Any:
    """e^r for a remainder r.  As 1 + (r + r^2 q), one multiplication more, the worst error is 1.03 ulp, not 0.90."""
    one = constant(r, 1.0)
    return (polynomial(r, by_dtype(r, Q)) * r + one) * r + one


@jit(scalar=True)
def raised_exp(x: Any, rest: Any) -> Any:
    """2^64 e^(x + rest) for x <= 0 that is not below what the next power of two still exists for.

    One power of two suffices: 2^(n + 64) always exists, and 2^-64 then rounds once into the subnormals.
    """
    magic = by_dtype(x, _ROUND_RAISED)
    t = x * constant(x, LOG2_E) + magic
    r = remainder(x, t - magic) + rest
    return exp_near_0(r) * power_of_two(t)


@jit(scalar=True)
def exp_of_sum(x: Any, rest: Any) -> Any:
    """e^(x + rest) for x <= 0 and a rest of a few roundings of x."""
    lowest = by_dtype(x, LOWEST)
    x = lowest if lowest > x else x
    return raised_exp(x, rest) * constant(x, 2.0**-64)


@jit(scalar=True)
def exp_nonpositive(x: Any) -> Any:
    """e^x for x <= 0, with one power of two; for any x it would take a comparison and three integer steps more."""
    return exp_of_sum(x, constant(x, -0.0))  # adding -0.0 is nothing, and LLVM knows it


# Below this e^x - 1 rounds to -1 in both dtypes, and 2^n exists.
_FLAT = -40.0


@jit(scalar=True)
def expm1_nonpositive(x: Any) -> Any:
    """e^x - 1 for x <= 0: 2^n (e^r - 1) + (2^n - 1), in which little cancels."""
    x = constant(x, _FLAT) if constant(x, _FLAT) > x else x  # in this order NaN stays
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
