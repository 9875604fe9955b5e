"""Sweeps over sizes: cliffs in curves made up for them, and the command."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
from profiles import made_up

from fastnet.cli import main as cli
from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.jit import target
from fastnet.kernels.registry import Variant
from fastnet.kernels.specs.base import Case
from fastnet.profiling import sweep
from fastnet.profiling.variants import Profile


def curve(*points: tuple[int, float], level: str = "L1", peak: float = 100.0) -> list[Profile]:
    return [made_up({"simd": rate}, size, level, peak) for size, rate in points]


def test_a_fall_is_a_cliff_and_a_slope_is_none() -> None:
    assert sweep.cliffs(curve((8, 10), (64, 60), (128, 55), (256, 50))) == []
    (found,) = sweep.cliffs(curve((64, 60), (128, 30), (192, 60)))
    assert (found.variant, found.before, found.size) == ("simd", 64, 128)
    assert found.ratio == pytest.approx(0.5)
    assert found.sentence().startswith("simd from 64 to 128: 0.50 of its speed; ")


def test_a_slower_machine_is_no_cliff() -> None:
    assert sweep.cliffs([*curve((64, 60)), *curve((128, 30), peak=50.0)]) == []


def test_a_fall_within_the_quartiles_is_no_cliff() -> None:
    assert sweep.cliffs(curve((64, 100), (128, 79))) == [], "0.79, but 1% of each may be noise"
    assert len(sweep.cliffs(curve((64, 100), (128, 77)))) == 1


def test_causes_of_cliffs() -> None:
    def cause(*profiles: Profile) -> str:
        (found,) = sweep.cliffs(profiles)
        return found.cause

    lanes = target.vector_bytes() // 4
    assert cause(*curve((256, 60)), *curve((384, 20), level="L2")) == "the arrays no longer fit L1 and lie in L2"
    assert cause(*curve((384, 60), (512, 20))) == "rows lie 2048 bytes apart and share few sets of L1"
    odd = f"{lanes + 1} elements leave {lanes - 1} of the {lanes} lanes of the last vector empty"
    assert cause(*curve((lanes, 60), (lanes + 1, 20))) == odd
    both = cause(*curve((384, 60)), *curve((512, 20), level="L2"))
    assert both == "the arrays no longer fit L1 and lie in L2, and rows lie 2048 bytes apart and share few sets of L1"
    assert cause(*curve((2 * lanes, 60), (3 * lanes, 20))) == "no rule names the cause"


def test_sizes_end_where_the_truth_takes_minutes() -> None:
    assert sweep.default_sizes("matmul", "float32")[-1] == 2048
    assert sweep.default_sizes("matmul", "float64")[-1] == sweep.MAX_FLOAT64
    assert sweep.default_sizes("relu", "float64")[-1] == 2048**2


def test_a_slow_variant_is_left_out_at_larger_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {8: {"loops": 1.0, "simd": 50.0}, 16: {"loops": 1e-6, "simd": 50.0}, 32: {"simd": 50.0}}
    asked = []

    def profile(operation: str, case: Case, candidates: tuple[Variant, ...], *rest: object, code: bool) -> Profile:
        asked.append([variant.name for variant in candidates])
        return made_up(rates[case.dims[0]], case.dims[0])

    monkeypatch.setattr(sweep, "profile", profile)
    candidates = [Variant("matmul", name, print) for name in ("loops", "simd")]
    assert [each.case.dims[0] for each in sweep.sweep("matmul", candidates, (32, 8, 16))] == [8, 16, 32]
    assert asked == [["loops", "simd"], ["loops", "simd"], ["simd"]]


@pytest.mark.compiled
def test_sweep_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "sweep.svg"
    arguments = ["profile", "sweep", "matmul", "--sizes", "8,24", "--variants", "reference,simd", "--seconds", "0.01"]
    assert cli.main([*arguments, "--plot", str(picture)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("matmul, float32, GFLOP/s; ")
    assert re.search(r"^size +reference +simd +limit\n +8 +[\d.]+ +[\d.]+ +[\d.]+\n +24 ", output, re.M)
    assert "GFLOP/s" in picture.read_text() or picture.stat().st_size > 10_000


@pytest.mark.compiled
def test_sweep_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile", "sweep", "tanh", "--sizes", "8,64", "--variants", "simd", "--seconds", "0.01", "--json"]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    (run,) = found["sweeps"]
    assert [each["case"] for each in run["sizes"]] == ["8", "64"]
    assert run["sizes"][0]["variants"]["simd"]["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: KERNEL"),
        (("matmul", "--sizes", "0"), "'0' is not a list of whole numbers of at least 1"),
        (("matmul", "--variants", "fast"), "unknown variant 'fast' of matmul"),
        (("matmul", "--threads", "100000"), f"--threads 100000: at most {num_threads()} can be used here"),
    ],
)
def test_sweep_usage_errors_exit_with_status_2(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "profile", partial(pytest.fail, "timed"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["profile", "sweep", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
