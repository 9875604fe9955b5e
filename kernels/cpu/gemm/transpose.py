"""Transposes a B.T, a matrix with contiguous columns, in registers, 16 bytes of each column at a time.

The micro-kernel needs rows of B. If columns are contiguous instead, as those of W^T in X W^T, and A has many rows,
`transpose_panel` transposes B once, into a micro-panel. For the few rows of a single tile, `gemm_bt_microkernel`
multiplies the vectors that it has just transposed, without storing them: the same products, in the same order.

The 16 bytes read from each column are joined into vectors. Then the 16-byte blocks of a vector are transposed all at
once, in steps that exchange neighbouring lanes. Reading whole vectors would take more steps, and shuffles dominate the
time (docs/performance-notes/gemm.md). But columns that share a set of L1 evict each other, so in that case it is best
to read each of their cache lines only once.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ...jit.decorator import jit
from ...llvm.builder import LINE, VECTOR, WAY, Values, VectorBuilder, emits, types
from .microkernel import NV, Outputs, store_epilogue
from .operands import Epilogue, Rows, Tile, epilogue_type, rows_type, tile_type

READ_BYTES = 16
"""Bytes of a column that are read at a time."""

HEIGHTS = (16, 12, 8, 4, 1) if VECTOR == 64 else (4, 1)
"""Rows of the tiles that have a kernel; missing rows repeat the last one. All rows of a tile share one transposition of
a vector of columns: with 32 registers, up to 16 rows (docs/performance-notes/gemm.md)."""

MAX_ROWS = HEIGHTS[0]

MAX_ROWS_IN_PLACE = 4
"""Up to this many rows, A is read in place. More rows are copied into a micro-panel, MAX_ROWS for each k: otherwise
their addresses, for which no registers are left, would be read from memory with each element."""

PANELS = 2
"""Most vectors of columns in a tile of a single row. The FMAs on one vector wait for each other, 4 cycles each;
meanwhile the CPU transposes and multiplies the other vector."""

READS_LINES = VECTOR == LINE
"""Whether columns that share a set of L1 are read a whole cache line at a time: if a vector holds a line."""

LINES_HEIGHTS = (8, 4, 1)
"""Rows of the tiles that do so: with more sums, a line's vectors do not fit into the registers."""

SHARED_SETS = 16 * WAY // (PANELS * VECTOR)
"""If columns are a multiple of this number of elements apart, PANELS vectors of columns have 16 lines or more in each
set of L1 that they use. Then, as if they are a multiple of WAY apart, one vector of columns is read at a
time, unless the second can lag behind (HAS_LAG)."""

LAG_BYTES = 1024
"""Of columns a multiple of WAY apart, the second vector of a tile reads this many bytes behind the first: in other sets
of L1, and beyond the CPU's prefetches (docs/performance-notes/gemm.md)."""

HAS_LAG = not READS_LINES
"""Whether a single row takes two vectors of columns even if these are a multiple of WAY apart. With AVX-512, two
vectors are 32 columns, more streams than the CPU prefetches, so it takes one then, and for a B.T larger than L2."""

NEAR_BYTES = 1 << 21
"""If HAS_LAG is false, a single row takes one vector of columns at a time from a B.T of at least this many bytes: L2 of
an Emerald Rapids, the only CPU with AVX-512 on which this has been measured."""

