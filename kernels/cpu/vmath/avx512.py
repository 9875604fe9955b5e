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
tanh        9       12     1.9     1.30      15      23     2.2     1.69
sigmoid     9       17     3.0     1.49      12      21     2.2     1.51

Below 2: log of float64 needs 12 products where NumPy's time is 23 cycles, and its two look-ups compete with them; a
table of 32 would take six look-ups more. tanh of float32 has as many look-ups as products, five and four, which share
a pipe, and five additions beside them.

No integer steps: 1.5 * 2^(mantissa bits - 4) added to x log2 e leaves a multiple of 1/16, whose last four bits are the
number of 2^(i/16), and ``vscalef`` rounds the exponent down by itself. Logarithms: x = 2^k m, 3/4 <= m < 3/2, and
c m = 1 + f for a reciprocal c of the middle of the sixteenth (float32: thirty-second) in which m + 1/32 (1/64) lies, so
that c is 1 on both sides of 1. Each c was searched for until -log c came within 2^-31 (2^-63) of a multiple of 2^-17
(2^-42): k ln 2 and it then add without rounding, and no second table is needed for what -log c lost (1.5 times NumPy's
speed against 1.3).

Slower: one vector after the other (8% in log, see `lanes`); 1 / (1 + h) from ``vrcp14`` and Newton's step (a fifth in
tanh); m's sixteenth without adding 1/32, which takes one coefficient more; tanh of float32 as a quotient of
exponentials (16 cycles), by 16 polynomials of degree 6 (15.6) or 25 of degree 5 (14.7), not 30 of degree 4.

Coefficients: as in `vmath`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types as _types
from numba.np import arrayobj as _arrayobj

from ...jit.decorator import jit
from ...jit.target import target_features
from ...llvm.avx512 import Avx512Builder, Vectors
from ...llvm.builder import intrinsic
from . import scalar

cgutils: Any = _cgutils  # no types
types: Any = _types
arrayobj: Any = _arrayobj

HAVE_AVX512 = "avx512f" in target_features()
"""Whether the CPU compiled for has these instructions."""

UNROLL = 3
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
# tanh(c + t) by powers of t, lowest first, for c + 3/4 = 2^k (1 + j/8), by the last two bits of k and the three of j;
# least squares weighted towards the smallest largest error, each coefficient rounded before the next; error 0.66 of
# 2^-24, relative.
_TANH32 = (
    (
        0.84828365, 0.90514827, 0.94137555, 0.9640276, 0.9780261, 0.9866143, 0.99185973, 0.9950548, 0.99699765,
        0.99889445, 0.99959314, 0.99985033, 0.9999449, 0.99997973, 0.99999255, 0.99999726, 0.999999, 0.9999999, 1.0,
        0.0, 0.0, 0.062418748, 0.124353, 0.1853332, 0.24491866, 0.3583574, 0.46211717, 0.5545997, 0.63514894,
        0.7039056, 0.7615942, 0.8093011,
    ),
    (
        0.28041703, 0.18070467, 0.11380942, 0.07064939, 0.043466713, 0.026592826, 0.016212769, 0.009862289,
        0.0059929853, 0.0022087784, 0.00081357174, 0.00029766868, 0.00011030566, 4.0859344e-05, 1.4730681e-05,
        5.4758575e-06, 2.1545593e-06, -2.7553725e-07, -5.478097e-07, 0.0, 1.0, 0.9961032, 0.9845378, 0.9656476,
        0.94001466, 0.87157965, 0.78644633, 0.69242513, 0.5965891, 0.50452316, 0.41996977, 0.34503016,
    ),
    (
        -0.23797612, -0.1635234, -0.1070637, -0.06805825, -0.042524308, -0.02623343, -0.016043114, -0.009736512,
        -0.005929779, -0.002188785, -0.00080997864, -0.00028114594, -0.00011130789, -4.3733966e-05, -1.308849e-05,
        -5.38191e-06, -2.6526877e-06, 2.470028e-06, 2.8809711e-06, 0.0, 5.943292e-06, -0.062106207, -0.1225432,
        -0.17862608, -0.23018442, -0.3123242, -0.3634031, -0.38430023, -0.37909544, -0.35542285, -0.31969586,
        -0.27918944,
    ),
    (
        0.10976304, 0.08753386, 0.062165566, 0.04150696, 0.026948225, 0.016841851, 0.010191109, 0.005896304,
        0.0036716764, 0.0013577106, 0.0005112919, 0.00013388909, 7.439988e-05, 3.6270867e-05, 3.7515038e-06,
        3.193511e-06, 2.207285e-06, -4.2231386e-06, -4.6421173e-06, 0.0, -0.33391094, -0.33051285, -0.3103769,
        -0.29800695, -0.258349, -0.17880856, -0.09396609, -0.013211213, 0.04504783, 0.08642246, 0.10228734,
        0.11083569,
    ),
    (
        -0.020778935, -0.024674717, -0.020523349, -0.015035346, -0.0106986165, -0.0067442306, -0.0037644035,
        -0.0016098821, -0.0012199949, -0.00045159654, -0.0001766574, -1.0613781e-05, -2.9030169e-05, -1.9571844e-05,
        2.386576e-06, -9.347566e-07, -8.3689577e-07, 2.1463852e-06, 2.3246107e-06, 0.0, 0.015964953, 0.07198116,
        0.06851874, 0.19691722, 0.15614347, 0.17041172, 0.1575984, 0.10887351, 0.07535351, 0.032129947, 0.025240192,
        -0.0013960641,
    ),
)  # fmt: skip
_LOG2_E = 1.4426950408889634
# ln 2 in two pieces, as in `vmath`.
_LN2_HIGH = {32: 0.693145751953125, 64: 0.6931471805598903}
_LN2_LOW = {32: 1.428606765330187e-06, 64: 5.497923018708371e-14}
# Beyond these exp is 0 or infinite, and tanh is 1.
_LOWEST, _HIGHEST = {32: -104.5, 64: -746.0}, {32: 89.0, 64: 710.0}
_FLAT = {32: 9.2, 64: 19.1}

