"""tanh and sigmoid of whole arrays in AVX-512 instructions, for CPUs that have them.

On other CPUs the kernels are loops over this package's scalar functions. Two instructions that LLVM never generates
from a plain loop replace most of the arithmetic. ``vpermi2`` looks up a table of 16 or 32 numbers held in registers:
2^(i/16) comes from the table, so that a polynomial of half the degree suffices for the rest. ``vscalef`` multiplies by
2^n, including subnormal results. NumPy's time divided by this one's on Zen 4: tanh 1.9 (float64 2.2), sigmoid 3.0 (2.2)
(docs/performance-notes/vmath.md).

No integer arithmetic is needed: adding 1.5 * 2^(mantissa bits - 4) to x log2 e rounds it to a multiple of 1/16, whose
last four bits are the index of 2^(i/16), and ``vscalef`` rounds the exponent down by itself.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ...jit.decorator import jit
from ...jit.target import target_features
from ...llvm.avx512 import Avx512Builder, Vectors
from ...llvm.builder import VectorBuilder, cgutils, emits, types
from ...llvm.memory import address_and_strides
from ..elementwise import named
from .avx512_tables import FLAT, LOST, POWERS, Q_RELATIVE64, TANH32, Q
from .exp import LN2_HIGH, LN2_LOW, LOG2_E, LOWEST

HAVE_AVX512 = "avx512f" in target_features()
"""Whether the target CPU has these instructions."""

UNROLL = 3
"""Vectors in flight (docs/performance-notes/vmath.md)."""


def _sixteenths(v: Avx512Builder, x: Vectors) -> tuple[Vectors, Vectors, Vectors, Vectors]:
    """Return n, the multiple of 1/16 nearest to x log2 e; r = x - n ln 2; r's error; the bits that index 2^n."""
    magic = v.number(1.5 * 2 ** (v.digits - 4))
    t = v.fmadd(x, v.number(LOG2_E), magic)
    n = v.fsub(t, magic)
    coarse, low = v.fnmadd(x, n, v.by_dtype(LN2_HIGH)), v.by_dtype(LN2_LOW)
    r = v.fnmadd(coarse, n, low)
    return n, r, v.fnmadd(v.fsub(coarse, r), n, low), v.bits_of(t)


def _over_one_plus(v: Avx512Builder, h: Vectors) -> Vectors:
    """h / (1 + h) for h >= 0; below 1/2, where rounding 1 + h matters most, as h - h^2 / (1 + h)."""
    q = v.fdiv(h, v.fadd(h, v.number(1.0)))
    return v.where_less(h, v.number(0.5), v.fnmadd(h, h, q), q)


def _sigmoid(v: Avx512Builder, x: Vectors) -> Vectors:
    """1 / (1 + e^-x), from the exponential that cannot overflow."""
    a = v.max(v.by_dtype(LOWEST), v.each(v.builder.fneg, v.magnitude(x)))
    n, r, _, i = _sixteenths(v, a)
    power = v.lookup(POWERS, i)
    p = v.fmadd(v.fmul(r, r), v.polynomial(r, Q[v.bits]), r)
    lost = v.lookup(LOST[v.bits], i)  # without it, errors reach 2.21 ulp in float32, 2.01 in float64
    e = v.fadd(power, v.fmadd(power, p, lost))
    q = _over_one_plus(v, v.scalef(e, n))
    return v.where_less(x, v.number(0.0), q, v.fsub(v.number(1.0), q))


def _tanh32(v: Avx512Builder, a: Vectors) -> Vectors:
    """tanh a for 0 <= a <= 9.2 by eight polynomials per octave of a + 3/4; with this offset the first begins at 0."""
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
    """(e^2a - 1) / 2 for 0 <= a <= 19.1; its largest part, 2^n / 2 (1 + r) - 1/2, is rounded only once."""
    n, r, rest, i = _sixteenths(v, v.fadd(a, a))  # without the rest, errors reach 2.25 ulp
    half = v.scalef(v.lookup(tuple(power / 2 for power in POWERS), i), n)
    lost = v.lookup(tuple(low / power for low, power in zip(LOST[64], POWERS, strict=True)), i)
    rest = v.fadd(v.fmadd(lost, r, lost), rest)
    p = v.fadd(v.fmadd(v.fmul(r, r), v.polynomial(r, Q_RELATIVE64), rest), r)
    return v.fmadd(half, p, v.fsub(half, v.number(0.5)))


def _tanh(v: Avx512Builder, x: Vectors) -> Vectors:
    """tanh x, in float32 by polynomials, in float64 as h / (1 + h) with h = (e^2|x| - 1) / 2."""
    a = v.min(v.by_dtype(FLAT), v.magnitude(x))
    return v.with_sign(_tanh32(v, a) if v.bits == 32 else _over_one_plus(v, _expm1_64(v, a)), x)


def _kernel(name: str, formula: Callable[[Avx512Builder, Vectors], Vectors]) -> Any:
    """Make the kernel ``(x, out)``: out = formula(x), elementwise over C-contiguous vectors; out may be x."""

    def emit(code: VectorBuilder, x: ir.Value, out: ir.Value, n: ir.Value) -> None:
        v, builder, intp = Avx512Builder(code.builder, code.dtype), code.builder, n.type
        start, target = v.pointer(x), v.pointer(out)

        def step(i: ir.Value, count: int, mask: ir.Value | None = None) -> None:
            offset = builder.mul(i, intp(v.bytes))
            loaded = tuple(v.load(address, mask) for address in v.vectors_at(v.at(start, offset), count))
            for value, address in zip(formula(v, loaded), v.vectors_at(v.at(target, offset), count), strict=True):
                v.store(value, address, mask)

        several, lanes = intp(UNROLL * v.lanes), intp(v.lanes)
        full = builder.sub(n, builder.urem(n, several))
        with cgutils.for_range_slice(builder, intp(0), full, several, intp) as (i, _):
            step(i, UNROLL)
        with cgutils.for_range_slice(builder, full, n, lanes, intp) as (i, _):
            left = builder.sub(n, i)
            step(i, 1, v.first_lanes(builder.select(builder.icmp_unsigned("<", left, lanes), left, lanes)))

    def shared(builder: ir.IRBuilder, dtype: Any, x: ir.Value, out: ir.Value, n: ir.Value) -> None:
        VectorBuilder(builder, dtype).call_shared(f"fastnet.{formula.__name__}.{dtype}", emit, x, out, n)

    instructions = emits(lambda dtype, *_: (dtype, *[types.intp] * 3))(named(formula.__name__, shared))

    def kernel(x: Any, out: Any) -> None:
        instructions(x.dtype, address_and_strides(x)[0], address_and_strides(out)[0], x.size)

    return jit(named(name, kernel))


KERNELS: dict[str, Any] = {}
"""The kernels by activation; empty if the target CPU lacks these instructions."""

if HAVE_AVX512:
    KERNELS = {"tanh": _kernel("simd_tanh", _tanh), "sigmoid": _kernel("simd_sigmoid", _sigmoid)}
