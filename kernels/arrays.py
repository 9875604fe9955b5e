"""exp, log, tanh and sigmoid of whole arrays: AVX-512's own instructions where there are those, else loops of `vmath`.

Imports `_jit`, `lanes`, `microkernel` and `vmath`. What changed from `vmath`, whose scalar steps LLVM vectorises: the
vectors are written out. Three instructions that no plain loop becomes take most of what the scalar steps spend:
``vpermi2`` looks up a table of 16 or 32 numbers that stays in registers, which leaves 2^(i/16) or 1/c to a table and a
polynomial of half the degree to the rest; ``vscalef`` multiplies by 2^n, subnormal results included; ``vgetexp`` and
``vgetmant`` take any number apart, subnormal ones included. Why that is faster: fewer steps on the two pipes that
multiply, which are the limit. What it costs: code for one family of CPUs; all others run `vmath`.

On a Zen 4 a vector of 512 bits passes in two halves: pipes 0 and 1 multiply, 1 and 2 permute, 2 and 3 add, compare and
take apart, each one vector a cycle (measured in pairs); a division of 6 cycles (float64: 9) runs beside. So the limit
is the count of products. Cycles of a vector; NumPy's time over this one's, 10 000 elements in one thread, medians taken
in turn on a shared core; largest error in ulp, float32 over all 2^32 inputs, float64 over 2*10^7 against longdouble:

            float32                          float64
            limit   here   ratio   ulp       limit   here   ratio   ulp
exp         8       9.2    3.1     0.99      11      12     2.0     1.11
log         7       11     2.2     1.14      12      15     1.6     1.07
tanh        10      16     1.5     1.86      15      23     2.2     1.69
sigmoid     9       17     3.0     1.49      12      21     2.2     1.51

Below 2: log of float64 needs 12 products where NumPy's time is 23 cycles, and its two look-ups compete with them; a
table of 32 would take six look-ups more. tanh of float32 takes 14 cycles even without the choice behind its division.

No integer steps: 1.5 * 2^(mantissa bits - 4) added to x log2 e leaves a multiple of 1/16, whose last four bits are the
number of 2^(i/16), and ``vscalef`` rounds the exponent down by itself. Logarithms: x = 2^k m, 3/4 <= m < 3/2, and
c m = 1 + f for a reciprocal c of the middle of the sixteenth (float32: thirty-second) in which m + 1/32 (1/64) lies, so
that c is 1 on both sides of 1. Each c was searched for until -log c came within 2^-31 (2^-63) of a multiple of 2^-17
(2^-42): k ln 2 and it then add without rounding, and no second table is needed for what -log c lost (1.5 times NumPy's
speed against 1.3).

Slower: one vector after the other (8% in log, see `lanes`); 1 / (1 + h) from ``vrcp14`` and Newton's step (a fifth in
tanh); m's sixteenth without adding 1/32, which takes one coefficient more.

Coefficients: as in `vmath`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types as _types
from numba.np import arrayobj as _arrayobj

from . import vmath
from ._jit import jit, target_features
from .lanes import Lanes, Some
from .microkernel import intrinsic

cgutils: Any = _cgutils  # no types
types: Any = _types
arrayobj: Any = _arrayobj

USABLE = "avx512f" in target_features()
"""Whether the CPU compiled for has these instructions."""

SIDE_BY_SIDE = 3
"""Vectors at a time.  exp in float64 2.0, 2.1, 2.0 x NumPy's speed with 2, 3, 4; log in float32 1.9, 2.2, 2.1."""

_POINTER = ir.PointerType()

# ------------------------------------------------------------------------------------------- tables

