"""The micro-kernel: a register tile of C in LLVM vector instructions.

A tile consists of ``rows`` x ``columns`` elements of C, at most MR x NR, which stay in vector registers while k runs
once over a block of A and B::

    C[i, j] = addend[i, j] + alpha * sum over k of A[i, k] B[k, j]

where the addend is absent, a bias or C's former value. Then follows, optionally, ReLU, or zeros where a mask is not
above 0.

    for k:   load NV vectors of B's row k          NV loads
             for each row i of the tile:
                 broadcast A[i, k]                 MR loads
                 acc[i, :] += A[i, k] * B[k, :]    MR x NV independent FMAs

Why registers: each FMA of a plain loop loads B and C and stores C. Here MR x NV FMAs share MR + NV loads, so the FMA
units, not the load ports, are the limit. Why LLVM and not a Python loop: in Numba's own loops, LLVM's heuristics decide
which sums live in registers; an explicit tile of vectors leaves no choice.

Addresses and strides are intp, strides in bytes, so that one compiled kernel serves arrays of every layout. The caller
keeps the arrays alive; nothing here allocates. A is read one element at a time; its rows or its columns must be
contiguous. Tall tiles of few vectors have a kernel for either case, in which the elements of a round are at constant
distances: with arbitrary strides, the chain of address additions would be as long as that of the FMAs. NEON reads
contiguous columns of A as whole vectors, whose lanes are operands of its FMAs. The rows of B and C are contiguous, and
nothing beyond ``columns`` is read or written.

Order of the sums: an element of C is one chain of FMAs over ascending k that starts at zero. It depends neither on the
tile's height or width nor on the element's place in the tile.

The last columns: tiles are NV, ..., 1 vectors wide (WIDTHS); a tile of a single row may have SINGLE_ROW_VECTORS. A
single vector is masked; the last of several vectors ends with the last column and overlaps the one before, and both
compute the same sums there. So 9 to 15 columns of AVX2's float32 are one tile with 12 independent FMAs, instead of two
narrow ones with 6 each. 3 vectors make a tile of 2 and one of 1. Figures: docs/performance-notes/gemm.md.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

from llvmlite import ir

from ...jit.target import IS_ARM, registers
from ...llvm.builder import LINE, VECTOR, VectorBuilder, emits, set_optsize, types
from .operands import Epilogue, MicroPanels, Rows, Tile, epilogue_type, micro_panels_type, rows_type, tile_type

MR = 6
"""Rows of the largest tile."""

MR_NARROW = 8 if VECTOR >= 32 else MR
"""Rows of the largest tile of a single vector: on x86 an FMA takes 4 cycles and two begin in each, so 8 sums keep the
units busy."""

NV = 4 if registers() >= 32 else 2
"""Vectors in a row of the largest tile.  6 x 4 + 4 + 1 = 29 registers of 32;  6 x 2 + 2 + 1 = 15 of 16."""

WIDTHS = tuple(2**i for i in range(NV.bit_length()))
"""Vectors in a row of a tile: 1, 2, 4."""

SINGLE_ROW_VECTORS = 16 if VECTOR == 64 else 8
"""Vectors in a tile of a single row. B is read once, so long contiguous parts of its rows matter most. 16 sums fit into
the registers if FMAs read B from memory; on ARM, B needs registers, too."""

UNROLL = 4 if VECTOR == 64 else 2
"""Iterations of k in one round of a tall tile's loop; the elements of A in a round are at constant distances (LAYOUTS).
"""

LAYOUTS = ("k", "rows") if VECTOR >= 32 or IS_ARM else ("",)
"""Direction in which A is contiguous; tall tiles of up to LAYOUT_VECTORS have a kernel for either. Without FMA
instructions, LLVM has no registers left for unrolling."""

LAYOUT_VECTORS = 2 if VECTOR == 64 else NV
"""With the 24 FMAs of AVX-512's widest tile in an iteration, the rest of the loop is free."""

TALL = MR - 1
"""Tiles with at least this many rows are tall. Since rows are divided evenly, most tiles are; kernels for lower ones
would only take longer to compile."""

