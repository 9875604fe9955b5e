"""The profiler: timing, limits, machine code, the breakdown of a step, and its command line.

No test asserts how fast anything is. Tests of assembly compile in a process of their own, with an empty cache.
"""

import importlib.util
import json
import platform
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnet.cli import main as cli
from fastnet.kernels.cpu.gemm.microkernel import MR, NV, UNROLL, layouts_of
from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.cuda import ptx_report
from fastnet.kernels.engine import step_breakdown as parts
from fastnet.kernels.jit import target
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.registry import TABLE, Variant, find, variants
from fastnet.kernels.specs.base import Case
from fastnet.kernels.specs.operations import OP_SPECS
from fastnet.kernels.verify import WrongKernelError
from fastnet.profiling import machine_code
from fastnet.profiling import step_breakdown as stepprofile
from fastnet.profiling import variants as profiling
from fastnet.profiling.timing import Spread, aligned, batches, interleave, spread
from fastnet.profiling.variants import Limits

# ---------------------------------------------------------------------------------------------- timing


def test_timing_interleaves_candidates() -> None:
    order: list[str] = []

    def candidate(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or float(len(order))  # type: ignore[func-returns-value]

    found = interleave({"a": candidate("a"), "b": candidate("b")}, seconds=0.0, min_rounds=3)
    assert [set(order[start : start + 2]) for start in (0, 2, 4)] == [{"a", "b"}] * 3
    assert found == {name: [i + 1.0 for i in range(6) if order[i] == name] for name in "ab"}


def test_timing_order_changes_between_rounds() -> None:
    order: list[int] = []
    interleave({i: partial(lambda i: order.append(i) or 1.0, i) for i in range(3)}, seconds=0.0, min_rounds=30)  # type: ignore[func-returns-value]
    assert len({tuple(order[start : start + 3]) for start in range(0, 90, 3)}) == 6


def test_timing_spread_is_medians_and_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert found == (3.0, 2.0, 4.0)
    assert found.relative_iqr == pytest.approx(2 / 3)


def test_batches_return_the_time_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + 100 * (seconds > 0)))

    def call() -> None:
        now[0] += 0.25

    assert batches(call, batch_s=2.0)() == 0.25
    assert batches(call, batch_s=0.001)() == 0.25
    before = now[0]
    assert batches(call, batch_s=2.0, rest_s=1.0)() == 0.25, "the rest does not count"
    assert now[0] > before + 100


def test_aligned_copies_keep_values_and_layout() -> None:
    A = np.arange(35.0).reshape(5, 7)
    for array in (A, A.T, A[0], np.arange(9, dtype=np.float32)[1:]):
        copy = aligned(array)
        assert copy.ctypes.data % 64 == 0
        assert (copy.strides, copy.dtype) == (array.strides, array.dtype)
        assert np.array_equal(copy, array)
        assert not np.shares_memory(copy, array)
    assert aligned(A[::2, ::2]).strides == A[::2, ::2].strides
    assert aligned(3) == 3


# ---------------------------------------------------------------------------------------------- limits


def test_roofline_uses_the_lower_limit() -> None:
    limits = Limits(gflops=100.0, gbps=50.0, level="L2", threads=1)
    assert limits.seconds(flops=200e9, bytes_moved=50e9) == pytest.approx(2.0)
    assert limits.binds(200e9, 50e9) == "compute"
    assert limits.seconds(flops=100e9, bytes_moved=200e9) == pytest.approx(4.0)
    assert limits.binds(100e9, 200e9) == "L2 bandwidth"


def test_roofline_level_is_the_smallest_sufficient_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "cache_sizes", lambda: {"L1": 100, "L2": 1000})
    assert [profiling.level_of(size) for size in (1, 100, 101, 1000, 1001)] == ["L1", "L1", "L2", "L2", "memory"]


# -------------------------------------------------------------------------------------------- profiles


