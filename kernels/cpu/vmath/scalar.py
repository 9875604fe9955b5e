"""Scalar exp, log, tanh, sigmoid, silu and gelu that a plain loop vectorises, for float32 and float64.

Imports `_jit` only. What changed from libm's: no table, no branch, no call. Every step is arithmetic that
exists as one vector instruction, so LLVM turns ``for i in range(n): out[i] = exp(x[i])`` into full-width
code for whatever it compiles for. Why that is faster: 16 floats at a time where libm takes one. What it
costs: half an ulp. NumPy's wheels bring hand-written AVX-512 for exp, log and tanh, so there is less to gain
on those. ns an element, 16384 of them in one thread of a Zen 4 (AVX-512 in two halves); largest error in units
in the last place (ulp) of the result, subnormal ones included, float32 over all 2^32 inputs, float64 over
2*10^7 against longdouble:

            float32                          float64
            here   NumPy  libm    ulp        here   NumPy  libm    ulp
exp         0.27   0.48    2.3    0.91       0.73   0.82    4.6    0.91
log         0.39   0.40    2.6    0.83       0.92   0.78    3.5    0.85
tanh        0.35   0.43   12      1.86       0.90   1.70   11      1.87
sigmoid     0.35   2.1     3.2    1.65       0.94   2.9     6.9    1.65
silu        0.33                     3.35       0.87                     3.07
gelu        0.70           17     4 or 1e-7  2.1            17     4 or 1e-15

Infinities, NaN, subnormal inputs and outputs and the sign of zero are as in libm. Scalar remainders and
vectors run the same operations, so an element's bits do not depend on its place in an array or on strides.

Method. exp: x = n ln 2 + r with |r| <= ln(2)/2, where n falls out of adding 1.5 * 2^52 (the sum's last bits
are the integer; `reassoc` would delete this, which is one reason why the flags stop at `contract`); ln 2 in
two pieces, the first short enough for n times it to be exact; e^r = 1 + r + r^2 q(r); 2^n put together from
its bits. Nothing depends on FMA for its accuracy: without (SSE) the errors grow by a quarter of an ulp at most.

Slower or worse, in float64 unless named: range ln 2 with the square of one factor 2^(n/2), a polynomial of degree
13 (0.77 against 0.72 ns, 1.5 ulp); range ln(2)/4 with a choice of sqrt(2) (0.73 ns, 2.06 ulp); degree 5 in float32
(the fit alone 0.9 ulp off); llvm.ldexp, which would be one instruction on AVX-512 (LLVM 22 leaves the loop scalar).

Coefficients: minimax fits in 60-digit mpmath by Lawson's algorithm (least squares on Chebyshev nodes, each
node's weight multiplied by its error, until the error is level), relative to the function that is wanted; rounded
to the dtype one after another from the lowest power, the rest fitted again after each (of float64, the first six).
The fit's own error is named beside each table, in units of half an ulp.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types

from ...jit.decorator import jit

# Its type does not know that callers leave out the context.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic

# ------------------------------------------------------------------------- what Python cannot say
# Bits of a float, shifts in the float's own width (Numba widens int32 arithmetic to int64, which halves
# the lanes), and constants of the argument's dtype. Each emits a few instructions and no call.


def _mantissa_bits(float_type: Any) -> int:
    return 23 if float_type == types.float32 else 52


def _integer(float_type: Any) -> Any:
    return ir.IntType(float_type.bitwidth)


@intrinsic
def _of(context: Any, x: Any, single: Any, double: Any) -> Any:
    """Whichever of two constants has the dtype of x: one source serves both dtypes."""
    place = 1 if x == types.float32 else 2

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[place]

    return (single, double)[place - 1](x, single, double), build


@intrinsic
def _polynomial(context: Any, x: Any, coefficients: Any) -> Any:
    """Horner's rule, highest power first; unrolled."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y = builder.extract_value(args[1], 0)
        for i in range(1, len(signature.args[1])):
            product = builder.fmul(y, args[0], flags=("contract",))
            y = builder.fadd(product, builder.extract_value(args[1], i), flags=("contract",))
        return y

    return x(x, coefficients), build


