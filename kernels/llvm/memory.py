"""Memory for compiled code: addresses of arrays, arrays at addresses, allocation, copies and prefetching.

Addresses, strides and sizes are intp, in bytes. Nothing here checks bounds.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic as _intrinsic

from ..jit.numba_internals import populate_array
from .builder import POINTER, VectorBuilder, cgutils, emits, intrinsic, set_optsize, types

# ------------------------------------------------------------------------------------ arrays and addresses


@intrinsic
def address_and_strides(typing_context: Any, array: Any) -> Any:
    """Return (address of the first element, *strides in bytes).  Call `keep_alive` after the last use of these."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        struct = context.make_array(array)(context, builder, arguments[0])
        start = builder.ptrtoint(struct.data, context.get_value_type(types.intp))
        parts = [start, *cgutils.unpack_tuple(builder, struct.strides)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(types.intp, 1 + array.ndim)(array), codegen


@emits(lambda array: (array,))
def keep_alive(builder: ir.IRBuilder, array: ir.Value) -> None:
    """Do nothing; call it after the last use of an array's address, since Numba frees an array after its last use."""


@intrinsic
def array_at(typing_context: Any, dtype: Any, address: Any, shape: Any) -> Any:
    """Return the C-contiguous array of a dtype and a shape (a tuple) at an address.  The caller keeps the memory alive.

    ``numba.carray`` would compile two functions at every use, 30 ms each.
    """
    array = types.Array(dtype.dtype, len(shape), "C")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return _emit_array(context, builder, array, arguments[1], cgutils.unpack_tuple(builder, arguments[2]))

    return array(dtype, types.intp, shape), codegen


@intrinsic
def vector_at(typing_context: Any, dtype: Any, address: Any, size: Any) -> Any:
    """Return the array (size,) at an address; see `array_at`."""
    array = types.Array(dtype.dtype, 1, "C")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return _emit_array(context, builder, array, arguments[1], arguments[2:])

    return array(dtype, types.intp, types.intp), codegen


@intrinsic
def matrix_at(typing_context: Any, dtype: Any, address: Any, rows: Any, columns: Any) -> Any:
    """Return the array (rows, columns) at an address; see `array_at`."""
    array = types.Array(dtype.dtype, 2, "C")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return _emit_array(context, builder, array, arguments[1], arguments[2:])

    return array(dtype, types.intp, types.intp, types.intp), codegen


def _emit_array(context: Any, builder: ir.IRBuilder, array: Any, address: ir.Value, shape: Sequence[ir.Value]) -> Any:
    """Emit the struct of an array, of a C-contiguous type, at an address."""
    item = context.get_abi_sizeof(context.get_data_type(array.dtype))
    strides = [shape[0].type(item)]
    for extent in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], extent))
    result = context.make_array(array)(context, builder)
    data = builder.inttoptr(address, result.data.type)
    populate_array(result, data, shape, strides, shape[0].type(item), None)
    return result._getvalue()


@emits(lambda dtype: (dtype,), lambda _: types.intp)
def item_bytes(builder: ir.IRBuilder, dtype: Any) -> ir.Value:
    """Return the bytes of an element, as a constant."""
    return ir.IntType(types.intp.bitwidth)(dtype.bitwidth // 8)


@emits(lambda: ())
def optimize_for_size(builder: ir.IRBuilder) -> None:
    """Optimise the calling function for size: unrolling gains nothing where the work is in the kernels it calls."""
    set_optsize(builder)


# ---------------------------------------------------------------------------------------------- allocation


@intrinsic
def allocate(typing_context: Any, nbytes: Any) -> Any:
    """Allocate ``nbytes`` bytes and return their address; the caller must `release` it.  Raises MemoryError.

    This is cheaper than ``numpy.empty``: it saves reference counting, 20 ns a call, and compilation, 0.1 s per caller.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = context.nrt.allocate(builder, arguments[0])  # raises MemoryError
        return builder.ptrtoint(memory, arguments[0].type)

    return types.intp(types.intp), codegen


@intrinsic
def release(typing_context: Any, address: Any) -> Any:
    """Free memory that `allocate` returned."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        context.nrt.free(builder, builder.inttoptr(arguments[0], POINTER))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@_intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def stack_memory(typing_context: Any, nbytes: Any) -> Any:
    """Return the address of ``nbytes`` (a constant) bytes on the caller's stack, aligned to 64 bytes."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():  # Numba's alloca_once would store zeros, byte by byte
            memory = builder.alloca(ir.ArrayType(ir.IntType(8), nbytes.literal_value))
        memory.align = 64
        return builder.ptrtoint(memory, context.get_value_type(types.intp))

    return types.intp(nbytes), codegen


# -------------------------------------------------------------------------------------------------- copies


@emits(lambda *_: (types.intp,) * 3)
def copy_bytes(builder: ir.IRBuilder, target: ir.Value, source: ir.Value, count: ir.Value) -> None:
    """Copy ``count`` bytes from one address to another; the two ranges must not overlap."""
    cgutils.raw_memcpy(builder, *(builder.inttoptr(p, POINTER) for p in (target, source)), count, 1)


@emits(lambda dtype, *_: (dtype, types.intp, types.intp))
def copy_element(builder: ir.IRBuilder, dtype: Any, target: ir.Value, source: ir.Value) -> None:
    """Copy one element of a dtype."""
    code = VectorBuilder(builder, dtype, lanes=1)
    code.store(code.load(code.pointer(source)), code.pointer(target))


@emits(lambda dtype, *_: (dtype, types.intp, types.intp, types.intp))
def copy_vector(builder: ir.IRBuilder, dtype: Any, target: ir.Value, source: ir.Value, count: ir.Value) -> None:
    """Copy the first ``count`` elements, at least 1, and fill the rest of the target vector with zeros."""
    set_optsize(builder)
    code = VectorBuilder(builder, dtype)
    pointer = code.pointer(source)
    with builder.if_else(builder.icmp_signed(">=", count, count.type(code.lanes))) as (full, part):
        with full:
            x, x_block = code.load(pointer), builder.block
        with part:
            y, y_block = code.load(pointer, code.first_lanes(count)), builder.block
    code.store(code.phi((x, x_block), (y, y_block)), code.pointer(target))


@emits(lambda address: (types.intp,))
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Prefetch the cache line at an address, for reading; the address need not be valid."""
    code = VectorBuilder(builder, types.float32)
    code.prefetch(code.pointer(address))


@intrinsic
def record_at(typing_context: Any, dtype: Any, address: Any) -> Any:
    """Return the record of a structured dtype at an address, without a copy; the caller keeps the memory alive."""
    record = dtype.dtype

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(record))

    return record(dtype, types.intp), codegen
