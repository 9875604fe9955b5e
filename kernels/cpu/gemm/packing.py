"""Packing: copies blocks of A and B into the order in which the micro-kernel reads them."""

from typing import Any

from llvmlite import ir

from ...jit.decorator import jit
from ...llvm.builder import LINE, VECTOR, WAY, VectorBuilder, emits, types
from ...llvm.memory import copy_element, copy_vector, item_bytes
from .microkernel import MR, NV
from .operands import Matrix, Rows, rows_type
from .transpose import MAX_ROWS, PACKED_VECTORS, transpose_panel

ROWS_AT_ONCE = 8
"""Rows of the source that are copied together: their columns are contiguous in the micro-panel, and the CPU's
prefetcher follows this many streams."""


def _emit_copy(builder: ir.IRBuilder, dtype: Any, width: int, target: Rows, source: Rows, count: ir.Value) -> None:
    """Copy ``count`` rows of at least ``width`` elements as whole vectors, one after the other.

    Elements beyond the width may be written into the next row of the target, which then overwrites them.
    """
    code, intp = VectorBuilder(builder, dtype), count.type
    vectors = -(-width // code.lanes)

    def copy(rows: list[ir.Value]) -> list[ir.Value]:
        to, at = rows
        places = code.vectors_at(at, vectors)
        if vectors * VECTOR > LINE:  # blocks have few rows, which are far apart: the CPU detects no stream
            for place in places:
                code.prefetch(code.at(place, builder.mul(source.row_stride, intp(ROWS_AT_ONCE))))
        for p, place in zip(code.vectors_at(to, vectors), places, strict=True):
            code.store(code.load(place), p)
        return [code.at(to, target.row_stride), code.at(at, source.row_stride)]

    def copy_left(carried: list[ir.Value]) -> list[ir.Value]:
        return [builder.sub(carried[0], intp(1)), *copy(carried[1:])]

    rows = [code.pointer(target.address), code.pointer(source.address)]
    with builder.if_else(builder.icmp_signed("==", count, intp(ROWS_AT_ONCE))) as (all_rows, fewer):
        with all_rows:
            following = rows
            for _ in range(ROWS_AT_ONCE):
                following = copy(following)
        with fewer:
            code.loop([count, *rows], lambda now: builder.icmp_signed(">", now[0], intp(0)), copy_left)


@emits(lambda dtype, *_: (dtype, rows_type(), rows_type(), types.intp))
def copy_panel_rows(builder: ir.IRBuilder, dtype: Any, target: Rows, source: Rows, count: ir.Value) -> None:
    """Copy NR columns of ``count`` rows (at most ROWS_AT_ONCE) to a micro-panel of B."""
    _emit_copy(builder, dtype, NV * (VECTOR // (dtype.bitwidth // 8)), target, source, count)


@emits(lambda dtype, *_: (dtype, rows_type(), rows_type(), types.intp))
def copy_tile_rows(builder: ir.IRBuilder, dtype: Any, target: Rows, source: Rows, count: ir.Value) -> None:
    """Copy MR columns of ``count`` rows (at most ROWS_AT_ONCE) to a micro-panel of A, in whole vectors."""
    _emit_copy(builder, dtype, MR, target, source, count)


@jit(internal=True)
def pack_b(dtype: Any, kb: int, nb: int, b: Matrix, target: int, panel: int) -> None:
    """Copy a block of B, kb x nb, into micro-panels of NR columns, in which one row follows the other.

    The last panel is padded to whole vectors, unless neither rows nor columns of B are contiguous. A B.T is transposed
    several rows at a time; the number of rows of a panel is padded to a multiple of a vector's length, so that zeros
    after the last k do no harm. ``panel`` is the distance in bytes between panels.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    if b.column_stride == item:
        whole = nb // nr * nr
        for k in range(0, kb, ROWS_AT_ONCE):
            rows, source = min(ROWS_AT_ONCE, kb - k), b.address + k * b.row_stride
            to = target + k * nr * item
            for j in range(0, whole, nr):
                copy_panel_rows(dtype, Rows(to, nr * item), Rows(source + j * item, b.row_stride), rows)
                to += panel
            for j in range(whole, nb, lanes):
                for i in range(rows):
                    at = to + (i * nr + j - whole) * item
                    copy_vector(dtype, at, source + i * b.row_stride + j * item, nb - j)
    elif b.row_stride == item:
        j = 0
        while j < nb:
            to = target + j // nr * panel + j % nr * item
            source = b.address + j * b.column_stride
            columns = min(lanes, nb - j)
            if nb - j >= PACKED_VECTORS * lanes and b.column_stride % WAY != 0:
                columns = PACKED_VECTORS * lanes
            transpose_panel(dtype, to, nr * item, source, b.column_stride, columns, kb)
            j += columns
    else:  # neither rows nor columns are contiguous
        for k in range(kb):
            for j in range(nb):
                to = target + j // nr * panel + (k * nr + j % nr) * item
                copy_element(dtype, to, b.address + k * b.row_stride + j * b.column_stride)


@jit(internal=True)
def pack_a(dtype: Any, rows: int, tiles: int, kb: int, readable_rows: int, a: Matrix, target: int) -> None:
    """Copy a block of A into micro-panels, which hold, for each k, one element of each row of a tile.

    ``a.panel_stride`` is the distance between micro-panels, with space for whole vectors after the last k. Whole
    vectors are copied even if a tile has fewer rows; the next vector overwrites the excess. ``readable_rows`` is the
    number of rows that may be read.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    height, taller = rows // tiles, rows % tiles  # `taller` tiles have one row more
    if a.row_stride == item:
        vectors = -(-MR // lanes)
        for k in range(0, kb, ROWS_AT_ONCE):
            count, i = min(ROWS_AT_ONCE, kb - k), 0
            for t in range(tiles):
                tile_rows = height + (t < taller)
                source, to = a.address + i * item + k * a.column_stride, target + t * a.panel_stride
                to += k * tile_rows * item
                if i + vectors * lanes <= readable_rows:
                    copy_tile_rows(dtype, Rows(to, tile_rows * item), Rows(source, a.column_stride), count)
                else:
                    for p in range(count):
                        for q in range(0, tile_rows, lanes):
                            at, element = to + (p * tile_rows + q) * item, source + p * a.column_stride + q * item
                            copy_vector(dtype, at, element, readable_rows - i - q)
                i += tile_rows
        return
    for t in range(tiles):
        i = t * height + min(t, taller)
        tile_rows = height + (t < taller)
        source, to = a.address + i * a.row_stride, target + t * a.panel_stride
        if a.column_stride == item:
            # Begin with the last vector of rows: its excess elements are then overwritten by the first ones.
            for q in range((tile_rows - 1) // lanes * lanes, -1, -lanes):
                columns = min(lanes, tile_rows - q)
                transpose_panel(
                    dtype, to + q * item, tile_rows * item, source + q * a.row_stride, a.row_stride, columns, kb
                )
        else:
            for k in range(kb):
                for q in range(tile_rows):
                    element = source + q * a.row_stride + k * a.column_stride
                    copy_element(dtype, to + (k * tile_rows + q) * item, element)


@jit(internal=True)
def pack_a_rows(dtype: Any, rows: int, kb: int, a: Matrix, target: int) -> None:
    """Copy up to MAX_ROWS contiguous rows of A into the micro-panel that `gemm_bt_microkernel` reads.

    It has MAX_ROWS elements for each k; missing ones in a vector of rows repeat the last row.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    for q in range(0, rows, lanes):
        source, columns = a.address + q * a.row_stride, min(lanes, rows - q)
        transpose_panel(dtype, target + q * item, MAX_ROWS * item, source, a.row_stride, columns, kb)