AHEAD_K = {32: 0, 64: 512}.get(VECTOR, 1 << 62)
"""From this k on, the following elements of an A in place are prefetched instead of the tile below; measured on x86."""

PREFETCH_INTERVAL = 32 if VECTOR >= 32 else 64
"""Iterations of k between two prefetches of data that the micro-kernel will need next."""

PREFETCHES_B = VECTOR >= 32
"""Whether the elements of B at ``Tile.b_next`` are prefetched into L2. Measured on x86."""

PREFETCH_BYTES = 512
"""Prefetch distance for an A with contiguous columns, as in packed micro-panels."""

TILES = (
    *product(range(1, MR + 1), WIDTHS),
    *product(range(MR + 1, MR_NARROW + 1), (1,)),
    (1, SINGLE_ROW_VECTORS),
)
"""Rows and vectors of every tile that has a kernel."""


def layouts_of(rows: int, vectors: int) -> tuple[str, ...]:
    """Return the directions of a contiguous A for which a tile has a kernel; one kernel, "", may serve both."""
    return LAYOUTS if rows >= TALL and vectors <= LAYOUT_VECTORS else ("",)


class Outputs(NamedTuple):
    """The operands of a tile's epilogue: C, and the fields of its `Epilogue`."""

    c: Rows
    addend: Rows
    relu: Rows
    mask: Rows
    alpha: Any


# Below, the fields of operands hold LLVM values of type intp, and alpha one of the elements' type.


def _emit_tiles(rows: int, vectors: int, contiguous: str) -> Callable[..., None]:
    """Return a function that emits the code for tiles of ``rows`` x ``vectors``, one below the other.

    ``contiguous``, one of `layouts_of` the tile, is the direction in which A is contiguous.
    """

    def emit(code: VectorBuilder, tile: Tile, a: MicroPanels, b: Rows, outputs: Outputs) -> None:
        builder, intp, columns = code.builder, tile.k.type, tile.columns
        if contiguous:
            a = a._replace(**{"k_stride" if contiguous == "k" else "row_stride": intp(code.bytes)})
        unroll = UNROLL if contiguous else 1
        *operands, alpha = outputs
        # Distances from a tile to the one below it; address 0, which means absent, stays 0.
        steps = [
            builder.select(
                builder.icmp_signed("==", rows_.address, intp(0)), intp(0), builder.mul(rows_.row_stride, intp(rows))
            )
            for rows_ in operands
        ]

        def one_tile(carried: list[ir.Value]) -> list[ir.Value]:
            left, a_address, b_next, *addresses = carried
            moved = [Rows(at, rows_.row_stride) for at, rows_ in zip(addresses, operands, strict=True)]
            current = Outputs(moved[0], moved[1], moved[2], moved[3], alpha)
            size, current_a = (rows, vectors, unroll), a._replace(address=a_address)
            b_next, *sums = _sums_over_k(code, size, tile._replace(b_next=b_next), current_a, b, current.c)
            store_epilogue(code, sums, vectors, columns, current)
            following = [builder.add(at, step) for at, step in zip(addresses, steps, strict=True)]
            return [builder.sub(left, intp(1)), builder.add(a_address, a.tile_stride), b_next, *following]

        carried = [tile.tiles, a.address, tile.b_next, *(rows_.address for rows_ in operands)]
        code.loop(carried, lambda new: builder.icmp_signed(">", new[0], intp(0)), one_tile, at_least_once=True)

    return emit