PACKED_VECTORS = min(LINE // VECTOR, NV)
"""Vectors of columns that are packed at once if enough are left: as many columns as a cache line has elements, or as a
micro-panel of B has. With AVX-512 this is one; packing two gained nothing."""

_INT32 = ir.IntType(32)


def _part(code: VectorBuilder, columns: Values, nbytes: int, count: ir.Value | None = None) -> Values:
    """Read nbytes of each of a vector's columns; return vectors of rows, with zeros for rows from ``count`` on."""
    lanes, height = code.lanes, nbytes // code.bytes
    part = VectorBuilder(code.builder, code.dtype, height)
    lane_mask = None if count is None else part.first_lanes(count)
    rows = []
    for c in range(height):
        parts = [part.load(columns[c + i], lane_mask) for i in range(0, lanes, height)]
        while len(parts) > 1:
            parts = [_joined(code, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        rows.append(parts[0])
    # In step h, the 2 x 2 blocks of h x h elements exchange their off-diagonal blocks; h = 1, 2, ...
    h = 1
    while h < height:
        low = [c + lanes - h if c & h else c for c in range(lanes)]
        high = [c + lanes if c & h else c + h for c in range(lanes)]
        for i in range(height):
            if not i & h:
                rows[i], rows[i + h] = code.shuffle(rows[i], rows[i + h], low), code.shuffle(rows[i], rows[i + h], high)
        h *= 2
    return rows


def _joined(code: VectorBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Join two vectors into one with twice as many lanes."""
    return code.shuffle(x, y, list(range(2 * x.type.count)))


def _clamped_numbers(builder: ir.IRBuilder, given: ir.Value, count: int) -> Values:
    """Return the numbers from 0 to count - 1, clamped to given - 1."""
    final, intp = builder.sub(given, given.type(1)), given.type
    return [builder.select(builder.icmp_signed("<", final, intp(i)), final, intp(i)) for i in range(count)]


def _offsets(code: VectorBuilder, stride: ir.Value, columns: ir.Value, vectors: int) -> Values:
    """Return the distance in bytes from the first column to each column of some vectors.

    In a single vector, columns from ``columns`` on repeat the last one; several vectors are whole.
    """
    numbers = [stride.type(i) for i in range(vectors * code.lanes)]
    if vectors == 1:
        numbers = _clamped_numbers(code.builder, columns, code.lanes)
    return [code.builder.mul(number, stride) for number in numbers]


def _for_all_rows(
    code: VectorBuilder,
    b: Rows,
    offsets: Values,
    k: ir.Value,
    carried: Values,
    body: Callable[[Values, ir.Value, Values], Values],
    exact: bool,
    lines: bool,
) -> Values:
    """Transpose the k rows of a B given by its columns; emit ``carried = body(carried, number, vectors)`` for each.

    ``offsets`` are the columns' distances in bytes from the first column. READ_BYTES of each are read at a time or,
    with ``lines``, whole cache lines of the first column wherever possible. ``exact``: body runs for these k rows only;
    otherwise also for rows of zeros that fill up the last part.
    """
    builder, intp = code.builder, k.type
    start, step = code.pointer(b.address), READ_BYTES // code.bytes

    def rows_from(number: ir.Value, nbytes: int, count: ir.Value | None = None) -> list[tuple[ir.Value, Values]]:
        first = code.at(start, builder.mul(number, intp(code.bytes)))
        pointers = [code.at(first, offset) for offset in offsets]
        vectors = [pointers[i : i + code.lanes] for i in range(0, len(pointers), code.lanes)]
        parts = [_part(code, vector, nbytes, count) for vector in vectors]
        return [(builder.add(number, intp(i)), list(row)) for i, row in enumerate(zip(*parts, strict=True))]

    def until(end: ir.Value, carried: Values, nbytes: int = READ_BYTES) -> Values:
        def part(now: Values) -> Values:
            number, *values = now
            for row in rows_from(number, nbytes):
                values = body(values, *row)
            return [builder.add(number, intp(nbytes // code.bytes)), *values]

        return code.loop(carried, lambda now: builder.icmp_signed("<", now[0], end), part)

    def rest(values: Values) -> Values:
        for row in rows_from(whole, READ_BYTES, left):

            def change(old: Values, row: tuple[ir.Value, Values] = row) -> Values:
                return body(old, *row)

            exists = builder.zext(builder.icmp_signed("<", row[0], k), intp)
            values = code.change_unless_zero(exists, values, change) if exact else change(values)
        return values

    whole = builder.and_(k, intp(-step))
    left = builder.sub(k, whole)
    carried = [intp(0), *carried]
    if lines:
        gap = builder.udiv(builder.and_(builder.neg(b.address), intp(LINE - 1)), intp(code.bytes))
        gap = builder.and_(builder.select(builder.icmp_signed("<", gap, whole), gap, whole), intp(-step))
        carried = until(gap, carried)
        in_lines = builder.and_(builder.sub(whole, gap), intp(-(LINE // code.bytes)))
        carried = until(builder.add(gap, in_lines), carried, LINE)
    _, *carried = until(whole, carried)
    return code.change_unless_zero(left, carried, rest)


def _emit_transpose(vectors: int, lines: bool = False, streams: bool = False) -> Callable[..., None]:
    """Return a function that emits the transposition of vectors of columns, which with ``lines`` reads whole lines."""

    def emit(code: VectorBuilder, target: Rows, source: Rows, columns: ir.Value, k: ir.Value) -> None:
        start = code.pointer(target.address)

        def store(carried: Values, number: ir.Value, row: Values) -> Values:
            at_row = code.at(start, code.builder.mul(number, target.row_stride))
            for x, pointer in zip(row, code.vectors_at(at_row, vectors), strict=True):
                code.stream(x, pointer) if streams else code.store(x, pointer)
            return carried

        offsets = _offsets(code, source.row_stride, columns, vectors)
        _for_all_rows(code, source, offsets, k, [], store, exact=False, lines=lines)

    return emit


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
    """Copy k rows of up to one vector, or of PACKED_VECTORS whole ones, of contiguous columns to contiguous rows.

    READ_BYTES of each column are stored at a time, so rows of zeros may follow the last one. Missing columns repeat the
    last one.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    target, target_row : intp
        Address of the first row; bytes from row to row.
    source, source_column : intp
        Address of the first element; bytes from column to column. The source must not overlap the target.
    columns, k : intp
        At least 1.
    """
    intp = columns.type
    operands = Rows(target, target_row), Rows(source, source_column), columns, k
    if READS_LINES:
        special = builder.icmp_signed("==", builder.and_(source_column, intp(WAY - 1)), intp(0))
    else:
        special = builder.icmp_signed(">", columns, intp(VECTOR // (dtype.bitwidth // 8)))
    code = VectorBuilder(builder, dtype)
    with builder.if_else(special) as (then, otherwise):
        with then:
            emit = _emit_transpose(PACKED_VECTORS, lines=READS_LINES)
            code.call_shared(f"fastnet.transpose.{dtype}.special", emit, *operands)
        with otherwise:
            code.call_shared(f"fastnet.transpose.{dtype}", _emit_transpose(1), *operands)


@emits(lambda dtype, *_: (dtype, *[types.intp] * 5))
def stream_panel(
    builder: ir.IRBuilder,
    dtype: Any,
    target: ir.Value,
    target_row: ir.Value,
    source: ir.Value,
    source_column: ir.Value,
    k: ir.Value,
) -> None:
    """Copy k rows of PACKED_VECTORS whole vectors of contiguous columns past the caches.

    Like `transpose_panel`, for a target that other threads read next and whose rows are aligned to vectors: a store to
    a line that another core has read waits until that core has given it up (docs/performance-notes/threads.md). Other
    threads see the data after a `store_fence`.
    """
    code = VectorBuilder(builder, dtype)
    columns = k.type(PACKED_VECTORS * code.lanes)
    operands = Rows(target, target_row), Rows(source, source_column), columns, k
    emit = _emit_transpose(PACKED_VECTORS, lines=READS_LINES, streams=True)
    code.call_shared(f"fastnet.stream.{dtype}", emit, *operands)


def _emit_tile(height: int, panels: int, lines: bool = False) -> Callable[..., None]:
    """Return a function that emits the code for a tile of up to ``height`` rows and ``panels`` vectors of columns.

    A single vector may be partial; several are whole. ``lines``: columns are read a cache line at a time.
    """

    def emit(
        code: VectorBuilder, rows: ir.Value, columns: ir.Value, k: ir.Value, a: Rows, b: Rows, outputs: Outputs
    ) -> None:
        builder, intp = code.builder, k.type
        a_start = code.pointer(a.address)
        numbers = _clamped_numbers(builder, rows, height)
        in_panel = height > MAX_ROWS_IN_PLACE
        steps = [intp(i * code.bytes) for i in range(height)]
        if not in_panel:
            steps = [builder.mul(number, a.row_stride) for number in numbers]

        def add(sums: Values, number: ir.Value, vectors: Values) -> Values:
            """Emit the FMAs of a row of B; the sums are in the order of C's rows."""
            column = code.at(a_start, builder.mul(number, intp(code.bytes * (MAX_ROWS if in_panel else 1))))
            elements = [builder.load(code.at(column, step), typ=code.scalar, align=code.bytes) for step in steps]
            factors = [(code.splat(x), vector) for x in elements for vector in vectors]
            return [code.fma(x, vector, total) for (x, vector), total in zip(factors, sums, strict=True)]

        offsets = _offsets(code, b.row_stride, columns, panels)
        sums = _for_all_rows(code, b, offsets, k, [code.zero] * (height * panels), add, exact=True, lines=lines)
        store_epilogue(code, sums, panels, columns if panels == 1 else None, outputs, numbers)

    return emit


def _emit_lagging_row(
    code: VectorBuilder, rows: ir.Value, columns: ir.Value, k: ir.Value, a: Rows, b: Rows, outputs: Outputs
) -> None:
    """Emit the code for a single row and two vectors of columns, the second LAG_BYTES behind the first."""
    builder, intp = code.builder, k.type
    starts = [code.pointer(address) for address in (a.address, b.address)]
    offsets = _offsets(code, b.row_stride, columns, 2)
    lag = intp(LAG_BYTES // code.bytes)

    def step(total: ir.Value, vector: int, number: ir.Value) -> ir.Value:
        """Emit the FMAs for READ_BYTES of each column of one vector."""
        first_a, first_b = (code.at(start, builder.mul(number, intp(code.bytes))) for start in starts)
        pointers = [code.at(first_b, x) for x in offsets[vector * code.lanes : (vector + 1) * code.lanes]]
        for i, row in enumerate(_part(code, pointers, READ_BYTES)):
            x = builder.load(code.at(first_a, intp(i * code.bytes)), typ=code.scalar, align=code.bytes)
            total = code.fma(code.splat(x), row, total)
        return total

    def until(end: ir.Value, carried: Values, vectors: tuple[int, ...]) -> Values:
        def body(now: Values) -> Values:
            number, *sums = now
            for vector in vectors:
                sums[vector] = step(sums[vector], vector, builder.sub(number, lag) if vector else number)
            return [builder.add(number, intp(READ_BYTES // code.bytes)), *sums]

        return code.loop(carried, lambda now: builder.icmp_signed("<", now[0], end), body)

    carried = until(lag, [intp(0), code.zero, code.zero], (0,))
    carried = until(k, carried, (0, 1))
    _, *sums = until(builder.add(k, lag), carried, (1,))
    store_epilogue(code, sums, 2, None, outputs, [intp(0)])


@jit(scalar=True)
def single_row_width(item: int, k: int, columns: int, left: int, column_stride: int) -> int:
    """Return how many columns of B `gemm_bt_microkernel` should compute at a time for a single row.

    B has ``columns`` columns in all, of which ``left`` remain to be computed in the current block.
    """
    lanes = VECTOR // item
    fits = column_stride % min(WAY, SHARED_SETS * item) != 0
    if HAS_LAG:  # with a lag, k must consist of whole parts and exceed the lag
        fits = fits or (k * item > LAG_BYTES and k * item % READ_BYTES == 0)
    else:
        fits = fits and columns * column_stride < NEAR_BYTES
    return PANELS * lanes if left >= PANELS * lanes and fits else min(lanes, left)


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
        rows from 1 to MAX_ROWS; columns up to a vector's or, for a single row, `single_row_width`; k products in each
        sum; one tile.
    a : Rows
        A, with contiguous rows. For more rows than MAX_ROWS_IN_PLACE, the address of its micro-panel, which has
        MAX_ROWS elements for each k; missing rows repeat the last one.
    b : Rows
        Address of B[0, 0], and the stride from column to column.
    c, epilogue
        As for `microkernel`.
    """
    code = VectorBuilder(builder, dtype)
    operands = tile.rows, tile.columns, tile.k, a, b, Outputs(c, *epilogue)
    kinds = {f"{height}x1": _emit_tile(height, 1) for height in HEIGHTS}
    kinds[f"1x{PANELS}"] = _emit_tile(1, PANELS)
    intp = tile.rows.type
    flags = [builder.icmp_signed("<=", tile.rows, intp(height)) for height in HEIGHTS[1:]]
    flags.append(builder.icmp_signed(">", tile.columns, intp(code.lanes)))
    far = builder.icmp_signed("==", builder.and_(b.row_stride, intp(WAY - 1)), intp(0))
    if HAS_LAG:
        kinds[f"1x{PANELS}.lag"] = _emit_lagging_row
        flags.append(builder.and_(flags[-1], far))
    choice = intp(0)
    for flag in flags:  # each flag implies those before it, so the number of set flags is the index of the kind
        choice = builder.add(choice, builder.zext(flag, intp))
    if READS_LINES:  # PANELS vectors of such columns are never requested
        low = builder.icmp_signed("<=", tile.rows, intp(LINES_HEIGHTS[0]))
        others = intp(len(kinds) - HEIGHTS.index(LINES_HEIGHTS[0]))
        choice = builder.add(choice, builder.select(builder.and_(far, low), others, intp(0)))
        kinds |= {f"{height}x1.lines": _emit_tile(height, 1, lines=True) for height in LINES_HEIGHTS}
    done = builder.append_basic_block("tile_done")
    blocks = [builder.append_basic_block(f"tile_bt_{name}") for name in kinds]
    switch = builder.switch(choice, blocks[0])
    for i, ((name, emit), block) in enumerate(zip(kinds.items(), blocks, strict=True)):
        if i:
            switch.add_case(intp(i), block)
        builder.position_at_end(block)
        code.call_shared(f"fastnet.gemm_bt.{dtype}.{name}", emit, *operands)
        builder.branch(done)
    builder.position_at_end(done)
