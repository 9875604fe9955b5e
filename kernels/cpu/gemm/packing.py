"""packing."""

from typing import Any

from ...jit.decorator import jit
from ...llvm.builder import VECTOR
from ...llvm.memory import copy_element, copy_vector, item_bytes, prefetch
from .microkernel import NV
from .transpose import transpose_panel

PREFETCH_ROWS = 8
"""Rows that packing prefetches ahead."""

MICRO_PANELS = 8
"""Slivers of A.T that are packed side by side: 48 elements, 3 cache lines of a row in float32."""

# --------------------------------------------------------------------------------------------- packing


@jit(internal=True)
def pack_b(dtype: Any, kb: int, nb: int, b: Any, target: int) -> None:
    """Copy a block of B, kb x nb, into panels of NR columns, rows of a panel one behind the other.

    The last panel is filled up to whole vectors, unless neither rows nor columns are contiguous. B.T is turned in
    squares; a panel has room for whole ones, so that what they write beyond the last k harms nothing.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    start, b_row, b_column = b
    panel = -(-kb // lanes) * lanes * nr * item
    if b_column == item:
        for k in range(kb):
            for j in range(0, nb, lanes):
                to = target + j // nr * panel + (k * nr + j % nr) * item
                prefetch(start + (k + PREFETCH_ROWS) * b_row + j * item)
                copy_vector(dtype, to, start + k * b_row + j * item, nb - j)
    elif b_row == item:
        for j in range(0, nb, lanes):
            to = target + j // nr * panel + j % nr * item
            transpose_panel(dtype, to, nr * item, start + j * b_column, b_column, min(lanes, nb - j), kb)
    else:  # neither rows nor columns are contiguous
        for k in range(kb):
            for j in range(nb):
                to = target + j // nr * panel + (k * nr + j % nr) * item
                copy_element(dtype, to, start + k * b_row + j * b_column)


@jit(internal=True)
def pack_a(dtype: Any, rows: int, tiles: int, kb: int, a_panel_bytes: int, beyond: int, a: Any, target: int) -> None:
    """Copy a block of A.T, whose columns are contiguous, into slivers: for each k, the rows of one tile.

    ``beyond`` counts the rows that may be read. A vector is copied where a tile's rows are wanted; the next one
    overwrites the rest.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    short, taller = rows // tiles, rows % tiles
    start, _, a_column = a
    for first in range(0, tiles, MICRO_PANELS):
        for k in range(kb):
            for t in range(first, min(first + MICRO_PANELS, tiles)):
                i = t * short + min(t, taller)
                height = short + (t < taller)
                source = start + i * item + k * a_column
                prefetch(source + PREFETCH_ROWS * a_column)
                for q in range(0, height, lanes):  # once, where a vector has MR lanes
                    to = target + t * a_panel_bytes + (k * height + q) * item
                    copy_vector(dtype, to, source + q * item, beyond - i - q)
