"""A thread's register tile as tuples: 16-byte loads and stores, and the outer product, in LLVM IR.

A tuple is a value that LLVM splits into registers, whatever loop it passes through; an array of
`cuda.local` is memory unless every index is a constant after unrolling, which nothing promises. Each intrinsic has a
twin in Python for the simulator, which knows no types.
"""

from typing import Any

from .device import SIMULATED

if SIMULATED:

    def loader(width: int) -> Any:
        """Return ``(flat, at) -> tuple`` that loads so many elements from a multiple of that."""

        def load(flat: Any, at: int) -> Any:
            """Return ``width`` elements from ``at`` on; AssertionError where a card would report a misaligned one."""
            assert at % width == 0, "not aligned"
            return tuple(flat[at + i] for i in range(width))

        return load

    def masked_loader(width: int) -> Any:
        """Return ``(flat, at, inside) -> tuple``: what `loader`'s gives, or zeros where not ``inside``.

        Where not ``inside``, the array's first elements are read, as on a card: IndexError where there are none.
        """
        load = loader(width)

        def masked(flat: Any, at: int, inside: bool) -> Any:
            """Load from the array's front where not ``inside``, and return zeros."""
            values = load(flat, at if inside else 0)
            return values if inside else (flat.dtype.type(0),) * width

        return masked

    def storer(width: int) -> Any:
        """Return ``(flat, at, values) -> None`` that stores so many elements at a multiple of that."""

        def store(flat: Any, at: int, values: Any) -> None:
            """Store ``width`` values from ``at`` on; AssertionError where a card would report a misaligned one."""
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
        """Emit one vector load, of the signature's result, from an array; the vector."""
        flat, width = signature.args[0], signature.return_type.count
        place = _address(context, builder, flat, array, at, width)
        return builder.load(place, align=width * flat.dtype.bitwidth // 8)

    def _as_tuple(context: Any, builder: Any, signature: Any, vector: Any) -> Any:
        """Emit a vector's elements as the tuple of the signature's result."""
        out = ir.Constant(context.get_value_type(signature.return_type), ir.Undefined)
        for i in range(signature.return_type.count):
            out = builder.insert_value(out, builder.extract_element(vector, ir.Constant(ir.IntType(32), i)), i)
        return out

    def loader(width: int) -> Any:
        """Return ``(flat, at) -> tuple`` that loads so many elements, 16 bytes, from a multiple of that."""

        def load(typingctx: Any, flat: Any, at: Any) -> Any:
            """Type the load: a tuple of ``width`` elements of the array's dtype."""

            def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                """Emit one vector load, and its elements as the tuple's."""
                return _as_tuple(context, builder, signature, _loaded(context, builder, signature, *arguments))

            return types.UniTuple(flat.dtype, width)(flat, types.int64), codegen

        return intrinsic(load)

    def masked_loader(width: int) -> Any:
        """Return ``(flat, at, inside) -> tuple``: what `loader`'s gives, or zeros where not ``inside``.

        Without a branch: where not ``inside``, the vector's first elements are read, which must be there.
        """

        def load(typingctx: Any, flat: Any, at: Any, inside: Any) -> Any:
            """Type the load; ``at`` may be of 32 bits."""

            def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                """Emit two selections, around one vector load."""
                array, at, inside = arguments
                place = builder.select(inside, at, ir.Constant(at.type, 0))
                vector = _loaded(context, builder, signature, array, place)
                vector = builder.select(inside, vector, ir.Constant(vector.type, None))
                return _as_tuple(context, builder, signature, vector)

            return types.UniTuple(flat.dtype, width)(flat, at, types.boolean), codegen

        return intrinsic(load)

    def storer(width: int) -> Any:
        """Return ``(flat, at, values) -> None`` that stores so many elements, 16 bytes, at a multiple of that."""

        def store(typingctx: Any, flat: Any, at: Any, values: Any) -> Any:
            """Type the store, which returns nothing."""

            def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                """Emit the tuple's elements as one vector, and its store."""
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
        """Type elements i width to (i + 1) width, for an i that is known when it runs and a literal ``width``."""
        if not isinstance(width, types.IntegerLiteral):
            return None
        i = types.int64
        columns = width.literal_value
        out = types.UniTuple(tile.dtype, columns)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            """Emit each element by selection among the rows, never by address, which would put the tile in memory."""
            row = ir.Constant(context.get_value_type(out), ir.Undefined)
            for j in range(columns):
                found = builder.extract_value(arguments[0], j)
                for r in range(1, tile.count // columns):
                    here = builder.icmp_signed("==", arguments[1], ir.Constant(arguments[1].type, r))
                    found = builder.select(here, builder.extract_value(arguments[0], r * columns + j), found)
                row = builder.insert_value(row, found, j)
            return row

        return out(tile, i, width), codegen

    outer, row_of = intrinsic(_outer), intrinsic(_row_of)
