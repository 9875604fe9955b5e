"""B.T: a matrix whose columns are contiguous, transposed in registers, a square of lanes x lanes elements at a time.

The micro-kernel needs rows of B. Where columns lie in memory instead, as those of W^T do in X W^T, `transpose_panel`
transposes them once, into a micro-panel, if there are many rows of A; for the few rows of one tile
`gemm_bt_microkernel` multiplies what it has just transposed, without storing it: the same products, in the same order.

A square is read in parts of 16 bytes, one from each column, that are joined into a vector; then the 16-byte blocks are
transposed, all those of a vector at once, in steps that exchange neighbouring lanes. Reading whole vectors instead takes
two steps more, and the shuffles are what takes the time (docs/performance-notes.md).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ...llvm.builder import POINTER, VectorBuilder, cgutils, function, intrinsic, types
from .microkernel import named_operands, store_epilogue, tile_operands
from .operands import epilogue_type, rows_type, tile_type

_PIECE = 16
"""Bytes that are read of a column at a time."""

MAX_ROWS = 4
"""Rows that a turned tile has at most. 6 take 38 us, packed first 43. There are two kernels, for a single row and for
this many, whose missing rows are the last one once more: a third, for two, saves 4 us of 26, and compiles 0.1 s."""

_INT32 = ir.IntType(32)


def _square(code: VectorBuilder, columns: list[ir.Value], count: ir.Value | None = None) -> list[ir.Value]:
    """Read a square from pointers to its columns, as vectors of rows; of ``count`` rows, with zeros below them."""
    lanes = code.lanes
    height = _PIECE // code.bytes
    pieces = lanes // height
    part = VectorBuilder(code.builder, code.dtype, height)

    def read(column: ir.Value, first: int) -> ir.Value:
        place = code.at(column, _INT32(first * code.bytes))
        mask = None if count is None else part.first_lanes(code.builder.sub(count, count.type(first)))
        return part.load(place, mask)

    rows = []
    for first in range(0, lanes, height):
        for c in range(height):
            side = [read(columns[c + s * height], first) for s in range(pieces)]
            while len(side) > 1:
                side = [_joined(code, x, y) for x, y in zip(side[::2], side[1::2], strict=True)]
            rows.append(side[0])
    # In step h, the 2 x 2 blocks of h x h elements swap their off-diagonal blocks; h = 1, 2, ...
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
    """One vector of the lanes of two."""
    places = [_INT32(i) for i in range(2 * x.type.count)]
    return code.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_INT32, len(places)), places))


def _numbers(builder: ir.IRBuilder, given: ir.Value, count: int) -> list[ir.Value]:
    """0, 1, 2, ..., so many; from as many as are given on, the last of these."""
    final, intp = builder.sub(given, given.type(1)), given.type
    return [builder.select(builder.icmp_signed("<", final, intp(i)), final, intp(i)) for i in range(count)]


def _pointers(code: VectorBuilder, source: ir.Value, step: ir.Value, columns: ir.Value) -> Callable[[ir.Value], Any]:
    """Give a function from a row to pointers to its elements in all columns; columns past the last are the last."""
    builder, intp = code.builder, columns.type
    start = builder.inttoptr(source, POINTER)
    offsets = [builder.mul(number, step) for number in _numbers(builder, columns, code.lanes)]

    def pointers(row: ir.Value) -> list[ir.Value]:
        here = code.at(start, builder.mul(row, intp(code.bytes)))
        return [code.at(here, offset) for offset in offsets]

    return pointers


def _over_squares(
    code: VectorBuilder,
    whole: ir.Value,
    carried: list[ir.Value],
    body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """Emit a loop over squares: body gives from a square's first row and the values carried to it those carried on."""
    builder, intp = code.builder, whole.type
    before = builder.block
    loop, after = builder.append_basic_block("square"), builder.append_basic_block("squares")
    builder.cbranch(builder.icmp_signed(">", whole, intp(0)), loop, after)

    builder.position_at_end(loop)
    row = code.phi((intp(0), before))
    phis = [code.phi((value, before)) for value in carried]
    new = body(row, phis)
    following = builder.add(row, intp(code.lanes))
    for phi, value in zip((row, *phis), (following, *new), strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, whole), loop, after)

    builder.position_at_end(after)
    return [code.phi((x, before), (y, loop)) for x, y in zip(carried, new, strict=True)]


def _whole(code: VectorBuilder, k: ir.Value) -> ir.Value:
    """How many of k rows are in whole squares."""
    return code.builder.and_(k, k.type(-code.lanes))


