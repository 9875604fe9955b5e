"""Variant `simd` against NumPy in a wider dtype, its bits against itself, and its compile cache."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import outermost

from fastnet.kernels.cpu import loops
from fastnet.kernels.cpu.gemm import blocking, dense, turned
from fastnet.kernels.cpu.gemm import gemm as simd
from fastnet.kernels.cpu.gemm.microkernel import MR, NV, PREFETCH_INTERVAL, UNROLL, layouts_of
from fastnet.kernels.cpu.gemm.operands import Matrix, Shape
from fastnet.kernels.llvm.builder import LINE, VECTOR
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.specs.activations import ACTIVATIONS, IDENTITY, RELU, TANH

pytestmark = pytest.mark.compiled

DTYPES = [np.float32, np.float64]
WIDER = {np.float32: np.float64, np.float64: np.longdouble}


def sizes(dtype: Any) -> list[tuple[int, int, int]]:
    """(m, k, n), each there for a reason."""
    v = VECTOR // np.dtype(dtype).itemsize
    nr = NV * v
    kc = blocking.KC_BYTES // np.dtype(dtype).itemsize
    l2 = blocking.L2 // np.dtype(dtype).itemsize
    return [
        (0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0),  # nothing; k = 0 must write zeros
        (1, 1, 1), (1, 5, 1), (1, 7, 40), (9, 8, 1),  # one row, one column
        (MR - 1, 3, v - 1), (MR, v, v), (MR + 1, v + 1, v + 1),  # a vector's width - 1, + 0, + 1
        (2 * MR, v - 1, nr - 1), (13, 16, nr), (11, 17, nr + 1),  # a tile's edges
        (37, 93, 41), (100, 30, 7), (129, 257, 65),  # odd
        (blocking.FEW_ROWS, 33, 2 * nr + v + 3),  # every width of tile in one row of them
        (7, kc, 5), (7, kc + 1, 70), (30, 2 * kc + 3, 33),  # blocks of k
        (200, 200, l2 // 200 + nr + 3),  # B is packed, more than one block
        (2 * blocking.MC + 7, l2 // blocking.MC + 3, nr + 2),  # A.T is packed, more than one block
    ]  # fmt: skip


def lay(X: Any, kind: str) -> Any:
    """Lay the same matrix out: by rows, as a transpose, with gaps, backwards, one element off alignment."""
    if kind == "transpose":
        return np.asfortranarray(X)
    if kind == "gaps":
        wide = np.full((2 * X.shape[0], 3 * X.shape[1]), np.nan, X.dtype)
        wide[::2, ::3] = X
        return wide[::2, ::3]
    if kind == "backwards":
        return X[::-1, ::-1].copy()[::-1, ::-1]
    if kind == "odd":
        shifted = np.empty((X.shape[0], X.shape[1] + 1), X.dtype)[:, 1:]
        shifted[:] = X
        return shifted
    return np.ascontiguousarray(X)


def assert_close(got: Any, A: Any, B: Any, bias: Any = 0) -> None:
    """|got - AB - bias| <= 8 eps sqrt(k) (|A| |B| + |bias|), elementwise; false where anything is NaN."""
    wider = WIDER[got.dtype.type]
    exact = A.astype(wider) @ B.astype(wider) + bias
    scale = np.abs(A).astype(wider) @ np.abs(B).astype(wider) + np.abs(bias)
    assert (np.abs(got - exact) <= 8 * np.finfo(got.dtype).eps * np.sqrt(max(1, A.shape[1])) * scale).all()


def check_matmul(matmul: Any, dtype: Any, m: int, k: int, n: int, a: str = "", b: str = "", c: str = "") -> None:
    rng = np.random.default_rng(m + k + n)
    A, B = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    C = lay(np.full((m, n), np.nan, dtype), c)
    matmul(lay(A, a), lay(B, b), C)
    assert_close(C, A, B)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a", ["rows", "transpose"])
@pytest.mark.parametrize("b", ["rows", "transpose"])
def test_matmul_of_every_size(dtype: Any, a: str, b: str) -> None:
    for m, k, n in sizes(dtype):
        check_matmul(simd.matmul, dtype, m, k, n, a, b)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["gaps", "backwards", "odd"])
def test_matmul_of_any_strides(kind: str) -> None:
    for m, k, n in sizes(np.float32):
        check_matmul(simd.matmul, np.float32, m, k, n, kind, kind, kind)


def test_matmul_into_a_transpose() -> None:
    for m, k, n in sizes(np.float32):
        check_matmul(simd.matmul, np.float32, m, k, n, c="transpose")


def test_matmul_writes_the_output_only() -> None:
    for m, k, n in sizes(np.float32):
        outer = np.full((m + 2, n + 40), 7, np.float32)
        simd.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32), outer[1:-1, 20:-20])
        assert (outer[1:-1, 20:-20] == k).all()
        assert (outer == 7).sum() == outer.size - (m * n if k != 7 else 0)


def test_nan_affects_its_row_and_column_only() -> None:
    A, B = np.ones((20, 30), np.float32), np.ones((30, 50), np.float32)
    A[3, 4], B[5, 6] = np.nan, np.nan
    C = np.zeros((20, 50), np.float32)
    simd.matmul(A, B, C)
    expected = np.zeros(C.shape, bool)
    expected[3], expected[:, 6] = True, True
    assert np.array_equal(np.isnan(C), expected)


BROKEN = {
    "zeros": lambda A, B, C: C.fill(0),
    "untouched": lambda A, B, C: None,
    "drops the last k": lambda A, B, C: np.matmul(A[:, :-1], B[:-1], out=C),
    "half precision": lambda A, B, C: C.__setitem__(..., A.astype(np.float16).astype(A.dtype) @ B),
    "last column missing": lambda A, B, C: np.matmul(A, B[:, :-1], out=C[:, :-1]),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_wrong_products_are_rejected(broken: str) -> None:
    with pytest.raises(AssertionError):
        check_matmul(BROKEN[broken], np.float32, 37, 93, 41)


# --------------------------------------------------------------------------------------------- bits


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_division_of_c(dtype: Any) -> None:
    """Whole, and by uneven rows and columns, of any layout: the same bits.  Large enough that the whole is packed."""
    m, k, n = 300, blocking.KC_BYTES // np.dtype(dtype).itemsize + 77, blocking.L2 // 4096 + 45
    rng = np.random.default_rng(3)
    A, B = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    whole = np.full((m, n), np.nan, dtype)
    simd.matmul(A, B, whole)
    assert_close(whole, A, B)
    for a, b in [("rows", "rows"), ("transpose", "rows"), ("rows", "transpose"), ("transpose", "transpose")]:
        parts = np.full((m, n), np.nan, dtype)
        left, right = lay(A, a), lay(B, b)
        for i, j in [(0, 1), (1, 8), (8, 77), (77, m)]:
            for p, q in [(0, 100), (100, 101), (101, n)]:
                simd.matmul(left[i:j], right[:, p:q], parts[i:j, p:q])
        assert np.array_equal(parts, whole), (a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_turned_products_have_the_bits_of_single_rows(dtype: Any) -> None:
    """Few rows times a large B.T are computed as C.T, bias and ReLU included, and write nothing beside C.

    Also where they fill no vector, or are computed in several parts; and columns a page apart.
    """
    rng, item = np.random.default_rng(5), np.dtype(dtype).itemsize
    rows = *range(2, 35), turned.TURNED_ROWS - 1, turned.TURNED_ROWS
    in_parts = [m for m in rows if turned.next_rows.py_func(item, m, 4)[1]]
    assert len(in_parts) > len(rows) // 4
    assert len(in_parts) < len(rows)
    for n in (turned.TURNED_BYTES // item // 200 + 1, 4096 // item, blocking.KC_BYTES // item + 500):
        W, b = rng.standard_normal((203, n)).astype(dtype), rng.standard_normal(203).astype(dtype)
        X = rng.standard_normal((rows[-1], n)).astype(dtype)
        single = np.concatenate([dense_of(X[i : i + 1], W, b)[1] for i in range(len(X))])
        products = np.concatenate([product(X[i : i + 1], W.T) for i in range(len(X))])
        for m in rows:
            A, Z = dense_of(X[:m], W, b)
            np.testing.assert_array_equal(Z, single[:m])
            np.testing.assert_array_equal(A, np.maximum(single[:m], 0))
            guarded = np.full((m + 2, 203 + 5), 7, dtype)
            simd.matmul(X[:m], W.T, guarded[1:-1, 2:-3])
            np.testing.assert_array_equal(guarded[1:-1, 2:-3], products[:m])
            guarded[1:-1, 2:-3] = 7
            assert (guarded == 7).all()


def product(A: Any, B: Any) -> Any:
    """A B by `simd`."""
    C = np.full((len(A), B.shape[1]), np.nan, A.dtype)
    simd.matmul(A, B, C)
    return C


def dense_of(X: Any, W: Any, b: Any) -> tuple[Any, Any]:
    """Return A and Z of a layer with ReLU."""
    A, Z = (np.full((len(X), len(W)), np.nan, X.dtype) for _ in range(2))
    dense.dense_forward(X, W, b, RELU, A, Z)
    return A, Z


def test_bits_do_not_depend_on_alignment_or_layout() -> None:
    rng = np.random.default_rng(4)
    A, B = rng.standard_normal((50, 1100)).astype(np.float32), rng.standard_normal((1100, 70)).astype(np.float32)
    C = np.full((50, 70), np.nan, np.float32)
    simd.matmul(A, B, C)
    for kind in ("transpose", "gaps", "backwards", "odd"):
        again = lay(np.full((50, 70), np.nan, np.float32), kind)
        simd.matmul(lay(A, kind), lay(B, kind), again)
        assert np.array_equal(again, C), kind


# --------------------------------------------------------------------------------------------- layers


def check_forward(forward: Any, dtype: Any, rows: int, n: int, k: int, activation: int, kind: str = "") -> None:
    rng = np.random.default_rng(5)
    X, W = rng.standard_normal((rows, n)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    b = rng.standard_normal(k).astype(dtype)
    A, Z = np.full((2, rows, k), np.nan, dtype)
    forward(lay(X, kind), lay(W, kind), b, activation, A, Z)
    assert_close(Z, X, W.T, b)
    expected = reference.ACTIVATIONS[activation].function(Z.astype(WIDER[dtype]))
    limits = np.finfo(dtype)
    assert (np.abs(A - expected) <= 4 * limits.eps * np.abs(expected) + limits.tiny).all()


LAYERS = [(0, 3, 2), (1, 1, 1), (5, 0, 3), (1, 40, 33), (32, 13, 64), (33, 64, 10), (37, 93, 41), (9, 1100, 70)]
LAYERS += [(37, 0, 1), (37, 41, 1), (9, 1100, 1)]
"""(B, n, k): nothing, one, no inputs, one sample, layers of small networks, odd, two blocks of n; a single output."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "activation",
    [IDENTITY, RELU, TANH, ACTIVATIONS["sigmoid"].code, ACTIVATIONS["leaky_relu"].code, ACTIVATIONS["silu"].code],
)
def test_dense_forward(dtype: Any, activation: int) -> None:
    for rows, n, k in LAYERS:
        check_forward(dense.dense_forward, dtype, rows, n, k, activation)


