"""The operands of the product, as NamedTuples, which Numba passes in registers.

Addresses and strides are integers in bytes, of NumPy's intp, so that one compiled kernel serves every layout of array.
The caller owns the memory and keeps the arrays alive. Nothing has to be aligned beyond its elements.
"""

from typing import Any, NamedTuple, TypeAlias

from numba import types

Integer: TypeAlias = Any
"""An intp in compiled code, an int in Python; where LLVM code is emitted, the value that holds it."""


class Shape(NamedTuple):
    """C is m x n; k products are summed for each element."""

    m: Integer
    n: Integer
    k: Integer


class Matrix(NamedTuple):
    """A factor of any strides.

    ``panel_stride`` is the distance from one micro-panel to the next: of NR columns of B, or of a packed A's tiles.
    """

    address: Integer
    row_stride: Integer
    column_stride: Integer
    panel_stride: Integer


class Rows(NamedTuple):
    """A matrix of contiguous rows that is written or added: C, a bias (row stride 0), a mask. Address 0: absent."""

    address: Integer
    row_stride: Integer


NO_ROWS = Rows(0, 0)
"""An absent operand."""


class Epilogue(NamedTuple):
    """What happens to a tile of sums before it is stored.

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
    """Tiles of C, one below the other: rows and columns of each, the products summed, and how many tiles."""

    rows: Integer
    columns: Integer
    k: Integer
    tiles: Integer


class MicroPanels(NamedTuple):
    """The micro-panels of A that tiles read: strides between rows, between k, and from a tile to the next."""

    address: Integer
    row_stride: Integer
    k_stride: Integer
    tile_stride: Integer


def tile_type() -> Any:
    """Numba's type of `Tile`."""
    return types.NamedUniTuple(types.intp, 4, Tile)


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
