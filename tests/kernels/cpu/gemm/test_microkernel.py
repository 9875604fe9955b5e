"""The micro-kernel alone: every tile, the epilogues, the copies, and the generated assembly.

Each tile is an LLVM function of its own, so each is run. The wrong kernels at the end show that these
tests can fail; they run in processes of their own, because LLVM keeps one tile of a name, and with caches of their
own, because the compile cache knows sources, not patches.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba import types

from fastnet.kernels.cpu.gemm.microkernel import (
    MR,
    NV,
    PREFETCH_INTERVAL,
    SINGLE_ROW_VECTORS,
    WIDTHS,
    microkernel,
    sum_rows,
)
from fastnet.kernels.cpu.gemm.operands import Epilogue, MicroPanels, Rows, Tile
from fastnet.kernels.llvm import builder
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.llvm.memory import address_and_strides, allocate, array_at, copy_vector, release

pytestmark = pytest.mark.compiled

DTYPES = [np.float32, np.float64]
GUARD = 3
"""Elements around each output that no kernel may touch."""

outermost = pytest.mark.skipif("FASTNET_INNER_TEST" in os.environ, reason="runs once, in the outer process")


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
        tile = Tile(height, columns, A.shape[1], tiles)
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
    """Every height, and every number of columns that has a tile: partial vectors only in tiles of one."""
    lanes = lanes_of(dtype)
    widths = [*range(1, lanes), *(lanes * w for w in WIDTHS)]
    return [*product(range(1, MR + 1), widths), (1, lanes * SINGLE_ROW_VECTORS)]


def strided(A: Any) -> list[Any]:
    """Lay A out in every way that a broadcast has to read."""
    spread = np.zeros((2 * A.shape[0], 3 * A.shape[1]), A.dtype)
    spread[::2, ::3] = A
    return [A, np.asfortranarray(A), spread[::2, ::3], A[::-1, ::-1].copy()[::-1, ::-1]]


def check_identity(dtype: Any) -> None:
    """Require that A times I is A, exactly, and that nothing beside C is touched."""
    rng = np.random.default_rng(0)
    for rows, columns in tiles(dtype):
        A = rng.standard_normal((rows, columns)).astype(dtype)
        identity = np.full(
            (columns, SINGLE_ROW_VECTORS * lanes_of(dtype)), 5, dtype
        )  # beyond the columns: must not be used
        identity[:, :columns] = np.eye(columns)
        for layout_of_a in strided(A):
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_times_identity_is_a(dtype: Any) -> None:
    check_identity(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogues(dtype: Any) -> None:
    check_epilogue(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_and_alpha(dtype: Any) -> None:
    check_mask_and_alpha(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_products_give_zeros(dtype: Any) -> None:
    for rows, columns in tiles(dtype):
        outer, C = guarded(dtype, rows, columns)
        run_tile(np.empty((rows, 0), dtype), np.empty((0, columns), dtype), C, columns)
        assert (C == 0).all()
        assert_guard(outer, rows, columns)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_chains_over_ascending_k(dtype: Any) -> None:
    """The bits of an element are the same in every tile, and those of one chain, with or without FMA."""
    rng = np.random.default_rng(2)
    k = 2 * PREFETCH_INTERVAL + 3
    A = rng.standard_normal((MR, k)).astype(dtype)
    B = rng.standard_normal((k, SINGLE_ROW_VECTORS * lanes_of(dtype))).astype(dtype)
    widest = np.full((MR, B.shape[1]), np.nan, dtype)
    strip = NV * lanes_of(dtype)
    for left in range(0, B.shape[1], strip):
        run_tile(A, B[:, left:], widest[:, left:], strip)
    for rows, columns in tiles(dtype):
        C = np.full((rows, columns), np.nan, dtype)
        run_tile(A[:rows], B, C, columns)
        assert np.array_equal(C, widest[:rows, :columns])
    if dtype is np.float32:  # a float64 product of float32 is exact: one rounding a step is FMA, two are not
        fused, plain = np.float32(0) * A[:, :1] * B[:1], np.float32(0) * A[:, :1] * B[:1]
        for i in range(k):
            exact = A[:, i : i + 1].astype(np.longdouble) * B[i]
            fused = (exact + fused).astype(np.float32)
            plain = exact.astype(np.float32) + plain
        assert np.array_equal(widest, fused) or np.array_equal(widest, plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_vector(dtype: Any) -> None:
    lanes = lanes_of(dtype)
    for count in range(1, lanes + 3):
        source = np.arange(1, lanes + 3, dtype=dtype)
        outer, target = guarded(dtype, 1, lanes)
        kernels(dtype)["copy"](target[0], source, count)
        assert np.array_equal(target[0], np.where(np.arange(lanes) < count, source[:lanes], 0))
        assert_guard(outer, 1, lanes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_rows(dtype: Any) -> None:
    """Of whole strips of NV vectors, and of every part of one vector; none, one and many rows; in order."""
    rng = np.random.default_rng(0)
    lanes = lanes_of(dtype)
    for columns in (*range(1, lanes + 1), NV * lanes):
        for rows in (0, 1, 7):
            for fresh in (0, 1):
                source = rng.standard_normal((rows, columns + 3)).astype(dtype)
                outer, target = guarded(dtype, 1, columns)
                target[:] = 5
                expected = np.full(columns, 0 if fresh else 5, dtype)
                for row in source:
                    expected = expected + row[:columns]
                kernels(dtype)["sums"](target[0], source[:, :columns], fresh)
                assert np.array_equal(target[0], expected), (rows, columns, fresh)
                assert_guard(outer, 1, columns)


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_at(dtype: Any) -> None:
    source, found = np.arange(15, dtype=dtype).reshape(3, 5), np.zeros((3, 5), dtype)
    kernels(dtype)["seen"](found, source.ctypes.data, 3, 5)
    assert np.array_equal(found, source)


# --------------------------------------------------------------------------------------- the assembly


def inner_loops(function: str) -> list[str]:
    """Give the bodies between a label and a jump back to it."""
    loops = []
    for jump in re.finditer(r"\t(?:j\w+|b\.\w+|cbn?z\t\w+,)\s(\.LBB\w+)\n", function):
        start = function.rfind(f"\n{jump[1]}:", 0, jump.start())
        if start >= 0:
            loops.append(function[start : jump.end()])
    return loops


MACHINE = platform.machine().lower()
X86 = MACHINE in ("x86_64", "amd64")
ARM = MACHINE in ("arm64", "aarch64") and platform.system() == "Linux"


@pytest.mark.skipif(not X86 and not ARM, reason="reads x86 and ARM assembly")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vectors"), [(MR, NV), (1, SINGLE_ROW_VECTORS)])
def test_assembly_of_the_loop(dtype: Any, rows: int, vectors: int) -> None:
    """The largest tiles' loops: each FMA on whole registers, as many as there are sums, no stack and no moves."""
    (assembly,) = kernels(dtype)["tile"].inspect_asm().values()  # compiled in this process: no cache
    name = f'"?fastnet.tile.{np.dtype(dtype)}.{rows}x{vectors}x{VECTOR}"?'
    function = re.search(rf"\n{name}:.*?\.Lfunc_end", assembly, re.DOTALL)
    assert function
    if ARM:
        multiply = "fmla"
        lanes = f"{lanes_of(dtype)}{'s' if dtype is np.float32 else 'd'}"
        instruction, whole = r"\tfmla\t(.*)", rf"v\d+\.{lanes}, v\d+\.{lanes}, v\d+\.({lanes}|[sd]\[\d\])$"
    else:
        multiply = "vfmadd" if "vfmadd" in function[0] else "mul"
        instruction = rf"\t\w*{multiply}\w*{'ps' if dtype is np.float32 else 'pd'}\t(.*)"
        whole = {64: r"%zmm\d+$", 32: r"%ymm\d+$", 16: r"%xmm\d+$"}[VECTOR]
    # The loop over tiles is around it; loops of the compiler's own making have no products.
    loop = min((loop for loop in inner_loops(function[0]) if multiply in loop), key=len)
    products = re.findall(instruction, loop)
    assert len(products) % (rows * vectors) == 0
    assert len(products) > 0
    assert all(re.search(whole, operands) for operands in products)
    assert not re.search(r"%rsp|%rbp\)|\[sp\b|\tmov\tv", loop)
    assert ARM or VECTOR == 16 or multiply == "vfmadd"