# ---------------------------------------------------------------------------------------- functions


def _sixteenths(v: Avx512Builder, x: Vectors) -> tuple[Vectors, Vectors, Vectors, Vectors]:
    """N, the multiple of 1/16 next to x log2 e; r = x - n ln 2, what its rounding lost; the bits that number 2^n."""
    magic = v.number(1.5 * 2 ** (v.digits - 4))
    t = v.fmadd(x, v.number(_LOG2_E), magic)
    n = v.fsub(t, magic)
    coarse, low = v.fnmadd(x, n, v.number(_LN2_HIGH[v.bits])), v.number(_LN2_LOW[v.bits])
    r = v.fnmadd(coarse, n, low)
    return n, r, v.fnmadd(v.fsub(coarse, r), n, low), v.bits_of(t)


def _exp(v: Avx512Builder, x: Vectors) -> Vectors:
    """e^x = 2^floor(n) 2^(i/16) e^r."""
    x = v.min_constant(_HIGHEST[v.bits], v.max_constant(_LOWEST[v.bits], x))
    n, r, _, i = _sixteenths(v, x)
    power = v.lookup(_POWERS, i)
    p = v.fmadd(v.fmul(r, r), v.polynomial(r, _Q[v.bits]), r)
    return v.scalef(v.fmadd(power, p, power), n)


def _log(v: Avx512Builder, x: Vectors) -> Vectors:
    """log x = (k ln 2 - log c) + log(1 + f)."""
    m = v.significand(x)
    k = v.fsub(v.exponent(x), v.exponent(m))
    bits = 5 if v.bits == 32 else 4
    i = v.each(v.builder.lshr, v.bits_of(v.fadd(m, v.number(2.0 ** -(bits + 1)))), v.whole(v.digits - bits))
    f = v.fmadd(m, v.lookup(_RECIPROCALS[v.bits], i), v.number(-1.0))
    far = v.lookup(tuple(value * _LOGARITHM_UNIT[v.bits] for value in _LOGARITHMS[v.bits]), i)
    far = v.fmadd(k, v.number(_LN2_HIGH[v.bits]), far)  # exact
    near = v.fmadd(v.fmul(f, f), v.polynomial(f, _P[v.bits]), v.fmul(k, v.number(_LN2_LOW[v.bits])))
    return v.fadd(far, v.fadd(f, near))


def _over_one_plus(v: Avx512Builder, h: Vectors) -> Vectors:
    """h / (1 + h) for h >= 0; as h - h^2 / (1 + h) below 1/2, where the rounding of 1 + h weighs most."""
    q = v.fdiv(h, v.fadd(h, v.number(1.0)))
    return v.where_less(h, v.number(0.5), v.fnmadd(h, h, q), q)


def _sigmoid(v: Avx512Builder, x: Vectors) -> Vectors:
    """1 / (1 + e^-x), from the exponential that cannot overflow."""
    a = v.max_constant(_LOWEST[v.bits], v.each(v.builder.fneg, v.magnitude(x)))
    n, r, _, i = _sixteenths(v, a)
    power = v.lookup(_POWERS, i)
    p = v.fmadd(v.fmul(r, r), v.polynomial(r, _Q[v.bits]), r)
    lost = v.lookup(_LOST[v.bits], i)  # 2.21 ulp in float32, 2.01 in float64, without
    e = v.fadd(power, v.fmadd(power, p, lost))
    q = _over_one_plus(v, v.scalef(e, n))
    return v.where_less(x, v.number(0.0), q, v.fsub(v.number(1.0), q))


