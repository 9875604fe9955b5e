"""LLVM instructions for what Python cannot express: access to a float's bits, and constants of the argument's dtype.

Integers have the float's own width, since Numba widens int32 arithmetic to int64, which halves the lanes. Each function
emits a few instructions and no call.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ...llvm.builder import emits

_instructions = emits(lambda x, *more: (x, *more), lambda x, *_: x)
"""Turns a function that emits instructions into an intrinsic whose result has the type of its first argument."""


def pair(single: Any, double: Any) -> tuple[Any, Any]:
    """Make a constant for `by_dtype`: a number for float32 (rounded to it) and one for float64, or two tuples."""
    return tuple(map(np.float32, single)) if isinstance(single, tuple) else np.float32(single), double


@emits(lambda x, pair: (x, pair), lambda x, pair: pair[0 if x == types.float32 else 1])
def by_dtype(builder: Any, x: Any, pair: Any) -> Any:
    """Choose a constant from a `pair` by the dtype of x, so that one source serves both dtypes."""
    return builder.extract_value(pair, 0 if isinstance(x.type, ir.FloatType) else 1)


@emits(lambda x, _: (x, types.float64), lambda x, _: x)
def constant(builder: Any, x: Any, value: Any) -> Any:
    """Convert a float64 constant to the dtype of x; folded at compile time."""
    return builder.fptrunc(value, x.type) if isinstance(x.type, ir.FloatType) else value


def _format(x: Any) -> tuple[Any, int]:
    """Return the integer type of a float's width, and the number of its mantissa bits."""
    return (ir.IntType(32), 23) if isinstance(x.type, ir.FloatType) else (ir.IntType(64), 52)


@_instructions
def polynomial(builder: Any, x: Any, coefficients: Any) -> Any:
    """Evaluate a polynomial by Horner's rule, highest power first; unrolled."""
    y = builder.extract_value(coefficients, 0)
    for i in range(1, len(coefficients.type)):
        product = builder.fmul(y, x, flags=("contract",))
        y = builder.fadd(product, builder.extract_value(coefficients, i), flags=("contract",))
    return y


@_instructions
def power_of_two(builder: Any, t: Any) -> Any:
    """2^n for t = n + the exponent's bias + 1.5 * 2^(mantissa bits); -bias < n <= bias."""
    integer, mantissa = _format(t)
    return builder.bitcast(builder.shl(builder.bitcast(t, integer), integer(mantissa)), t.type)


# Bits of sqrt(1/2). A number is split into 2^k m with sqrt(1/2) <= m < sqrt(2), which keeps |log m| smallest.
_SQRT_HALF = {23: 0x3F3504F3, 52: 0x3FE6A09E667F3BCD}
_ONE = {23: 0x3F800000, 52: 0x3FF0000000000000}


@_instructions
def significand(builder: Any, x: Any) -> Any:
    """m of x = 2^k m, sqrt(1/2) <= m < sqrt(2), for positive normal x."""
    integer, mantissa = _format(x)
    bits = builder.sub(builder.bitcast(x, integer), integer(_SQRT_HALF[mantissa]))
    bits = builder.and_(bits, integer((1 << mantissa) - 1))
    return builder.bitcast(builder.add(bits, integer(_SQRT_HALF[mantissa])), x.type)


@_instructions
def exponent(builder: Any, x: Any) -> Any:
    """k of x = 2^k m, as a float, for positive normal x.

    It is read from the last bits of 2^mantissa + k, since AVX2 cannot convert 64-bit integers.
    """
    integer, mantissa = _format(x)
    offset = _ONE[mantissa] - _SQRT_HALF[mantissa]
    biased = builder.lshr(builder.add(builder.bitcast(x, integer), integer(offset)), integer(mantissa))
    bias = _ONE[mantissa] >> mantissa
    shifted = builder.bitcast(builder.or_(biased, integer((mantissa + bias) << mantissa)), x.type)
    return builder.fsub(shifted, x.type(float(2**mantissa + bias)))


@_instructions
def leading_half(builder: Any, x: Any) -> Any:
    """x with the lower half of its mantissa cleared, so that its square is exact."""
    integer, mantissa = _format(x)
    mask = integer(-(1 << (mantissa // 2 + 1)))
    return builder.bitcast(builder.and_(builder.bitcast(x, integer), mask), x.type)


@_instructions
def with_sign(builder: Any, magnitude: Any, x: Any) -> Any:
    """A non-negative magnitude with the sign of x."""
    integer, _ = _format(magnitude)
    sign = builder.and_(builder.bitcast(x, integer), integer(-(1 << (integer.width - 1))))
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, integer), sign), magnitude.type)
