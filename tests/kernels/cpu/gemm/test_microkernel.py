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
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from processes import ROOT, outermost, python_path
from tiles import (
    DTYPES,
    assert_guard,
    check_epilogue,
    check_identity,
    check_mask_and_alpha,
    guarded,
    kernels,
    lanes_of,
    run_tile,
    tiles,
)

from fastnet.kernels.cpu.gemm.microkernel import (
    MR,
    MR_NARROW,
    NV,
    PREFETCH_INTERVAL,
    SINGLE_ROW_VECTORS,
    layouts_of,
)
from fastnet.kernels.llvm import builder
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.llvm.memory import allocate, array_at, release

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_with_the_identity(dtype: Any) -> None:
    check_identity(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogues(dtype: Any) -> None:
    check_epilogue(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_and_alpha(dtype: Any) -> None:
    check_mask_and_alpha(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_sum_is_zero(dtype: Any) -> None:
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
    A = rng.standard_normal((MR_NARROW, k)).astype(dtype)
    B = rng.standard_normal((k, SINGLE_ROW_VECTORS * lanes_of(dtype))).astype(dtype)
    widest = np.full((MR_NARROW, B.shape[1]), np.nan, dtype)
    strip = NV * lanes_of(dtype)
    for left in range(0, B.shape[1], strip):
        for rows in (slice(MR), slice(MR_NARROW - MR, MR_NARROW)):
            run_tile(A[rows], B[:, left:], widest[rows, left:], strip)
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
@pytest.mark.parametrize(
    ("tile", "sums"),
    [
        (f"{rows}x{vectors}{layout}", rows * vectors)
        for rows, vectors in ((MR, NV), (1, SINGLE_ROW_VECTORS), *[(MR_NARROW, 1)] * (VECTOR == 64))
        for layout in layouts_of(rows, vectors)
    ],
)
def test_assembly_of_the_loops(dtype: Any, tile: str, sums: int) -> None:
    """The largest tiles' loops: each FMA on whole registers, as many as sums, no vector moved or on the stack.

    With AVX2, the mask of a single vector of columns does not stay in a register, so that tile is not among them.
    """
    (assembly,) = kernels(dtype)["tile"].inspect_asm().values()  # compiled in this process: no cache
    function = re.search(rf'\n"?fastnet.tile.{np.dtype(dtype)}.{tile}x{VECTOR}"?:.*?\.Lfunc_end', assembly, re.DOTALL)
    assert function
    if ARM:
        multiply = "fmla"
        lanes = f"{lanes_of(dtype)}{'s' if dtype is np.float32 else 'd'}"
        instruction, whole = r"\tfmla\t(.*)", rf"v\d+\.{lanes}, v\d+\.{lanes}, v\d+\.({lanes}|[sd]\[\d\])$"
    else:
        multiply = "vfmadd" if "vfmadd" in function[0] else "mul"
        instruction = rf"\t\w*{multiply}\w*{'ps' if dtype is np.float32 else 'pd'}\t(.*)"
        whole = {64: r"%zmm\d+$", 32: r"%ymm\d+$", 16: r"%xmm\d+$"}[VECTOR]
    loops = [loop for loop in inner_loops(function[0]) if multiply in loop]
    # The loop over tiles is around the others.
    loops = [loop for loop in loops if not any(other in loop for other in loops if other != loop)]
    assert loops
    for loop in loops:
        products = re.findall(instruction, loop)
        assert len(products) % sums == 0
        assert len(products) > 0
        assert all(re.search(whole, operands) for operands in products)
        assert not re.search(r"\(%rsp\), %[xyz]mm|%[xyz]mm\d+, -?\d*\(%rsp\)|[qv]\d+, \[sp\b|\tmov\tv", loop)
        assert not ARM or not tile.endswith("rows") or not re.search(r"\tld1r|\tdup", loop)
    assert ARM or VECTOR == 16 or multiply == "vfmadd"


NEON_LOOPS = """
import platform, sys
platform.machine = lambda: "aarch64"
import llvmlite.binding as llvm, numba
from llvmlite import ir
from fastnet.kernels.cpu.gemm import microkernel as m
from fastnet.kernels.cpu.gemm.operands import MicroPanels, Rows, Tile
from fastnet.kernels.llvm.builder import VectorBuilder
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
machine = target.create_target_machine(cpu=sys.argv[1], features="+neon", opt=3)
for dtype in (numba.float32, numba.float64):
    for layout in m.LAYOUTS:
        module, word = ir.Module(), ir.IntType(64)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [word] * 14), "outer")
        code = VectorBuilder(ir.IRBuilder(function.append_basic_block()), dtype)
        take = iter(function.args)
        rows = [Rows(next(take), next(take)) for _ in range(5)]
        panels = MicroPanels(*(next(take) for _ in range(4)))
        outputs = m.Outputs(*rows[1:], ir.Constant(code.scalar, 1))
        tile = m._emit_tiles(m.MR, m.NV, layout)
        shape = Tile(word(m.MR), word(m.NV), word(1), word(1), word(0), word(0))
        code.call_shared("tile", tile, shape, panels, rows[0], outputs)
        code.builder.ret_void()
        parsed = llvm.parse_assembly(str(module).replace("linkonce_odr", ""))
        tuning = llvm.create_pipeline_tuning_options(speed_level=3)
        passes = llvm.create_pass_builder(machine, tuning)
        passes.getModulePassManager().run(parsed, passes)
        print(f"tile {m.MR}x{m.NV}, {dtype}, {layout}:")
        print(machine.emit_assembly(parsed))
"""


@pytest.mark.parametrize("cpu", ["apple-m1", "neoverse-n1"])
def test_assembly_of_neon_loops(cpu: str, tmp_path: Path) -> None:
    """Compiled for ARM wherever this runs: FMAs from lanes of packed A, no vector on the stack or moved."""
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "PYTHONPATH": python_path()}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", NEON_LOOPS, cpu]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    tiles = re.findall(r"(tile 6x4, float\d+, \w+):\n.*?\n(tile:.*?)\.Lfunc_end", run.stdout, re.DOTALL)
    assert [name for name, _ in tiles] == [
        f"tile 6x4, {dtype}, {layout}" for dtype in ("float32", "float64") for layout in ("k", "rows")
    ]
    for name, function in tiles:
        loops = [loop for loop in inner_loops(function) if "fmla" in loop]
        loops = [loop for loop in loops if not any(other in loop for other in loops if other != loop)]
        assert loops, name
        for loop in loops:
            fmas, loads = loop.count("\tfmla"), len(re.findall(r"\tld\w+\t", loop))
            assert fmas in (24, 48), name
            assert loads <= fmas / 2.4, name  # of ten vectors at most for 24 FMAs, without pairs
            assert not re.search(r"[qdv]\d+, \[sp\b|\tmov\tv", loop), name
            if name.endswith("rows"):
                assert not re.search(r"\tld1r|\tdup", loop), name
                assert loop.count("\tldp") >= fmas // 24, name  # a pair of B's four; the last may overlap the third


# ------------------------------------------------------------------------------- kernels that are wrong

MUTANTS = {
    "masks one lane too few": ("check_identity", "first_lanes", "lambda s, n: real(s, s.builder.sub(n, n.type(1)))"),
    "stores one lane too many": (
        "check_identity",
        "store_first",
        "lambda s, x, p, n: real(s, x, p, s.builder.add(n, n.type(1)))",
    ),
    "writes beyond the last column": ("check_identity", "vectors_at", "lambda s, p, n, last=None: real(s, p, n)"),
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


@pytest.mark.exhaustive
@outermost
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_kernels_are_rejected(mutant: str, tmp_path: Path) -> None:
    check, method, body = MUTANTS[mutant]
    script = (
        "import numpy as np, tiles as t\n"
        f"real = t.builder.VectorBuilder.{method}\n"
        f"t.builder.VectorBuilder.{method} = {body}\n"
        f"try: t.{check}(np.float32)\n"
        "except AssertionError: print('rejected')\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": python_path()}
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


def test_allocation_failure_is_a_memory_error() -> None:
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
    epoch = ("test_gradient_has_the_bits_of_the_registered_variants", "test_micro_batches_add_up_to_the_batch")
    epoch += ("test_packed_weights_are_the_transpose_from_any_vector_on",)
    gemm = ROOT / "tests" / "kernels" / "cpu" / "gemm"
    files = [gemm / "test_microkernel.py", gemm / "test_transpose.py", gemm / "test_gemm.py"]
    files.append(ROOT / "tests" / "kernels" / "cpu" / "test_losses.py")
    step = ROOT / "tests" / "kernels" / "engine" / "test_training_step.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "exhaustive or not exhaustive",
        *map(str, files),
        *(f"{step}::{test}" for test in epoch),
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


@pytest.mark.exhaustive
@outermost
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names x86 targets")
@pytest.mark.parametrize("target", TARGETS)
def test_other_instruction_sets(target: str, older_cpus: dict[str, subprocess.Popen[str]]) -> None:
    """All tests of this file and of the three others again, and the epoch's bits, for an older CPU."""
    output, _ = older_cpus[target].communicate()
    assert older_cpus[target].returncode == 0, output[-3000:]
