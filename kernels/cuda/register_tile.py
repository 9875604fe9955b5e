"""A thread's register tile as tuples: 16-byte loads and stores, the outer product, tensor cores, in LLVM IR and PTX.

A tuple is a value that LLVM splits into registers, even across loops; an array of `cuda.local` is memory unless every
index is a constant after unrolling, which nothing guarantees. Each intrinsic has a twin in Python for the simulator,
which has no types.
"""

from collections.abc import Iterator
from typing import Any

from .device import SIMULATED, cuda, device


def mma_operands(tm: int, tn: int) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield the operands of every instruction of `mma_tf32`, in the instruction's order, as indices of c, a and b.

    Parameters
    ----------
    tm, tn : int
        Rows and columns of C that a thread holds. Its rows i and i + tm / 2, and columns j and j + tn / 2, belong to
        tile (i, j) of the warp, 16 x 8. For each of two terms it holds ``tm`` rows of A and ``tn / 2`` columns of B.
    """
    columns = tn // 2
    for i in range(tm // 2):
        for j in range(columns):
            c = [row * tn + column for row in (i, i + tm // 2) for column in (j, j + columns)]
            a = [term * tm + row for term in (0, 1) for row in (i, i + tm // 2)]
            yield c, a, [term * columns + j for term in (0, 1)]


if SIMULATED:
    import numpy as np

    def loader(width: int) -> Any:
        """Return ``(flat, at) -> tuple``, which loads ``width`` elements from a multiple of ``width``."""

        def load(flat: Any, at: int) -> Any:
            """Return ``width`` elements from ``at`` on; AssertionError if a card would report a misaligned address."""
            assert at % width == 0, "not aligned"
            return tuple(flat[at + i] for i in range(width))

        return load

    def masked_loader(width: int) -> Any:
        """Return ``(flat, at, inside) -> tuple``, which loads as `loader`'s function, or gives zeros if not ``inside``.

        If not ``inside``, it reads the array's first elements, as on a card: IndexError if there are none.
        """
        load = loader(width)

        def masked(flat: Any, at: int, inside: bool) -> Any:
            """Return the elements; if not ``inside``, load the array's first ones and return zeros."""
            values = load(flat, at if inside else 0)
            return values if inside else (flat.dtype.type(0),) * width

        return masked

    def storer(width: int) -> Any:
        """Return ``(flat, at, values) -> None``, which stores ``width`` elements at a multiple of ``width``."""

        def store(flat: Any, at: int, values: Any) -> None:
            """Store ``width`` values from ``at`` on; AssertionError if a card would report a misaligned address."""
            assert at % width == 0, "not aligned"
            for i in range(width):
                flat[at + i] = values[i]

        return store

    def outer(tile: Any, a: Any, b: Any) -> Any:
        """Return tile + a b^T, row by row: a tuple of len(a) len(b) elements."""
        width = len(b)
        return tuple(tile[i * width + j] + a[i] * b[j] for i in range(len(a)) for j in range(width))

    def row_of(tile: Any, i: int, width: int) -> Any:
        """Return elements i width to (i + 1) width of a tuple."""
        return tile[i * width : (i + 1) * width]

    def added(values: Any, others: Any) -> Any:
        """Return the sums of two tuples' elements."""
        return tuple(x + y for x, y in zip(values, others, strict=True))

    def _tf32(value: Any, half: int) -> Any:
        """Truncate a float32 to 11 significant bits after adding ``half``; 0x1000 rounds to nearest, ties away."""
        return ((np.float32(value).view(np.uint32) + np.uint32(half)) & np.uint32(0xFFFFE000)).view(np.float32)

    def split_tf32(values: Any) -> Any:
        """Return the big parts of float32 values, then their small parts, both of 11 significant bits."""
        big = tuple(_tf32(value, 0x1000) for value in values)
        return big + tuple(_tf32(value - part, 0x1000) for value, part in zip(values, big, strict=True))

    @device
    def mma_tf32(tile: Any, a: Any, b: Any) -> Any:
        """Return tile + A B for the A and B of a warp, all of whose threads call it.

        It follows the PTX ISA's figures of the fragments of mma.m16n8k8 for .tf32, for any operands that `mma_operands`
        gives. Like a card, it reads 19 bits of a factor; as a card may, it adds exactly, then truncates.
        """
        shared_a = cuda.shared.array((1024, 16), np.float32)  # the most threads that a block can have
        shared_b = cuda.shared.array((1024, 16), np.float32)
        t = cuda.threadIdx.x
        warp, lane = t // 32 * 32, t % 32
        shared_a[t, : len(a)] = a
        shared_b[t, : len(b)] = b
        cuda.syncthreads()  # waits for the block; a card would wait only for the warp
        out = list(tile)
        for c_at, a_at, b_at in mma_operands(len(a) // 2, len(b)):
            for e in range(4):
                row, column = lane // 4 + e // 2 * 8, lane % 4 * 2 + e % 2
                total = float(tile[c_at[e]])
                for k in range(8):
                    left = shared_a[warp + row % 8 * 4 + k % 4, a_at[row // 8 + k // 4 * 2]]
                    right = shared_b[warp + column * 4 + k % 4, b_at[k // 4]]
                    total += float(_tf32(left, 0)) * float(_tf32(right, 0))
                nearest = np.float32(total)
                out[c_at[e]] = np.nextafter(nearest, np.float32(0)) if abs(nearest) > abs(total) else nearest
        cuda.syncthreads()
        return tuple(out)

else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any, width: int) -> Any:
        """Emit the pointer to ``width`` elements of a one-dimensional array, as one vector."""
        value = context.make_array(array_type)(context, builder, array)
        element = context.get_data_type(array_type.dtype)
        pointer = builder.gep(value.data, [at])
        return builder.bitcast(pointer, ir.VectorType(element, width).as_pointer())

    def _loaded(context: Any, builder: Any, signature: Any, array: Any, at: Any) -> Any:
        """Emit one vector load from an array, as long as the signature's result, and return the vector."""
        flat, width = signature.args[0], signature.return_type.count
        place = _address(context, builder, flat, array, at, width)
        return builder.load(place, align=width * flat.dtype.bitwidth // 8)

    def _as_tuple(context: Any, builder: Any, signature: Any, vector: Any) -> Any:
        """Emit the conversion of a vector to the tuple that the signature returns."""
        out = ir.Constant(context.get_value_type(signature.return_type), ir.Undefined)
        for i in range(signature.return_type.count):
            out = builder.insert_value(out, builder.extract_element(vector, ir.Constant(ir.IntType(32), i)), i)
        return out

    def loader(width: int) -> Any:
        """Return ``(flat, at) -> tuple``, which loads ``width`` elements, 16 bytes, from a multiple of ``width``."""

        def load(typingctx: Any, flat: Any, at: Any) -> Any:
            """Type the load: a tuple of ``width`` elements of the array's dtype."""

            def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                """Emit one vector load, and its conversion to a tuple."""
                return _as_tuple(context, builder, signature, _loaded(context, builder, signature, *arguments))

            return types.UniTuple(flat.dtype, width)(flat, types.int64), codegen

        return intrinsic(load)

    def masked_loader(width: int) -> Any:
        """Return ``(flat, at, inside) -> tuple``, which loads as `loader`'s function, or gives zeros if not ``inside``.

        It has no branch: if not ``inside``, it reads the vector's first elements, which must exist.
        """

        def load(typingctx: Any, flat: Any, at: Any, inside: Any) -> Any:
            """Type the load; ``at`` may have 32 bits."""

            def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                """Emit one vector load between two selects."""
                array, at, inside = arguments
                place = builder.select(inside, at, ir.Constant(at.type, 0))
                vector = _loaded(context, builder, signature, array, place)
                vector = builder.select(inside, vector, ir.Constant(vector.type, None))
                return _as_tuple(context, builder, signature, vector)

            return types.UniTuple(flat.dtype, width)(flat, at, types.boolean), codegen

        return intrinsic(load)

    def storer(width: int) -> Any:
        """Return ``(flat, at, values) -> None``, which stores ``width`` elements, 16 bytes, at a multiple of it."""

        def store(typingctx: Any, flat: Any, at: Any, values: Any) -> Any:
            """Type the store, which returns nothing."""

            def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                """Emit the conversion of the tuple to a vector, and one vector store."""
                place = _address(context, builder, flat, arguments[0], arguments[1], width)
                vector = ir.Constant(place.type.pointee, ir.Undefined)
                for i in range(width):
                    element = builder.extract_value(arguments[2], i)
                    vector = builder.insert_element(vector, element, ir.Constant(ir.IntType(32), i))
                builder.store(vector, place, align=width * flat.dtype.bitwidth // 8)
                return context.get_dummy_value()

            return types.void(flat, types.int64, values), codegen

        return intrinsic(store)

    def _outer(typingctx: Any, tile: Any, a: Any, b: Any) -> Any:
        """Type tile + a b^T, row by row: a tuple as long as ``tile``."""

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            """Emit one FMA for each element."""
            into, left, right = arguments
            for i in range(a.count):
                for j in range(b.count):
                    place = i * b.count + j
                    factors = builder.extract_value(left, i), builder.extract_value(right, j)
                    into = builder.insert_value(into, builder.fma(*factors, builder.extract_value(into, place)), place)
            return into

        return tile(tile, a, b), codegen

    def _row_of(typingctx: Any, tile: Any, i: Any, width: Any) -> Any:
        """Type elements i width to (i + 1) width, for an i known only at run time and a literal ``width``."""
        if not isinstance(width, types.IntegerLiteral):
            return None
        i = types.int64
        columns = width.literal_value
        out = types.UniTuple(tile.dtype, columns)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            """Emit selects among the rows for each element, never an address, which would put the tile in memory."""
            row = ir.Constant(context.get_value_type(out), ir.Undefined)
            for j in range(columns):
                found = builder.extract_value(arguments[0], j)
                for r in range(1, tile.count // columns):
                    here = builder.icmp_signed("==", arguments[1], ir.Constant(arguments[1].type, r))
                    found = builder.select(here, builder.extract_value(arguments[0], r * columns + j), found)
                row = builder.insert_value(row, found, j)
            return row

        return out(tile, i, width), codegen

    def _added(typingctx: Any, values: Any, others: Any) -> Any:
        """Type the sums of two tuples' elements."""

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            """Emit one addition for each element."""
            out = ir.Constant(context.get_value_type(signature.return_type), ir.Undefined)
            for i in range(values.count):
                out = builder.insert_value(out, builder.fadd(*(builder.extract_value(x, i) for x in arguments)), i)
            return out

        return values(values, values), codegen

    def _split_tf32(typingctx: Any, values: Any) -> Any:
        """Type the big parts of float32 values, then their small parts, both of 11 significant bits."""
        count = values.count
        out = types.UniTuple(values.dtype, 2 * count)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            """Emit two conversions for each element, the second of the remainder of the first.

            The last 13 bits of a result are not part of it, and on sm_90a not zeros: the first's are cleared here.
            """
            bits, real = ir.IntType(32), ir.FloatType()
            cvt = ir.InlineAsm(ir.FunctionType(bits, [real]), "cvt.rna.tf32.f32 $0, $1;", "=r,f")
            parts = ir.Constant(context.get_value_type(out), ir.Undefined)
            for i in range(count):
                value = builder.extract_value(arguments[0], i)
                big = builder.bitcast(builder.and_(builder.call(cvt, [value]), ir.Constant(bits, 0xFFFFE000)), real)
                small = builder.bitcast(builder.call(cvt, [builder.fsub(value, big)]), real)
                parts = builder.insert_value(builder.insert_value(parts, big, i), small, count + i)
            return parts

        return out(values), codegen

    def _mma_tf32(typingctx: Any, tile: Any, a: Any, b: Any) -> Any:
        """Type tile + A B for the A and B of a warp, all of whose threads call it."""

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            """Emit one mma instruction for each of the warp's tiles of 16 x 8."""
            bits, real = ir.IntType(32), ir.FloatType()
            kind = ir.FunctionType(ir.LiteralStructType([real] * 4), [real] * 4 + [bits] * 6)
            text = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0,$1,$2,$3}, {$8,$9,$10,$11}, {$12,$13}, "
            mma = ir.InlineAsm(kind, text + "{$4,$5,$6,$7};", "=f,=f,=f,=f,f,f,f,f,r,r,r,r,r,r", side_effect=True)
            out, left, right = arguments
            for c_at, a_at, b_at in mma_operands(a.count // 2, b.count):
                fragments = [builder.bitcast(builder.extract_value(left, i), bits) for i in a_at]
                fragments += [builder.bitcast(builder.extract_value(right, i), bits) for i in b_at]
                found = builder.call(mma, [builder.extract_value(out, i) for i in c_at] + fragments)
                for e, i in enumerate(c_at):
                    out = builder.insert_value(out, builder.extract_value(found, e), i)
            return out

        return tile(tile, a, b), codegen

    outer, row_of, added = intrinsic(_outer), intrinsic(_row_of), intrinsic(_added)
    split_tf32, mma_tf32 = intrinsic(_split_tf32), intrinsic(_mma_tf32)