@intrinsic
def _power_of_two(context: Any, t: Any) -> Any:
    """2^n, where t is n plus the exponent's bias plus 1.5 * 2^mantissa bits; -bias < n <= bias."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = _integer(t)
        bits = builder.bitcast(args[0], whole)
        return builder.bitcast(builder.shl(bits, whole(_mantissa_bits(t))), args[0].type)

    return t(t), build


@intrinsic
def _like(context: Any, x: Any, value: Any) -> Any:
    """A float64 constant in the dtype of x, folded at compile time."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[1] if x == types.float64 else builder.fptrunc(args[1], args[0].type)

    return x(x, types.float64), build


@intrinsic
def _scale(context: Any, y: Any, t: Any) -> Any:
    """y 2^n for every n that float can end at, rounded once; t is n plus twice the bias plus 1.5 * 2^mantissa.

    Two factors, since 2^n itself may not exist. The first product is exact.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = _integer(t)
        shift = whole(_mantissa_bits(t))
        bits = builder.bitcast(args[1], whole)
        half = builder.lshr(bits, whole(1))
        for part in (half, builder.sub(bits, half)):
            factor = builder.bitcast(builder.shl(part, shift), args[0].type)
            args = (builder.fmul(args[0], factor), args[1])
        return args[0]

    return y(y, t), build


# Bits of sqrt(1/2): a number is split as 2^k m with m from there to sqrt(2), so that log m is smallest.
_SQRT_HALF = {23: 0x3F3504F3, 52: 0x3FE6A09E667F3BCD}
_ONE = {23: 0x3F800000, 52: 0x3FF0000000000000}


@intrinsic
def _significand(context: Any, x: Any) -> Any:
    """The m of x = 2^k m, sqrt(1/2) <= m < sqrt(2), for positive normal x."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole, mantissa = _integer(x), _mantissa_bits(x)
        bits = builder.sub(builder.bitcast(args[0], whole), whole(_SQRT_HALF[mantissa]))
        bits = builder.and_(bits, whole((1 << mantissa) - 1))
        return builder.bitcast(builder.add(bits, whole(_SQRT_HALF[mantissa])), args[0].type)

    return x(x), build


