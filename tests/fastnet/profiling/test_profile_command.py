"""`fastnet profile kernel`, `fastnet profile step` and `fastnet info --peak`: what they print and refuse."""

import importlib.util
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnet.cli import main as cli
from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.cuda import ptx_report
from fastnet.kernels.registry import TABLE, Variant
from fastnet.profiling import step_breakdown as stepprofile
from fastnet.profiling import variants as profiling
from fastnet.profiling.timing import Spread


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


# --------------------------------------------------------------------------------------------------------------- CUDA


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
