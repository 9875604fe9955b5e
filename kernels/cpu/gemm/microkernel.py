"""The micro-kernel: a register tile of C in LLVM vector instructions.

A tile is ``rows`` x ``columns`` elements of C, at most MR x NR, that stay in vector registers while k runs once over a
block of A and B::

    C[i, j] = addend[i, j] + alpha * sum over k of A[i, k] B[k, j]

where the addend is nothing, a bias or C's former value; then, where wanted, ReLU, or zeros where a mask is not above 0.

    for k:   load NV vectors of B's row k          NV loads
             for each row i of the tile:
                 broadcast A[i, k]                 MR loads
                 acc[i, :] += A[i, k] * B[k, :]    MR x NV FMAs, none of which waits for another

Why registers: each FMA of a plain loop loads B and C and stores C; here MR x NV of them share MR + NV loads, so the FMA
units, not the load ports, are the limit. Why LLVM and not a Python loop: Numba's own loops leave it to LLVM's
heuristics which sums live in registers; an explicit tile of vectors does not.

Addresses and strides are integers in bytes, of NumPy's intp; so one compiled kernel serves every layout of array. The
caller keeps the arrays alive; nothing here allocates. A is read one element at a time, by any strides. The rows of B
and C are contiguous vectors, and nothing beyond ``columns`` is read or written.

Order of the sums: an element of C is one chain of FMAs over ascending k that starts at zero. It depends neither on the
tile's height or width nor on where in the tile the element lies.

The last columns: tiles are 4, 2 and 1 vectors wide (a tile of a single row 16), and only those of one vector are
masked; 3 vectors are a tile of 2 and one of 1. Figures: docs/performance-notes.md.
"""

from itertools import product
from typing import Any

from llvmlite import ir

from ...jit.target import registers
from ...llvm.builder import LINE, POINTER, VECTOR, VectorBuilder, cgutils, function, intrinsic, set_optsize, types
from .operands import epilogue_type, micro_panels_type, rows_type, tile_type

MR = 6
"""Rows of the largest tile."""

NV = 4 if registers() >= 32 else 2
"""Vectors in a row of the largest tile.  6 x 4 + 4 + 1 = 29 registers of 32;  6 x 2 + 2 + 1 = 15 of 16."""

WIDTHS = tuple(2**i for i in range(NV.bit_length()))
"""Vectors in a row of a tile: 1, 2, 4.  Only tiles of one vector are masked."""

SINGLE_ROW_VECTORS = 16 if VECTOR == 64 else 8
"""Vectors in a tile of a single row: B is read once, so long contiguous parts of its rows are what counts. 16 sums fit
where an FMA reads B from memory; ARM's needs registers for B too."""

PREFETCH_INTERVAL = 64
"""Iterations of k between which the micro-kernel prefetches what it will need next."""


def tile_operands(builder: ir.IRBuilder, c: ir.Value, epilogue: ir.Value) -> list[ir.Value]:
    """Return address and row stride of C, addend, relu and mask, and alpha, from `Rows` and an `Epilogue`."""
    *rows, alpha = cgutils.unpack_tuple(builder, epilogue)
    return [*(x for operand in (c, *rows) for x in cgutils.unpack_tuple(builder, operand)), alpha]


def named_operands(arguments: list[ir.Value]) -> dict[str, tuple[ir.Value, ir.Value]]:
    """Return (address, row stride) by name from LLVM arguments in the order of `tile_operands`, without alpha."""
    return dict(zip(("c", "addend", "relu", "mask"), zip(arguments[::2], arguments[1::2], strict=True), strict=True))


