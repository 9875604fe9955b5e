"""B.T: a matrix whose columns are contiguous, transposed in registers, a square of lanes x lanes elements at a time.

The micro-kernel needs rows of B. Where columns lie in memory instead, as those of W^T do in X W^T, `transpose_panel`
transposes them once, into a micro-panel, if there are many rows of A; for the few rows of one tile
`gemm_bt_microkernel` multiplies what it has just transposed, without storing it: the same products, in the same order.

A square is read in parts of 16 bytes, one from each column, that are joined into a vector; then the 16-byte blocks are
transposed, all those of a vector at once, in steps that exchange neighbouring lanes. Reading whole vectors instead
takes two steps more, and the shuffles are what takes the time (docs/performance-notes/gemm.md).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ...llvm.builder import LINE, Values, VectorBuilder, emits, types
from .microkernel import Outputs, store_epilogue
from .operands import Epilogue, Rows, Tile, epilogue_type, rows_type, tile_type

READ_BYTES = 16
"""Bytes of a column that are read at a time."""

MAX_ROWS = 4
"""Rows of the largest tile. There are two kernels, for a single row and for this many, where missing rows repeat the
last one (docs/performance-notes/gemm.md)."""

PANELS = 2
"""Vectors of columns in a tile at most. The FMAs on one vector wait for each other, 4 cycles each; meanwhile the CPU
transposes and multiplies the next (docs/performance-notes/gemm.md)."""

_INT32 = ir.IntType(32)


def _square(code: VectorBuilder, columns: Values, count: ir.Value | None = None) -> Values:
    """Read a square from pointers to its columns, as vectors of rows; of ``count`` rows, with zeros below them."""
    lanes = code.lanes
    height = READ_BYTES // code.bytes
    part = VectorBuilder(code.builder, code.dtype, height)

    def read(column: ir.Value, first: int) -> ir.Value:
        lane_mask = None if count is None else part.first_lanes(code.builder.sub(count, count.type(first)))
        return part.load(code.at(column, _INT32(first * code.bytes)), lane_mask)

    rows = []
    for first in range(0, lanes, height):
        for c in range(height):
            parts = [read(columns[c + i], first) for i in range(0, lanes, height)]
            while len(parts) > 1:
                parts = [_joined(code, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
            rows.append(parts[0])
    # In step h, the 2 x 2 blocks of h x h elements exchange their off-diagonal blocks; h = 1, 2, ...
    h = 1
    while h < height:
        low = [c + lanes - h if c & h else c for c in range(lanes)]
        high = [c + lanes if c & h else c + h for c in range(lanes)]
        for i in range(lanes):
            if not i & h:
                rows[i], rows[i + h] = code.shuffle(rows[i], rows[i + h], low), code.shuffle(rows[i], rows[i + h], high)
        h *= 2
    return rows


def _joined(code: VectorBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Join two vectors to one of twice as many lanes."""
    return code.shuffle(x, y, list(range(2 * x.type.count)))


def _clamped_numbers(builder: ir.IRBuilder, given: ir.Value, count: int) -> Values:
    """Return the numbers from 0 to count - 1; those from ``given`` on repeat given - 1."""
    final, intp = builder.sub(given, given.type(1)), given.type
    return [builder.select(builder.icmp_signed("<", final, intp(i)), final, intp(i)) for i in range(count)]


def _pointers(code: VectorBuilder, b: Rows, columns: ir.Value) -> Callable[..., Values]:
    """Return a function from a row to pointers to its elements in a vector's columns; missing ones repeat the last.

    Its second argument, where given, is the distance in bytes of these columns from the first.
    """
    builder = code.builder
    start = code.pointer(b.address)
    offsets = [builder.mul(number, b.row_stride) for number in _clamped_numbers(builder, columns, code.lanes)]

    def pointers(row: ir.Value, distance: ir.Value | None = None) -> Values:
        at_row = code.at(start, builder.mul(row, row.type(code.bytes)))
        if distance is not None:
            at_row = code.at(at_row, distance)
        return [code.at(at_row, offset) for offset in offsets]

    return pointers


