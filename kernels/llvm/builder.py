"""Emitting LLVM code: intrinsics for compiled code, and a builder of vector instructions.

`emits` makes a function that emits LLVM code callable from kernels. `VectorBuilder` has LLVM's types for one dtype,
short names for vector instructions, loops, and functions that are emitted once per module.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types as _types
from numba.extending import intrinsic as _intrinsic

from ..jit.machine import MACHINE

cgutils: Any = _cgutils  # no types
types: Any = _types


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's ``intrinsic`` without type annotations: it makes a generator of LLVM code callable from kernels."""
    return _intrinsic(function)


def emits(
    parameters: Callable[..., tuple[Any, ...]], result: Callable[..., Any] = lambda *_: types.void
) -> Callable[[Callable[..., Any]], Any]:
    """Turn a function that emits LLVM code into an intrinsic.

    Parameters
    ----------
    parameters : callable
        Maps the Numba types of the caller's arguments to those that the emitter takes; arguments are cast to them.
    result : callable
        Maps the same types to the Numba type of the value that the emitter returns; by default it returns nothing.

    Returns
    -------
    callable
        Decorator. The emitter receives an ``ir.IRBuilder`` and an LLVM value for each argument: for a NamedTuple, a
        NamedTuple of its fields' values; for a dtype, Numba's type of its elements.
    """

    def decorate(emitter: Callable[..., Any]) -> Any:
        @functools.wraps(emitter)  # also gives the intrinsic the right number of parameters
        def definition(typing_context: Any, *arguments: Any) -> Any:
            expected = parameters(*arguments)

            def codegen(context: Any, builder: ir.IRBuilder, own: Any, values: Any) -> Any:
                value = emitter(builder, *(_fields(builder, kind, x) for kind, x in zip(expected, values, strict=True)))
                return context.get_dummy_value() if value is None else value

            return result(*arguments)(*expected), codegen

        return _intrinsic(definition)

    return decorate


def _fields(builder: ir.IRBuilder, kind: Any, value: ir.Value) -> Any:
    """Unpack a NamedTuple, recursively; replace a dtype by the type of its elements; return other values unchanged."""
    if isinstance(kind, types.DType):
        return kind.dtype
    if isinstance(kind, types.BaseNamedTuple):
        values = cgutils.unpack_tuple(builder, value)
        return kind.instance_class(*(_fields(builder, k, x) for k, x in zip(kind.types, values, strict=True)))
    return value


def _flat(value: Any) -> list[ir.Value]:
    """Flatten a NamedTuple, recursively, to a list of its values; a single value becomes a list of one."""
    return [x for field in value for x in _flat(field)] if isinstance(value, tuple) else [value]


def _shaped(like: Any, values: Iterator[ir.Value]) -> Any:
    """The inverse of `_flat`."""
    return type(like)(*(_shaped(field, values) for field in like)) if isinstance(like, tuple) else next(values)


Values = list[ir.Value]
Step = Callable[[Values], Values]

VECTOR = MACHINE.vector_bytes
"""Bytes in a vector register."""

LINE = MACHINE.line
"""Bytes of a cache line: 64, or 128 on Apple's CPUs."""

WAY = MACHINE.way
"""Rows or columns a multiple of this many bytes apart compete for one set of L1, which holds 8 lines or so."""

_BYTE = ir.IntType(8)
_INT32 = ir.IntType(32)
POINTER = ir.PointerType()
VOID = ir.VoidType()


