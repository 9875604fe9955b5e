"""Calls the micro-kernel on one tile, and the checks that its tests and its wrong variants share."""

from functools import cache
from itertools import product
from typing import Any

import numba
import numpy as np
from numba import types

from fastnet.kernels.cpu.gemm.microkernel import SINGLE_ROW_VECTORS, TILES, microkernel, sum_rows
from fastnet.kernels.cpu.gemm.operands import Epilogue, MicroPanels, Rows, Tile
from fastnet.kernels.llvm import builder as builder
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.llvm.memory import address_and_strides, array_at, copy_vector

DTYPES = [np.float32, np.float64]
GUARD = 3
"""Elements around each output that no kernel may touch."""


def lanes_of(dtype: Any) -> int:
    return VECTOR // np.dtype(dtype).itemsize


@cache
def kernels(dtype: Any) -> dict[str, Any]:
    """Compile each intrinsic in a function that can be called; once for all layouts."""

    def tile(
        A: Any, B: Any, C: Any, columns: Any, addend: Any, relu: Any, mask: Any, alpha: Any, store: Any, tiles: Any
    ) -> None:
        a, height = address_and_strides(A), A.shape[0] // tiles
        b, c, s, r, g = (
            address_and_strides(B),
            address_and_strides(C),
            address_and_strides(addend),
            address_and_strides(relu),
            address_and_strides(mask),
        )
        epilogue = Epilogue(
            Rows(s[0] if addend.size > 0 else 0, s[1]),
            Rows(r[0] if relu.size > 0 else 0, r[1]),
            Rows(g[0] if mask.size > 0 else 0, g[1]),
            alpha,
        )
        panels = MicroPanels(a[0], a[1], a[2], height * a[1])
        tile = Tile(height, columns, A.shape[1], tiles, 0, 0)
        microkernel(C.dtype, tile, panels, Rows(b[0], b[1]), Rows(c[0] if store else 0, c[1]), epilogue)

    def copy(target: Any, source: Any, count: Any) -> None:
        copy_vector(target.dtype, address_and_strides(target)[0], address_and_strides(source)[0], count)

    def sums(target: Any, source: Any, fresh: Any) -> None:
        s = address_and_strides(source)
        sum_rows(target.dtype, address_and_strides(target)[0], Rows(s[0], s[1]), source.shape[0], target.size, fresh)

    def seen(matrix: Any, place: Any, rows: Any, columns: Any) -> None:
        matrix[:] = array_at(matrix.dtype, place, (rows, columns))

    scalar = numba.from_dtype(np.dtype(dtype))
    vector, matrix = types.Array(scalar, 1, "A"), types.Array(scalar, 2, "A")
    signatures = {
        tile: (matrix, matrix, matrix, types.intp, matrix, matrix, matrix, scalar, types.boolean, types.intp),
        copy: (vector, vector, types.intp),
        sums: (vector, matrix, types.intp),
        seen: (matrix, types.intp, types.intp, types.intp),
    }
    return {f.__name__: numba.njit(signature)(f) for f, signature in signatures.items()}


def run_tile(A: Any, B: Any, C: Any, columns: int, **epilogue: Any) -> None:
    """One tile, or several of equal height; an epilogue that is not named is left out."""
    nothing = np.empty((0, 0), C.dtype)
    operands = [epilogue.get(name, nothing) for name in ("addend", "relu", "mask")]
    tile = kernels(C.dtype.type)["tile"]
    alpha, store = C.dtype.type(epilogue.get("alpha", 1)), epilogue.get("store", True)
    tile(A, B, C, columns, *operands, alpha, store, epilogue.get("tiles", 1))


def guarded(dtype: Any, rows: int, columns: int, fill: float = np.nan) -> tuple[Any, Any]:
    """Make an array of 7 with ``fill`` in its middle; gives both."""
    outer = np.full((rows + 2 * GUARD, columns + 2 * GUARD), 7, dtype)
    inner = outer[GUARD : GUARD + rows, GUARD : GUARD + columns]
    inner[:] = fill
    return outer, inner


def assert_guard(outer: Any, rows: int, columns: int) -> None:
    edge = outer.copy()
    edge[GUARD : GUARD + rows, GUARD : GUARD + columns] = 7
    assert (edge == 7).all()


def tiles(dtype: Any) -> list[tuple[int, int]]:
    """Every height, and every number of columns that has a tile: only the last vector is filled in part."""
    lanes = lanes_of(dtype)
    missing = {vectors: range(lanes if vectors < SINGLE_ROW_VECTORS else 1) for _, vectors in TILES}
    return [(rows, lanes * vectors - few) for rows, vectors in TILES for few in missing[vectors]]


