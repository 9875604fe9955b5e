"""B.T transposed in registers: panels and tiles of every size, against NumPy and the micro-kernel's bits."""

import os
import platform
import subprocess
import sys
from functools import cache, reduce
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba import types
from processes import outermost, python_path
from tiles import assert_guard, guarded, lanes_of, run_tile

from fastnet.kernels import matmul
from fastnet.kernels.cpu.gemm import blocking, transpose
from fastnet.kernels.cpu.gemm import gemm as simd
from fastnet.kernels.cpu.gemm.microkernel import MR
from fastnet.kernels.cpu.gemm.operands import Epilogue, Matrix, Rows, Tile
from fastnet.kernels.cpu.gemm.packing import pack_a_rows
from fastnet.kernels.cpu.gemm.transpose import (
    HAS_LAG,
    LAG_BYTES,
    MAX_ROWS,
    MAX_ROWS_IN_PLACE,
    NEAR_BYTES,
    PACKED_VECTORS,
    PANELS,
    READ_BYTES,
    READS_LINES,
    gemm_bt_microkernel,
    single_row_width,
    stream_panel,
    transpose_panel,
)
from fastnet.kernels.cpu.threads.atomics import store_fence
from fastnet.kernels.llvm import builder
from fastnet.kernels.llvm.builder import LINE, VECTOR, WAY
from fastnet.kernels.llvm.memory import address_and_strides, keep_alive

pytestmark = pytest.mark.compiled
DTYPES = (np.float32, np.float64)


