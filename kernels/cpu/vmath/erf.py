"""Scalar gelu, computed from the normal distribution's tail; LLVM vectorises a loop over it."""

from typing import Any

from ...jit.decorator import jit
from .bits import by_dtype, constant, leading_half, pair, polynomial
from .exp import exp_of_sum

# The normal distribution's upper tail is Q(a) = e^(-a^2/2) R(a). R falls like 1/a, so (1 + 5a/4) R(a) is nearly flat.
# It is fitted in u = (a - c) / (a + c), c = 3 (float32), 4 (float64), up to where Q is 0; error 0.69, 0.62.
_R = pair(
    (
        -9.486778435530141e-05, -0.000592591124586761, -0.00024597084848210216, 0.003995412960648537,
        0.0006872763624414802, -0.02994702383875847, 0.06801246106624603, -0.05134602636098862, -0.0690578743815422,
        0.5771912336349487,
    ),
    (
        5.057199370408529e-09, 1.4780224131510611e-08, -2.384724005867352e-08, -1.2895327539438259e-07,
        1.2802984486224854e-08, 7.019491257959103e-07, 4.5432651740243836e-07, -3.424578505335528e-06,
        -4.082477331673861e-06, 1.8106788110140553e-05, 2.5404416448207658e-05, -0.00011697788896772467,
        -0.00010664902420934906, 0.0009154173404785471, -0.0005167323454266733, -0.006379863747441129,
        0.02454314572085612, -0.04796349781218382, 0.05367730690134994, -0.013595270429274298, -0.07827991627104325,
        0.5664638478118136,
    ),
)  # fmt: skip
_CENTRE = pair(3.0, 4.0)
_TAIL_END = pair(15.0, 40.0)
_INVERSE_SQRT_2PI = 0.3989422804014327


@jit(scalar=True)
def _clamp_abs(x: Any) -> Any:
    """|x|, clamped to where the tail ends."""
    a, end = abs(x), by_dtype(x, _TAIL_END)
    return end if end < a else a


@jit(scalar=True)
def _exp_neg_half_square(a: Any) -> Any:
    """e^(-a^2/2), corrected for the square's rounding error; without that, 40 ulp at a = 10 in float32."""
    high, half = leading_half(a), constant(a, -0.5)
    return exp_of_sum(half * high * high, half * (a - high) * (a + high))


@jit(scalar=True)
def _ratio(a: Any) -> Any:
    """R(a), with a single division."""
    centre = by_dtype(a, _CENTRE)
    straight, shifted = constant(a, 1.25) * a + constant(a, 1.0), a + centre
    inverse = constant(a, 1.0) / (straight * shifted)
    u = (a - centre) * (inverse * straight)
    return polynomial(u, by_dtype(a, _R)) * (inverse * shifted)


@jit(scalar=True)
def gelu(x: Any) -> Any:
    """x Phi(x), Phi the normal distribution: as relu(x) - |x| Q(|x|), which cancels on neither side."""
    a, zero = _clamp_abs(x), constant(x, 0.0)
    return (zero if x < zero else x) - a * _ratio(a) * _exp_neg_half_square(a)


@jit(scalar=True)
def gelu_derivative(x: Any) -> Any:
    """Phi(x) + x phi(x), phi the normal density; both come from one exponential."""
    a = _clamp_abs(x)
    below = (_ratio(a) - a * constant(x, _INVERSE_SQRT_2PI)) * _exp_neg_half_square(a)
    return below if x < constant(x, 0.0) else constant(x, 1.0) - below
