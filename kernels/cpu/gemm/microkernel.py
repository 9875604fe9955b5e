"""The micro-kernel: a register tile of C in LLVM vector instructions, and the copies that feed it.

Imports `_jit` only. A tile is ``rows`` x ``columns`` elements of C, at most MR x NR, that stay in vector
registers while k runs once over a slice of A and B::

    C[i, j] = start[i, j] + scale * sum over k of A[i, k] B[k, j]

where start is nothing, a bias or C's former value; then, where wanted, ReLU, or zeros where ReLU's derivative is 0.

    for k:   load NV vectors of B's row k          NV loads
             for each row i of the tile:
                 broadcast A[i, k]                 MR loads
                 acc[i, :] += A[i, k] * B[k, :]    MR x NV FMAs, no two of which wait for each other

Why registers: each FMA of a plain loop loads B and C and stores C; here MR x NV of them share MR + NV
loads, so the FMA units, not the load ports, decide. Why LLVM and not a Python loop: Numba's own loops
leave it to LLVM's heuristics which sums live in registers; an explicit tile of vectors does not.

All addresses and strides are integers in bytes, of NumPy's intp; so one compiled kernel serves every
layout of array. Who calls must keep the arrays alive. Nothing here allocates.

A is read one element at a time, by any strides. The rows of B and C are contiguous vectors, and nothing beyond
``columns`` is read or written.

Order of the sums: an element of C is one chain of FMAs over ascending k that starts at zero. That depends
neither on the tile's height or width nor on where in the tile the element lies.

The last columns: tiles are 4, 2 and 1 vectors wide (one of a single row 16), and only those of one vector are masked;
3 vectors are a tile of 2 and one of 1. Masks and widths for everything: the code of the tiles was 2.5 times longer.

What was measured (Zen 4 and Zen 5, share of the register-only FMA limit):

- 6 x 4 and 8 x 3 vectors reach the limit in L1; 14 x 2 too, but rows of A that lie a power of two apart
  share one cache set, and at 2048 cubed 14 of them do not fit (0.80 to 0.87). MR x NV accumulators, NV
  vectors of B and a broadcast must fit the registers: 7 x 4 of 32 spills (0.40).
- Every height from 1 to MR has a kernel: clamping a 14-row tile at the last rows capped 128 rows at 0.914.
- The epilogue is chosen by arguments after the k loop. One kernel for each would compile twice as long.
"""

from itertools import product
from typing import Any

from llvmlite import ir

from ...jit.target import registers
from ...llvm.builder import LINE, POINTER, VECTOR, VectorBuilder, cgutils, function, intrinsic, set_optsize, types

MR = 6
"""Rows of the largest tile."""

NV = 4 if registers() >= 32 else 2
"""Vectors in a row of the largest tile.  6 x 4 + 4 + 1 = 29 registers of 32;  6 x 2 + 2 + 1 = 15 of 16."""

WIDTHS = tuple(2**i for i in range(NV.bit_length()))
"""Vectors in a row of a tile: 1, 2, 4.  Only tiles of one vector are masked."""

SINGLE_ROW_VECTORS = 16 if VECTOR == 64 else 8
"""Vectors in a tile of a single row: B is read once, so long stretches of its rows are what counts. 1,512,512 takes
12 us, in tiles of 4 vectors 14 to 18. 16 sums fit where an FMA reads B from memory; ARM's needs registers for B too."""

PREFETCH_INTERVAL = 64
"""Iterations of k between which the micro-kernel asks for memory that will be wanted next."""


# ------------------------------------------------------------------------------------------- the tile


def _tile(module: ir.Module, dtype: Any, rows: int, vectors: int) -> ir.Function:
    """Give the LLVM function that computes tiles of ``rows`` x ``vectors``; generated once a module."""
    intp = ir.IntType(types.intp.bitwidth)
    scalar = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
    tile, builder = function(module, f"fastnet.tile.{dtype}.{rows}x{vectors}x{VECTOR}", [intp] * 17 + [scalar])
    if builder is None:
        return tile
    columns, k, tiles, a, a_row, a_step, a_next, b, b_step, *outputs, scale = tile.args
    code = VectorBuilder(builder, dtype)
    mask = code.first_lanes(columns) if vectors == 1 else None
    places = dict(zip(("c", "start", "relu", "gate"), zip(outputs[::2], outputs[1::2], strict=True), strict=True))
    # From a tile to the one below it; address 0, which means nothing, stays 0.
    steps = [
        builder.select(builder.icmp_signed("==", at, intp(0)), intp(0), builder.mul(row, intp(rows)))
        for at, row in places.values()
    ]
    before, loop, after = builder.block, builder.append_basic_block("tile"), builder.append_basic_block("done")
    builder.branch(loop)

    builder.position_at_end(loop)
    phis = [code.phi((x, before)) for x in (tiles, a, *(at for at, _ in places.values()))]
    left, a, *now = phis
    here = {name: (at, row) for at, (name, (_, row)) in zip(now, places.items(), strict=True)}
    sums = _sums_over_k(code, rows, vectors, mask, k, (a, a_row, a_step, a_next), (b, b_step), here["c"])
    store_epilogue(code, sums, vectors, mask, here, scale)
    fewer = builder.sub(left, intp(1))
    moved = [builder.add(at, step) for at, step in zip(now, steps, strict=True)]
    for phi, value in zip(phis, (fewer, builder.add(a, a_next), *moved), strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), loop, after)

    builder.position_at_end(after)
    builder.ret_void()
    return tile


