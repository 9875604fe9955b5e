"""exp, log, tanh and sigmoid of whole arrays, by AVX-512's own instructions where the CPU has them.

Elsewhere they are loops over the functions of one number in this package. Three instructions that LLVM makes of no
plain loop replace most of the arithmetic: ``vpermi2`` looks up a table of 16 or 32 numbers held in registers, which
leaves 2^(i/16) or 1/c to the table and a polynomial of half the degree to the rest; ``vscalef`` multiplies by 2^n,
subnormal results included; ``vgetexp`` and ``vgetmant`` split any number, subnormal ones included. NumPy's time over
this one's on Zen 4: exp 3.1 (float64 2.0), log 2.2 (1.6), tanh 1.9 (2.2), sigmoid 3.0 (2.2)
(docs/performance-notes/vmath.md).

No integer steps: 1.5 * 2^(mantissa bits - 4) added to x log2 e leaves a multiple of 1/16, whose last four bits are the
index of 2^(i/16), and ``vscalef`` rounds the exponent down by itself. Logarithms: x = 2^k m, 3/4 <= m < 3/2, and
c m = 1 + f for a reciprocal c of the middle of the sixteenth (float32: thirty-second) in which m + 1/32 (1/64) lies, so
that c is 1 on both sides of 1. Each c was searched for until -log c came within 2^-31 (2^-63) of a multiple of 2^-17
(2^-42): k ln 2 and it then add without rounding.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types as _types
from numba.np import arrayobj as _arrayobj

from ...jit.decorator import jit
from ...jit.target import target_features
from ...llvm.avx512 import Avx512Builder, Vectors
from ...llvm.builder import intrinsic
from .avx512_tables import (
    FLAT,
    HIGHEST,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    LOGARITHM_UNIT,
    LOGARITHMS,
    LOST,
    LOWEST,
    POWERS,
    Q_RELATIVE64,
    RECIPROCALS,
    TANH32,
    P,
    Q,
)
from .exp import exp as scalar_exp
from .log import log as scalar_log
from .sigmoid import sigmoid as scalar_sigmoid
from .tanh import tanh as scalar_tanh

cgutils: Any = _cgutils  # no types
types: Any = _types
arrayobj: Any = _arrayobj

HAVE_AVX512 = "avx512f" in target_features()
"""Whether the CPU compiled for has these instructions."""

UNROLL = 3
"""Vectors at a time (docs/performance-notes/vmath.md)."""

_POINTER = ir.PointerType()


def _sixteenths(v: Avx512Builder, x: Vectors) -> tuple[Vectors, Vectors, Vectors, Vectors]:
    """Return n, the multiple of 1/16 nearest x log2 e; r = x - n ln 2; r's error; the bits that index 2^n."""
    magic = v.number(1.5 * 2 ** (v.digits - 4))
    t = v.fmadd(x, v.number(LOG2_E), magic)
    n = v.fsub(t, magic)
    coarse, low = v.fnmadd(x, n, v.number(LN2_HIGH[v.bits])), v.number(LN2_LOW[v.bits])
    r = v.fnmadd(coarse, n, low)
    return n, r, v.fnmadd(v.fsub(coarse, r), n, low), v.bits_of(t)


def _exp(v: Avx512Builder, x: Vectors) -> Vectors:
    """e^x = 2^floor(n) 2^(i/16) e^r."""
    x = v.min_constant(HIGHEST[v.bits], v.max_constant(LOWEST[v.bits], x))
    n, r, _, i = _sixteenths(v, x)
    power = v.lookup(POWERS, i)
    p = v.fmadd(v.fmul(r, r), v.polynomial(r, Q[v.bits]), r)
    return v.scalef(v.fmadd(power, p, power), n)


def _log(v: Avx512Builder, x: Vectors) -> Vectors:
    """log x = (k ln 2 - log c) + log(1 + f)."""
    m = v.significand(x)
    k = v.fsub(v.exponent(x), v.exponent(m))
    bits = 5 if v.bits == 32 else 4
    i = v.each(v.builder.lshr, v.bits_of(v.fadd(m, v.number(2.0 ** -(bits + 1)))), v.whole(v.digits - bits))
    f = v.fmadd(m, v.lookup(RECIPROCALS[v.bits], i), v.number(-1.0))
    far = v.lookup(tuple(value * LOGARITHM_UNIT[v.bits] for value in LOGARITHMS[v.bits]), i)
    far = v.fmadd(k, v.number(LN2_HIGH[v.bits]), far)  # exact
    near = v.fmadd(v.fmul(f, f), v.polynomial(f, P[v.bits]), v.fmul(k, v.number(LN2_LOW[v.bits])))
    return v.fadd(far, v.fadd(f, near))


def _over_one_plus(v: Avx512Builder, h: Vectors) -> Vectors:
    """h / (1 + h) for h >= 0; as h - h^2 / (1 + h) below 1/2, where the rounding of 1 + h weighs most."""
    q = v.fdiv(h, v.fadd(h, v.number(1.0)))
    return v.where_less(h, v.number(0.5), v.fnmadd(h, h, q), q)


def _sigmoid(v: Avx512Builder, x: Vectors) -> Vectors:
    """1 / (1 + e^-x), from the exponential that cannot overflow."""
    a = v.max_constant(LOWEST[v.bits], v.each(v.builder.fneg, v.magnitude(x)))
    n, r, _, i = _sixteenths(v, a)
    power = v.lookup(POWERS, i)
    p = v.fmadd(v.fmul(r, r), v.polynomial(r, Q[v.bits]), r)
    lost = v.lookup(LOST[v.bits], i)  # 2.21 ulp in float32, 2.01 in float64, without
    e = v.fadd(power, v.fmadd(power, p, lost))
    q = _over_one_plus(v, v.scalef(e, n))
    return v.where_less(x, v.number(0.0), q, v.fsub(v.number(1.0), q))


