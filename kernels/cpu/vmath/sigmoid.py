"""Scalar logistic sigmoid, silu and mish, which LLVM vectorises in a loop."""

from typing import Any

from ...jit.decorator import jit
from .bits import by_dtype, constant, pair
from .exp import exp_nonpositive, raised_exp


@jit(scalar=True)
def over_one_plus(h: Any) -> Any:
    """h / (1 + h) for h >= 0.

    Rounding 1 + h matters most where h is small; there h - h^2 / (1 + h) reaches 1.9 ulp instead of 2.4. (Adding back
    the rounding error of the sum, h - ((1 + h) - 1), reaches 2.2 ulp and costs a fifth more.)
    """
    q = h / (constant(h, 1.0) + h)
    return h - h * q if h < constant(h, 0.5) else q


@jit(scalar=True)
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), from e^-|x|, which cannot overflow."""
    q = over_one_plus(exp_nonpositive(-abs(x)))
    return q if x < constant(x, 0.0) else constant(x, 1.0) - q


@jit(scalar=True)
def sigmoid_derivative(x: Any) -> Any:
    """S (1 - S) with S = sigmoid(-|x|), the smaller of the two: nothing cancels."""
    q = over_one_plus(exp_nonpositive(-abs(x)))
    return q * (constant(x, 1.0) - q)


# Below these, x e^x is 0; at these, 2^64 e^x is still normal.
_SILU_END = pair(-110.0, -752.5)


@jit(scalar=True)
def _neg_abs(x: Any) -> Any:
    """-|x|, clamped to where silu becomes 0."""
    a, end = -abs(x), by_dtype(x, _SILU_END)
    return end if end > a else a


@jit(scalar=True)
def silu(x: Any) -> Any:
    """x sigmoid(x), below 0 as x e^x / (1 + e^x); a subnormal numerator is rounded only once."""
    a = _neg_abs(x)
    raised, small = raised_exp(a, constant(x, -0.0)), constant(x, 2.0**-64)
    return (a * raised * small if x < constant(x, 0.0) else x) / (constant(x, 1.0) + raised * small)


@jit(scalar=True)
def silu_derivative(x: Any) -> Any:
    """S (1 + x (1 - S)) for S = sigmoid(x), from the smaller of S and 1 - S: the sum of silu'(x) and silu'(-x) is 1."""
    a = _neg_abs(x)
    q = over_one_plus(exp_nonpositive(a))
    below = q * (constant(x, 1.0) + a * (constant(x, 1.0) - q))
    return below if x < constant(x, 0.0) else constant(x, 1.0) - below


@jit(scalar=True)
def mish(x: Any) -> Any:
    """x tanh(log(1 + e^x)), a rational function of e = e^-|x|, with the numerator of `silu` below 0."""
    one, two, a = constant(x, 1.0), constant(x, 2.0), _neg_abs(x)
    raised, small, below = raised_exp(a, constant(x, -0.0)), constant(x, 2.0**-64), x < constant(x, 0.0)
    e = raised * small
    numerator = e + two if below else one + two * e
    denominator = e * (e + two) + two if below else one + two * e * (one + e)
    return (a * raised * small if below else x) * (numerator / denominator)


@jit(scalar=True)
def mish_derivative(x: Any) -> Any:
    """t + x S (1 - t^2) for t = tanh(log(1 + e^x)) and S = sigmoid(x), a rational function of x and e = e^-|x|."""
    one, two, a = constant(x, 1.0), constant(x, 2.0), _neg_abs(x)
    e, below, four = exp_nonpositive(a), x < constant(x, 0.0), constant(x, 4.0)
    q = one / (e * (e + two) + two if below else one + two * e * (one + e))
    slope = four * (one + e) * q
    return q * (e * (e + two + a * slope) if below else one + two * e - a * slope * e * e)