@pytest.mark.compiled
def test_profile_holds_the_measurements() -> None:
    case = profiling.case_of("matmul", [24, 40, 33], "nt")
    found = profiling.profile("matmul", case, profiling.chosen("matmul", None, "float64"), "float64", 1, 0.01, False)
    assert [m.variant for m in found.measurements] == list(variants("matmul"))
    assert found.flops == 2 * 24 * 40 * 33
    assert found.bytes_moved == 8 * (24 * 40 + 40 * 33 + 24 * 33)
    assert found.intensity == found.flops / found.bytes_moved
    for m in found.measurements:
        assert 0 < m.seconds.low <= m.seconds.median <= m.seconds.high
        assert m.gflops == pytest.approx(found.flops / m.seconds.median / 1e9)
        assert m.gbps == pytest.approx(found.bytes_moved / m.seconds.median / 1e9)
        limit = max(found.flops / found.limits.gflops, found.bytes_moved / found.limits.gbps) / 1e9
        assert m.fraction_of_limit == pytest.approx(limit / m.seconds.median)
        assert 0 <= m.error_ratio < 1
        assert m.code is None


def test_profile_rejects_wrong_kernels_before_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(A: Any, B: Any, C: Any) -> None:
        np.matmul(A[:, :-1], B[:-1], out=C)

    monkeypatch.setattr(profiling, "interleave", lambda *arguments: pytest.fail("timed"))
    monkeypatch.setattr(profiling, "batches", lambda *arguments: pytest.fail("timed"))
    candidates = (Variant("matmul", "reference", find("matmul", "reference")), Variant("matmul", "wrong", wrong))
    with pytest.raises(WrongKernelError, match="matmul, variant wrong, float32, case 8x9x10-nn"):
        profiling.profile("matmul", Case((8, 9, 10), "profiled", "nn"), candidates)