def _strip(module: ir.Module, dtype: Any) -> ir.Function:
    """Give the LLVM function of `transpose_panel`; generated once a module."""
    intp = ir.IntType(types.intp.bitwidth)
    strip, builder = function(module, f"fastnet.strip.{dtype}", [intp] * 6)
    if builder is None:
        return strip
    target, target_row, source, source_column, columns, k = strip.args
    code = VectorBuilder(builder, dtype)
    end = builder.inttoptr(target, POINTER)
    pointers = _pointers(code, source, source_column, columns)

    def copy(first: ir.Value, count: ir.Value | None = None) -> None:
        here = code.at(end, builder.mul(first, target_row))
        for i, row in enumerate(_square(code, pointers(first), count)):
            code.store(row, code.at(here, builder.mul(intp(i), target_row)))

    def copy_whole(first: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        copy(first)
        return carried

    whole = _whole(code, k)
    _over_squares(code, whole, [], copy_whole)
    rest = builder.sub(k, whole)
    with code.unless_zero(rest):
        copy(whole, rest)
    builder.ret_void()
    return strip


@intrinsic
def transpose_panel(
    typing_context: Any, dtype: Any, target: Any, target_row: Any, source: Any, source_column: Any, columns: Any, k: Any
) -> Any:
    """Copy k rows of up to a vector of contiguous columns to rows, a vector each.

    Squares are stored whole: up to lanes - 1 rows of zeros follow the last one. Columns that there are not are copies
    of the last one.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    target, target_row : intp
        Address of the first vector; bytes from one to the next.
    source, source_column : intp
        Address of the first element; bytes from column to column.
    columns, k : intp
        How many there are, each at least 1.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        builder.call(_strip(builder.module, dtype.dtype), arguments[1:])
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * 6), codegen


def _tile(module: ir.Module, dtype: Any, rows: int) -> ir.Function:
    """Give the LLVM function that computes a tile of up to ``rows`` x a vector; generated once a module."""
    intp = ir.IntType(types.intp.bitwidth)
    scalar = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
    tile, builder = function(module, f"fastnet.turned.{dtype}.{rows}", [intp] * 15 + [scalar])
    if builder is None:
        return tile
    given, columns, k, a, a_row, b, b_column, *outputs, alpha = tile.args
    code = VectorBuilder(builder, dtype)
    size = code.lanes * code.bytes
    kept = builder.alloca(code.vector, code.lanes)  # the last square, whose rows are counted
    kept.align = size
    a0 = builder.inttoptr(a, POINTER)
    numbers = _numbers(builder, given, rows)
    a_rows = [code.at(a0, builder.mul(number, a_row)) for number in numbers]
    pointers = _pointers(code, b, b_column, columns)

    def add(sums: list[ir.Value], row: ir.Value, number: ir.Value) -> list[ir.Value]:
        offset = builder.mul(number, intp(code.bytes))
        elements = [builder.load(code.at(a_i, offset), typ=code.scalar, align=code.bytes) for a_i in a_rows]
        return [code.fma(code.splat(x), row, total) for x, total in zip(elements, sums, strict=True)]

    def add_square(first: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        for i, row in enumerate(_square(code, pointers(first))):
            sums = add(sums, row, builder.add(first, intp(i)))
        return sums

    whole = _whole(code, k)
    sums = _over_squares(code, whole, [code.zero] * rows, add_square)
    rest = builder.sub(k, whole)
    before, loop, after = builder.block, builder.append_basic_block("row"), builder.append_basic_block("sums")
    turned = builder.append_basic_block("rest")
    builder.cbranch(builder.icmp_signed(">", rest, intp(0)), turned, after)

    builder.position_at_end(turned)
    source = builder.add(b, builder.mul(whole, intp(code.bytes)))
    target = builder.ptrtoint(kept, intp)
    builder.call(_strip(module, dtype), [target, intp(size), source, b_column, columns, rest])
    builder.branch(loop)

    builder.position_at_end(loop)
    i = code.phi((intp(0), turned))
    phis = [code.phi((x, turned)) for x in sums]
    new = add(phis, code.load(code.at(kept, builder.mul(i, intp(size)))), builder.add(whole, i))
    following = builder.add(i, intp(1))
    for phi, value in zip((i, *phis), (following, *new), strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, rest), loop, after)

    builder.position_at_end(after)
    sums = [code.phi((x, before), (y, loop)) for x, y in zip(sums, new, strict=True)]
    store_epilogue(code, sums, 1, code.first_lanes(columns), named_operands(outputs), alpha, numbers)
    builder.ret_void()
    return tile


@intrinsic
def gemm_bt_microkernel(typing_context: Any, dtype: Any, tile: Any, a: Any, b: Any, c: Any, epilogue: Any) -> Any:
    """Compute a tile of C of up to a vector of columns, where the columns of B are contiguous, transposing B in registers.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    tile : Tile
        rows from 1 to MAX_ROWS; columns from 1 to a vector's lanes; k products summed; one tile.
    a : Rows
        A; its rows are contiguous.
    b : Rows
        Address of B[0, 0], and the stride from a column to the next.
    c, epilogue
        As `microkernel` takes them.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, tile, a, b, c, epilogue = arguments
        rows, columns, k, _ = cgutils.unpack_tuple(builder, tile)
        factors = [*cgutils.unpack_tuple(builder, a), *cgutils.unpack_tuple(builder, b)]
        operands = [rows, columns, k, *factors, *tile_operands(builder, c, epilogue)]
        with builder.if_else(builder.icmp_signed("==", rows, rows.type(1))) as (single, several):
            for height, branch in ((1, single), (MAX_ROWS, several)):
                with branch:
                    builder.call(_tile(builder.module, dtype.dtype, height), operands)
        return context.get_dummy_value()

    rows = rows_type()
    return types.void(dtype, tile_type(), rows, rows, rows, epilogue_type(dtype.dtype)), codegen