def layouts(A: Any) -> list[Any]:
    """Lay A out as the micro-kernel reads it: contiguous rows or columns, whole or inside a larger array."""
    rows, columns = A.shape
    larger, larger_transpose = (np.zeros((rows + 2, columns + 3), A.dtype, order=order) for order in "CF")
    for outer in (larger, larger_transpose):
        outer[1 : 1 + rows, 2 : 2 + columns] = A
    return [A, np.asfortranarray(A), *(x[1 : 1 + rows, 2 : 2 + columns] for x in (larger, larger_transpose))]


def check_identity(dtype: Any) -> None:
    """Require that A times I is A, exactly, and that nothing beside C is touched."""
    rng = np.random.default_rng(0)
    for rows, columns in tiles(dtype):
        A = rng.standard_normal((rows, columns)).astype(dtype)
        identity = np.full(
            (columns, SINGLE_ROW_VECTORS * lanes_of(dtype)), 5, dtype
        )  # beyond the columns: must not be used
        identity[:, :columns] = np.eye(columns)
        for layout_of_a in layouts(A):
            outer, C = guarded(dtype, rows, columns)
            run_tile(layout_of_a, identity, C, columns)
            assert np.array_equal(C, A), (rows, columns)
            assert_guard(outer, rows, columns)


def check_epilogue(dtype: Any) -> None:
    """C = addend + A B where the addend is C or a bias, and its ReLU, in which NaN stays NaN."""
    rng = np.random.default_rng(1)
    k = 5
    for (height, columns), count in product(tiles(dtype), (1, 3)):
        rows = count * height
        # Small integers: every sum is exact, so the order does not matter.
        A = rng.integers(-3, 4, (rows, k)).astype(dtype)
        B = rng.integers(-3, 4, (k, SINGLE_ROW_VECTORS * lanes_of(dtype))).astype(dtype)
        A[0, 0] = np.nan
        former = rng.integers(-9, 10, (rows, columns)).astype(dtype)
        bias = rng.integers(-9, 10, columns).astype(dtype)
        for addend in ("nothing", "C", "bias"):
            outer, C = guarded(dtype, rows, columns)
            relu_outer, relu = guarded(dtype, rows, columns)
            expected = A @ B[:, :columns]
            source = np.empty((0, 0), dtype)
            if addend == "C":
                C[:], source = former, C
                expected = expected + former
            elif addend == "bias":
                source = np.lib.stride_tricks.as_strided(bias, (rows, columns), (0, bias.itemsize))
                expected = expected + bias
            run_tile(A, B, C, columns, tiles=count, addend=source, relu=relu)
            assert np.array_equal(C, expected, equal_nan=True), (rows, columns, addend)
            assert np.isnan(C[0]).all()
            assert np.array_equal(relu, np.maximum(expected, 0), equal_nan=True), (rows, columns, addend)
            assert_guard(outer, rows, columns)
            assert_guard(relu_outer, rows, columns)


def check_mask_and_alpha(dtype: Any) -> None:
    """C + alpha A B; zeros where the mask is not above 0; C is not stored where only its ReLU is wanted."""
    rng = np.random.default_rng(2)
    k = 5
    for (height, columns), count in product(tiles(dtype), (1, 3)):
        rows = count * height
        A = rng.integers(-3, 4, (rows, k)).astype(dtype)
        B = rng.integers(-3, 4, (k, SINGLE_ROW_VECTORS * lanes_of(dtype))).astype(dtype)
        mask = rng.integers(-1, 2, (rows, columns)).astype(dtype)
        former = rng.integers(-9, 10, (rows, columns)).astype(dtype)
        expected = A @ B[:, :columns]
        outer, C = guarded(dtype, rows, columns)
        C[:] = former
        run_tile(A, B, C, columns, tiles=count, addend=C, alpha=-0.5)
        assert np.array_equal(C, former - expected / 2), (rows, columns)
        run_tile(A, B, C, columns, tiles=count, mask=mask)
        assert np.array_equal(C, np.where(mask > 0, expected, 0)), (rows, columns)
        C[:] = former
        relu_outer, relu = guarded(dtype, rows, columns)
        run_tile(A, B, C, columns, tiles=count, relu=relu, store=False)
        assert np.array_equal(C, former)
        assert np.array_equal(relu, np.maximum(expected, 0)), (rows, columns)
        assert_guard(outer, rows, columns)
        assert_guard(relu_outer, rows, columns)