@intrinsic
def _exponent(context: Any, x: Any) -> Any:
    """The k of x = 2^k m, as a float, for positive normal x.

    By way of the last bits of 2^mantissa + k: AVX2 has no conversion of 64-bit integers.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole, mantissa = _integer(x), _mantissa_bits(x)
        offset = _ONE[mantissa] - _SQRT_HALF[mantissa]
        biased = builder.lshr(builder.add(builder.bitcast(args[0], whole), whole(offset)), whole(mantissa))
        bias = _ONE[mantissa] >> mantissa
        magic = whole((mantissa + bias) << mantissa)
        shifted = builder.bitcast(builder.or_(biased, magic), args[0].type)
        return builder.fsub(shifted, args[0].type(float(2**mantissa + bias)))

    return x(x), build


@intrinsic
def _leading_half(context: Any, x: Any) -> Any:
    """X with the lower half of its digits cleared, so that its square is exact."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = _integer(x)
        mask = whole(-(1 << (_mantissa_bits(x) // 2 + 1)))
        return builder.bitcast(builder.and_(builder.bitcast(args[0], whole), mask), args[0].type)

    return x(x), build


@intrinsic
def _with_sign(context: Any, magnitude: Any, x: Any) -> Any:
    """Magnitude (not negative) with the sign of x."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = _integer(x)
        sign = builder.and_(builder.bitcast(args[1], whole), whole(-(1 << (whole.width - 1))))
        return builder.bitcast(builder.or_(builder.bitcast(args[0], whole), sign), args[0].type)

    return magnitude(magnitude, x), build


# ---------------------------------------------------------------------------------- exponentials


def _singles(*numbers: float) -> tuple[Any, ...]:
    return tuple(np.float32(number) for number in numbers)


# q of e^r = 1 + r + r^2 q(r), |r| <= ln(2)/2; error relative to e^r - 1: 0.23 (float32), 0.22 (float64).
_Q32 = _singles(
    0.0013861132320016623, 0.008366535417735577, 0.04166753962635994, 0.1666654348373413, 0.4999999701976776
)
_Q64 = (
    2.5045919370562887e-08,
    2.762225159912939e-07,
    2.7557425075861907e-06,
    2.4801516286181174e-05,
    0.00019841269709309594,
    0.0013888888920558,
    0.008333333333388395,
    0.04166666666661986,
    0.16666666666666602,
    0.5,
)
_LOG2_E = 1.4426950408889634
# ln 2 in two pieces: the first has 15 digits in float32, 42 in float64, so that n times it is exact.
_LN2_HIGH32, _LN2_LOW32 = _singles(0.693145751953125, 1.428606765330187e-06)
_LN2_HIGH64, _LN2_LOW64 = 0.6931471805598903, 5.497923018708371e-14
# Beyond these exp is 0 or infinite. NaN passes both comparisons in `_clamp`.
_LOWEST32, _LOWEST64 = np.float32(-104.5), -746.0
_HIGHEST32, _HIGHEST64 = np.float32(89.0), 710.0
# 1.5 * 2^mantissa rounds to an integer; what is added is the bias of 2^n's exponent: twice, for 2^64 as much, for half.
_ROUND_TWICE32, _ROUND_TWICE64 = np.float32(1.5 * 2**23 + 2 * 127), 1.5 * 2**52 + 2 * 1023
_ROUND_RAISED32, _ROUND_RAISED64 = np.float32(1.5 * 2**23 + 127 + 64), 1.5 * 2**52 + 1023 + 64
_ROUND_HALVED32, _ROUND_HALVED64 = np.float32(1.5 * 2**23 + 126), 1.5 * 2**52 + 1022


@jit(scalar=True)
def _remainder(x: Any, n: Any) -> Any:
    return x - n * _of(x, _LN2_HIGH32, _LN2_HIGH64) - n * _of(x, _LN2_LOW32, _LN2_LOW64)


@jit(scalar=True)
def _exp_near_0(r: Any) -> Any:
    """e^r for a remainder r.  As 1 + (r + r^2 q), one multiplication more, the worst error is 1.03 ulp, not 0.90."""
    one = _like(r, 1.0)
    return (_polynomial(r, _of(r, _Q32, _Q64)) * r + one) * r + one


@jit(scalar=True)
def exp(x: Any) -> Any:
    """e^x."""
    lowest, best_variant = _of(x, _LOWEST32, _LOWEST64), _of(x, _HIGHEST32, _HIGHEST64)
    x = lowest if lowest > x else x  # in this order NaN stays
    x = best_variant if best_variant < x else x
    magic = _of(x, _ROUND_TWICE32, _ROUND_TWICE64)
    t = x * _like(x, _LOG2_E) + magic
    r = _remainder(x, t - magic)
    return _scale(_exp_near_0(r), t)


@jit(scalar=True)
def _raised_exp(x: Any, rest: Any) -> Any:
    """2^64 e^(x + rest) for x <= 0 that is not below what the next power of two still exists for.

    One power of two suffices: 2^(n + 64) always exists, and 2^-64 then rounds once into the subnormals.
    """
    magic = _of(x, _ROUND_RAISED32, _ROUND_RAISED64)
    t = x * _like(x, _LOG2_E) + magic
    r = _remainder(x, t - magic) + rest
    return _exp_near_0(r) * _power_of_two(t)


@jit(scalar=True)
def _exp_of_sum(x: Any, rest: Any) -> Any:
    """e^(x + rest) for x <= 0 and a rest of a few roundings of x."""
    lowest = _of(x, _LOWEST32, _LOWEST64)
    x = lowest if lowest > x else x
    return _raised_exp(x, rest) * _like(x, 2.0**-64)


@jit(scalar=True)
def exp_nonpositive(x: Any) -> Any:
    """e^x for x <= 0, cheaper than `exp` by a comparison and three integer steps."""
    return _exp_of_sum(x, _like(x, -0.0))  # adding -0.0 is nothing, and LLVM knows it


@jit(scalar=True)
def _over_one_plus(h: Any) -> Any:
    """h / (1 + h) for h >= 0.

    The rounding of 1 + h weighs most where h is small; there h - h^2 / (1 + h) is 1.9 ulp at worst, not 2.4. (Adding
    back what the sum lost, h - ((1 + h) - 1), reaches 2.2 ulp and costs a fifth more.)
    """
    q = h / (_like(h, 1.0) + h)
    return h - h * q if h < _like(h, 0.5) else q


@jit(scalar=True)
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), from the exponential that cannot overflow."""
    q = _over_one_plus(exp_nonpositive(-abs(x)))
    return q if x < _like(x, 0.0) else _like(x, 1.0) - q


@jit(scalar=True)
def sigmoid_derivative(x: Any) -> Any:
    """S (1 - S) with S = sigmoid(-|x|), the smaller of the two: nothing cancels."""
    q = _over_one_plus(exp_nonpositive(-abs(x)))
    return q * (_like(x, 1.0) - q)


# Below these x e^x is 0; 2^64 e^x still has an exponent.
_SILU_END32, _SILU_END64 = np.float32(-110.0), -752.5


@jit(scalar=True)
def silu(x: Any) -> Any:
    """X sigmoid(x) = x e^x / (1 + e^x) below 0, whose numerator is rounded once where it is subnormal."""
    a, end = -abs(x), _of(x, _SILU_END32, _SILU_END64)
    a = end if end > a else a
    raised, small = _raised_exp(a, _like(x, -0.0)), _like(x, 2.0**-64)
    return (a * raised * small if x < _like(x, 0.0) else x) / (_like(x, 1.0) + raised * small)


@jit(scalar=True)
def silu_derivative(x: Any) -> Any:
    """S (1 + x (1 - S)) for S = sigmoid(x), from the smaller of S and 1 - S: the sum of silu'(x) and silu'(-x) is 1."""
    a, end = -abs(x), _of(x, _SILU_END32, _SILU_END64)
    a = end if end > a else a
    q = _over_one_plus(exp_nonpositive(a))
    below = q * (_like(x, 1.0) + a * (_like(x, 1.0) - q))
    return below if x < _like(x, 0.0) else _like(x, 1.0) - below


# Beyond these tanh rounds to 1.
_FLAT32, _FLAT64 = np.float32(9.02), 19.1
_NOTHING32 = np.float32(-0.0)  # what adding changes nothing, as LLVM knows; 0.0 would turn -0.0 into 0.0


@jit(scalar=True)
def tanh(x: Any) -> Any:
    """Hyperbolic tangent: h / (1 + h) of h = (e^2|x| - 1) / 2, which is summed up without cancellation."""
    a = abs(x)
    magic = _of(x, _ROUND_HALVED32, _ROUND_HALVED64)
    t = a * _like(x, 2 * _LOG2_E) + magic
    scale = _power_of_two(t)
    n = t - magic
    coarse, fine = (a + a) - n * _of(x, _LN2_HIGH32, _LN2_HIGH64), n * _of(x, _LN2_LOW32, _LN2_LOW64)
    r = coarse - fine
    lost = _of(x, _NOTHING32, (coarse - r) - fine)  # float64 needs it: 2.25 ulp without; float32 has 1.86
    h = scale * ((_polynomial(r, _of(r, _Q32, _Q64)) * (r * r) + lost) + r) + (scale - _like(x, 0.5))
    y = _like(x, 1.0) if a > _of(x, _FLAT32, _FLAT64) else _over_one_plus(h)
    return _with_sign(y, x)


# ------------------------------------------------------------------------------------- logarithm

# p of 2 atanh(s) = 2 s + s z p(z), z = s^2, |s| <= (sqrt(2) - 1) / (sqrt(2) + 1); error 0.014, 0.012.
_P32 = _singles(0.29871904850006104, 0.39977559447288513, 0.6666677594184875)
_P64 = (
    0.14798785706650455,
    0.15313785318544873,
    0.18183573934942587,
    0.22222198404022342,
    0.2857142874386761,
    0.3999999999940888,
    0.6666666666666735,
)
_SMALLEST_NORMAL32, _SMALLEST_NORMAL64 = np.float32(2.0**-126), 2.0**-1022


@jit(scalar=True)
def log(x: Any) -> Any:
    """Natural logarithm: x = 2^k (1 + f), log(1 + f) = 2 atanh(s) with s = f / (2 + f).

    Summed as f - (f^2/2 - s (f^2/2 + z p(z))), so that the rounding of s weighs little (the order is fdlibm's).
    """
    zero, infinity = _like(x, 0.0), _like(x, np.inf)
    subnormal = x < _of(x, _SMALLEST_NORMAL32, _SMALLEST_NORMAL64)
    normal = x * _like(x, 2.0**54) if subnormal else x
    k = _exponent(normal) + (_like(x, -54.0) if subnormal else zero)
    f = _significand(normal) - _like(x, 1.0)
    s = f / (_like(x, 2.0) + f)
    z = s * s
    half_square = _like(x, 0.5) * f * f
    tail = s * (half_square + z * _polynomial(z, _of(x, _P32, _P64))) + k * _of(x, _LN2_LOW32, _LN2_LOW64)
    y = k * _of(x, _LN2_HIGH32, _LN2_HIGH64) - ((half_square - tail) - f)
    y = y if x < infinity else x  # infinity, NaN
    undefined = -infinity if x == zero else _like(x, np.nan)
    return y if x > zero else undefined


# ----------------------------------------------------------------------------------------- gelu

# The normal distribution's upper tail is Q(a) = e^(-a^2/2) R(a). R falls like 1/a, so (1 + 5a/4) R(a) is flat and
# is fitted in u = (a - c) / (a + c), c = 3 (float32), 4 (float64), up to where Q is 0; error 0.69, 0.62.
_R32 = _singles(
    -9.486778435530141e-05,
    -0.000592591124586761,
    -0.00024597084848210216,
    0.003995412960648537,
    0.0006872763624414802,
    -0.02994702383875847,
    0.06801246106624603,
    -0.05134602636098862,
    -0.0690578743815422,
    0.5771912336349487,
)
_R64 = (
    5.057199370408529e-09,
    1.4780224131510611e-08,
    -2.384724005867352e-08,
    -1.2895327539438259e-07,
    1.2802984486224854e-08,
    7.019491257959103e-07,
    4.5432651740243836e-07,
    -3.424578505335528e-06,
    -4.082477331673861e-06,
    1.8106788110140553e-05,
    2.5404416448207658e-05,
    -0.00011697788896772467,
    -0.00010664902420934906,
    0.0009154173404785471,
    -0.0005167323454266733,
    -0.006379863747441129,
    0.02454314572085612,
    -0.04796349781218382,
    0.05367730690134994,
    -0.013595270429274298,
    -0.07827991627104325,
    0.5664638478118136,
)
_CENTRE32, _CENTRE64 = np.float32(3.0), 4.0
_TAIL_END32, _TAIL_END64 = np.float32(15.0), 40.0
_INVERSE_SQRT_2PI = 0.3989422804014327


@jit(scalar=True)
def _clamp_abs(x: Any) -> Any:
    """|x|, at most where the tail ends."""
    a, end = abs(x), _of(x, _TAIL_END32, _TAIL_END64)
    return end if end < a else a


@jit(scalar=True)
def _exp_neg_half_square(a: Any) -> Any:
    """e^(-a^2/2), with the square's rounding error put back: without, 40 ulp at a = 10 in float32."""
    high, half = _leading_half(a), _like(a, -0.5)
    return _exp_of_sum(half * high * high, half * (a - high) * (a + high))


@jit(scalar=True)
def _ratio(a: Any) -> Any:
    """R(a), by one division."""
    centre = _of(a, _CENTRE32, _CENTRE64)
    straight, shifted = _like(a, 1.25) * a + _like(a, 1.0), a + centre
    inverse = _like(a, 1.0) / (straight * shifted)
    u = (a - centre) * (inverse * straight)
    return _polynomial(u, _of(a, _R32, _R64)) * (inverse * shifted)


@jit(scalar=True)
def gelu(x: Any) -> Any:
    """X Phi(x), Phi the normal distribution: relu(x) - |x| Q(|x|) has no cancellation on either side."""
    a, zero = _clamp_abs(x), _like(x, 0.0)
    return (zero if x < zero else x) - a * _ratio(a) * _exp_neg_half_square(a)


@jit(scalar=True)
def gelu_derivative(x: Any) -> Any:
    """Phi(x) + x phi(x), phi the normal density; both come from one exponential."""
    a = _clamp_abs(x)
    below = (_ratio(a) - a * _like(x, _INVERSE_SQRT_2PI)) * _exp_neg_half_square(a)
    return below if x < _like(x, 0.0) else _like(x, 1.0) - below