def _sums_over_k(
    code: VectorBuilder,
    size: tuple[int, int, int],
    tile: Tile,
    a: MicroPanels,
    b: Rows,
    c: Rows,
) -> list[ir.Value]:
    """Emit the loop over k; return the next tile's ``b_next`` and rows x vectors sums, row by row.

    If k is 0 there are no iterations.

    ``size`` holds rows, vectors, and the number of iterations in one round of the loop. After every PREFETCH_INTERVAL
    iterations, the code prefetches another row of C, ``tile.b_step`` bytes of B, and, of A's rows, the interval after
    the next one or, if k is below AHEAD_K, the part of the tile below at the k of the last interval. An A with
    contiguous columns is prefetched continuously, line by line.
    """
    k, b_next = tile.k, tile.b_next
    builder, intp = code.builder, k.type
    rows, vectors, unroll = size
    lane_mask, last = _edge(code, vectors, tile.columns)
    offsets = [builder.mul(intp(i), a.row_stride) for i in range(rows)]
    columns_are_contiguous = isinstance(a.row_stride, ir.Constant)
    per_line = max(1, LINE // (rows * code.bytes))  # approximate iterations per line of such an A

    def add(a_k: ir.Value, b_k: ir.Value, sums: list[ir.Value], unrolled: int) -> list[ir.Value]:
        """Emit the FMAs of ``unrolled`` iterations; return the addresses for the next one, and the sums."""
        for iteration in range(unrolled):
            if columns_are_contiguous and iteration % per_line == 0:
                code.prefetch(code.at(a_k, intp(PREFETCH_BYTES)))
            b_vectors = [code.load(p, lane_mask) for p in code.vectors_at(b_k, vectors, last)]
            column = _broadcast(code, a_k, rows) if IS_ARM and columns_are_contiguous else []
            new = []
            for i in range(rows):
                a_ik = column[i] if column else _broadcast(code, code.at(a_k, offsets[i]), 1)[0]
                new += [code.fma(a_ik, b_vectors[q], sums[i * vectors + q]) for q in range(vectors)]
            a_k, b_k, sums = code.at(a_k, a.k_stride), code.at(b_k, b.row_stride), new
        return [a_k, b_k, *sums]

    def interval(carried: list[ir.Value]) -> list[ir.Value]:
        """Emit PREFETCH_INTERVAL iterations, or the whole rounds that are left, and the prefetches."""
        left, c_row, b_next, *rest = carried
        stop = builder.sub(left, intp(PREFETCH_INTERVAL))
        stop = builder.select(builder.icmp_signed("<", stop, intp(0)), builder.and_(left, intp(unroll - 1)), stop)
        a_start = rest[0]
        left, *rest = code.loop(
            [left, *rest],
            lambda now: builder.icmp_signed(">", now[0], stop),
            lambda now: [builder.sub(now[0], intp(unroll)), *add(now[1], now[2], now[3:], unroll)],
            at_least_once=True,
        )
        continues, b_end = builder.icmp_signed(">=", left, intp(unroll)), b_next
        if PREFETCHES_B:
            b_end = builder.add(b_next, builder.select(continues, tile.b_step, intp(0)))
        with builder.if_then(continues):
            for pointer in code.vectors_at(code.pointer(c_row), vectors):
                code.prefetch(pointer)
            nbytes = PREFETCH_INTERVAL * code.bytes
            following = builder.select(
                builder.icmp_signed(">=", k, intp(AHEAD_K)),
                code.at(rest[0], intp(nbytes)),
                code.at(a_start, a.tile_stride),
            )
            for offset in [] if columns_are_contiguous else offsets:
                for line in range(0, nbytes, LINE):
                    code.prefetch(code.at(following, builder.add(offset, intp(line))))
            if PREFETCHES_B:
                code.loop([b_next], lambda now: builder.icmp_signed("<", now[0], b_end), prefetch_b)
        return [left, builder.add(c_row, c.row_stride), b_end, *rest]

    def prefetch_b(now: list[ir.Value]) -> list[ir.Value]:
        code.prefetch(code.pointer(now[0]), near=False)
        return [builder.add(now[0], intp(LINE))]

    addresses = code.pointer(a.address), code.pointer(b.address)
    carried = [k, c.address, b_next, *addresses, *[code.zero] * (rows * vectors)]
    left, _, b_next, *rest = code.loop(carried, lambda now: builder.icmp_signed(">=", now[0], intp(unroll)), interval)
    if unroll > 1:
        _, *rest = code.loop(
            [left, *rest],
            lambda now: builder.icmp_signed(">", now[0], intp(0)),
            lambda now: [builder.sub(now[0], intp(1)), *add(now[1], now[2], now[3:], 1)],
        )
    return [b_next, *rest[2:]]


def _broadcast(code: VectorBuilder, pointer: ir.Value, count: int) -> list[ir.Value]:
    """Read ``count`` contiguous elements; for each, return a vector with that element in every lane.

    Several elements are read as whole vectors, of which ARM's FMA takes single lanes: on ARM a broadcast would occupy
    an FMA unit.
    """
    if count == 1:
        return [code.splat(code.builder.load(pointer, typ=code.scalar, align=code.bytes))]
    part = VectorBuilder(code.builder, code.dtype, min(code.lanes, 1 << (count.bit_length() - 1)))
    loaded, left = part.load(pointer), count - part.lanes
    broadcast = [code.shuffle(loaded, loaded, [lane] * code.lanes) for lane in range(part.lanes)]
    following = code.at(pointer, ir.IntType(32)(part.lanes * code.bytes))
    return broadcast + (_broadcast(code, following, left) if left else [])


def _edge(code: VectorBuilder, vectors: int, columns: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the mask of a single vector, and the offset in bytes of the last of several, which ends with the columns.

    If the columns do not fill it, the last of several overlaps the one before: the same sums are stored twice.
    """
    if columns is None:
        return None, None
    if vectors == 1:
        return code.first_lanes(columns), None
    return None, code.builder.mul(code.builder.sub(columns, columns.type(code.lanes)), columns.type(code.bytes))


def store_epilogue(
    code: VectorBuilder,
    sums: list[ir.Value],
    vectors: int,
    columns: ir.Value | None,
    outputs: Outputs,
    row_numbers: list[ir.Value] | None = None,
) -> None:
    """Emit the epilogue of a tile: addend, mask, and the stores of C and of ReLU, each if its address is not 0.

    ``columns`` is the number of columns, None for whole vectors. ``row_numbers`` are the indices of the tile's rows, if
    they are not 0, 1, 2, ...
    """
    intp = outputs.c.address.type
    lane_mask, last = _edge(code, vectors, columns)
    row_numbers = row_numbers or [intp(i) for i in range(len(sums) // vectors)]

    def pointers(operand: Rows) -> list[ir.Value]:
        start = code.pointer(operand.address)
        rows = [code.at(start, code.builder.mul(number, operand.row_stride)) for number in row_numbers]
        return [p for row in rows for p in code.vectors_at(row, vectors, last)]

    def add(values: list[ir.Value]) -> list[ir.Value]:
        alpha = code.splat(outputs.alpha)
        return [
            code.fma(alpha, x, code.load(p, lane_mask)) for p, x in zip(pointers(outputs.addend), values, strict=True)
        ]

    def apply_mask(values: list[ir.Value]) -> list[ir.Value]:
        return [
            code.where_positive(code.load(p, lane_mask), x) for p, x in zip(pointers(outputs.mask), values, strict=True)
        ]

    results = code.change_unless_zero(outputs.addend.address, sums, add)
    results = code.change_unless_zero(outputs.mask.address, results, apply_mask)
    for operand, change in ((outputs.c, None), (outputs.relu, code.relu)):
        with code.unless_zero(operand.address):
            stored = [change(x) if change else x for x in results]
            if columns is not None and vectors == 1:
                code.store_first(stored, pointers(operand), columns)
            else:
                for p, x in zip(pointers(operand), stored, strict=True):
                    code.store(x, p)


@emits(
    lambda dtype, *_: (
        *(dtype, tile_type(), micro_panels_type(), rows_type(), rows_type()),
        epilogue_type(dtype.dtype),
    )
)
def microkernel(
    builder: ir.IRBuilder, dtype: Any, tile: Tile, a: MicroPanels, b: Rows, c: Rows, epilogue: Epilogue
) -> None:
    """Compute tiles of C, one below the other.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    tile : Tile
        rows and columns of one of TILES, the columns less than a vector fewer; k products in each sum, where 0 gives
        zeros; at least 1 tile.
    a : MicroPanels
        A. Its rows or its columns are contiguous: k_stride or row_stride is the size of an element. Tiles that are not
        tall may have any strides.
    b : Rows
        B from its first row on.
    c : Rows
        C; if absent, it is not stored. It may be the addend, but no other operand.
    epilogue : Epilogue
        ``mask``: C becomes 0 where its elements are not above 0. ``relu``: receives max(0, C).
    """
    set_optsize(builder)
    code, intp = VectorBuilder(builder, dtype), tile.k.type
    outputs = Outputs(c, *epilogue)
    vectors = builder.sdiv(builder.add(tile.columns, intp(code.lanes - 1)), intp(code.lanes))
    done, impossible = builder.append_basic_block("tile_done"), builder.append_basic_block("no_such_tile")
    k_is_contiguous = builder.zext(builder.icmp_signed("==", a.k_stride, intp(code.bytes)), intp)
    number = builder.add(builder.mul(vectors, intp(MR_NARROW + 1)), tile.rows)
    choice = builder.switch(builder.add(builder.shl(number, intp(1)), k_is_contiguous), impossible)
    for height, width in TILES:
        for contiguous in layouts_of(height, width):
            name = f"{height}x{width}{contiguous}"
            block = builder.append_basic_block(f"tile_{name}")
            for k_contiguous in (False, True):
                if contiguous == "" or (contiguous == "k") == k_contiguous:
                    choice.add_case(intp(2 * (width * (MR_NARROW + 1) + height) + k_contiguous), block)
            builder.position_at_end(block)
            emit = _emit_tiles(height, width, contiguous)
            code.call_shared(f"fastnet.tile.{dtype}.{name}x{VECTOR}", emit, tile, a, b, outputs)
            builder.branch(done)
    builder.position_at_end(impossible)  # the macro-kernel asks for tiles that exist
    builder.unreachable()
    builder.position_at_end(done)


@emits(lambda dtype, *_: (dtype, types.intp, rows_type(), *[types.intp] * 3))
def sum_rows(
    builder: ir.IRBuilder,
    dtype: Any,
    target: ir.Value,
    source: Rows,
    rows: ir.Value,
    columns: ir.Value,
    overwrite: ir.Value,
) -> None:
    """Sum the source's rows, in order; store the sums in target, or add them to it.

    NV vectors are summed if there are that many columns, otherwise one, masked. The sums stay in registers: a loop that
    adds row after row to memory waits for its own stores (docs/performance-notes/gemm.md).

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    target : intp
        Address of the sums.
    source : Rows
        Address of the first row's first column, and the stride.
    rows, columns : intp
        Rows to sum, 0 allowed; number of columns from the first on.
    overwrite : intp
        0 to add to the target.
    """
    code, intp = VectorBuilder(builder, dtype), rows.type
    added = builder.zext(builder.icmp_signed("==", overwrite, intp(0)), intp)

    def emit(vectors: int, lane_mask: ir.Value | None) -> None:
        targets = code.vectors_at(code.pointer(target), vectors)
        first = code.change_unless_zero(
            added, [code.zero] * vectors, lambda _: [code.load(p, lane_mask) for p in targets]
        )

        def add_row(carried: list[ir.Value]) -> list[ir.Value]:
            left, row, *sums = carried
            values = [code.load(p, lane_mask) for p in code.vectors_at(row, vectors)]
            new = [builder.fadd(x, y) for x, y in zip(sums, values, strict=True)]
            return [builder.sub(left, intp(1)), code.at(row, source.row_stride), *new]

        carried = [rows, code.pointer(source.address), *first]
        _, _, *sums = code.loop(carried, lambda new: builder.icmp_signed(">", new[0], intp(0)), add_row)
        for p, x in zip(targets, sums, strict=True):
            code.store(x, p, lane_mask)

    with builder.if_else(builder.icmp_signed(">=", columns, intp(NV * code.lanes))) as (wide, narrow):
        with wide:
            emit(NV, None)
        with narrow:
            emit(1, code.first_lanes(columns))
