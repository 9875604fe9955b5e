"""Profiles kept and compared: on times made up, and by the command on times of its own."""

import json
from pathlib import Path

import pytest
from profiles import made_up

from fastnet.cli import main as cli
from fastnet.cli.profile_options import hardware
from fastnet.profiling import baseline, variants

HERE = {"cpu": "acme9", "vector_bytes": 32, "threads": 2}


def words(before: dict[str, float], after: dict[str, float], path: Path, peak: float = 100.0) -> dict[str, str]:
    """What is said of variants that reach these GFLOP/s, before and after."""
    baseline.save(str(path), [made_up(before)], HERE)
    found = baseline.compare(made_up(after, peak=peak), baseline.load(str(path), HERE))
    return {name: each.word for name, each in found.items()}


def test_slower_and_faster_variants_are_found(tmp_path: Path) -> None:
    before = {"reference": 50.0, "loops": 10.0, "simd": 80.0, "gone": 1.0}
    after = {"reference": 50.0, "loops": 13.0, "simd": 60.0, "new": 1.0}
    assert words(before, after, tmp_path / "b.json") == {"reference": "same", "loops": "faster", "simd": "slower"}


def test_a_slower_clock_is_no_change(tmp_path: Path) -> None:
    half = {"reference": 25.0, "simd": 40.0}
    assert set(words({"reference": 50.0, "simd": 80.0}, half, tmp_path / "b.json", peak=50.0).values()) == {"same"}


def test_what_numpy_differs_by_is_noise(tmp_path: Path) -> None:
    before = {"reference": 50.0, "simd": 80.0}
    assert words(before, {"reference": 50.0, "simd": 65.0}, tmp_path / "b.json")["simd"] == "slower"
    assert words(before, {"reference": 42.0, "simd": 65.0}, tmp_path / "b.json")["simd"] == "same"


def test_the_threshold_is_the_operations_or_the_callers(tmp_path: Path) -> None:
    path = str(tmp_path / "b.json")
    baseline.save(path, [made_up({"simd": 80.0})], HERE)
    runs, now = baseline.load(path, HERE), made_up({"simd": 72.0})
    assert baseline.compare(now, runs)["simd"].threshold == pytest.approx(baseline.THRESHOLDS["matmul"])
    assert baseline.compare(now, runs)["simd"].word == "slower"
    assert baseline.compare(now, runs, 0.2)["simd"].word == "same"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "b.json: "),
        ("[]", "not a file that --save wrote"),
        ('{"format": "fastnet profile 1"}', "lacks 'hardware'"),
        (json.dumps({"format": "fastnet profile 1", "hardware": {"cpu": "other"}}), "measured on {'cpu': 'other'}"),
        (
            json.dumps({"format": "fastnet profile 1", "hardware": HERE, "profiles": {"x": {"peaks": [1, -1]}}}),
            "lacks 'variants'",
        ),
        (
            json.dumps(
                {"format": "fastnet profile 1", "hardware": HERE, "profiles": {"x": {"peaks": [1], "variants": {}}}}
            ),
            r"\[1\] are not times; expected 4 positive numbers",
        ),
        (
            json.dumps({"format": "fastnet profile 1", "hardware": HERE, "profiles": []}),
            r"b.json: its 'profiles' is \[\]; expected a JSON object",
        ),
        (
            json.dumps({"format": "fastnet profile 1", "hardware": HERE, "profiles": {"x": 3}}),
            "its 'x' is 3; expected a JSON object",
        ),
        (
            json.dumps(
                {
                    "format": "fastnet profile 1",
                    "hardware": HERE,
                    "profiles": {"x": {"peaks": ["1"] * 4, "variants": {}}},
                }
            ),
            r"\['1', '1', '1', '1'\] are not times",
        ),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        baseline.load(str(path), HERE)


def test_another_case_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "b.json")
    small, large = made_up({"simd": 80.0}, 32), made_up({"simd": 80.0})
    baseline.save(path, [small], HERE)
    held, wanted = (baseline.key("matmul", each.case, "float32", 1) for each in (small, large))
    assert held == "matmul 32x32x32-nn float32, 1 thread"
    assert list(baseline.load(path, HERE, [held])["profiles"]) == [held]
    with pytest.raises(ValueError, match=f"b.json: it has no profile of {wanted}, but of {held}: save"):
        baseline.load(path, HERE, [held, wanted])


def test_command_refuses_another_case_before_it_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.json"
    baseline.save(str(path), [made_up({"simd": 80.0})], hardware())
    monkeypatch.setattr(variants, "profile", lambda *_, **__: pytest.fail("it was timed"))
    assert cli.main(["profile", "kernel", "tanh", "--shape", "1000", "--baseline", str(path)]) == 1
    assert "it has no profile of tanh 1000 float32, 1 thread, but of matmul 64x64x64-nn" in capsys.readouterr().err


@pytest.mark.compiled
def test_command_saves_compares_and_exits_with_1_where_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.json"
    arguments = ["profile", "kernel", "tanh", "--shape", "1000", "--no-compile-stats", "--seconds", "0.01"]
    assert cli.main([*arguments, "--save", str(path)]) == 0
    assert cli.main([*arguments, "--baseline", str(path), "--threshold", "1000"]) == 0
    output = capsys.readouterr().out
    assert f"save      {path}" in output
    assert "against the baseline" in output

    saved = json.loads(path.read_text())
    ((key, found),) = saved["profiles"].items()
    assert key == "tanh 1000 float32, 1 thread"
    found["variants"]["simd"] = [time / 1e6 for time in found["variants"]["simd"]]  # as if it had been far faster
    path.write_text(json.dumps(saved))
    assert cli.main([*arguments, "--baseline", str(path), "--json"]) == 1
    (compared,) = json.loads(capsys.readouterr().out)["baseline"]
    assert compared["simd"]["word"] == "slower"


@pytest.mark.parametrize(("option", "name", "said"), [("--save", "t.csv", "JSON"), ("--html", "t.json", "a web page")])
def test_suffixes_of_other_formats_are_refused_before_anything_is_timed(
    option: str, name: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "profile", lambda *_, **__: pytest.fail("it is timed"))
    assert cli.main(["profile", "kernel", "matmul", "--variants", "loops", option, name]) == 1
    assert f"cannot write {name}: it would hold {said}, but its name says" in capsys.readouterr().err