def _sums_over_k(
    code: VectorBuilder,
    rows: int,
    vectors: int,
    mask: ir.Value | None,
    k: ir.Value,
    a: tuple[ir.Value, ...],
    b: tuple[ir.Value, ...],
    c: tuple[ir.Value, ...],
) -> list[ir.Value]:
    """Emit the loop; gives rows x vectors sums, row by row.  No iteration where k is 0.

    In stretches of STRETCH iterations, between which it asks for what will be wanted next: another row of C, and of
    the tile below the part of A that is as far on as the last stretch; so where A's rows are contiguous. Where they are
    not, packed slivers for one, it asks for some lines of that part, which the CPU foresees by itself (no difference).
    """
    builder, intp = code.builder, k.type
    (a, a_row, a_step, a_next), (b, b_step) = a, b
    offsets = [builder.mul(intp(i), a_row) for i in range(rows)]
    a0, b0 = builder.inttoptr(a, POINTER), builder.inttoptr(b, POINTER)
    before = builder.block
    interval, loop, stretched, ask, after = (
        builder.append_basic_block(name) for name in ("stretch", "k", "stretched", "ask", "sums")
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
    b_vectors = [code.load(p, mask) for p in code.vectors_at(b_k, vectors)]
    new = []
    for i in range(rows):
        a_ik = code.splat(builder.load(code.at(a_k, offsets[i]), typ=code.scalar, align=code.bytes))
        new += [code.fma(a_ik, b_vectors[q], sums[i * vectors + q]) for q in range(vectors)]
    fewer = builder.sub(left, intp(1))
    advanced = (fewer, code.at(a_k, a_step), code.at(b_k, b_step))
    for phi, value in zip((left, a_k, b_k, *sums), (*advanced, *new), strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed(">", fewer, rest), loop, stretched)

    builder.position_at_end(stretched)
    builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), ask, after)

    builder.position_at_end(ask)
    for place in code.vectors_at(builder.inttoptr(starts[3], POINTER), vectors):
        code.prefetch(place)
    below = code.at(starts[1], a_next)
    for offset in offsets:
        for line in range(0, PREFETCH_INTERVAL * code.bytes, LINE):
            code.prefetch(code.at(below, builder.add(offset, intp(line))))
    for phi, value in zip(starts, (*advanced, builder.add(starts[3], c[1]), *new), strict=True):
        phi.add_incoming(value, ask)
    builder.branch(interval)

    builder.position_at_end(after)
    return [code.phi((code.zero, before), (x, stretched)) for x in new]