def _tile(module: ir.Module, dtype: Any, rows: int, vectors: int) -> ir.Function:
    """Return the LLVM function that computes tiles of ``rows`` x ``vectors``; generated once a module."""
    intp = ir.IntType(types.intp.bitwidth)
    scalar = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
    tile, builder = function(module, f"fastnet.tile.{dtype}.{rows}x{vectors}x{VECTOR}", [intp] * 17 + [scalar])
    if builder is None:
        return tile
    columns, k, count, a, a_row, a_k, a_tile, b, b_row, *outputs, alpha = tile.args
    code = VectorBuilder(builder, dtype)
    lane_mask = code.first_lanes(columns) if vectors == 1 else None
    operands = named_operands(outputs)
    # From a tile to the one below it; address 0, which means absent, stays 0.
    steps = [
        builder.select(builder.icmp_signed("==", address, intp(0)), intp(0), builder.mul(stride, intp(rows)))
        for address, stride in operands.values()
    ]
    before, loop, after = builder.block, builder.append_basic_block("tile"), builder.append_basic_block("done")
    builder.branch(loop)

    builder.position_at_end(loop)
    phis = [code.phi((x, before)) for x in (count, a, *(address for address, _ in operands.values()))]
    left, a, *addresses = phis
    current = {
        name: (address, stride) for address, (name, (_, stride)) in zip(addresses, operands.items(), strict=True)
    }
    sums = _sums_over_k(code, rows, vectors, lane_mask, k, (a, a_row, a_k, a_tile), (b, b_row), current["c"])
    store_epilogue(code, sums, vectors, lane_mask, current, alpha)
    fewer = builder.sub(left, intp(1))
    moved = [builder.add(address, step) for address, step in zip(addresses, steps, strict=True)]
    for phi, value in zip(phis, (fewer, builder.add(a, a_tile), *moved), strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), loop, after)

    builder.position_at_end(after)
    builder.ret_void()
    return tile


def _sums_over_k(
    code: VectorBuilder,
    rows: int,
    vectors: int,
    lane_mask: ir.Value | None,
    k: ir.Value,
    a: tuple[ir.Value, ...],
    b: tuple[ir.Value, ...],
    c: tuple[ir.Value, ...],
) -> list[ir.Value]:
    """Emit the loop over k; return rows x vectors sums, row by row.  No iteration where k is 0.

    After every PREFETCH_INTERVAL iterations it prefetches what will be needed next: another row of C, and of the tile
    below the part of A that is as far along k as the last interval, where A's rows are contiguous. Where they are not,
    as in packed micro-panels, it prefetches some lines of that part, which the CPU foresees by itself.
    """
    builder, intp = code.builder, k.type
    (a, a_row, a_step, a_tile), (b, b_step) = a, b
    offsets = [builder.mul(intp(i), a_row) for i in range(rows)]
    a0, b0 = builder.inttoptr(a, POINTER), builder.inttoptr(b, POINTER)
    before = builder.block
    interval, loop, interval_end, prefetch, after = (
        builder.append_basic_block(name) for name in ("interval", "k", "interval_end", "prefetch", "sums")
    )
    builder.cbranch(builder.icmp_signed(">", k, intp(0)), interval, after)

    builder.position_at_end(interval)
    starts = [code.phi((start, before)) for start in (k, a0, b0, c[0], *[code.zero] * (rows * vectors))]
    rest = builder.sub(starts[0], intp(PREFETCH_INTERVAL))
    rest = builder.select(builder.icmp_signed("<", rest, intp(0)), intp(0), rest)
    builder.branch(loop)

    builder.position_at_end(loop)
    left, a_k, b_k = (code.phi((start, interval)) for start in starts[:3])
    sums = [code.phi((start, interval)) for start in starts[4:]]
    b_vectors = [code.load(p, lane_mask) for p in code.vectors_at(b_k, vectors)]
    new = []
    for i in range(rows):
        a_ik = code.splat(builder.load(code.at(a_k, offsets[i]), typ=code.scalar, align=code.bytes))
        new += [code.fma(a_ik, b_vectors[q], sums[i * vectors + q]) for q in range(vectors)]
    fewer = builder.sub(left, intp(1))
    advanced = (fewer, code.at(a_k, a_step), code.at(b_k, b_step))
    for phi, value in zip((left, a_k, b_k, *sums), (*advanced, *new), strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed(">", fewer, rest), loop, interval_end)

    builder.position_at_end(interval_end)
    builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), prefetch, after)

    builder.position_at_end(prefetch)
    for pointer in code.vectors_at(builder.inttoptr(starts[3], POINTER), vectors):
        code.prefetch(pointer)
    below = code.at(starts[1], a_tile)
    for offset in offsets:
        for line in range(0, PREFETCH_INTERVAL * code.bytes, LINE):
            code.prefetch(code.at(below, builder.add(offset, intp(line))))
    for phi, value in zip(starts, (*advanced, builder.add(starts[3], c[1]), *new), strict=True):
        phi.add_incoming(value, prefetch)
    builder.branch(interval)

    builder.position_at_end(after)
    return [code.phi((code.zero, before), (x, interval_end)) for x in new]