# 2^(i/16), and what its rounding lost.
_POWERS = (
    1.0, 1.0442737824274138, 1.0905077326652577, 1.1387886347566916, 1.189207115002721, 1.241857812073484,
    1.2968395546510096, 1.3542555469368927, 1.4142135623730951, 1.4768261459394993, 1.5422108254079407,
    1.6104903319492543, 1.681792830507429, 1.7562521603732995, 1.8340080864093424, 1.9152065613971474,
)  # fmt: skip
_LOST = {32: tuple(power - float(np.float32(power)) for power in _POWERS), 64: (
    0.0, 8.551889705537965e-17, -3.046782079812471e-17, 8.912812676025408e-17, 3.982015231465646e-17,
    4.658027591836937e-17, 2.5382502794888315e-17, 7.70094837980299e-17, -9.667293313452913e-17, -3.483994556892796e-17,
    7.949834809697621e-17, 2.4707192569797888e-17, 8.199010020581497e-17, 2.960140695448873e-17, 3.283107224245627e-17,
    -1.0619946056195963e-16,
)}  # fmt: skip
# c, and -log c in units of 2^-17 and 2^-42, by the first bits of m + 1/64 (float32) and m + 1/32.
_RECIPROCALS = {32: (
    1.0, 0.9694033265113831, 0.9415010213851929, 0.914164662361145, 0.888279139995575, 0.8642138242721558,
    0.8423221707344055, 0.8207470774650574, 0.8001823425292969, 0.7803055047988892, 0.7618750929832458,
    0.7440446019172668, 0.7276244163513184, 0.7110022306442261, 0.695030152797699, 0.6810308694839478,
    0.6704264283180237, 1.3209697008132935, 1.2924779653549194, 1.2672181129455566, 1.2427363395690918,
    1.2183928489685059, 1.1961586475372314, 1.1726022958755493, 1.152935266494751, 1.1333905458450317,
    1.1126141548156738, 1.0942955017089844, 1.0754822492599487, 1.0568392276763916, 1.0411611795425415,
    1.023979902267456,
), 64: (
    1.0, 0.9411764678620561, 0.8888888875765477, 0.8421052602606505, 0.8000000033909267, 0.7619047645560478,
    0.727272728023461, 0.6956521746544005, 0.6736842115424126, 1.3061224521729116, 1.2549019579749516,
    1.2075471727065705, 1.1636363657160962, 1.1228070161552741, 1.084745760828013, 1.049180329581589,
)}  # fmt: skip
_LOGARITHMS = {32: (
    0, 4073, 7901, 11763, 15528, 19128, 22491, 25892, 29218, 32515, 35648, 38752, 41677, 44706, 47684, 50351, 52408,
    -36486, -33628, -31041, -28484, -25891, -23477, -20870, -18653, -16412, -13987, -11811, -9538, -7246, -5287, -3106,
), 64: (
    0, 266629919206, 518015275529, 755805438040, 981395698691, 1195977113330, 1400574316554, 1596075235694,
    1737201133608, -1174554561663, -998609218741, -829432746942, -666523508577, -509433706706, -357761898156,
    -211146786123,
)}  # fmt: skip
_LOGARITHM_UNIT = {32: 2.0**-17, 64: 2.0**-42}

