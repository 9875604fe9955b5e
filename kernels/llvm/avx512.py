"""Emits AVX-512 instructions for several vectors, interleaved.

The instructions of one polynomial depend on each other. Interleaving those of several vectors gives the CPU's
scheduler, which holds 64 instructions, independent ones to execute.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .builder import VectorBuilder

_INT32 = ir.IntType(32)
_CURRENT_ROUNDING = _INT32(4)

Vectors = tuple[ir.Value, ...]
"""Several vectors, or one constant for all of them."""


class Avx512Builder(VectorBuilder):
    """AVX-512 instructions on several vectors, interleaved."""

    def __init__(self, builder: ir.IRBuilder, dtype: Any) -> None:
        super().__init__(builder, dtype)
        self.digits = 23 if self.bits == 32 else 52
        self.integers = ir.VectorType(ir.IntType(self.bits), self.lanes)
        self.suffix = "ps.512" if self.bits == 32 else "pd.512"
        self.everywhere = ir.IntType(self.lanes)(-1)

    def each(self, instruction: Callable[..., ir.Value], *operands: Vectors) -> Vectors:
        """Emit an instruction once for each vector."""
        count = max(map(len, operands))
        return tuple(instruction(*column) for column in zip(*(x * (count // len(x)) for x in operands), strict=True))

    def number(self, *values: float) -> Vectors:
        """Return a constant: one number in every lane, or a table that fills one or more vectors."""
        values = values if len(values) > 1 else values * self.lanes
        if self.bits == 32:
            values = tuple(float(np.float32(value)) for value in values)
        scalars = [ir.Constant(self.scalar, value) for value in values]
        return tuple(ir.Constant(self.vector, scalars[i : i + self.lanes]) for i in range(0, len(values), self.lanes))

    def by_dtype(self, pair: tuple[float, float]) -> Vectors:
        """Return the constant for this dtype from a pair for float32 and float64."""
        return self.number(float(pair[self.bits == 64]))

    def whole(self, value: int) -> Vectors:
        """Return an integer constant in every lane."""
        return (ir.Constant(self.integers, [value] * self.lanes),)

    def fadd(self, x: Vectors, y: Vectors) -> Vectors:
        """x + y."""
        return self.each(self.builder.fadd, x, y)

    def fsub(self, x: Vectors, y: Vectors) -> Vectors:
        """x - y."""
        return self.each(self.builder.fsub, x, y)

    def fmul(self, x: Vectors, y: Vectors) -> Vectors:
        """x y."""
        return self.each(self.builder.fmul, x, y)

    def fdiv(self, x: Vectors, y: Vectors) -> Vectors:
        """x / y."""
        return self.each(self.builder.fdiv, x, y)

    def fmadd(self, x: Vectors, y: Vectors, z: Vectors) -> Vectors:
        """x y + z, rounded once."""
        return self.each(self.fma, x, y, z)

    def fnmadd(self, z: Vectors, x: Vectors, y: Vectors) -> Vectors:
        """z - x y, rounded once."""
        return self.each(self.fma, self.each(self.builder.fneg, x), y, z)

    def polynomial(self, x: Vectors, coefficients: tuple[float, ...]) -> Vectors:
        """Evaluate a polynomial by Horner's rule; coefficients from the lowest power."""
        y = self.number(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            y = self.fmadd(x, y, self.number(coefficient))
        return y

    def where_less(self, x: Vectors, y: Vectors, then: Vectors, otherwise: Vectors) -> Vectors:
        """``then`` where x < y, else ``otherwise``."""
        less = self.each(lambda x, y: self.builder.fcmp_ordered("<", x, y), x, y)
        return self.each(self.builder.select, less, then, otherwise)

    def magnitude(self, x: Vectors) -> Vectors:
        """|x|."""
        return self.each(functools.partial(self.intrinsic, f"fabs.v{self.lanes}f{self.bits}", self.vector), x)

    def bits_of(self, x: Vectors) -> Vectors:
        """Reinterpret floats as integers."""
        return self.each(lambda x: self.builder.bitcast(x, self.integers), x)

    def from_bits(self, x: Vectors) -> Vectors:
        """Reinterpret integers as floats."""
        return self.each(lambda x: self.builder.bitcast(x, self.vector), x)

    def with_sign(self, magnitude: Vectors, x: Vectors) -> Vectors:
        """Return a non-negative magnitude with the sign of x."""
        sign = self.each(self.builder.and_, self.bits_of(x), self.whole(-(1 << (self.bits - 1))))
        return self.from_bits(self.each(self.builder.or_, self.bits_of(magnitude), sign))

    def _x86(self, name: str, x: Vectors, y: Vectors, *more: ir.Value) -> Vectors:
        """Emit an AVX-512F instruction by its LLVM name."""
        emit = functools.partial(self.intrinsic, f"x86.avx512.{name}.{self.suffix}", self.vector)
        return self.each(lambda x, y: emit(x, y, *more), x, y)

    def max(self, limit: Vectors, x: Vectors) -> Vectors:
        """max(limit, x); a NaN in x stays, since the instruction then returns its second operand."""
        return self._x86("max", limit, x, _CURRENT_ROUNDING)

    def min(self, limit: Vectors, x: Vectors) -> Vectors:
        """min(limit, x); a NaN in x stays."""
        return self._x86("min", limit, x, _CURRENT_ROUNDING)

    def scalef(self, x: Vectors, n: Vectors) -> Vectors:
        """x 2^floor(n), rounded once."""
        return self._x86("mask.scalef", x, n, self.zero, self.everywhere, _CURRENT_ROUNDING)

    def lookup(self, table: tuple[float, ...], numbers: Vectors) -> Vectors:
        """Look up table entries, indexed by the last bits of the numbers; the other bits are ignored."""
        halves = self.number(*table)
        if len(halves) == 2:
            name = f"x86.avx512.vpermi2var.{self.suffix}"
            return self.each(lambda i: self.intrinsic(name, self.vector, halves[0], i, halves[1]), numbers)
        name = "x86.avx512.permvar." + ("sf.512" if self.bits == 32 else "df.512")
        return self.each(lambda i: self.intrinsic(name, self.vector, halves[0], i), numbers)
