"""What Python cannot express, as LLVM instructions: the bits of a float and constants of the argument's dtype.

Shifts are in the float's own width, since Numba widens int32 arithmetic to int64, which halves the lanes. Each function
emits a few instructions and no call.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types

# Its type does not know that callers leave out the context.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic


def _mantissa_bits(float_type: Any) -> int:
    return 23 if float_type == types.float32 else 52


def _integer(float_type: Any) -> Any:
    return ir.IntType(float_type.bitwidth)


@intrinsic
def by_dtype(context: Any, x: Any, single: Any, double: Any) -> Any:
    """Whichever of two constants has the dtype of x: one source serves both dtypes."""
    place = 1 if x == types.float32 else 2

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[place]

    return (single, double)[place - 1](x, single, double), build


@intrinsic
def polynomial(context: Any, x: Any, coefficients: Any) -> Any:
    """Horner's rule, highest power first; unrolled."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y = builder.extract_value(args[1], 0)
        for i in range(1, len(signature.args[1])):
            product = builder.fmul(y, args[0], flags=("contract",))
            y = builder.fadd(product, builder.extract_value(args[1], i), flags=("contract",))
        return y

    return x(x, coefficients), build


@intrinsic
def power_of_two(context: Any, t: Any) -> Any:
    """2^n, where t is n plus the exponent's bias plus 1.5 * 2^mantissa bits; -bias < n <= bias."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = _integer(t)
        bits = builder.bitcast(args[0], whole)
        return builder.bitcast(builder.shl(bits, whole(_mantissa_bits(t))), args[0].type)

    return t(t), build


@intrinsic
def constant(context: Any, x: Any, value: Any) -> Any:
    """A float64 constant in the dtype of x, folded at compile time."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[1] if x == types.float64 else builder.fptrunc(args[1], args[0].type)

    return x(x, types.float64), build


@intrinsic
def scale_by_power(context: Any, y: Any, t: Any) -> Any:
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
def significand(context: Any, x: Any) -> Any:
    """The m of x = 2^k m, sqrt(1/2) <= m < sqrt(2), for positive normal x."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole, mantissa = _integer(x), _mantissa_bits(x)
        bits = builder.sub(builder.bitcast(args[0], whole), whole(_SQRT_HALF[mantissa]))
        bits = builder.and_(bits, whole((1 << mantissa) - 1))
        return builder.bitcast(builder.add(bits, whole(_SQRT_HALF[mantissa])), args[0].type)

    return x(x), build


@intrinsic
def exponent(context: Any, x: Any) -> Any:
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
def leading_half(context: Any, x: Any) -> Any:
    """x with the lower half of its digits cleared, so that its square is exact."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = _integer(x)
        mask = whole(-(1 << (_mantissa_bits(x) // 2 + 1)))
        return builder.bitcast(builder.and_(builder.bitcast(args[0], whole), mask), args[0].type)

    return x(x), build


@intrinsic
def with_sign(context: Any, magnitude: Any, x: Any) -> Any:
    """A magnitude (not negative) with the sign of x."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = _integer(x)
        sign = builder.and_(builder.bitcast(args[1], whole), whole(-(1 << (whole.width - 1))))
        return builder.bitcast(builder.or_(builder.bitcast(args[0], whole), sign), args[0].type)

    return magnitude(magnitude, x), build


def singles(*numbers: float) -> tuple[Any, ...]:
    """Round numbers to float32."""
    return tuple(np.float32(number) for number in numbers)