def store_epilogue(
    code: VectorBuilder,
    sums: list[ir.Value],
    vectors: int,
    lane_mask: ir.Value | None,
    operands: dict[str, tuple[ir.Value, ir.Value]],
    alpha: ir.Value,
    row_numbers: list[ir.Value] | None = None,
) -> None:
    """Emit the epilogue of a tile: addend, mask, the store of C and of ReLU, each where its address is not 0.

    ``operands`` are those of `named_operands`; ``row_numbers`` those of the tile's rows, where they are not 0, 1, 2, ...
    """
    builder = code.builder
    intp = operands["c"][0].type
    row_numbers = row_numbers or [intp(i) for i in range(len(sums) // vectors)]

    def pointers(name: str) -> list[ir.Value]:
        base, stride = operands[name]
        rows = [code.at(builder.inttoptr(base, POINTER), builder.mul(number, stride)) for number in row_numbers]
        return [p for row in rows for p in code.vectors_at(row, vectors)]

    before = builder.block
    with code.unless_zero(operands["addend"][0]):
        factor = code.splat(alpha)
        added = [code.fma(factor, x, code.load(p, lane_mask)) for p, x in zip(pointers("addend"), sums, strict=True)]
        inside = builder.block
    results = [code.phi((x, before), (y, inside)) for x, y in zip(sums, added, strict=True)]
    before = builder.block
    with code.unless_zero(operands["mask"][0]):
        masked = [
            code.where_positive(code.load(p, lane_mask), x) for p, x in zip(pointers("mask"), results, strict=True)
        ]
        inside = builder.block
    results = [code.phi((x, before), (y, inside)) for x, y in zip(results, masked, strict=True)]
    with code.unless_zero(operands["c"][0]):
        for p, x in zip(pointers("c"), results, strict=True):
            code.store(x, p, lane_mask)
    with code.unless_zero(operands["relu"][0]):
        for p, x in zip(pointers("relu"), results, strict=True):
            code.store(code.relu(x), p, lane_mask)


@intrinsic
def microkernel(typing_context: Any, dtype: Any, tile: Any, a: Any, b: Any, c: Any, epilogue: Any) -> Any:
    """Compute tiles of C, one below the other.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    tile : Tile
        rows from 1 to MR; columns one of WIDTHS in vectors, or fewer than a vector; k products summed, 0 gives zeros;
        at least 1 tile.
    a : MicroPanels
        A, by any strides.
    b : Rows
        B from its first row on.
    c : Rows
        C; absent: it is not stored.
    epilogue : Epilogue
        ``mask``: an array where whose elements are not above 0, C becomes 0. ``relu``: an array that receives max(0, C).
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, tile, a, b, c, epilogue = arguments
        set_optsize(builder)
        rows, columns, k, count = cgutils.unpack_tuple(builder, tile)
        intp = rows.type
        operands = [
            *(columns, k, count),
            *cgutils.unpack_tuple(builder, a),
            *cgutils.unpack_tuple(builder, b),
            *tile_operands(builder, c, epilogue),
        ]
        lanes = VECTOR * 8 // dtype.dtype.bitwidth
        vectors = builder.sdiv(builder.add(columns, intp(lanes - 1)), intp(lanes))
        done, impossible = builder.append_basic_block("tile_done"), builder.append_basic_block("no_such_tile")
        choice = builder.switch(builder.add(builder.mul(vectors, intp(MR + 1)), rows), impossible)
        for height, width in (*product(range(1, MR + 1), WIDTHS), (1, SINGLE_ROW_VECTORS)):
            block = builder.append_basic_block(f"tile_{height}x{width}")
            choice.add_case(intp(width * (MR + 1) + height), block)
            builder.position_at_end(block)
            builder.call(_tile(builder.module, dtype.dtype, height, width), operands)
            builder.branch(done)
        builder.position_at_end(impossible)  # the macro-kernel asks for tiles that exist
        builder.unreachable()
        builder.position_at_end(done)
        return context.get_dummy_value()

    rows = rows_type()
    return types.void(dtype, tile_type(), micro_panels_type(), rows, rows, epilogue_type(dtype.dtype)), codegen


@intrinsic
def sum_rows(typing_context: Any, dtype: Any, target: Any, source: Any, rows: Any, columns: Any, overwrite: Any) -> Any:
    """target = sum of rows of the source, in order, or that added to it; of the first NV vectors of columns, or of one.

    NV vectors where there are that many columns, otherwise one, masked. The sums stay in registers: a loop that adds
    row after row to memory waits for its own stores.

    Parameters
    ----------
    dtype : dtype
    target : intp
        Address of the sums.
    source : Rows
        Address of the first row's first column, and the stride.
    rows, columns : intp
        Rows to sum, 0 allowed; columns left from the first on.
    overwrite : intp
        0 to add to what target holds.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, target, source, rows, columns, overwrite = arguments
        code = VectorBuilder(builder, dtype.dtype)
        intp = rows.type
        source_address, source_row = cgutils.unpack_tuple(builder, source)
        to, start = builder.inttoptr(target, POINTER), builder.inttoptr(source_address, POINTER)

        def emit(vectors: int, lane_mask: ir.Value | None) -> None:
            pointers = code.vectors_at(to, vectors)
            before = builder.block
            with builder.if_then(builder.icmp_signed("==", overwrite, overwrite.type(0))):
                kept = [code.load(p, lane_mask) for p in pointers]
                inside = builder.block
            first = [code.phi((code.zero, before), (x, inside)) for x in kept]
            entry = builder.block
            loop, after = builder.append_basic_block("row"), builder.append_basic_block("summed")
            builder.cbranch(builder.icmp_signed(">", rows, intp(0)), loop, after)
            builder.position_at_end(loop)
            left, row = code.phi((rows, entry)), code.phi((start, entry))
            sums = [code.phi((x, entry)) for x in first]
            loaded = [code.load(p, lane_mask) for p in code.vectors_at(row, vectors)]
            new = [builder.fadd(x, y) for x, y in zip(sums, loaded, strict=True)]
            fewer = builder.sub(left, intp(1))
            for phi, value in zip((left, row, *sums), (fewer, code.at(row, source_row), *new), strict=True):
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), loop, after)
            builder.position_at_end(after)
            results = [code.phi((x, entry), (y, loop)) for x, y in zip(first, new, strict=True)]
            for p, x in zip(pointers, results, strict=True):
                code.store(x, p, lane_mask)

        with builder.if_else(builder.icmp_signed(">=", columns, intp(NV * code.lanes))) as (wide, narrow):
            with wide:
                emit(NV, None)
            with narrow:
                emit(1, code.first_lanes(columns))
        return context.get_dummy_value()

    return types.void(dtype, types.intp, rows_type(), *[types.intp] * 3), codegen
