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


def _instructions(emit: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of compiled code, whose result has its first argument's type, from one that emits instructions.

    ``emit`` takes the LLVM builder, the integer type of the float's width, the number of its mantissa bits, and one or
    two values.
    """

    def typed(real: Any, *more: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return emit(builder, ir.IntType(real.bitwidth), 23 if real == types.float32 else 52, *values)

        return real(real, *more), build

    def of_one(context: Any, x: Any) -> Any:
        return typed(x)

    def of_two(context: Any, x: Any, y: Any) -> Any:
        return typed(x, y)

    function = of_two if emit.__code__.co_argcount == 5 else of_one
    function.__name__, function.__doc__ = emit.__name__, emit.__doc__
    return intrinsic(function)


@intrinsic
def by_dtype(context: Any, x: Any, single: Any, double: Any) -> Any:
    """Choose between two constants by the dtype of x: one source serves both dtypes."""
    position = 1 if x == types.float32 else 2
    return (single, double)[position - 1](x, single, double), lambda context, builder, signature, values: values[
        position
    ]


@intrinsic
def constant(context: Any, x: Any, value: Any) -> Any:
    """Convert a float64 constant to the dtype of x; folded at compile time."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return values[1] if x == types.float64 else builder.fptrunc(values[1], values[0].type)

    return x(x, types.float64), build


@_instructions
def polynomial(builder: Any, integer: Any, mantissa: int, x: Any, coefficients: Any) -> Any:
    """Evaluate a polynomial by Horner's rule, highest power first; unrolled."""
    y = builder.extract_value(coefficients, 0)
    for i in range(1, len(coefficients.type)):
        product = builder.fmul(y, x, flags=("contract",))
        y = builder.fadd(product, builder.extract_value(coefficients, i), flags=("contract",))
    return y


@_instructions
def power_of_two(builder: Any, integer: Any, mantissa: int, t: Any) -> Any:
    """2^n, where t is n plus the exponent's bias plus 1.5 * 2^mantissa bits; -bias < n <= bias."""
    return builder.bitcast(builder.shl(builder.bitcast(t, integer), integer(mantissa)), t.type)


@_instructions
def scale_by_power(builder: Any, integer: Any, mantissa: int, y: Any, t: Any) -> Any:
    """y 2^n for every n that float can end at, rounded once; t is n plus twice the bias plus 1.5 * 2^mantissa.

    Two factors, since 2^n itself may not exist. The first product is exact.
    """
    bits = builder.bitcast(t, integer)
    half = builder.lshr(bits, integer(1))
    for part in (half, builder.sub(bits, half)):
        y = builder.fmul(y, builder.bitcast(builder.shl(part, integer(mantissa)), y.type))
    return y


# Bits of sqrt(1/2): a number is split as 2^k m with m from there to sqrt(2), so that log m is smallest.
_SQRT_HALF = {23: 0x3F3504F3, 52: 0x3FE6A09E667F3BCD}
_ONE = {23: 0x3F800000, 52: 0x3FF0000000000000}


@_instructions
def significand(builder: Any, integer: Any, mantissa: int, x: Any) -> Any:
    """The m of x = 2^k m, sqrt(1/2) <= m < sqrt(2), for positive normal x."""
    bits = builder.sub(builder.bitcast(x, integer), integer(_SQRT_HALF[mantissa]))
    bits = builder.and_(bits, integer((1 << mantissa) - 1))
    return builder.bitcast(builder.add(bits, integer(_SQRT_HALF[mantissa])), x.type)


@_instructions
def exponent(builder: Any, integer: Any, mantissa: int, x: Any) -> Any:
    """The k of x = 2^k m, as a float, for positive normal x.

    By way of the last bits of 2^mantissa + k: AVX2 has no conversion of 64-bit integers.
    """
    offset = _ONE[mantissa] - _SQRT_HALF[mantissa]
    biased = builder.lshr(builder.add(builder.bitcast(x, integer), integer(offset)), integer(mantissa))
    bias = _ONE[mantissa] >> mantissa
    shifted = builder.bitcast(builder.or_(biased, integer((mantissa + bias) << mantissa)), x.type)
    return builder.fsub(shifted, x.type(float(2**mantissa + bias)))


@_instructions
def leading_half(builder: Any, integer: Any, mantissa: int, x: Any) -> Any:
    """x with the lower half of its digits cleared, so that its square is exact."""
    mask = integer(-(1 << (mantissa // 2 + 1)))
    return builder.bitcast(builder.and_(builder.bitcast(x, integer), mask), x.type)


@_instructions
def with_sign(builder: Any, integer: Any, mantissa: int, magnitude: Any, x: Any) -> Any:
    """A magnitude (not negative) with the sign of x."""
    sign = builder.and_(builder.bitcast(x, integer), integer(-(1 << (integer.width - 1))))
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, integer), sign), magnitude.type)


def singles(*numbers: float) -> tuple[Any, ...]:
    """Round numbers to float32."""
    return tuple(np.float32(number) for number in numbers)