# q of e^r = 1 + r + r^2 q(r), |r| <= ln(2)/32; error 0.03, 0.01 relative to e^r - 1 in float64.  Lowest power first.
_Q = {
    32: (0.5000162124633789, 0.1666700839996338),
    64: (0.5000000000000006, 0.1666666666441742, 0.041666666659771735, 0.008333471933560708, 0.001388912669219994),
}
_Q_RELATIVE64 = (
    0.5000000000000003, 0.16666666666666663, 0.04166666666132455, 0.008333333333502392, 0.0013889103832902007,
    0.00019841370972207344,
)  # fmt: skip
# p of log(1 + f) = f + f^2 p(f), |f| <= 1/64, 1/32; error 0.03, 0.10.
_P = {
    32: (-0.5, 0.3333737850189209, -0.2500356137752533),
    64: (
        -0.4999999999999968, 0.3333333333333274, -0.25000000004383915, 0.20000000006095625, -0.16666650528367888,
        0.14285695699388504, -0.1252200989477028, 0.11133263246077375,
    ),
}  # fmt: skip
# tanh(c + t) by powers of t, lowest first, for c + 1/8 = 2^k (1 + j/4), by the last bits of k and j; least squares
# weighted towards the smallest largest error, each coefficient rounded before the next; error 0.66 of 2^-24, relative.
_TANH32 = (
    (
        0.95404524, 0.982845, 0.9936546, 0.997661, 0.9991389, 0.9998834, 0.9999842, 0.99999785, 0.9999997, 0.0, 0.0,
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.031239832, 0.062418748, 0.0934763, 0.124353, 0.1853332, 0.24491866,
        0.30270973, 0.3583574, 0.46211717, 0.5545997, 0.63514894, 0.7039056, 0.8093011, 0.8798267, 0.9253462,
    ),
    (
        0.08979973, 0.03401722, 0.01265279, 0.0046710046, 0.0017205921, 0.00023322104, 3.2370735e-05, 4.7815493e-06,
        9.4951736e-07, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.9990234, 0.9961023, 0.9912639, 0.9845387, 0.9656455,
        0.9400174, 0.9083675, 0.8715794, 0.7864444, 0.6924273, 0.5965898, 0.5045216, 0.3450305, 0.22590016, 0.1437403,
    ),
    (
        -0.08569976, -0.033449575, -0.012603624, -0.0046352153, -0.0017078471, -0.00023281037, -3.7939906e-05,
        -8.332099e-06, -3.045444e-06, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.089884e-10, -0.031014225, -0.06173788,
        -0.093121246, -0.122744754, -0.17815918, -0.23056236, -0.27506188, -0.31229764, -0.36321357, -0.38454312,
        -0.3791794, -0.3552972, -0.27920407, -0.19860768, -0.13319577,
    ),
    (
        0.051932763, 0.021558462, 0.008431106, 0.0029334459, 0.0010868846, 0.0001509459, 3.840716e-05, 1.4141631e-05,
        6.1233995e-06, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.33333343, -0.35065785, -0.3687767, -0.27939072,
        -0.29836902, -0.32578403, -0.24166965, -0.21545881, -0.17958185, -0.09919675, -0.0058996123, 0.04765292,
        0.083864994, 0.11080506, 0.09797678, 0.077341,
    ),
    (
        -0.021087248, -0.009841057, -0.004260621, -0.001113849, -0.0004440737, -6.409207e-05, -2.9197583e-05,
        -1.4167049e-05, -5.6267345e-06, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.510681e-06, 0.7340572, 1.566213,
        -1.5164893, -0.1936245, 0.8033172, -0.14320268, 0.082891166, 0.17868166, 0.21180294, 0.028250914, 0.0459065,
        0.049755435, 0.002541834, -0.014822769, -0.0354348,
    ),
    (
        0.0048399665, 0.0026780395, 0.001385839, 0.0001316108, 8.89849e-05, 1.3547736e-05, 1.0035842e-05,
        5.442924e-06, 1.8538852e-06, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.13309929, -9.324172, -19.789024, 20.595953,
        1.8957379, -4.387085, 1.894618, 0.52332425, -0.029396161, -0.1887322, 0.29408225, 0.10960784, -0.03436748,
        -0.023564996, -0.015943728, 0.019169563,
    ),
)  # fmt: skip
_LOG2_E = 1.4426950408889634
# ln 2 in two pieces, as in `vmath`.
_LN2_HIGH = {32: 0.693145751953125, 64: 0.6931471805598903}
_LN2_LOW = {32: 1.428606765330187e-06, 64: 5.497923018708371e-14}
# Beyond these exp is 0 or infinite, and tanh is 1.
_LOWEST, _HIGHEST = {32: -104.5, 64: -746.0}, {32: 89.0, 64: 710.0}
_FLAT = {32: 9.02, 64: 19.1}

# ---------------------------------------------------------------------------------------- functions


def _sixteenths(v: Lanes, x: Some) -> tuple[Some, Some, Some, Some]:
    """N, the multiple of 1/16 next to x log2 e; r = x - n ln 2, what its rounding lost; the bits that number 2^n."""
    magic = v.number(1.5 * 2 ** (v.digits - 4))
    t = v.times_plus(x, v.number(_LOG2_E), magic)
    n = v.minus(t, magic)
    coarse, low = v.less_product(x, n, v.number(_LN2_HIGH[v.bits])), v.number(_LN2_LOW[v.bits])
    r = v.less_product(coarse, n, low)
    return n, r, v.less_product(v.minus(coarse, r), n, low), v.bits_of(t)


def _exp(v: Lanes, x: Some) -> Some:
    """e^x = 2^floor(n) 2^(i/16) e^r."""
    x = v.at_most(_HIGHEST[v.bits], v.at_least(_LOWEST[v.bits], x))
    n, r, _, i = _sixteenths(v, x)
    power = v.lookup(_POWERS, i)
    p = v.times_plus(v.times(r, r), v.polynomial(r, _Q[v.bits]), r)
    return v.scaled(v.times_plus(power, p, power), n)