@pytest.mark.parametrize("dtype", DTYPES)
def test_single_output_has_the_bits_of_many(dtype: Any) -> None:
    rng = np.random.default_rng(8)
    for rows, n in ((2, 50), (MR, 50), (MR + 1, 50), (40, 1100)):
        X, W, b = (rng.standard_normal(shape).astype(dtype) for shape in ((rows, n), (30, n), 30))
        (A, Z), (a, z) = np.full((2, rows, 30), np.nan, dtype), np.full((2, rows, 1), np.nan, dtype)
        dense.dense_forward(X, W, b, RELU, A, Z)
        for inputs in (X, np.asfortranarray(X), X.repeat(2, 1)[:, ::2]):
            dense.dense_forward(inputs, W[7:8], b[7:8], RELU, a, z)
            assert np.array_equal(z, Z[:, 7:8])
            assert np.array_equal(a, A[:, 7:8])


def test_dense_forward_from_any_strides() -> None:
    for kind in ("transpose", "gaps"):
        for rows, n, k in LAYERS:
            check_forward(dense.dense_forward, np.float32, rows, n, k, RELU, kind)


def without_bias(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    loops.dense_forward(X, W, np.zeros_like(b), activation, A, Z)


def without_relu(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    loops.dense_forward(X, W, b, IDENTITY, A, Z)


@pytest.mark.parametrize("broken", [without_bias, without_relu])
def test_wrong_layers_are_rejected(broken: Any) -> None:
    with pytest.raises(AssertionError):
        check_forward(broken, np.float32, 37, 93, 41, RELU)


def test_several_blocks_of_rows() -> None:
    """Of the product, its bias and its ReLU; blocks are about as tall as each other."""
    rows = 2 * blocking.MC + 7
    choose_blocking = blocking.choose_blocking.py_func
    height = choose_blocking(4, Shape(rows, 30, 20), Matrix(0, 80, 4, 0), Matrix(0, 4, 80, 80 * NV * VECTOR // 4)).mc
    assert rows // 3 < height < rows
    check_forward(dense.dense_forward, np.float32, rows, 20, 30, RELU)
    check_matmul(simd.matmul, np.float32, rows, 20, 30, "transpose")


@pytest.mark.skipif(blocking.WIDE, reason="the rule of AVX2 and NEON")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transposed_factor_is_packed_for_fewer_columns_where_it_misses_l1(dtype: Any) -> None:
    """In place or packed, to the bits of the same rows without gaps."""
    item, rng = np.dtype(dtype).itemsize, np.random.default_rng(8)
    lines, nr, rows = blocking.L1 // 2 // LINE, NV * VECTOR // item, 25
    if lines >= blocking.KC_BYTES // item:
        pytest.skip("half of L1 holds a line for each k of a block")
    full, half = blocking.PACK_A_PANELS * nr, blocking.PACK_A_PANELS // 2 * nr
    for k, n, packed in (
        (lines, full - 1, False),
        (lines, full, True),
        (lines + 1, half - 1, False),
        (lines + 1, half, True),
    ):
        A, B = rng.standard_normal((k, rows)).astype(dtype).T, rng.standard_normal((k, n)).astype(dtype)
        a, b = Matrix(0, item, rows * item, 0), Matrix(0, n * item, item, nr * item)
        assert (blocking.choose_blocking.py_func(item, Shape(rows, n, k), a, b).a_panel_bytes > 0) == packed
        C, twin = np.empty((rows, n), dtype), np.empty((rows, n), dtype)
        simd.matmul(A, B, C)
        simd.matmul(np.ascontiguousarray(A), B, twin)
        np.testing.assert_array_equal(C, twin)


def test_nan_passes_the_relu() -> None:
    X, W, b = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32), np.zeros(5, np.float32)
    X[1, 2] = np.nan
    A, Z = np.zeros((3, 5), np.float32), np.zeros((3, 5), np.float32)
    dense.dense_forward(X, W, b, RELU, A, Z)
    assert np.isnan(A[1]).all()
    assert (A[[0, 2]] == 4).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "activation",
    [IDENTITY, RELU, TANH, ACTIVATIONS["sigmoid"].code, ACTIVATIONS["leaky_relu"].code, ACTIVATIONS["silu"].code],
)
def test_dense_backward_batch(dtype: Any, activation: int) -> None:
    rng = np.random.default_rng(6)
    wider = WIDER[dtype]
    for rows, n, k in LAYERS:
        X, W = rng.standard_normal((rows, n)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        Z = rng.uniform(-1, 1, (rows, k)).astype(dtype)  # tanh' cancels beyond; gelu' is 0 at -0.75
        dL_dA = rng.standard_normal((rows, k)).astype(dtype)
        for first_layer in (False, True):
            dW, db = np.full((k, n), np.nan, dtype), np.full(k, np.nan, dtype)
            dX = np.full((0, 0) if first_layer else (rows, n), np.nan, dtype)
            dense.dense_backward_batch(X, Z, dL_dA, W, activation, dW, db, dX)
            dZ = dL_dA.astype(wider) * reference.ACTIVATIONS[activation].derivative(Z.astype(wider))
            assert_close(dW, dZ.T, X)
            assert_close(db[None], np.ones((1, rows)), dZ)
            if not first_layer:
                assert_close(dX, dZ, W)


# --------------------------------------------------------------------------------------------- cache


LIFETIMES = """
import numpy as np
from fastnet.kernels.cpu.gemm import dense, gemm as simd, parallel
for dtype in (np.float32, np.float64):
    rng = np.random.default_rng(0)
    for m, k, n in ((200, 300, 70), (7, 1100, 33), (90, 40, 17)):
        A, B = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        for a in (A, np.asfortranarray(A)):
            for b in (B, np.asfortranarray(B), np.repeat(B, 2, axis=1)[:, ::2]):
                C = np.empty((m, n), dtype)
                for variant in (simd, parallel):
                    variant.matmul(a, b, C)
                    assert np.allclose(C, A @ B, rtol=1e-3, atol=1e-3)
        for variant in (dense, parallel):
            bias = rng.standard_normal(n).astype(dtype)
            Z, out = np.empty((2, m, n), dtype)
            variant.dense_forward(A, B.T.copy(), bias, 1, out, Z)
            assert np.allclose(Z, A @ B + bias, rtol=1e-3, atol=1e-3)
            dW, db, dX = np.empty((n, k), dtype), np.empty(n, dtype), np.empty((m, k), dtype)
            variant.dense_backward_batch(A, Z, out, B.T.copy(), 1, dW, db, dX)
            assert np.allclose(dW, (out * (Z > 0)).T @ A, rtol=1e-3, atol=1e-2)
"""


@pytest.mark.exhaustive
@outermost
@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc to return every freed block to the system")
def test_arrays_outlive_the_use_of_their_addresses() -> None:
    """Freed memory is unmapped at once, so that a kernel that still reads it crashes instead of being lucky."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "64"}
    run = subprocess.run(
        [sys.executable, "-c", LIFETIMES], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, (run.returncode, run.stderr[-2000:])


@pytest.mark.exhaustive
@outermost
def test_second_process_compiles_nothing(tmp_path: Path) -> None:
    script = (
        "import numpy as np\n"
        "from fastnet.kernels.cpu.gemm import gemm as simd\n"
        "x = np.ones((3, 3), np.float32)\n"
        "simd.matmul(x, x.copy(), x.copy())\n"
        "print(*(sum(f.stats.cache_misses.values()) for f in (simd.multiply, simd.gemm)))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    misses = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert misses == ["1 1\n", "0 0\n"]


@pytest.mark.parametrize("tiles", [blocking.FAR_B_TILES, 7, 43, 1000])
def test_tiles_prefetch_the_whole_of_the_next_micro_panel(tiles: int) -> None:
    """A tile prefetches after each interval of k that leaves a round: as `_sums_over_k` does, and as is counted."""
    prefetch_step: Any = getattr(simd.prefetch_step, "py_func", simd.prefetch_step)
    unroll = UNROLL if layouts_of(MR, NV) != ("",) else 1
    for k in range(blocking.FAR_B_K, 1100):
        left, times = k, 0
        while left >= unroll:
            left = left - PREFETCH_INTERVAL if left > PREFETCH_INTERVAL else left & (unroll - 1)
            times += left >= unroll
        counted = (k - UNROLL) // PREFETCH_INTERVAL
        step = prefetch_step(k * NV * VECTOR, tiles * counted) if counted > 0 else 0
        assert counted <= times
        assert step % LINE == 0
        assert PREFETCH_INTERVAL > blocking.FAR_B_K // 2 or step * tiles * times >= k * NV * VECTOR