@cache
def kernels(dtype: Any) -> dict[str, Any]:
    """Compile each intrinsic in a function that can be called."""

    def panel(target: Any, source: Any) -> None:
        t, s = address_and_strides(target), address_and_strides(source)
        transpose_panel(target.dtype, t[0], t[1], s[0], s[1], source.shape[0], source.shape[1])

    def stream(target: Any, source: Any) -> None:
        t, s = address_and_strides(target), address_and_strides(source)
        stream_panel(target.dtype, t[0], t[1], s[0], s[1], source.shape[1])
        store_fence()

    def tile(A: Any, W: Any, C: Any, addend: Any, relu: Any, mask: Any, alpha: Any, store: Any) -> None:
        a, w, c, s, r, g = (
            address_and_strides(A),
            address_and_strides(W),
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
        tile = Tile(A.shape[0], W.shape[0], A.shape[1], 1, 0, 0)
        outputs = Rows(c[0] if store else 0, c[1])
        a_rows = Rows(a[0], a[1])
        panel = np.full(((A.shape[1] + lanes) * MAX_ROWS,), np.nan, C.dtype)
        if A.shape[0] > MAX_ROWS_IN_PLACE and A.shape[1] > 0:
            a_rows = Rows(address_and_strides(panel)[0], 0)
            pack_a_rows(C.dtype, A.shape[0], A.shape[1], Matrix(a[0], a[1], a[2], 0), a_rows.address)
        gemm_bt_microkernel(C.dtype, tile, a_rows, Rows(w[0], w[1]), outputs, epilogue)
        keep_alive(panel)

    lanes, scalar = lanes_of(dtype), numba.from_dtype(np.dtype(dtype))
    matrix = types.Array(scalar, 2, "A")
    signatures = {panel: (matrix, matrix), stream: (matrix, matrix), tile: (*[matrix] * 6, scalar, types.boolean)}
    return {f.__name__: numba.njit(signature)(f) for f, signature in signatures.items()}


def run_transposing(A: Any, W: Any, C: Any, **epilogue: Any) -> None:
    nothing = np.empty((0, 0), C.dtype)
    operands = [epilogue.get(name, nothing) for name in ("addend", "relu", "mask")]
    alpha = C.dtype.type(epilogue.get("alpha", 1))
    kernels(C.dtype.type)["tile"](A, W, C, *operands, alpha, epilogue.get("store", True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_panel_is_the_transpose(dtype: Any) -> None:
    """Every number of columns; rows on both sides of whole parts, zeros below them; nothing else is touched."""
    lanes, part = lanes_of(dtype), READ_BYTES // np.dtype(dtype).itemsize
    for columns in (*range(1, lanes + 1), PACKED_VECTORS * lanes):
        width = max(columns, lanes)
        for k in (1, 2, 3, lanes - 1, lanes, lanes + 1, 3 * lanes, 3 * lanes + 5):
            outer_source, source = guarded(dtype, columns, k)
            outer_source[:] = np.nan
            source[:] = np.arange(1, 1 + columns * k, dtype=dtype).reshape(columns, k)
            height = -(-k // part) * part
            outer, target = guarded(dtype, height, width)
            kernels(dtype)["panel"](target, source)
            assert np.array_equal(target[:k, :columns], source.T)
            assert (target[k:] == 0).all()
            assert_guard(outer, height, width)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page", [True, False])
def test_streamed_panel_is_the_transpose(dtype: Any, page: bool) -> None:
    """Columns a page apart or not, into the second of two places in a row; nothing else is touched."""
    item = np.dtype(dtype).itemsize
    line, part = PACKED_VECTORS * lanes_of(dtype), READ_BYTES // item
    for k in (1, part, part + 1, line - 1, line, 3 * line + part + 1):
        source = np.full((line, WAY // item if page else 5 * line), np.nan, dtype)[:, :k]
        source[:] = np.arange(1, 1 + line * k, dtype=dtype).reshape(line, k)
        height = -(-k // part) * part
        raw = np.full((height + 2) * 3 * line, 7, dtype)
        begin = -raw.ctypes.data % LINE // item
        outer = raw[begin : begin + (height + 1) * 2 * line].reshape(-1, 2 * line)
        kernels(dtype)["stream"](outer[:height, line:], source)
        assert np.array_equal(outer[:k, line:], source.T)
        assert (outer[k:height, line:] == 0).all()
        assert (outer[:, :line] == 7).all()
        assert (outer[height:] == 7).all()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names x86 targets")
def test_what_is_packed_at_once_fits_a_micro_panel() -> None:
    """Also without AVX, where a panel's row is half a cache line."""
    code = "from fastnet.kernels.cpu.gemm.transpose import NV, PACKED_VECTORS, VECTOR\n"
    code += "print(VECTOR, NV % PACKED_VECTORS)"
    for width, features in ((16, "+sse,+sse2"), (32, "+sse,+sse2,+avx"), (64, "+avx,+avx2,+fma,+avx512f")):
        narrow = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features}
        run = subprocess.run([sys.executable, "-c", code], env=os.environ | narrow, capture_output=True, check=True)
        assert run.stdout.split() == [b"%d" % width, b"0"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", range(1, MAX_ROWS + 1))
def test_transposing_tile_has_the_bits_of_the_microkernel(dtype: Any, rows: int) -> None:
    """Also where a sum meets infinities, NaN and -0, which zeros put in behind the last k would change."""
    rng = np.random.default_rng(rows)
    lanes = lanes_of(dtype)
    for columns in (1, 2, lanes - 1, lanes, *([PANELS * lanes] if rows == 1 else [])):
        width = max(columns, lanes)
        for k in (0, 1, lanes - 1, lanes, lanes + 1, 4 * lanes + 3):
            outer_a, A = guarded(dtype, rows, k)
            outer_w, W = guarded(dtype, columns, k)
            outer_a[:], outer_w[:] = np.nan, np.nan
            A[:], W[:] = rng.standard_normal(A.shape), rng.standard_normal(W.shape)
            if k > 2:
                W[:, 1] = np.where(np.arange(columns) % 2, np.inf, -0.0)
                A[-1] = -0.0
            padded = np.zeros((k, width), dtype)
            padded[:, :columns] = W.T
            for epilogue in epilogues(rng, dtype, rows, width):
                cut = {
                    name: value[:, :columns] if isinstance(value, np.ndarray) else value
                    for name, value in epilogue.items()
                }
                expected = np.full((rows, width), 5, dtype)
                for begin in range(0, rows, MR):  # a transposing tile may be taller than the micro-kernel's
                    some = slice(begin, begin + MR)
                    part = {name: x[some] if isinstance(x, np.ndarray) else x for name, x in epilogue.items()}
                    run_tile(A[some], padded, expected[some], columns, **part)
                outer, C = guarded(dtype, rows, columns, 5)
                relu = cut.pop("relu", None)
                if relu is not None:
                    outer_relu, mine = guarded(dtype, rows, columns, 3)
                    run_transposing(A, W, C, relu=mine, **cut)
                    assert mine.tobytes() == relu.tobytes()
                    assert_guard(outer_relu, rows, columns)
                else:
                    run_transposing(A, W, C, **cut)
                assert C.tobytes() == expected[:, :columns].tobytes(), (columns, k, list(epilogue))
                assert_guard(outer, rows, columns)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pages", [1, 2])
def test_a_row_times_columns_a_page_apart_has_the_bits_of_the_microkernel(dtype: Any, pages: int) -> None:
    """With k on both sides of what the second vector of columns lags behind, whole parts and not."""
    rng = np.random.default_rng(pages)
    lanes, item = lanes_of(dtype), np.dtype(dtype).itemsize
    lag, part = LAG_BYTES // item, READ_BYTES // item
    for k in (part, lag, lag + 1, lag + part, 3 * lag, 4 * lag - 1, WAY // item):
        columns = single_row_width.py_func(item, k, 3 * lanes, 3 * lanes, pages * WAY)
        assert columns == (PANELS * lanes if HAS_LAG and k > lag and k % part == 0 else lanes)
        W = np.full((columns, pages * WAY // item), np.nan, dtype)[:, :k]
        outer_a, A = guarded(dtype, 1, k)
        outer_a[:] = np.nan
        A[:], W[:] = rng.standard_normal(A.shape), rng.standard_normal(W.shape)
        outer, C = guarded(dtype, 1, columns, 5)
        for epilogue in epilogues(rng, dtype, 1, columns)[:2]:
            expected = np.empty((1, columns), dtype)
            for j in range(0, columns, lanes):
                cut = {name: x[:, j : j + lanes] if isinstance(x, np.ndarray) else x for name, x in epilogue.items()}
                rows = np.ascontiguousarray(W[j : j + lanes].T)
                run_tile(A, rows, expected[:, j : j + lanes], lanes, **cut)
            run_transposing(A, W, C, **epilogue)
            assert C.tobytes() == expected.tobytes(), (k, list(epilogue))
            assert_guard(outer, 1, columns)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 3, 4, 9, 15])
def test_columns_a_page_apart_are_read_in_lines_from_anywhere(dtype: Any, offset: int) -> None:
    """From any place in a cache line; k ends before, in and behind the first and the last of its lines."""
    lanes, line = lanes_of(dtype), LINE // np.dtype(dtype).itemsize
    rng = np.random.default_rng(offset)
    outer = np.full((lanes * WAY + 4 * LINE) // np.dtype(dtype).itemsize, np.nan, dtype)
    start = -outer.ctypes.data % LINE // outer.itemsize + offset
    outer = outer[start : start + lanes * WAY // outer.itemsize].reshape(lanes, -1)
    for k in (1, line - 1, line, line + 1, 2 * line + offset, 5 * line + 3, 9 * line):
        outer[:] = np.nan
        outer[:, :k] = rng.standard_normal((lanes, k))
        for columns in (lanes, lanes - 1, 1):
            W = outer[:columns, :k]
            _, target = guarded(dtype, k + line, lanes)
            kernels(dtype)["panel"](target, W)
            assert np.array_equal(target[:k, :columns], W.T)
            for rows in range(1, min(9, MAX_ROWS) + 1):
                A = rng.standard_normal((rows, k)).astype(dtype)
                outer_c, C = guarded(dtype, rows, columns, 5)
                run_transposing(A, W, C)
                expected = np.empty((rows, columns), dtype)
                run_transposing(A, np.ascontiguousarray(W), expected)
                assert C.tobytes() == expected.tobytes(), (k, columns, rows)
                assert_guard(outer_c, rows, columns)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_lag", [True, False])
def test_how_many_columns_a_single_row_takes(has_lag: bool, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none lags, two vectors only of a B.T that is small as a whole, whatever is left of it."""
    monkeypatch.setattr(transpose, "HAS_LAG", has_lag)
    width, lanes, item = single_row_width.py_func, lanes_of(dtype), np.dtype(dtype).itemsize
    k, stride = WAY // item, WAY + 64
    near = (NEAR_BYTES - 1) // stride
    assert near * stride < NEAR_BYTES <= (near + 1) * stride
    assert width(item, k, near, PANELS * lanes, stride) == PANELS * lanes
    assert width(item, k, near, PANELS * lanes - 1, stride) == lanes
    assert width(item, k, near, 3, stride) == min(3, lanes)
    assert width(item, k, near + 1, PANELS * lanes, stride) == (PANELS * lanes if has_lag else lanes)
    for pages in (1, 3):
        assert width(item, k, near, PANELS * lanes, pages * WAY) == (PANELS * lanes if has_lag else lanes)
    if VECTOR == 64:  # 32 columns half a page apart are 16 lines in each of two sets
        assert width(4, k, near, PANELS * lanes_of("f4"), WAY // 2) == (PANELS if has_lag else 1) * lanes_of("f4")
        assert width(8, k, near, PANELS * lanes_of("f8"), WAY // 2) == PANELS * lanes_of("f8")
    assert width(item, k, near, PANELS * lanes, WAY // 4) == PANELS * lanes


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_product_with_columns_a_page_apart_has_the_bits_of_many(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    lag = LAG_BYTES // np.dtype(dtype).itemsize
    for k in (lag, lag + 1, 2 * lag, 2 * lag + 3, WAY // np.dtype(dtype).itemsize):
        W = np.zeros((45, WAY // np.dtype(dtype).itemsize), dtype)[:, :k]
        X = rng.standard_normal((9, k)).astype(dtype)
        W[:] = rng.standard_normal(W.shape)
        many = matmul(X, W.T, variant="simd")
        assert all((matmul(X[i : i + 1], W.T, variant="simd") == many[i]).all() for i in range(9))


def epilogues(rng: Any, dtype: Any, rows: int, width: int) -> list[dict[str, Any]]:
    addend, mask = rng.standard_normal((2, rows, width)).astype(dtype)
    return [
        {},
        {"addend": addend, "alpha": -0.5},
        {"addend": addend, "relu": np.full((rows, width), 3, dtype)},
        {"mask": mask},
        {"relu": np.full((rows, width), 3, dtype), "store": False},
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_number_of_rows(dtype: Any) -> None:
    """A row of A B.T alone, in a tile, and among more rows than a tile has, where B is packed: over blocks of k too."""
    rng = np.random.default_rng(0)
    k = blocking.KC_BYTES // np.dtype(dtype).itemsize + 37
    A = rng.standard_normal((max(MR, MAX_ROWS) + 5, k)).astype(dtype)
    W = rng.standard_normal((lanes_of(dtype) * 3 + 2, k)).astype(dtype)
    whole = np.full((len(A), len(W)), np.nan, dtype)
    simd.matmul(A, W.T, whole)
    for rows in range(1, MAX_ROWS + 2):
        part = np.full((rows, len(W)), np.nan, dtype)
        simd.matmul(A[:rows], W.T, part)
        assert part.tobytes() == whole[:rows].tobytes()
        packed_weights = np.full((rows, len(W)), np.nan, dtype)  # A's rows are not contiguous, but for one row: packed
        simd.matmul(np.asfortranarray(A[:rows]), W.T, packed_weights)
        assert packed_weights.tobytes() == part.tobytes()
    single = np.full((len(A), 1), np.nan, dtype)
    simd.matmul(A, W[3:4].T, single)
    assert single.tobytes() == np.ascontiguousarray(whole[:, 3:4]).tobytes()


MUTANTS = {
    "lanes not exchanged": (
        "builder.VectorBuilder.shuffle",
        "lambda code, x, y, lanes: real(code, x, y, sorted(lanes))",
        "panel",
    ),
    "parts joined in the wrong order": ("transpose._joined", "lambda code, x, y: real(code, y, x)", "panel"),
    "a rest that is a whole part": (
        "transpose._for_all_rows",
        "lambda *operands, exact, lines: real(*operands, exact=False, lines=lines)",
        "tile",
    ),
}
if READS_LINES:
    MUTANTS["the rows of a line in the wrong order"] = (
        "transpose._part",
        "lambda code, columns, nbytes, *count: real(code, columns, nbytes, *count)[:: 1 if nbytes == 16 else -1]",
        "lines",
    )
MODULES = {"builder": builder, "transpose": transpose}
CHECKS = {
    "panel": "t.test_panel_is_the_transpose(np.float32)",
    "lines": "t.test_columns_a_page_apart_are_read_in_lines_from_anywhere(np.float32, 3)",
    "tile": "t.test_transposing_tile_has_the_bits_of_the_microkernel(np.float32, 2)",
}


def test_mutants_change_what_exists() -> None:
    for name, _, _ in MUTANTS.values():
        module, *attributes = name.split(".")
        assert callable(reduce(getattr, attributes, MODULES[module]))


@pytest.mark.exhaustive
@outermost
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_transposes_are_rejected(mutant: str, tmp_path: Path) -> None:
    """In a process of its own: a process keeps what it has once compiled."""
    name, body, check = MUTANTS[mutant]
    script = (
        "import numpy as np, test_transpose as t\n"
        f"real = t.{name}\n"
        f"t.{name} = {body}\n"
        f"try: {CHECKS[check]}\n"
        "except AssertionError: print('rejected')\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": python_path(Path(__file__).parent)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "rejected\n", run.stderr[-2000:]
