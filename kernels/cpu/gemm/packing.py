"""Packing: blocks of A and B are copied into the order in which the micro-kernel reads them."""

from typing import Any

from ...jit.decorator import jit
from ...llvm.builder import VECTOR
from ...llvm.memory import copy_element, copy_vector, item_bytes, prefetch
from .microkernel import NV
from .operands import Matrix
from .transpose import transpose_panel

PREFETCH_ROWS = 8
"""Rows that packing prefetches ahead (docs/performance-notes/gemm.md)."""

PANELS_AT_ONCE = 8
"""Micro-panels of A.T that are packed side by side: 48 elements, 3 cache lines of a row in float32."""


@jit(internal=True)
def pack_b(dtype: Any, kb: int, nb: int, b: Matrix, target: int) -> None:
    """Copy a block of B, kb x nb, into micro-panels of NR columns, the rows of a panel one after the other.

    The last panel is filled up to whole vectors, unless neither rows nor columns are contiguous. B.T is transposed in
    squares; a panel has space for whole ones, so that what they write beyond the last k does no harm.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    panel = -(-kb // lanes) * lanes * nr * item
    if b.column_stride == item:
        for k in range(kb):
            for j in range(0, nb, lanes):
                to = target + j // nr * panel + (k * nr + j % nr) * item
                prefetch(b.address + (k + PREFETCH_ROWS) * b.row_stride + j * item)
                copy_vector(dtype, to, b.address + k * b.row_stride + j * item, nb - j)
    elif b.row_stride == item:
        for j in range(0, nb, lanes):
            to = target + j // nr * panel + j % nr * item
            source = b.address + j * b.column_stride
            transpose_panel(dtype, to, nr * item, source, b.column_stride, min(lanes, nb - j), kb)
    else:  # neither rows nor columns are contiguous
        for k in range(kb):
            for j in range(nb):
                to = target + j // nr * panel + (k * nr + j % nr) * item
                copy_element(dtype, to, b.address + k * b.row_stride + j * b.column_stride)


@jit(internal=True)
def pack_a(dtype: Any, rows: int, tiles: int, kb: int, readable_rows: int, a: Matrix, target: int) -> None:
    """Copy a block of A.T, whose columns are contiguous, into micro-panels: for each k, the rows of one tile.

    ``a.panel_stride`` is the distance from a micro-panel to the next. A vector is copied where a tile's rows are
    needed; the next one overwrites the rest. ``readable_rows`` counts the rows that may be read.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    height, taller = rows // tiles, rows % tiles  # `taller` tiles have one row more
    for first in range(0, tiles, PANELS_AT_ONCE):
        for k in range(kb):
            for t in range(first, min(first + PANELS_AT_ONCE, tiles)):
                i = t * height + min(t, taller)
                tile_rows = height + (t < taller)
                source = a.address + i * item + k * a.column_stride
                prefetch(source + PREFETCH_ROWS * a.column_stride)
                for q in range(0, tile_rows, lanes):  # once, where a vector has MR lanes
                    to = target + t * a.panel_stride + (k * tile_rows + q) * item
                    copy_vector(dtype, to, source + q * item, readable_rows - i - q)