def test_profile_wrong_kernel_exits_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(Z: Any, out: Any) -> None:
        out[...] = np.tanh(Z) + 1e-3

    monkeypatch.setattr(profiling, "TABLE", (*TABLE, Variant("tanh", "wrong", wrong)))
    assert cli.main(["profile", "kernel", "tanh", "--shape", "100", "--no-compile-stats"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    said = [line for line in captured.err.splitlines() if "compiling" not in line]
    assert len(said) == 1
    assert said[0].startswith(
        "fastnet profile kernel: tanh, variant wrong, float32, case 100 (profiled): argument 1: 100 of 100"
    )


@pytest.mark.sampled(7)
@pytest.mark.parametrize("operation", OP_SPECS)
def test_profile_every_operation_at_its_default_case(operation: str) -> None:
    case = profiling.case_of(operation)
    assert case.dims == OP_SPECS[operation].bench_cases[-1].dims
    assert [variant.name for variant in profiling.chosen(operation, None, "float32")] == list(variants(operation))


# ---------------------------------------------------------------------------------------- machine code

X86 = """
_ZN7fastnet5tests4realB2v1E5Array:
    movq %rdi, %rax
.LBB0_1:
    vmovups (%rax), %ymm1
.LBB0_2:
    vfmadd231ps (%rdx), %ymm0, %ymm1
    vfmadd213ps (%rdx), %ymm0, %ymm2
    vaddps %ymm1, %ymm2, %ymm3
    vaddss %xmm1, %xmm2, %xmm3
    addq $32, %rax
    jne .LBB0_2
    vmulps %zmm1, %zmm2, %zmm3
    jmp .LBB0_1
.LBB0_3:
    vaddsd (%rax), %xmm1, %xmm1
    jne .LBB0_3
    retq
_ZN7cpython7fastnet5tests4realB2v1E5Array:
.LBB1_1:
    vfmadd231ps %zmm1, %zmm2, %zmm3
    jne .LBB1_1
"""

ARM = """
kernel:
.LBB0_4:
    ldp q1, q4, [x8, #32]
    fmla v0.4s, v1.4s, v2.s[0]
    fadd v3.4s, v3.4s, v0.4s
    subs x9, x9, #1
    b.ne .LBB0_4
    ret
"""


def test_inner_loop_with_most_arithmetic_is_found() -> None:
    loop = machine_code.inner_loop(X86)
    assert loop is not None
    assert (loop.function, loop.vector_bytes, loop.fmas, loop.arithmetic) == ("fastnet.tests.real", 32, 2, 4)
    assert (loop.instructions, loop.loops) == (6, 1), "not the outer loop, nor Python's entry, nor the scalar one"
    assert loop.text.startswith(".LBB0_2:")
    assert loop.text.endswith("jne .LBB0_2")


def test_inner_loop_on_arm() -> None:
    loop = machine_code.inner_loop(ARM)
    assert loop is not None
    assert (loop.function, loop.vector_bytes, loop.fmas, loop.arithmetic, loop.instructions) == ("kernel", 16, 1, 2, 5)
    assert "ldp q1, q4, [x8, #32]\n" in loop.text


def test_inner_loop_is_absent_without_arithmetic() -> None:
    assert machine_code.inner_loop("f:\n    vaddps %zmm1, %zmm2, %zmm3\n    retq\n") is None
    assert machine_code.inner_loop("f:\n.LBB0_1:\n    addq $1, %rax\n    jne .LBB0_1\n") is None


def test_inner_loop_prefers_a_microkernel() -> None:
    tile = "fastnet.tile.float32.1x1x64:\n.LBB1_1:\n    vfmadd231ps %ymm1, %ymm2, %ymm3\n    jne .LBB1_1\n"
    loop = machine_code.inner_loop(X86 + tile)
    assert loop is not None
    assert loop.function == "fastnet.tile.float32.1x1x64"


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_inner_loop_of_products_is_the_microkernel() -> None:
    code = machine_code.inspect("matmul", "simd", "float32", Case((64, 64, 64), "profiled", "nn"))
    assert code is not None
    assert code.loop is not None
    assert code.first_call_s > 0.05
    if "fma" in target.target_features() or platform.machine().lower() in ("arm64", "aarch64"):
        tiles = [f"fastnet.tile.float32.{MR}x{NV}{layout}x{VECTOR}" for layout in layouts_of(MR, NV)]
        assert code.loop.function in tiles
        assert code.loop.fmas in (MR * NV, UNROLL * MR * NV)
        assert code.loop.vector_bytes == VECTOR


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_inner_loop_of_an_activation() -> None:
    relu = machine_code.inspect("relu", "loops", "float32", Case((100,), "profiled"))
    tanh = machine_code.inspect("tanh", "simd", "float64", Case((100,), "profiled"))
    assert tanh is not None
    assert tanh.loop is not None
    assert tanh.loop.arithmetic > 10
    assert relu is not None
    assert relu.loop is None or relu.loop.arithmetic < 8, "relu compares and selects"


def test_numpy_variants_have_no_machine_code() -> None:
    assert machine_code.inspect("matmul", "reference", "float32", Case((8, 8, 8), "profiled", "nn")) is None


def test_failed_compilation_process_reports_its_error() -> None:
    with pytest.raises(RuntimeError, match=r"matmul, variant loops: compiling .* failed: .*3"):
        machine_code.inspect("matmul", "loops", "float32", Case((8, 8), "two sizes for three", "nn"))


# ------------------------------------------------------------------------------------------------ steps


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("sizes", "batch", "loss", "optimizer"),
    [
        ((37, 50, 33, 5), 45, "mse", "sgd"),
        ((20, 70, 10), 300, "cross_entropy", "adam"),
        ((5, 3), 1, "binary_cross_entropy", "adam"),
    ],
)
def test_step_breakdown_parts_reproduce_the_step(sizes: tuple[int, ...], batch: int, loss: str, optimizer: str) -> None:
    found = stepprofile.profile_step(sizes, batch, "float32", loss, optimizer, seconds=0.01)
    layers = len(sizes) - 1
    forward = [f"forward {i + 1}" for i in range(layers)]
    backward = [f"backward {i}" for i in range(layers, 1, -1)]
    assert [part.name for part in found.parts] == [
        *forward,
        "loss",
        *backward,
        *[f"weights {i + 1}" for i in range(layers)],
    ]
    products = sum(n * k for n, k in pairwise(sizes))
    assert sum(part.flops for part in found.parts) == 2 * batch * (3 * products - sizes[0] * sizes[1])
    assert found.remainder == pytest.approx(found.step.median - sum(part.seconds.median for part in found.parts))


@pytest.mark.compiled
@pytest.mark.parametrize("lost", [parts.FORWARD, parts.LOSS, parts.BACKWARD, "weights"])
def test_step_breakdown_notices_a_missing_part(lost: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    def repeat(dtype: Any, context: int, part: int, *arguments: Any) -> None:
        if part != lost:
            repeat_rows(dtype, context, part, *arguments)

    repeat_rows = parts.repeat_rows
    monkeypatch.setattr(parts, "repeat_rows", repeat)
    if lost == "weights":
        monkeypatch.setattr(parts, "repeat_weights", lambda *arguments: None)
    monkeypatch.setattr(stepprofile, "interleave", lambda *arguments: pytest.fail("timed"))
    with pytest.raises(WrongKernelError, match=r"a step's parts do not make the step: \d+ of \d+ parameters differ"):
        stepprofile.profile_step((20, 33, 10), 16)


def test_step_breakdown_rejects_batches_beyond_a_micro_batch() -> None:
    with pytest.raises(ValueError, match="the batch size is 1025; a step is profiled on 1 to 1024 rows"):
        stepprofile.profile_step((20, 10), 1025)


# ---------------------------------------------------------------------------------------- command line


@pytest.mark.compiled
def test_profile_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "roofline.png"
    arguments = [
        "profile",
        "kernel",
        "matmul",
        "--shape",
        "30,20,40",
        "--variants",
        "simd,reference",
        "--seconds",
        "0.01",
    ]
    arguments += ["--asm", "--threads", ",".join(map(str, sorted({1, num_threads()}))), "--plot", str(picture)]
    assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert output.startswith("matmul 30x20x40-nn, float32; ")
    assert len(
        re.findall(r"^reference +[\d.]+ +[\d.]+% +[\d.]+ +[\d.]+ +[\d.]+% +[\d.]+ +0\.\d+$", output, re.M)
    ) == len({1, num_threads()})
    assert re.search(
        r"^simd +[\d.]+  \d+ FMAs.* of \d+ bytes in \d+ instructions, fastnet\.tile\.float32", output, re.M
    )
    assert re.search(r"^reference +-  NumPy$", output, re.M)
    assert re.search(r"^simd: fastnet\.tile\.float32\.\w+\n\.?L\w+:\n", output, re.M)
    assert "binds" in output
    assert "blocked" not in output
    assert picture.stat().st_size > 10_000


@pytest.mark.compiled
def test_profile_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "profile",
        "kernel",
        "tanh",
        "--shape",
        "1000",
        "--dtype",
        "float64",
        "--no-compile-stats",
        "--json",
        "--seconds",
        "0.01",
    ]
    assert cli.main(arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)["profiles"]
    assert [each["variant"] for each in found["variants"]] == ["reference", "loops", "simd"]
    assert found["bytes"] == 16_000
    assert found["limits"]["gflops"] > 0
    assert found["variants"][0]["quartiles"][0] <= found["variants"][0]["seconds"]


@pytest.mark.compiled
def test_profile_step_parts_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile", "step", "--layers", "20,30,10", "--batch-size", "16", "--loss", "cross_entropy"]
    assert cli.main([*arguments, "--optimizer", "adam", "--seconds", "0.01"]) == 0
    output = capsys.readouterr().out
    row_weights = {
        name: float(share) for name, share in re.findall(r"^(\w+(?: \d)?) .*? (-?[\d.]+)%(?:  |$)", output, re.M)
    }
    assert {"forward 1", "forward 2", "loss", "backward 2", "weights 1", "weights 2", "remainder"} <= set(row_weights)
    times = dict(re.findall(r"^(\w+(?: \d)?) +(?:\d\S*x\S+ +)?(-?[\d.]+) ", output, re.M))
    parts_of_it = sum(float(time) for name, time in times.items() if name not in ("step", "a", "remainder"))
    remainder = max(0.0, float(times["step"]) - parts_of_it)
    assert float(times["remainder"]) == pytest.approx(remainder, abs=0.01 * float(times["step"]))


@pytest.mark.parametrize("part_us", [1.0, 3.0])
def test_profile_step_has_a_network_by_default_and_no_negative_remainder(
    part_us: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, part = (Spread(each * 1e-6, each * 1e-6, each * 1e-6) for each in (2.0, part_us))

    def found(sizes: Any, *settings: Any) -> stepprofile.StepProfile:
        parts = (stepprofile.Part("loss", "4x1", part, 0),)
        return stepprofile.StepProfile(tuple(sizes), *settings[:4], step, parts, 100.0, {})

    monkeypatch.setattr(stepprofile, "profile_step", found)
    assert cli.main(["profile", "step"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("a step of 784-256-128-10, batch 128, ")
    left = re.search(r"^remainder +(\S+) +(\S+)$", output.replace(" \n", "\n"), re.M)
    assert left is not None
    assert (float(left[1]), left[2]) == ((1.0, "50.0%") if part_us < 2 else (0.0, "0.0%"))
    said = "the remainder is what the parts do not explain." if part_us < 2 else "took 1.000 us longer than in the step"
    assert said in output


@pytest.mark.compiled
def test_info_measures_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--peak"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^FMA peak +1 thread: \d+ GFLOP/s float32, \d+ GFLOP/s float64$", output, re.M)
    assert re.search(r"^bandwidth +1 thread: L1 \d+, .*memory \d+ GB/s, read$", output, re.M)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: kernel|sweep|step"),
        (("matmul",), "invalid choice: 'matmul' (choose from"),
        (("kernel",), "the following arguments are required: KERNEL"),
        (("kernel", "matmull"), "invalid choice: 'matmull' (choose from"),
        (("kernel", "matmul", "--shape", "3,4"), "matmul takes 3 sizes of at least 1, M,K,N, not 3,4"),
        (("kernel", "matmul", "--shape", "3,x,4"), "'3,x,4' is not a list of whole numbers of at least 1"),
        (("kernel", "matmul", "--shape", "0,3,4"), "'0,3,4' is not a list of whole numbers of at least 1"),
        (("kernel", "matmul", "--case-option", "zz"), "matmul has no option 'zz'; there are: nn, nt, ss, tn, tt"),
        (("kernel", "mse", "--case-option", "nn"), "mse has no option 'nn'; there are: none"),
        (
            ("kernel", "matmul", "--variants", "simd,fast"),
            "unknown variant 'fast' of matmul; there are: reference, loops",
        ),
        (("kernel", "matmul", "--dtype", "float16"), "invalid choice: 'float16'"),
        (("kernel", "matmul", "--threads", "100000"), f"--threads 100000: at most {num_threads()} can be used here"),
        (("kernel", "matmul", "--seconds", "0"), "'0' is not a number above 0"),
        (("kernel", "matmul", "--layers", "3,4"), "unrecognized arguments: --layers 3,4 (see fastnet profile kernel"),
        (("kernel", "matmul", "--asm", "--no-compile-stats"), "--asm shows what --no-compile-stats leaves out"),
        (("step", "--layers", "3"), "'3' is not a list of at least two sizes, inputs and outputs, such as 784,256,128"),
        (("step", "--layers", "3,4", "--shape", "3,4,5"), "unrecognized arguments: --shape 3,4,5"),
        (("step", "--layers", "3,4", "--threads", "100000"), f"at most {num_threads()} can be used here"),
        (("step", "--layers", "3,4", "--loss", "mad"), "argument --loss: invalid choice: 'mad'"),
    ],
)
def test_profile_usage_errors_exit_with_status_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["profile", *arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_profile_checks_the_plot_path_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(profiling, "profile", partial(pytest.fail, "timed"))
    assert cli.main(["profile", "kernel", "matmul", "--plot", str(tmp_path / "roofline.xyz")]) == 1
    assert "unknown image type" in capsys.readouterr().err
    assert cli.main(["profile", "kernel", "matmul", "--plot", str(tmp_path / "nowhere" / "roofline.png")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------------------------ CUDA


def test_cuda_variants_are_compiled_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(operation: str, variant: str, dtype: str) -> tuple[ptx_report.Report, ...]:
        return (ptx_report.Report(f"{operation}_{variant}", dtype, (9, 0), 256, 2, 124, 16896, 16, 0, 10, 0, 0),)

    monkeypatch.setattr(ptx_report, "report", report)
    assert cli.main(["profile", "kernel", "matmul", "--variants", "cuda,cuda_tiled", "--dtype", "float64"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^cuda +matmul_cuda +256 +124 +16896 +0 +10$", said, re.MULTILINE)
    assert re.search(r"^cuda_tiled +matmul_cuda_tiled ", said, re.MULTILINE)
    assert "not timed" in said
    assert cli.main(["profile", "kernel", "relu", "--variants", "cuda", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["offline"]
    assert (found["variant"], found["registers"], found["spill_bytes"]) == ("cuda", 124, 0)


def test_cuda_variants_report_missing_cuda(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["profile", "kernel", "matmul", "--variants", "cuda"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("fastnet profile kernel: compiling for a card needs numba-cuda: pip install")
    assert error.count("\n") == 1