# ------------------------------------------------------------------------------- kernels that are wrong

MUTANTS = {
    "masks one lane too many": ("check_identity", "first_lanes", "lambda s, n: real(s, s.builder.add(n, n.type(1)))"),
    "masks one lane too few": ("check_identity", "first_lanes", "lambda s, n: real(s, s.builder.sub(n, n.type(1)))"),
    "forgets to sum": ("check_epilogue", "fma", "lambda s, x, y, z: s.builder.fmul(x, y)"),
    "passes where the mask is 0": (
        "check_mask_and_alpha",
        "where_positive",
        "lambda s, g, x: s.builder.select(s.builder.fcmp_ordered('>=', g, s.zero), x, s.zero)",
    ),
    "ReLU hides NaN": (
        "check_epilogue",
        "relu",
        "lambda s, x: s.builder.select(s.builder.fcmp_ordered('>', x, s.zero), x, s.zero)",
    ),
}


@outermost
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_kernels_are_rejected(mutant: str, tmp_path: Path) -> None:
    check, method, body = MUTANTS[mutant]
    script = (
        "import numpy as np, test_microkernel as t\n"
        f"real = t.builder.VectorBuilder.{method}\n"
        f"t.builder.VectorBuilder.{method} = {body}\n"
        f"try: t.{check}(np.float32)\n"
        "except AssertionError: print('rejected')\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "rejected\n"


def test_mutants_change_what_exists() -> None:
    for _, method, _ in MUTANTS.values():
        assert hasattr(builder.VectorBuilder, method)


# ------------------------------------------------------------------------------- narrower instructions

TARGETS = {
    "AVX2 and FMA": ("haswell", "+avx,+avx2,+fma"),
    "SSE": ("nehalem", "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2"),
}


def test_workspace_that_cannot_be_had_is_an_error() -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def filled(size: int) -> float:
        place = allocate(size)
        values = array_at(np.dtype("f8"), place, (size // 8,))
        for i in range(values.size):
            values[i] = 1.5
        total = values.sum()
        release(place)
        return float(total)

    assert filled(800) == 150
    assert filled(0) == 0
    with pytest.raises(MemoryError, match="too large"):
        filled(1 << 62)


@pytest.fixture(scope="module")
def older_cpus() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The tests at work for each target, side by side: a core each."""
    folder = Path(__file__).parent
    epoch = ("test_a_gradient_has_the_bits_of_the_tables_functions", "test_slices_add_up_to_the_batch")
    files = [
        str(folder / name) for name in ("test_microkernel.py", "test_transpose.py", "test_gemm.py", "test_losses.py")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *files,
        *(f"{folder / 'test_training_step.py'}::{test}" for test in epoch),
    ]
    with ExitStack() as stack:
        started = {}
        for target, (name, features) in TARGETS.items():
            environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
            environment["FASTNET_INNER_TEST"] = "1"
            run = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            stack.enter_context(run)
            stack.callback(run.kill)
            started[target] = run
        yield started


@outermost
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names x86 targets")
@pytest.mark.parametrize("target", TARGETS)
def test_narrower_vectors(target: str, older_cpus: dict[str, subprocess.Popen[str]]) -> None:
    """All tests of this file and of the three others again, and the epoch's bits, for an older CPU."""
    output, _ = older_cpus[target].communicate()
    assert older_cpus[target].returncode == 0, output[-3000:]