def _log(v: Lanes, x: Some) -> Some:
    """log x = (k ln 2 - log c) + log(1 + f)."""
    m = v.significand(x)
    k = v.minus(v.exponent(x), v.exponent(m))
    bits = 5 if v.bits == 32 else 4
    i = v.each(v.builder.lshr, v.bits_of(v.plus(m, v.number(2.0 ** -(bits + 1)))), v.whole(v.digits - bits))
    f = v.times_plus(m, v.lookup(_RECIPROCALS[v.bits], i), v.number(-1.0))
    far = v.lookup(tuple(value * _LOGARITHM_UNIT[v.bits] for value in _LOGARITHMS[v.bits]), i)
    far = v.times_plus(k, v.number(_LN2_HIGH[v.bits]), far)  # exact
    near = v.times_plus(v.times(f, f), v.polynomial(f, _P[v.bits]), v.times(k, v.number(_LN2_LOW[v.bits])))
    return v.plus(far, v.plus(f, near))


def _over_one_plus(v: Lanes, h: Some) -> Some:
    """h / (1 + h) for h >= 0; as h - h^2 / (1 + h) below 1/2, where the rounding of 1 + h weighs most."""
    q = v.over(h, v.plus(h, v.number(1.0)))
    return v.where_less(h, v.number(0.5), v.less_product(h, h, q), q)


def _sigmoid(v: Lanes, x: Some) -> Some:
    """1 / (1 + e^-x), from the exponential that cannot overflow."""
    a = v.at_least(_LOWEST[v.bits], v.each(v.builder.fneg, v.magnitude(x)))
    n, r, _, i = _sixteenths(v, a)
    power = v.lookup(_POWERS, i)
    p = v.times_plus(v.times(r, r), v.polynomial(r, _Q[v.bits]), r)
    lost = v.lookup(_LOST[v.bits], i)  # 2.21 ulp in float32, 2.01 in float64, without
    e = v.plus(power, v.times_plus(power, p, lost))
    q = _over_one_plus(v, v.scaled(e, n))
    return v.where_less(x, v.number(0.0), q, v.minus(v.number(1.0), q))


def _tanh32(v: Lanes, a: Some) -> Some:
    """Tanh of 0 <= a <= 9.02 by polynomials, four to an octave of a + 1/8: so the first begins at 0."""
    eighth = v.number(0.125)
    bits = v.bits_of(v.plus(a, eighth))
    first = v.from_bits(v.each(v.builder.and_, bits, v.whole(-(1 << 21))))
    t = v.minus(a, v.minus(first, eighth))
    i = v.each(v.builder.lshr, bits, v.whole(21))
    y = v.lookup(_TANH32[-1], i)
    for coefficients in _TANH32[-2::-1]:
        y = v.times_plus(t, y, v.lookup(coefficients, i))
    return y


def _expm1_64(v: Lanes, a: Some) -> Some:
    """(e^2a - 1) / 2 for 0 <= a <= 19.1: what is largest, 2^n / 2 (1 + r) - 1/2, is rounded once."""
    n, r, rest, i = _sixteenths(v, v.plus(a, a))  # 2.25 ulp without the rest
    half = v.scaled(v.lookup(tuple(power / 2 for power in _POWERS), i), n)
    lost = v.lookup(tuple(low / power for low, power in zip(_LOST[64], _POWERS, strict=True)), i)
    rest = v.plus(v.times_plus(lost, r, lost), rest)
    p = v.plus(v.times_plus(v.times(r, r), v.polynomial(r, _Q_RELATIVE64), rest), r)
    return v.times_plus(half, p, v.minus(half, v.number(0.5)))


def _tanh(v: Lanes, x: Some) -> Some:
    """By polynomials in float32; in float64 h / (1 + h) of h = (e^2|x| - 1) / 2."""
    a = v.at_most(_FLAT[v.bits], v.magnitude(x))
    return v.with_sign(_tanh32(v, a) if v.bits == 32 else _over_one_plus(v, _expm1_64(v, a)), x)


# ------------------------------------------------------------------------------------------- arrays