def _tanh32(v: Avx512Builder, a: Vectors) -> Vectors:
    """tanh a for 0 <= a <= 9.2 by polynomials, eight to an octave of a + 3/4, so that the first begins at 0."""
    ahead = v.number(0.75)
    bits = v.bits_of(v.fadd(a, ahead))
    first = v.from_bits(v.each(v.builder.and_, bits, v.whole(-(1 << 20))))
    t = v.fsub(a, v.fsub(first, ahead))
    i = v.each(v.builder.lshr, bits, v.whole(20))
    y = v.lookup(TANH32[-1], i)
    for coefficients in TANH32[-2::-1]:
        y = v.fmadd(t, y, v.lookup(coefficients, i))
    return y


def _expm1_64(v: Avx512Builder, a: Vectors) -> Vectors:
    """(e^2a - 1) / 2 for 0 <= a <= 19.1: what is largest, 2^n / 2 (1 + r) - 1/2, is rounded once."""
    n, r, rest, i = _sixteenths(v, v.fadd(a, a))  # 2.25 ulp without the rest
    half = v.scalef(v.lookup(tuple(power / 2 for power in POWERS), i), n)
    lost = v.lookup(tuple(low / power for low, power in zip(LOST[64], POWERS, strict=True)), i)
    rest = v.fadd(v.fmadd(lost, r, lost), rest)
    p = v.fadd(v.fmadd(v.fmul(r, r), v.polynomial(r, Q_RELATIVE64), rest), r)
    return v.fmadd(half, p, v.fsub(half, v.number(0.5)))


def _tanh(v: Avx512Builder, x: Vectors) -> Vectors:
    """tanh x, in float32 by polynomials, in float64 as h / (1 + h) with h = (e^2|x| - 1) / 2."""
    a = v.min_constant(FLAT[v.bits], v.magnitude(x))
    return v.with_sign(_tanh32(v, a) if v.bits == 32 else _over_one_plus(v, _expm1_64(v, a)), x)


def _over_arrays(formula: Callable[[Avx512Builder, Vectors], Vectors], module: ir.Module, dtype: Any) -> ir.Function:
    """Return the LLVM function (x, out, n) that applies a formula to n elements; generated once a module."""
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
        loaded = tuple(v.load(address, mask) for address in v.vectors_at(v.at(x, offset), count))
        for value, address in zip(formula(v, loaded), v.vectors_at(v.at(out, offset), count), strict=True):
            v.store(value, address, mask)

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
    """Make out = formula(x) over vectors of one length; strided ones are copied through a vector on the stack."""

    def over_arrays(typing_context: Any, x: Any, out: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            v = Avx512Builder(builder, x.dtype)
            function = _over_arrays(formula, builder.module, x.dtype)
            arrays = []
            for array, argument in zip(signature.args, arguments, strict=True):
                given = arrayobj.make_array(array)(context, builder, argument)
                n = builder.extract_value(given.shape, 0)
                arrays.append((builder.ptrtoint(given.data, n.type), builder.extract_value(given.strides, 0)))
            (source, source_step), (target, target_step) = arrays

            def pointer(start: ir.Value, step: ir.Value, i: ir.Value) -> ir.Value:
                return builder.inttoptr(builder.add(start, builder.mul(step, i)), _POINTER)

            if x.layout == out.layout == "C":
                builder.call(function, [*(builder.inttoptr(address, _POINTER) for address in (source, target)), n])
            else:
                buffer = cgutils.alloca_once(builder, v.vector)
                start, item = builder.ptrtoint(buffer, n.type), n.type(v.bytes)
                with cgutils.for_range_slice(builder, n.type(0), n, n.type(v.lanes), n.type) as (first, _):
                    left = builder.sub(n, first)
                    count = builder.select(builder.icmp_signed("<", left, n.type(v.lanes)), left, n.type(v.lanes))
                    with cgutils.for_range(builder, count) as loop:
                        address = pointer(source, source_step, builder.add(first, loop.index))
                        value = builder.load(address, typ=v.scalar, align=v.bytes)
                        builder.store(value, pointer(start, item, loop.index), align=v.bytes)
                    there = pointer(start, item, n.type(0))
                    builder.call(function, [there, there, count])
                    with cgutils.for_range(builder, count) as loop:
                        value = builder.load(pointer(start, item, loop.index), typ=v.scalar, align=v.bytes)
                        address = pointer(target, target_step, builder.add(first, loop.index))
                        builder.store(value, address, align=v.bytes)
            return context.get_dummy_value()

        return types.void(x, out), codegen

    over_arrays.__name__ = formula.__name__
    return intrinsic(over_arrays)


def _whole(name: str, formula: Callable[[Avx512Builder, Vectors], Vectors], scalar: Any) -> Any:
    """Make the kernel ``(x, out)``: out = formula(x), elementwise over vectors of one length; out may be x."""
    instructions = _kernel(formula)

    def with_avx512(x: Any, out: Any) -> None:
        instructions(x, out)

    def without(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = scalar(x[i])

    function = with_avx512 if HAVE_AVX512 else without
    function.__name__ = function.__qualname__ = name
    return jit(scalar=True)(function)


exp = _whole("exp", _exp, scalar_exp)
log = _whole("log", _log, scalar_log)
sigmoid = _whole("sigmoid", _sigmoid, scalar_sigmoid)
tanh = _whole("tanh", _tanh, scalar_tanh)

ARRAYS: dict[str, Any] = {"tanh": tanh, "sigmoid": sigmoid}
"""The activations among them, by name."""
