"""memory."""

from typing import Any

from llvmlite import ir

from .builder import POINTER, VectorBuilder, arrayobj, cgutils, intrinsic, set_optsize, types

# --------------------------------------------------------------------------------- what packing needs


@intrinsic
def address_and_strides(typing_context: Any, array: Any) -> Any:
    """(address of the first element, the strides in bytes).  `keep_alive` the array while that is used."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        struct = context.make_array(array)(context, builder, arguments[0])
        start = builder.ptrtoint(struct.data, context.get_value_type(types.intp))
        strides = cgutils.unpack_tuple(builder, struct.strides)
        return context.make_tuple(builder, signature.return_type, [start, *strides])

    return types.UniTuple(types.intp, 1 + array.ndim)(array), codegen


@intrinsic
def keep_alive(typing_context: Any, array: Any) -> Any:
    """Nothing, after the last use of an array's address: Numba frees what no later line names."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.get_dummy_value()

    return types.void(array), codegen


@intrinsic
def array_at(typing_context: Any, dtype: Any, address: Any, shape: Any) -> Any:
    """The C-contiguous array of a dtype and shape, a tuple, at an address.  Who calls keeps the memory alive.

    What ``numba.carray`` gives, which compiles two functions at every use, 30 ms each.
    """
    array = types.Array(dtype.dtype, len(shape), "C")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, address, packed = arguments
        shape = cgutils.unpack_tuple(builder, packed)
        item = dtype.dtype.bitwidth // 8
        strides = [shape[0].type(item)]
        for extent in shape[:0:-1]:
            strides.insert(0, builder.mul(strides[0], extent))
        result = context.make_array(array)(context, builder)
        data = builder.inttoptr(address, context.get_data_type(array.dtype).as_pointer())
        arrayobj.populate_array(result, data, shape, strides, shape[0].type(item), None)
        return result._getvalue()

    return array(dtype, types.intp, shape), codegen


@intrinsic
def optimize_for_size(typing_context: Any) -> Any:
    """Compile the function around for size: what only calls kernels gains nothing from unrolled loops."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        set_optsize(builder)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def item_bytes(typing_context: Any, dtype: Any) -> Any:
    """Bytes of an element, as a constant."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.intp, dtype.dtype.bitwidth // 8)

    return types.intp(dtype), codegen


@intrinsic
def copy_element(typing_context: Any, dtype: Any, target: Any, source: Any) -> Any:
    """Copy one element."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, target, source = arguments
        code = VectorBuilder(builder, dtype.dtype, lanes=1)
        code.store(code.load(builder.inttoptr(source, POINTER)), builder.inttoptr(target, POINTER))
        return context.get_dummy_value()

    return types.void(dtype, types.intp, types.intp), codegen


@intrinsic
def allocate(typing_context: Any, size: Any) -> Any:
    """Address of so many bytes, until they are handed to `release`; MemoryError where there are none.

    Less than ``numpy.empty``: nobody counts references, 20 ns a call, and nothing is compiled for it, 0.1 s a caller.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = context.nrt.allocate(builder, arguments[0])  # which raises
        return builder.ptrtoint(memory, arguments[0].type)

    return types.intp(types.intp), codegen


@intrinsic
def release(typing_context: Any, memory: Any) -> Any:
    """Give back what `allocate` gave."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        context.nrt.free(builder, builder.inttoptr(arguments[0], POINTER))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def copy_bytes(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy so many bytes from an address to another; the two ranges lie apart."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, source, count = arguments
        cgutils.raw_memcpy(builder, *(builder.inttoptr(p, POINTER) for p in (target, source)), count, 1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), codegen


@intrinsic
def copy_vector(typing_context: Any, dtype: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy the first ``count`` elements as one whole vector, with zeros behind them."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, target, source, count = arguments
        set_optsize(builder)
        code = VectorBuilder(builder, dtype.dtype)
        pointer = builder.inttoptr(source, POINTER)
        with builder.if_else(builder.icmp_signed(">=", count, count.type(code.lanes))) as (full, part):
            with full:
                x, x_block = code.load(pointer), builder.block
            with part:
                y, y_block = code.load(pointer, code.first_lanes(count)), builder.block
        code.store(code.phi((x, x_block), (y, y_block)), builder.inttoptr(target, POINTER))
        return context.get_dummy_value()

    return types.void(dtype, types.intp, types.intp, types.intp), codegen


@intrinsic
def prefetch(typing_context: Any, place: Any) -> Any:
    """Ask for the cache line at an address, which need not be valid, to be read soon."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        VectorBuilder(builder, types.float32).prefetch(builder.inttoptr(arguments[0], POINTER))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def record_at(typing_context: Any, dtype: Any, address: Any) -> Any:
    """Return the record of a structured dtype at an address, without a copy; the caller keeps the memory alive."""
    record = dtype.dtype

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(record))

    return record(dtype, types.intp), codegen
