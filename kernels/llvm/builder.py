"""builder."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types as _types
from numba.extending import intrinsic as _intrinsic
from numba.np import arrayobj as _arrayobj

from ..jit.target import vector_bytes

cgutils: Any = _cgutils  # no types
types: Any = _types
arrayobj: Any = _arrayobj


def intrinsic(function: Callable[..., Any]) -> Any:
    """Make a generator of LLVM code a function of compiled code, which leaves out the typing context."""
    return _intrinsic(function)


VECTOR = vector_bytes()
"""Bytes in a vector register."""

LINE = 64
"""Bytes of a cache line."""

_BYTE = ir.IntType(8)
_INT32 = ir.IntType(32)
POINTER = ir.PointerType()
VOID = ir.VoidType()


class VectorBuilder:
    """What every generator here needs: LLVM types for one dtype, and short names for common instructions.

    Parameters
    ----------
    builder : ir.IRBuilder
        Where instructions go.
    dtype : Numba type
        Numba's float32 or float64.
    lanes : int, optional
        Elements in a vector; by default as many as fill a register.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: Any, lanes: int | None = None) -> None:
        self.builder = builder
        self.dtype = dtype
        self.bits = dtype.bitwidth
        self.bytes = dtype.bitwidth // 8
        self.lanes = lanes or VECTOR // self.bytes
        self.scalar = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)
        self.zero = ir.Constant(self.vector, [ir.Constant(self.scalar, 0.0)] * self.lanes)

    def intrinsic(self, name: str, result: ir.Type, *operands: ir.Type) -> ir.Function:
        """Declare an LLVM intrinsic; llvmlite's own ``declare_intrinsic`` refuses vectors."""
        return _declared(self.builder.module, f"llvm.{name}", ir.FunctionType(result, operands))

    def at(self, pointer: ir.Value, offset: ir.Value) -> ir.Value:
        """Give the pointer ``offset`` bytes on."""
        return self.builder.gep(pointer, [offset], source_etype=_BYTE)

    def vectors_at(self, pointer: ir.Value, count: int) -> list[ir.Value]:
        """Pointers to ``count`` vectors, one behind the other."""
        return [self.at(pointer, _INT32(q * self.lanes * self.bytes)) for q in range(count)]

    def prefetch(self, pointer: ir.Value) -> None:
        """Ask for a cache line, to be read soon."""
        ask = self.intrinsic("prefetch.p0", VOID, POINTER, _INT32, _INT32, _INT32)
        self.builder.call(ask, [pointer, _INT32(0), _INT32(3), _INT32(1)])  # for reading, into L1, data

    def splat(self, scalar: ir.Value) -> ir.Value:
        """Give a vector with ``scalar`` in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _INT32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, self.lanes), None))

    def shuffle(self, x: ir.Value, y: ir.Value, places: list[int]) -> ir.Value:
        """Lanes ``places`` of x followed by y."""
        return self.builder.shuffle_vector(
            x, y, ir.Constant(ir.VectorType(_INT32, self.lanes), [_INT32(p) for p in places])
        )

    def first_lanes(self, count: ir.Value) -> ir.Value:
        """Give the mask of lanes 0 to count - 1."""
        numbers = ir.Constant(ir.VectorType(_INT32, self.lanes), [_INT32(i) for i in range(self.lanes)])
        return self.builder.icmp_signed("<", numbers, self.splat(self.builder.trunc(count, _INT32)))

    def load(self, pointer: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """Read a vector; lanes outside ``mask`` are zero and their memory is not touched."""
        if mask is None:
            return self.builder.load(pointer, typ=self.vector, align=self.bytes)
        masked = self.intrinsic(
            f"masked.load.v{self.lanes}f{self.bits}.p0", self.vector, POINTER, _INT32, self.mask, self.vector
        )
        return self.builder.call(masked, [pointer, _INT32(self.bytes), mask, self.zero])

    def store(self, value: ir.Value, pointer: ir.Value, mask: ir.Value | None = None) -> None:
        """Write a vector; memory of lanes outside ``mask`` is not touched."""
        if mask is None:
            self.builder.store(value, pointer, align=self.bytes)
            return
        masked = self.intrinsic(
            f"masked.store.v{self.lanes}f{self.bits}.p0", VOID, self.vector, POINTER, _INT32, self.mask
        )
        self.builder.call(masked, [value, pointer, _INT32(self.bytes), mask])

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """X * y + z.  ``llvm.fmuladd``: where there is no FMA, ``llvm.fma`` calls libm lane by lane."""
        name = f"fmuladd.v{self.lanes}f{self.bits}"
        return self.builder.call(self.intrinsic(name, self.vector, *[self.vector] * 3), [x, y, z])

    def relu(self, x: ir.Value) -> ir.Value:
        """0 where x < 0, else x.  Not ``maxnum``, which turns NaN into 0."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, self.zero), self.zero, x)

    def where_positive(self, relu_mask: ir.Value, x: ir.Value) -> ir.Value:
        """X where gate > 0, else 0."""
        return self.builder.select(self.builder.fcmp_ordered(">", relu_mask, self.zero), x, self.zero)

    def phi(self, *incoming: tuple[ir.Value, ir.Block]) -> ir.Value:
        """Give the value that belongs to the block from which control came."""
        phi = self.builder.phi(incoming[0][0].type)
        for value, block in incoming:
            phi.add_incoming(value, block)
        return phi

    def unless_zero(self, number: ir.Value) -> Any:
        """Context manager: what is emitted inside runs where ``number`` is not zero."""
        return self.builder.if_then(self.builder.icmp_signed("!=", number, number.type(0)))


def _declared(module: ir.Module, name: str, kind: ir.FunctionType) -> ir.Function:
    return module.globals.get(name) or ir.Function(module, kind, name)


def function(module: ir.Module, name: str, arguments: list[ir.Type]) -> tuple[ir.Function, ir.IRBuilder | None]:
    """Give a module's function of that name, which returns nothing, and where its code goes; None if it has some."""
    result = _declared(module, name, ir.FunctionType(VOID, arguments))
    if result.blocks:
        return result, None
    result.linkage = "linkonce_odr"  # one copy, however many modules are linked
    for attribute in ("noinline", "nounwind", "optsize"):
        result.attributes.add(attribute)
    return result, ir.IRBuilder(result.append_basic_block("entry"))


def set_optsize(builder: ir.IRBuilder) -> None:
    """Keep LLVM from unrolling and unswitching the loops around: nothing is gained, compiling took 2.5 s, not 1.9."""
    builder.function.attributes.add("optsize")