def _over_rows(
    code: VectorBuilder,
    end: ir.Value,
    step: int,
    carried: Values,
    body: Callable[[ir.Value, Values], Values],
) -> Values:
    """Emit ``for row in range(0, end, step): carried = body(row, carried)``."""
    builder, intp = code.builder, end.type
    _, *results = code.loop(
        [intp(0), *carried],
        lambda new: builder.icmp_signed("<", new[0], end),
        lambda now: [builder.add(now[0], intp(step)), *body(now[0], now[1:])],
    )
    return results


def _whole(code: VectorBuilder, k: ir.Value, unit: int) -> ir.Value:
    """Return how many of k rows are in whole units, a power of two."""
    return code.builder.and_(k, k.type(-unit))


def _call_transpose(code: VectorBuilder, target: Rows, source: Rows, columns: ir.Value, k: ir.Value) -> None:
    code.call_shared(f"fastnet.transpose.{code.dtype}", _emit_transpose, target, source, columns, k)


def _emit_transpose(code: VectorBuilder, target: Rows, source: Rows, columns: ir.Value, k: ir.Value) -> None:
    """Emit what `transpose_panel` calls."""
    builder, intp = code.builder, k.type
    start = code.pointer(target.address)
    pointers = _pointers(code, source, columns)

    def copy(first: ir.Value, count: ir.Value | None = None) -> None:
        at_first = code.at(start, builder.mul(first, target.row_stride))
        for i, row in enumerate(_square(code, pointers(first), count)):
            code.store(row, code.at(at_first, builder.mul(intp(i), target.row_stride)))

    def copy_whole(first: ir.Value, carried: Values) -> Values:
        copy(first)
        return carried

    whole = _whole(code, k, code.lanes)
    _over_rows(code, whole, code.lanes, [], copy_whole)
    rest = builder.sub(k, whole)
    with code.unless_zero(rest):
        copy(whole, rest)


@emits(lambda dtype, *_: (dtype, *[types.intp] * 6))
def transpose_panel(
    builder: ir.IRBuilder,
    dtype: Any,
    target: ir.Value,
    target_row: ir.Value,
    source: ir.Value,
    source_column: ir.Value,
    columns: ir.Value,
    k: ir.Value,
) -> None:
    """Copy k rows of up to a vector of contiguous columns to rows of one vector each.

    Squares are stored whole: up to lanes - 1 rows of zeros follow the last one. Missing columns repeat the last one.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    target, target_row : intp
        Address of the first vector; bytes from one to the next.
    source, source_column : intp
        Address of the first element; bytes from column to column. The source must not overlap the target.
    columns, k : intp
        At least 1; at most a vector's lanes of columns.
    """
    _call_transpose(VectorBuilder(builder, dtype), Rows(target, target_row), Rows(source, source_column), columns, k)