def store_epilogue(
    code: VectorBuilder,
    sums: list[ir.Value],
    vectors: int,
    mask: ir.Value | None,
    places: dict[str, tuple[ir.Value, ir.Value]],
    scale: ir.Value,
    numbers: list[ir.Value] | None = None,
) -> None:
    """Emit the epilogue, as `microkernel` describes it.

    Places are an address and the bytes from row to row; numbers those of the rows, where they are not 0, 1, 2, ...
    """
    builder = code.builder
    intp = places["c"][0].type
    numbers = numbers or [intp(i) for i in range(len(sums) // vectors)]

    def tile(name: str) -> list[ir.Value]:
        base, row = places[name]
        rows = [code.at(builder.inttoptr(base, POINTER), builder.mul(number, row)) for number in numbers]
        return [p for row_pointer in rows for p in code.vectors_at(row_pointer, vectors)]

    before = builder.block
    with code.unless_zero(places["start"][0]):
        factor = code.splat(scale)
        added = [code.fma(factor, x, code.load(p, mask)) for p, x in zip(tile("start"), sums, strict=True)]
        inside = builder.block
    results = [code.phi((x, before), (y, inside)) for x, y in zip(sums, added, strict=True)]
    before = builder.block
    with code.unless_zero(places["gate"][0]):
        gated = [code.where_positive(code.load(p, mask), x) for p, x in zip(tile("gate"), results, strict=True)]
        inside = builder.block
    results = [code.phi((x, before), (y, inside)) for x, y in zip(results, gated, strict=True)]
    with code.unless_zero(places["c"][0]):
        for p, x in zip(tile("c"), results, strict=True):
            code.store(x, p, mask)
    with code.unless_zero(places["relu"][0]):
        for p, x in zip(tile("relu"), results, strict=True):
            code.store(code.relu(x), p, mask)


@intrinsic
def microkernel(
    typing_context: Any,
    dtype: Any,
    rows: Any,
    columns: Any,
    k: Any,
    tiles: Any,
    a: Any,
    b: Any,
    c: Any,
    start: Any,
    relu: Any,
    relu_mask: Any,
    scale: Any,
) -> Any:
    """Tiles of C = start + scale A B, one below the other; of its ReLU, or of it behind a gate.

    Parameters
    ----------
    dtype : dtype
        Of all arrays: float32 or float64.
    rows, columns, k, tiles : intp
        A tile's height, 1 to MR; its width, one of WIDTHS in vectors, or less than one vector; how many products
        are summed (0 gives zeros); how many tiles of that height, at least 1.
    a : (intp, intp, intp, intp)
        Address of A[0, 0]; bytes from a row of A to the next, from a k to the next, and from a tile to the next.
    b, c : (intp, intp)
        Address of B[0, 0] and of C[0, 0]; bytes from a row to the next.  C's may be 0: it is not stored.
    start : (intp, intp)
        The same of what is added to the sums: C itself; a bias, with 0 bytes from row to row; address 0 for nothing.
    relu : (intp, intp)
        The same of an array that receives max(0, C); address 0 for none.
    gate : (intp, intp)
        The same of an array where whose elements are not above 0, C becomes 0; address 0 for none.
    scale : float
        Of the arrays' dtype; multiplies the sums where something is added to them.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, rows, columns, k, tiles, *matrices, scale = arguments
        set_optsize(builder)
        intp = rows.type
        numbers = [columns, k, tiles, *(x for matrix in matrices for x in cgutils.unpack_tuple(builder, matrix)), scale]
        lanes = VECTOR * 8 // dtype.dtype.bitwidth
        vectors = builder.sdiv(builder.add(columns, intp(lanes - 1)), intp(lanes))
        done, impossible = builder.append_basic_block("tile_done"), builder.append_basic_block("no_such_tile")
        choice = builder.switch(builder.add(builder.mul(vectors, intp(MR + 1)), rows), impossible)
        for height, width in (*product(range(1, MR + 1), WIDTHS), (1, SINGLE_ROW_VECTORS)):
            block = builder.append_basic_block(f"tile_{height}x{width}")
            choice.add_case(intp(width * (MR + 1) + height), block)
            builder.position_at_end(block)
            builder.call(_tile(builder.module, dtype.dtype, height, width), numbers)
            builder.branch(done)
        builder.position_at_end(impossible)  # the macro-kernel cuts tiles that there are
        builder.unreachable()
        builder.position_at_end(done)
        return context.get_dummy_value()

    pair, quad = types.UniTuple(types.intp, 2), types.UniTuple(types.intp, 4)
    return types.void(dtype, *[types.intp] * 4, quad, *[pair] * 5, dtype.dtype), codegen


@intrinsic
def sum_rows(
    typing_context: Any, dtype: Any, target: Any, source: Any, source_row: Any, rows: Any, columns: Any, fresh: Any
) -> Any:
    """Target = the sum of rows, or that added to it unless ``fresh``, in order; of the first NV or of one vector.

    NV vectors where there are so many columns, else one, masked. The sums stay in registers: a loop that adds row after
    row to memory waits for its own stores: a step of 64-128-128-10 took 92 us with it, 86 without.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, target, source, source_row, rows, columns, fresh = arguments
        code = VectorBuilder(builder, dtype.dtype)
        intp = rows.type
        to, start = builder.inttoptr(target, POINTER), builder.inttoptr(source, POINTER)

        def emit(vectors: int, mask: ir.Value | None) -> None:
            places = code.vectors_at(to, vectors)
            before = builder.block
            with builder.if_then(builder.icmp_signed("==", fresh, fresh.type(0))):
                kept = [code.load(p, mask) for p in places]
                inside = builder.block
            first = [code.phi((code.zero, before), (x, inside)) for x in kept]
            entry = builder.block
            loop, after = builder.append_basic_block("row"), builder.append_basic_block("summed")
            builder.cbranch(builder.icmp_signed(">", rows, intp(0)), loop, after)
            builder.position_at_end(loop)
            left, at = code.phi((rows, entry)), code.phi((start, entry))
            sums = [code.phi((x, entry)) for x in first]
            new = [builder.fadd(x, code.load(p, mask)) for x, p in zip(sums, code.vectors_at(at, vectors), strict=True)]
            fewer = builder.sub(left, intp(1))
            for phi, value in zip((left, at, *sums), (fewer, code.at(at, source_row), *new), strict=True):
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), loop, after)
            builder.position_at_end(after)
            results = [code.phi((x, entry), (y, loop)) for x, y in zip(first, new, strict=True)]
            for p, x in zip(places, results, strict=True):
                code.store(x, p, mask)

        with builder.if_else(builder.icmp_signed(">=", columns, intp(NV * code.lanes))) as (wide, narrow):
            with wide:
                emit(NV, None)
            with narrow:
                emit(1, code.first_lanes(columns))
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * 6), codegen