def _tanh32(v: Avx512Builder, a: Vectors) -> Vectors:
    """Tanh of 0 <= a <= 9.2 by polynomials, eight to an octave of a + 3/4, so that the first begins at 0."""
    ahead = v.number(0.75)
    bits = v.bits_of(v.fadd(a, ahead))
    first = v.from_bits(v.each(v.builder.and_, bits, v.whole(-(1 << 20))))
    t = v.fsub(a, v.fsub(first, ahead))
    i = v.each(v.builder.lshr, bits, v.whole(20))
    y = v.lookup(_TANH32[-1], i)
    for coefficients in _TANH32[-2::-1]:
        y = v.fmadd(t, y, v.lookup(coefficients, i))
    return y


def _expm1_64(v: Avx512Builder, a: Vectors) -> Vectors:
    """(e^2a - 1) / 2 for 0 <= a <= 19.1: what is largest, 2^n / 2 (1 + r) - 1/2, is rounded once."""
    n, r, rest, i = _sixteenths(v, v.fadd(a, a))  # 2.25 ulp without the rest
    half = v.scalef(v.lookup(tuple(power / 2 for power in _POWERS), i), n)
    lost = v.lookup(tuple(low / power for low, power in zip(_LOST[64], _POWERS, strict=True)), i)
    rest = v.fadd(v.fmadd(lost, r, lost), rest)
    p = v.fadd(v.fmadd(v.fmul(r, r), v.polynomial(r, _Q_RELATIVE64), rest), r)
    return v.fmadd(half, p, v.fsub(half, v.number(0.5)))


def _tanh(v: Avx512Builder, x: Vectors) -> Vectors:
    """By polynomials in float32; in float64 h / (1 + h) of h = (e^2|x| - 1) / 2."""
    a = v.min_constant(_FLAT[v.bits], v.magnitude(x))
    return v.with_sign(_tanh32(v, a) if v.bits == 32 else _over_one_plus(v, _expm1_64(v, a)), x)


# ------------------------------------------------------------------------------------------- arrays


def _over_arrays(formula: Callable[[Avx512Builder, Vectors], Vectors], module: ir.Module, dtype: Any) -> ir.Function:
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
    v = Avx512Builder(builder, dtype)
    x, out, n = function.args

    def step(i: ir.Value, count: int, mask: ir.Value | None = None) -> None:
        offset = builder.mul(i, intp(v.bytes))
        loaded = tuple(v.load(place, mask) for place in v.vectors_at(v.at(x, offset), count))
        for value, place in zip(formula(v, loaded), v.vectors_at(v.at(out, offset), count), strict=True):
            v.store(value, place, mask)

    several = intp(UNROLL * v.lanes)
    full = builder.sub(n, builder.urem(n, several))
    with cgutils.for_range_slice(builder, intp(0), full, several, intp) as (i, _):
        step(i, UNROLL)
    with cgutils.for_range_slice(builder, full, n, intp(v.lanes), intp) as (i, _):
        left = builder.sub(n, i)
        all_lanes = intp(v.lanes)
        step(i, 1, v.first_lanes(builder.select(builder.icmp_unsigned("<", left, all_lanes), left, all_lanes)))
    builder.ret_void()
    return function


def _kernel(formula: Callable[[Avx512Builder, Vectors], Vectors]) -> Any:
    """Make out = formula(x) over vectors of one length; of strides other than one, by way of a vector on the stack."""

    def over_arrays(typing_context: Any, x: Any, out: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            v = Avx512Builder(builder, x.dtype)
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


_exp_avx512 = _kernel(_exp)
_log_avx512 = _kernel(_log)
_sigmoid_avx512 = _kernel(_sigmoid)
_tanh_avx512 = _kernel(_tanh)


@jit(scalar=True)
def exp(x: Any, out: Any) -> None:
    """Out = e^x, elementwise over vectors of one length, which may be one."""
    if HAVE_AVX512:
        _exp_avx512(x, out)
    else:
        for i in range(x.size):
            out[i] = scalar.exp(x[i])


@jit(scalar=True)
def log(x: Any, out: Any) -> None:
    """Out = natural logarithm of x, elementwise over vectors of one length, which may be one."""
    if HAVE_AVX512:
        _log_avx512(x, out)
    else:
        for i in range(x.size):
            out[i] = scalar.log(x[i])


@jit(scalar=True)
def sigmoid(x: Any, out: Any) -> None:
    """Out = 1 / (1 + e^-x), elementwise over vectors of one length, which may be one."""
    if HAVE_AVX512:
        _sigmoid_avx512(x, out)
    else:
        for i in range(x.size):
            out[i] = scalar.sigmoid(x[i])


@jit(scalar=True)
def tanh(x: Any, out: Any) -> None:
    """Out = tanh x, elementwise over vectors of one length, which may be one."""
    if HAVE_AVX512:
        _tanh_avx512(x, out)
    else:
        for i in range(x.size):
            out[i] = scalar.tanh(x[i])
