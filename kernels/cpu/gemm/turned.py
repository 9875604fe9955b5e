"""Few rows times a large B.T, such as X W^T, computed as C.T = B.T A.T: the same products, in the same order.

This transposes the small A and C instead of the large B, which is read once, in place. `gemm` computes parts of the
rows of C in this way, chosen by `next_rows`, with the same loops. Figures: docs/performance-notes/gemm.md.
"""

from typing import Any, NamedTuple

import numpy as np

from ...jit.decorator import jit
from ...llvm.builder import VECTOR, WAY
from ...llvm.memory import copy_element, item_bytes
from .blocking import WIDE
from .microkernel import NV
from .operands import Epilogue, Matrix, Shape
from .transpose import READ_BYTES, transpose_panel

TURNED_BYTES = 64 << 10
"""For a B.T of at least this many bytes, few rows of C are computed as columns of C.T, so that B is not transposed."""

TURNED_ROWS = 96
"""Most rows of A for which this pays: with more rows, packing B costs relatively little."""

TURNED_VECTORS = 4
"""Most vectors of rows that are computed in this way at a time."""


@jit(scalar=True)
def turns_product(item: int, shape: Shape, a: Matrix, b: Matrix, epilogue: Epilogue) -> bool:
    """Whether rows of C may be computed as columns of C.T = B.T A.T, with the same products in the same order.

    If A is small and B a large B.T, A and C are then transposed instead of B.
    """
    transposes = b.row_stride == item and b.panel_stride == NV * VECTOR // item * b.column_stride
    fits = a.column_stride == item and epilogue.mask.address == 0 and epilogue.addend.row_stride == 0
    return transposes and fits and shape.m <= TURNED_ROWS and shape.n * shape.k * item >= TURNED_BYTES


@jit(scalar=True)
def next_rows(item: int, rows: int, column_stride: int) -> Any:
    """Return how many of the remaining rows to compute next, and whether as columns of C.T, in whole vectors."""
    lanes = VECTOR // item
    whole = -(-rows // lanes) * lanes
    spare = whole - rows
    if WIDE:
        # Rows that do not fill a vector are left to tiles of 4, 8 and 12 rows (4 and 8 if columns are a page apart),
        # which transpose B as they multiply. If there are at most 12 rows, these tiles compute all of them.
        tile = 4 if item == 4 and column_stride % WAY != 0 else lanes // 2
        if spare >= tile:
            whole -= lanes
        turns = spare < tile or rows > 12
    else:
        turns = spare * (16 if whole > NV * lanes else lanes // 4 + 2) <= rows
    return (min(rows, whole, TURNED_VECTORS * lanes), True) if turns and whole > 0 else (rows, False)


class Turned(NamedTuple):
    """The layout of A.T and C.T for a product computed as C.T = B.T A.T; both have whole vectors of columns.

    Attributes
    ----------
    columns : int
        Columns of C.T; 0 if the product is not turned.
    a, a_row, a_panel : int
        Address of A.T, in micro-panels; bytes from row to row, and from panel to panel.
    c, relu : int
        Addresses of C.T and of ReLU's transpose, which are the same if only one of them is stored.
    nbytes : int
        Total size in bytes.
    """

    columns: int
    a: int
    a_row: int
    a_panel: int
    c: int
    relu: int
    nbytes: int


@jit(scalar=True)
def turned_product(item: int, turns: bool, shape: Any, both: bool) -> Any:
    """Return the `Turned` of a product, with offsets as addresses; ``both``: C and its ReLU are both stored."""
    lanes = VECTOR // item
    columns = -(-shape.m // lanes) * lanes * turns
    panel_columns = min(columns, NV * lanes)
    a_panel = -(-shape.k // lanes) * lanes * panel_columns * item
    c_bytes = -(-shape.n // lanes) * lanes * columns * item
    relu, a = both * c_bytes, (1 + both) * c_bytes
    panels = -(-columns // panel_columns) if turns else 0
    return Turned(columns, a, panel_columns * item, a_panel, 0, relu, a + panels * a_panel)


@jit(internal=True)
def turn(dtype: Any, turned: Any, start: int, shape: Any, a: Any, bias: int) -> None:
    """Fill A.T and, if there is a bias, C.T: each of its rows repeats one element of the bias."""
    item = item_bytes(dtype)
    lanes = VECTOR // item
    for i in range(0, shape.m, lanes):
        target = start + turned.a + i * item // turned.a_row * turned.a_panel + i * item % turned.a_row
        source = a.address + i * a.row_stride
        transpose_panel(dtype, target, turned.a_row, source, a.row_stride, min(lanes, shape.m - i), shape.k)
    if bias != 0:
        for j in range(0, turned.columns, lanes):
            transpose_panel(dtype, start + turned.c + j * item, turned.columns * item, bias, np.intp(0), lanes, shape.n)


@jit(internal=True)
def turn_back(dtype: Any, target: Any, source: int, shape: Any) -> None:
    """Copy the first m rows of the transpose of ``source``, a contiguous matrix (n, k), to ``target``."""
    m, n, k = shape
    item = item_bytes(dtype)
    lanes, step = VECTOR // item, READ_BYTES // item
    in_steps = m // step * step  # `transpose_panel` writes ``step`` rows at a time
    for i in range(0, n, lanes):
        panel = source + i * k * item
        whole = in_steps if i + lanes <= n else 0
        if whole > 0:
            transpose_panel(dtype, target.address + i * item, target.row_stride, panel, k * item, lanes, whole)
        for j in range(whole, m):
            for q in range(min(lanes, n - i)):
                copy_element(dtype, target.address + j * target.row_stride + (i + q) * item, panel + (q * k + j) * item)
