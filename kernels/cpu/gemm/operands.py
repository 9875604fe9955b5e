"""Operands of matrix products as NamedTuples, which Numba passes in registers.

Addresses and strides are intp, strides in bytes, so that one compiled kernel serves arrays of every layout. The caller
owns the memory and keeps the arrays alive. Only the elements have to be aligned.
"""

from typing import Any, NamedTuple, TypeAlias

from numba import types

Integer: TypeAlias = Any
"""An intp in compiled code, an int in Python, an LLVM value in functions that emit code."""


class Shape(NamedTuple):
    """C is m x n; each element sums k products."""

    m: Integer
    n: Integer
    k: Integer


class Matrix(NamedTuple):
    """A factor with any strides.

    ``panel_stride`` is the distance between micro-panels: of NR columns of B, or of the rows of a packed A's tile.
    """

    address: Integer
    row_stride: Integer
    column_stride: Integer
    panel_stride: Integer


class Rows(NamedTuple):
    """A matrix with contiguous rows, written or added: C, a bias (row stride 0), a mask. Address 0 means absent."""

    address: Integer
    row_stride: Integer


NO_ROWS = Rows(0, 0)
"""An absent operand."""


class Epilogue(NamedTuple):
    """Operations on a tile of sums before it is stored.

    C = addend + alpha * sums; then ``relu`` receives max(0, C), and C becomes 0 where ``mask`` is not above 0.
    """

    addend: Rows
    relu: Rows
    mask: Rows
    alpha: Any


class Product(NamedTuple):
    """A product with bias and ReLU: C = A B + bias; relu receives max(0, C).

    ``bias`` is the address of n contiguous values, or 0.
    """

    shape: Shape
    a: Matrix
    b: Matrix
    c: Rows
    bias: Integer
    relu: Rows


class Workspace(NamedTuple):
    """Memory for packing: address and size in bytes."""

    address: Integer
    nbytes: Integer


class Tile(NamedTuple):
    """A column of tiles of C: rows and columns of each, length k of the sums, and number of tiles.

    ``b_next`` is the address of the part of B that the tiles prefetch, ``b_step`` bytes at a time: 0 for none.
    """

    rows: Integer
    columns: Integer
    k: Integer
    tiles: Integer
    b_next: Integer
    b_step: Integer


class MicroPanels(NamedTuple):
    """The micro-panels of A that tiles read: strides from row to row, from k to k, and from tile to tile."""

    address: Integer
    row_stride: Integer
    k_stride: Integer
    tile_stride: Integer


def tile_type() -> Any:
    """Numba's type of `Tile`."""
    return types.NamedUniTuple(types.intp, 6, Tile)


def micro_panels_type() -> Any:
    """Numba's type of `MicroPanels`."""
    return types.NamedUniTuple(types.intp, 4, MicroPanels)


def shape_type() -> Any:
    """Numba's type of `Shape`."""
    return types.NamedUniTuple(types.intp, 3, Shape)


def matrix_type() -> Any:
    """Numba's type of `Matrix`."""
    return types.NamedUniTuple(types.intp, 4, Matrix)


def rows_type() -> Any:
    """Numba's type of `Rows`."""
    return types.NamedUniTuple(types.intp, 2, Rows)


def epilogue_type(real: Any) -> Any:
    """Numba's type of `Epilogue` for a float type."""
    return types.NamedTuple((*[rows_type()] * 3, real), Epilogue)


def workspace_type() -> Any:
    """Numba's type of `Workspace`."""
    return types.NamedUniTuple(types.intp, 2, Workspace)