def _over_arrays(formula: Callable[[Lanes, Some], Some], module: ir.Module, dtype: Any) -> ir.Function:
    """Give the LLVM function (x, out, n) that applies a formula to n elements; generated once a module."""
    intp = ir.IntType(types.intp.bitwidth)
    name = f"fastnet.{formula.__name__}.{dtype}"
    function = module.globals.get(name)
    if function is not None:
        return function
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, intp]), name)
    function.linkage = "linkonce_odr"  # one copy, however many modules are linked
    for attribute in ("noinline", "nounwind", "optsize"):
        function.attributes.add(attribute)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = Lanes(builder, dtype)
    x, out, n = function.args

    def step(i: ir.Value, count: int, mask: ir.Value | None = None) -> None:
        offset = builder.mul(i, intp(v.bytes))
        loaded = tuple(v.load(place, mask) for place in v.vectors_at(v.at(x, offset), count))
        for value, place in zip(formula(v, loaded), v.vectors_at(v.at(out, offset), count), strict=True):
            v.store(value, place, mask)

    several = intp(SIDE_BY_SIDE * v.lanes)
    full = builder.sub(n, builder.urem(n, several))
    with cgutils.for_range_slice(builder, intp(0), full, several, intp) as (i, _):
        step(i, SIDE_BY_SIDE)
    with cgutils.for_range_slice(builder, full, n, intp(v.lanes), intp) as (i, _):
        left = builder.sub(n, i)
        all_lanes = intp(v.lanes)
        step(i, 1, v.first_lanes(builder.select(builder.icmp_unsigned("<", left, all_lanes), left, all_lanes)))
    builder.ret_void()
    return function


def _kernel(formula: Callable[[Lanes, Some], Some]) -> Any:
    """Make out = formula(x) over vectors of one length; of strides other than one, by way of a vector on the stack."""

    def over_arrays(typing_context: Any, x: Any, out: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            v = Lanes(builder, x.dtype)
            function = _over_arrays(formula, builder.module, x.dtype)
            places = []
            for array, argument in zip(signature.args, arguments, strict=True):
                given = arrayobj.make_array(array)(context, builder, argument)
                n = builder.extract_value(given.shape, 0)
                places.append((builder.ptrtoint(given.data, n.type), builder.extract_value(given.strides, 0)))
            (source, source_step), (target, target_step) = places

            def pointer(start: ir.Value, step: ir.Value, i: ir.Value) -> ir.Value:
                return builder.inttoptr(builder.add(start, builder.mul(step, i)), _POINTER)

            if x.layout == out.layout == "C":
                builder.call(function, [*(builder.inttoptr(place, _POINTER) for place in (source, target)), n])
            else:
                buffer = cgutils.alloca_once(builder, v.vector)
                start, item = builder.ptrtoint(buffer, n.type), n.type(v.bytes)
                with cgutils.for_range_slice(builder, n.type(0), n, n.type(v.lanes), n.type) as (first, _):
                    left = builder.sub(n, first)
                    count = builder.select(builder.icmp_signed("<", left, n.type(v.lanes)), left, n.type(v.lanes))
                    with cgutils.for_range(builder, count) as loop:
                        place = pointer(source, source_step, builder.add(first, loop.index))
                        value = builder.load(place, typ=v.scalar, align=v.bytes)
                        builder.store(value, pointer(start, item, loop.index), align=v.bytes)
                    there = pointer(start, item, n.type(0))
                    builder.call(function, [there, there, count])
                    with cgutils.for_range(builder, count) as loop:
                        value = builder.load(pointer(start, item, loop.index), typ=v.scalar, align=v.bytes)
                        place = pointer(target, target_step, builder.add(first, loop.index))
                        builder.store(value, place, align=v.bytes)
            return context.get_dummy_value()

        return types.void(x, out), codegen

    over_arrays.__name__ = formula.__name__
    return intrinsic(over_arrays)


_exp_here = _kernel(_exp)
_log_here = _kernel(_log)
_sigmoid_here = _kernel(_sigmoid)
_tanh_here = _kernel(_tanh)


@jit(scalar=True)
def exp(x: Any, out: Any) -> None:
    """Out = e^x, elementwise over vectors of one length, which may be one."""
    if USABLE:
        _exp_here(x, out)
    else:
        for i in range(x.size):
            out[i] = vmath.exp(x[i])


@jit(scalar=True)
def log(x: Any, out: Any) -> None:
    """Out = natural logarithm of x, elementwise over vectors of one length, which may be one."""
    if USABLE:
        _log_here(x, out)
    else:
        for i in range(x.size):
            out[i] = vmath.log(x[i])


@jit(scalar=True)
def sigmoid(x: Any, out: Any) -> None:
    """Out = 1 / (1 + e^-x), elementwise over vectors of one length, which may be one."""
    if USABLE:
        _sigmoid_here(x, out)
    else:
        for i in range(x.size):
            out[i] = vmath.sigmoid(x[i])


@jit(scalar=True)
def tanh(x: Any, out: Any) -> None:
    """Out = tanh x, elementwise over vectors of one length, which may be one."""
    if USABLE:
        _tanh_here(x, out)
    else:
        for i in range(x.size):
            out[i] = vmath.tanh(x[i])