def _emit_tile(height: int) -> Callable[..., None]:
    """Return what emits the function that computes a tile of up to ``height`` rows."""

    def emit(
        code: VectorBuilder, rows: ir.Value, columns: ir.Value, k: ir.Value, a: Rows, b: Rows, outputs: Outputs
    ) -> None:
        builder, intp = code.builder, k.type
        size, line = code.lanes * code.bytes, max(LINE // code.bytes, code.lanes)
        memory, rest_memory = (builder.alloca(code.vector, count) for count in (PANELS * height, line))
        memory.align = rest_memory.align = size
        a_start = code.pointer(a.address)
        numbers = _clamped_numbers(builder, rows, height)
        a_rows = [code.at(a_start, builder.mul(number, a.row_stride)) for number in numbers]
        pointers = _pointers(code, b, columns)
        panel_columns = builder.mul(b.row_stride, intp(code.lanes))
        whole = _whole(code, k, line)
        rest = builder.sub(k, whole)

        def add(sums: Values, row: ir.Value, number: ir.Value) -> Values:
            offset = builder.mul(number, intp(code.bytes))
            elements = [builder.load(code.at(a_i, offset), typ=code.scalar, align=code.bytes) for a_i in a_rows]
            return [code.fma(code.splat(x), row, total) for x, total in zip(elements, sums, strict=True)]

        def over_panels(body: Callable[[ir.Value, Values], None]) -> None:
            """Emit ``body(panel, pointers to its sums)`` for every panel."""

            def one(panel: ir.Value, carried: Values) -> Values:
                body(panel, code.vectors_at(code.at(memory, builder.mul(panel, intp(height * size))), height))
                return carried

            _over_rows(code, panels, 1, [], one)

        def clear(panel: ir.Value, places: Values) -> None:
            for place in places:
                code.store(code.zero, place)

        def add_line(first: ir.Value, carried: Values) -> Values:
            def add_squares(panel: ir.Value, places: Values) -> None:
                sums = [code.load(place) for place in places]
                for square in range(0, line, code.lanes):
                    columns_at = pointers(builder.add(first, intp(square)), builder.mul(panel, panel_columns))
                    for i, row in enumerate(_square(code, columns_at)):
                        sums = add(sums, row, builder.add(first, intp(square + i)))
                for x, place in zip(sums, places, strict=True):
                    code.store(x, place)

            over_panels(add_squares)
            return carried

        def finish(panel: ir.Value, places: Values) -> None:
            moved = builder.mul(panel, panel_columns)

            def add_rest(sums: Values) -> Values:
                start = builder.add(builder.add(b.address, moved), builder.mul(whole, intp(code.bytes)))
                target = Rows(builder.ptrtoint(rest_memory, intp), intp(size))
                _call_transpose(code, target, Rows(start, b.row_stride), columns, rest)

                def add_row(i: ir.Value, sums: Values) -> Values:
                    row = code.load(code.at(rest_memory, builder.mul(i, intp(size))))
                    return add(sums, row, builder.add(whole, i))

                return _over_rows(code, rest, 1, sums, add_row)

            sums = code.change_unless_zero(rest, [code.load(place) for place in places], add_rest)
            nbytes = builder.mul(panel, intp(size))
            *operands, alpha = outputs
            present = [builder.icmp_signed("!=", rows_.address, intp(0)) for rows_ in operands]
            shifted = [
                rows_._replace(address=builder.add(rows_.address, builder.select(there, nbytes, intp(0))))
                for rows_, there in zip(operands, present, strict=True)
            ]
            left = builder.sub(columns, builder.mul(panel, intp(code.lanes)))
            store_epilogue(code, sums, 1, left, Outputs(shifted[0], shifted[1], shifted[2], shifted[3], alpha), numbers)

        panels = builder.sdiv(builder.add(columns, intp(code.lanes - 1)), intp(code.lanes))
        over_panels(clear)
        _over_rows(code, whole, line, [], add_line)
        over_panels(finish)

    return emit


@emits(lambda dtype, *_: (dtype, tile_type(), rows_type(), rows_type(), rows_type(), epilogue_type(dtype.dtype)))
def gemm_bt_microkernel(
    builder: ir.IRBuilder, dtype: Any, tile: Tile, a: Rows, b: Rows, c: Rows, epilogue: Epilogue
) -> None:
    """Compute a tile of C from a B of contiguous columns, transposed in registers.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    tile : Tile
        rows from 1 to MAX_ROWS; columns of up to PANELS whole vectors, or fewer than one vector; k products summed; one
        tile.
    a : Rows
        A; its rows are contiguous.
    b : Rows
        Address of B[0, 0], and the stride from a column to the next.
    c, epilogue
        As `microkernel` takes them.
    """
    code = VectorBuilder(builder, dtype)
    operands = tile.rows, tile.columns, tile.k, a, b, Outputs(c, *epilogue)
    with builder.if_else(builder.icmp_signed("==", tile.rows, tile.rows.type(1))) as (single, several):
        for height, branch in ((1, single), (MAX_ROWS, several)):
            with branch:
                code.call_shared(f"fastnet.gemm_bt.{dtype}.{height}", _emit_tile(height), *operands)