class VectorBuilder:
    """LLVM types for one dtype, and short names for common instructions.

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
        self.zero = ir.Constant(self.vector, None)

    def intrinsic(self, name: str, result: ir.Type, *operands: ir.Value) -> ir.Value:
        """Call an LLVM intrinsic; llvmlite's own ``declare_intrinsic`` does not accept vectors."""
        return call_function(self.builder, f"llvm.{name}", result, *operands)

    def pointer(self, address: ir.Value) -> ir.Value:
        """Convert an integer address to a pointer."""
        return self.builder.inttoptr(address, POINTER)

    def at(self, pointer: ir.Value, offset: ir.Value) -> ir.Value:
        """Return the pointer ``offset`` bytes further on."""
        return self.builder.gep(pointer, [offset], source_etype=_BYTE)

    def vectors_at(self, pointer: ir.Value, count: int, last: ir.Value | None = None) -> list[ir.Value]:
        """Return pointers to ``count`` consecutive vectors; the last is ``last`` bytes after the first, if given."""
        vectors = [pointer, *(self.at(pointer, _INT32(q * self.lanes * self.bytes)) for q in range(1, count))]
        return vectors if last is None else [*vectors[:-1], self.at(pointer, last)]

    def prefetch(self, pointer: ir.Value, near: bool = True) -> None:
        """Prefetch a cache line that will be read soon; ``near``: into L1, otherwise into L2."""
        level = _INT32(3 if near else 2)
        self.intrinsic("prefetch.p0", VOID, pointer, _INT32(0), level, _INT32(1))  # for reading, data

    def splat(self, scalar: ir.Value) -> ir.Value:
        """Return a vector with ``scalar`` in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _INT32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, self.lanes), None))

    def shuffle(self, x: ir.Value, y: ir.Value, lanes: list[int]) -> ir.Value:
        """Select lanes from x followed by y; the result has as many lanes as the list."""
        chosen = ir.Constant(ir.VectorType(_INT32, len(lanes)), [_INT32(lane) for lane in lanes])
        return self.builder.shuffle_vector(x, y, chosen)

    def first_lanes(self, count: ir.Value) -> ir.Value:
        """Return the mask of lanes 0 to count - 1."""
        numbers = ir.Constant(ir.VectorType(_INT32, self.lanes), [_INT32(i) for i in range(self.lanes)])
        return self.builder.icmp_signed("<", numbers, self.splat(self.builder.trunc(count, _INT32)))

    def load(self, pointer: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """Read a vector; lanes outside ``mask`` become zero and their memory is not touched."""
        if mask is None:
            return self.builder.load(pointer, typ=self.vector, align=self.bytes)
        name = f"masked.load.v{self.lanes}f{self.bits}.p0"
        return self.intrinsic(name, self.vector, pointer, _INT32(self.bytes), mask, self.zero)

    def store(self, value: ir.Value, pointer: ir.Value, mask: ir.Value | None = None) -> None:
        """Write a vector; memory of lanes outside ``mask`` is not touched."""
        if mask is None:
            self.builder.store(value, pointer, align=self.bytes)
        else:
            name = f"masked.store.v{self.lanes}f{self.bits}.p0"
            self.intrinsic(name, VOID, value, pointer, _INT32(self.bytes), mask)

    def stream(self, value: ir.Value, pointer: ir.Value) -> None:
        """Write a vector past the caches (non-temporal), to an aligned address; a store fence must follow."""
        stored = self.builder.store(value, pointer, align=self.lanes * self.bytes)
        stored.set_metadata("nontemporal", self.builder.module.add_metadata([_INT32(1)]))

    def store_first(self, values: list[ir.Value], pointers: list[ir.Value], count: ir.Value) -> None:
        """Write the first ``count`` elements of each vector, at least 1; other memory is not touched.

        Without AVX-512 it stores halves, quarters, ...: a masked AVX store takes some 40 cycles on Zen 1 to 3, and
        other instruction sets emulate it.
        """
        builder = self.builder
        if VECTOR == 64:
            mask = self.first_lanes(count)
            for x, p in zip(values, pointers, strict=True):
                self.store(x, p, mask)
            return
        with builder.if_else(builder.icmp_signed(">=", count, count.type(self.lanes))) as (whole, some):
            with whole:
                for x, p in zip(values, pointers, strict=True):
                    self.store(x, p)
            with some:
                part = self.lanes // 2
                while part:
                    chosen = builder.and_(count, count.type(part))
                    low, high = ([self.shuffle(x, x, list(range(i, i + part))) for x in values] for i in (0, part))
                    with self.unless_zero(chosen):
                        for x, p in zip(low, pointers, strict=True):
                            builder.store(x, p, align=self.bytes)
                    is_set = builder.icmp_signed("!=", chosen, count.type(0))
                    values = [builder.select(is_set, x, y) for x, y in zip(high, low, strict=True)]
                    offset = builder.mul(chosen, count.type(self.bytes))
                    pointers = [self.at(p, offset) for p in pointers]
                    part //= 2

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """x * y + z, by ``llvm.fmuladd``: without FMA instructions, ``llvm.fma`` would call libm for each lane."""
        return self.intrinsic(f"fmuladd.v{self.lanes}f{self.bits}", self.vector, x, y, z)

    def relu(self, x: ir.Value) -> ir.Value:
        """0 where x < 0, else x; unlike ``maxnum`` it keeps NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, self.zero), self.zero, x)

    def where_positive(self, relu_mask: ir.Value, x: ir.Value) -> ir.Value:
        """x where ``relu_mask`` > 0, else 0."""
        return self.builder.select(self.builder.fcmp_ordered(">", relu_mask, self.zero), x, self.zero)

    def phi(self, *incoming: tuple[ir.Value, ir.Block]) -> ir.Value:
        """Return the value that belongs to the block from which control came."""
        phi = self.builder.phi(incoming[0][0].type)
        for value, block in incoming:
            phi.add_incoming(value, block)
        return phi

    def unless_zero(self, number: ir.Value) -> Any:
        """Return a context manager; code emitted inside it runs only if ``number`` is not zero."""
        return self.builder.if_then(self.builder.icmp_signed("!=", number, number.type(0)))

    def change_unless_zero(self, number: ir.Value, values: Values, change: Step) -> Values:
        """Return ``change(values)`` if ``number`` is not zero, else the values."""
        before = self.builder.block
        with self.unless_zero(number):
            changed = change(values)
            inside = self.builder.block
        return [self.phi((x, before), (y, inside)) for x, y in zip(values, changed, strict=True)]

    def loop(
        self, carried: Values, more: Callable[[Values], ir.Value], body: Step, at_least_once: bool = False
    ) -> Values:
        """Emit ``while more(carried): carried = body(carried)`` and return the final values.

        ``at_least_once``: ``more`` is known to hold initially, so it is tested only after each iteration.
        """
        builder, before = self.builder, self.builder.block
        loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        if at_least_once:
            builder.branch(loop)
        else:
            builder.cbranch(more(carried), loop, after)
        builder.position_at_end(loop)
        phis = [self.phi((x, before)) for x in carried]
        new = body(phis)
        last = builder.block
        for phi, value in zip(phis, new, strict=True):
            phi.add_incoming(value, last)
        builder.cbranch(more(new), loop, after)
        builder.position_at_end(after)
        return new if at_least_once else [self.phi((x, before), (y, last)) for x, y in zip(carried, new, strict=True)]

    def call_shared(self, name: str, emit: Callable[..., None], *operands: Any) -> None:
        """Call a void function of this module; the first call emits the function.

        Parameters
        ----------
        name : str
            Identifies the function, so everything on which its code depends must be part of the name.
        emit : callable
            Emits the body. It takes a `VectorBuilder` inside the function and its parameters, structured as the
            operands are.
        operands : ir.Value or NamedTuple of them
            The arguments of the call.
        """
        arguments = _flat(operands)
        kind = ir.FunctionType(VOID, [x.type for x in arguments])
        shared = cgutils.get_or_insert_function(self.builder.module, kind, name)
        if not shared.blocks:
            shared.linkage = "linkonce_odr"  # the linker keeps one copy
            for attribute in ("noinline", "nounwind", "optsize"):
                shared.attributes.add(attribute)
            inside = VectorBuilder(ir.IRBuilder(shared.append_basic_block("entry")), self.dtype, self.lanes)
            parameters = iter(shared.args)
            emit(inside, *(_shaped(operand, parameters) for operand in operands))
            inside.builder.ret_void()
        self.builder.call(shared, arguments)


def call_function(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Emit a call of a C function or an LLVM intrinsic, and declare it in the module if necessary."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def set_optsize(builder: ir.IRBuilder) -> None:
    """Optimise the current function for size: 1.9 s instead of 2.5 s, equally fast (docs/performance-notes/gemm.md)."""
    builder.function.attributes.add("optsize")
