"""What stands between a measurement and README: the rule that flags a slower commit, the tables, the plots, the clock.

Nothing here asserts a time: the rule decides on numbers made up for it, the tables on results made up or committed.
"""

import math
import random
import re
import statistics
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import groups
import numpy as np
import predictions
import pytest
import report
import sides
import small_products

from fastnet.profiling.verdicts import FLOOR, MARGIN, verdict

BENCH = Path(report.__file__).parent


def measured(rng: random.Random, change: float, rounds: int = 9) -> tuple[float, float]:
    """What one set of processes gives: rounds as noisy as a shared machine's, and each process's own luck."""
    luck = [math.exp(rng.gauss(0, 0.01)) for _ in range(3)]
    ratios, controls = [], []
    for _ in range(rounds):
        mood = math.exp(rng.gauss(0, 0.2))  # the machine's: the same for all three
        first, second, again = (
            mood * own * factor * math.exp(abs(rng.gauss(0, 0.03)))
            for own, factor in zip(luck, (1, change, 1), strict=True)
        )
        ratios.append(second / ((first + again) / 2))
        controls.append(again / first)
    return statistics.median(ratios), statistics.median(controls)


def words(change: float, trials: int = 500) -> list[str]:
    rng = random.Random(7)
    found = []
    for _ in range(trials):
        changes, controls = zip(*(measured(rng, change) for _ in range(4)), strict=True)
        found.append(verdict(changes, controls).word)
    return found


def test_verdict_flags_slower_kernels_and_not_noise() -> None:
    assert words(1.0).count("same") >= 499
    assert words(1.25).count("slower") == 500
    assert words(0.75).count("faster") == 500
    assert words(1.01).count("slower") <= 5, "what is below the floor cannot be told from luck"


def test_verdict_ignores_one_disturbed_set() -> None:
    assert verdict([1.5, 1.0, 1.01, 0.99], [1.0, 1.0, 1.01, 0.99]).word == "same"
    assert verdict([1.2, 1.2, 1.2, 1.2], [1.0, 1.0, 0.99, 1.01]).word == "slower"
    assert verdict([1.2, 1.2, 1.2, 1.2], [1.0, 1.0, 1.3, 1.01]).word == "same", "equal code differed by more"
    assert verdict([0.8, 0.82, 0.8, 0.8], [1.0, 1.0, 0.99, 1.01]).word == "faster"


def test_verdict_threshold_comes_from_the_controls() -> None:
    assert verdict([1, 1], [1, 1]).threshold == pytest.approx(FLOOR)
    assert math.log1p(verdict([1, 1], [1, 1 / 1.1]).threshold) == pytest.approx(MARGIN * math.log(1.1))
    assert verdict([1.1, 1.3, 1.2], [1, 1, 1]).ratio == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("changes", "controls", "message"),
    [
        ([1.0], [1.0], "at least 2"),
        ([1.0, 1.0], [1.0], "as many"),
        ([1.0, math.nan], [1.0, 1.0], "not a number above 0"),
        ([1.0, 1.0], [1.0, 0.0], "not a number above 0"),
    ],
)
def test_verdict_refuses_what_is_no_measurement(changes: list[float], controls: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verdict(changes, controls)


# ---------------------------------------------------------------------------------------------- report

ABOUT = {
    "date": "2026-01-02",
    "command": "python bench/report.py --run",
    "quick": False,
    "minutes": 9.6,
    "cpu": "acme9",
    "vector_bytes": 32,
    "cores": 4,
    "threads": 2,
    "system": "Linux",
    "python": "3.12.1",
    "versions": "numpy 2.0",
}


def kernel(operation: str, variant: str, case: str, us: float, threads: int = 1, **more: Any) -> dict[str, Any]:
    dims = [int(size) for size in case.partition("-")[0].split("x")]
    found = {"operation": operation, "variant": variant, "case": case, "us": us, "threads": threads, "dims": dims}
    found |= {"dtype": "float32", "error": 0.1, "gflops": 1000 / us, "intensity": 2.0, "fraction_of_limit": 10 / us}
    return found | {"limit_gflops": 100.0, "limit_gbps": 50.0, "limit_level": "L2", "iqr_us": 0.1} | more


@pytest.fixture
def results() -> dict[str, Any]:
    bench_cases = [
        kernel("matmul", "reference", "64x64x64-nn", 20.0),
        kernel("matmul", "simd", "64x64x64-nn", 10.0),
        kernel("matmul", "reference", "128x128x128-nn", 30.0),
        kernel("matmul", "simd", "128x128x128-nn", 40.0),
        kernel("matmul", "reference", "128x128x128-nn", 15.0, 2),
        kernel("matmul", "parallel", "128x128x128-nn", 12.0, 2),
        kernel("tanh", "reference", "16384", 100.0),
        kernel("tanh", "loops", "16384", 150.0),
        kernel("tanh", "simd", "16384", 20.0),
        {"operation": "compile matmul", "variant": "simd", "case": "", "dtype": "float32", "us": 2.5e6},
        {"operation": "process", "variant": "train", "case": "full cache", "us": 1.5e6},
    ]
    epoch = {"operation": "epoch", "case": "784-256-128-10", "optimizer": "SGD", "dtype": "float32"}
    bench_cases += [
        epoch | {"variant": backend, "threads": threads, "rows": rows, "us": rows * (1 if backend == "serial" else 2.0)}
        for backend, threads in (("numpy", 1), ("serial", 1), ("numpy", 2), ("parallel", 2))
        for rows in (256, 1024)
    ]
    steps = [
        {
            "network": "1-16-1",
            "task": task,
            "threads": threads,
            "us": {"fastnet": 2.0, "numpy": 20.0, "jax": 1.0},
            "spans": {"fastnet": [1, 1], "numpy": [9, 11], "jax": [0.25, 0.75]},
        }
        for task in sides.TASKS
        for threads in (1, 2)
    ]
    libraries = ["fastnet", "numpy", "torch", "jax"]
    row = {
        "network": "64-128-10",
        "task": "predict 1",
        "threads": 1,
        "us": {"fastnet": 2.0, "numpy": 5.0, "torch": 1.0},
    }
    found = {"about": ABOUT, "libraries": libraries, "rounds": 5, "steps": steps, "benches": bench_cases}
    return found | {"predictions": [row, row | {"task": "predict 16"}]}


def test_tables_show_losses(results: dict[str, Any]) -> None:
    steps = report.step_tables(results)
    assert "| 1-16-1, 16 | 1 | 2.00 | 20.0 (10.0) | - | 1.00 (0.50) | 0.50 [0.25, 0.75] |" in steps
    assert "last column: 1 thread 0.50 (2 rows), 2 threads 0.50 (2 rows)." in steps
    assert "| matmul | 128x128x128-nn | 33.3 (33%) | - | - | 25.0 (25%) | 66.7 (67%) | 83.3 (83%) |" in (
        report.product_table(results)
    )
    assert "| tanh | 16384 | 100 | 150 | 20.0 | 5.00 | 50% |" in report.elementwise_table(results)
    assert "| compile matmul | simd | 2.50 |" in report.start_table(results)
    assert "| 64-128-10, 16 | 1 | 2.00 | - | 5.00 (2.50) | 1.00 (0.50) | - | 0.50 |" in report.prediction_table(results)
    lost = report.losses(results)
    assert "- predictions of 64-128-10 (predict 1, 1 thread): torch is 2.00 times as fast" in lost
    assert "- matmul 128x128x128-nn, float32: NumPy is 1.33 times as fast as simd" in lost
    assert "- a step of 1-16-1 (sgd, mse, 2 threads): jax is 2.00 times as fast" in lost
    assert "64x64x64" not in lost
    assert "tanh" not in lost


def test_report_names_the_machine_measured(results: dict[str, Any]) -> None:
    said = report.measured_on(results)
    for word in ("acme9", "4 cores", "32-byte", "Python 3.12.1", "numpy 2.0", "2026-01-02", "10 minutes"):
        assert word in said
    assert "`python bench/report.py --run`" in said
    assert "Provisional" not in said
    assert "Provisional" in report.measured_on({**results, "about": {**ABOUT, "quick": True}})


def test_report_record_of_a_benchmark() -> None:
    record = {"stats": {"median": 1.23456789e-5, "iqr": 1e-7, "data": [1, 2]}, "extra_info": {"variant": "simd"}}
    assert report.digest(record) == {"us": 12.346, "iqr_us": 0.1, "variant": "simd"}
    record["extra_info"] = {"step_s": 2e-6}
    assert report.digest(record)["us"] == 2


def test_report_changes_text_between_markers_only() -> None:
    begin, end = "<!-- bench/report.py steps begins -->", "<!-- bench/report.py steps ends -->"
    whole = f"before\n{begin}\nold\n{end}\nafter"
    once = report.between_markers(whole, "steps", "new")
    assert once == f"before\n{begin}\nnew\n{end}\nafter"
    assert report.between_markers(once, "steps", "new") == once
    with pytest.raises(ValueError, match="lacks the markers of steps"):
        report.between_markers("nothing", "steps", "new")


def test_documentation_tables_match_the_committed_results() -> None:
    """Nobody edits a figure by hand."""
    found = report.machines(report.RESULTS)
    assert found
    index = (report.PAGES / "benchmarks.md").read_text()
    for cpu, results in found.items():
        assert report.page(cpu, results) == (report.PAGES / f"benchmarks-{cpu}.md").read_text()
        assert f"(benchmarks-{cpu}.md)" in index
    readme = report.README.read_text()
    assert report.between_markers(readme, "summary", report.summaries(found)) == readme


def test_html_pages_hold_the_committed_results_and_their_plots() -> None:
    """The plots themselves differ between versions of matplotlib."""
    for cpu, results in report.machines(report.RESULTS).items():
        kept = (report.PAGES / "_static" / f"benchmarks-{cpu}.html").read_text()
        anew = report.html_page(report.page(cpu, results), results)
        without_plots = [re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL) for text in (kept, anew)]
        assert without_plots[0] == without_plots[1]
        assert kept.count("<svg") == len(list((report.RESULTS / cpu).glob("*.png")))
        assert not re.search(r"<img|<script|<link|href=\"(?!#)|url\((?!#)", kept), "it refers to nothing outside"


def test_the_summary_names_the_machine(results: dict[str, Any]) -> None:
    summary = report.summary(results)
    assert "| step 1-16-1, 16 | 2.00 | - | 20.0 (10.0) | - | - | 1.00 (0.50) | - |" in summary
    assert "| predict 64-128-10, 1 | 2.00 | - | 5.00 (2.50) | - | 1.00 (0.50) | - | - |" in summary
    assert "predict 64-128-10, 16 |" not in summary, "the rest is in the machine's page"
    assert "Measured 2026-01-02 on 4 cores of a shared acme9 with 32-byte vectors" in summary


def test_the_summaries_are_of_the_newest_version_and_the_last_machine_of_each_width(results: dict[str, Any]) -> None:
    def machine(cpu: str, version: str, width: int, date: str) -> dict[str, Any]:
        about = {"cpu": cpu, "versions": f"fastnet-jit {version}, numpy 2.0", "vector_bytes": width, "date": date}
        return {**results, "about": {**results["about"], **about}}

    old, early, late = "2026-01-04", "2026-01-02", "2026-01-03"
    rows = [("a", "0.9.0", 64, old), ("b", "0.10.0", 64, late), ("c", "0.10.0", 64, early), ("d", "0.10.0", 32, early)]
    summaries = report.summaries({row[0]: machine(*row) for row in rows})
    assert re.findall("shared (.) ", summaries) == ["b", "d"], "the widest vectors first"


def test_plots_are_drawn_and_small(results: dict[str, Any], tmp_path: Path) -> None:
    plots = pytest.importorskip("plots")
    plots.draw_all(results, tmp_path)
    drawn = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(drawn) == {f"{name}.png" for name in plots.PLOTS}
    for cpu, measured in report.machines(report.RESULTS).items():
        known = {path.name for path in (report.RESULTS / cpu).glob("*.png")}
        assert known == set(drawn) - ({"predictions_against_peers.png"} if not measured.get("predictions") else set())
        page = (report.PAGES / f"benchmarks-{cpu}.md").read_text()
        assert all(f"bench/results/{cpu}/{name}" in page for name in known)
    assert all(5_000 < size < 100_000 for size in drawn.values())


# ----------------------------------------------------------------------------------------------- sides


@pytest.mark.exhaustive
def test_sides_verify_fastnet_before_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    name, task = "13-64-64-1", "sgd, mse"
    monkeypatch.setitem(sides.NETWORKS, name, (*sides.NETWORKS[name][:2], 64))
    sides.fastnet_epoch(name, task, 1)
    monkeypatch.setattr(sides, "numpy_epoch", lambda *arguments: lambda: 123.0)
    with pytest.raises(ArithmeticError, match=r"fastnet is wrong: loss .*NumPy's 123"):
        sides.fastnet_epoch(name, task, 1)


@pytest.mark.exhaustive
def test_predictions_are_held_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    name, task = "64-128-10", "predict 16"
    assert predictions.calls_of_a_measurement(name, task) > 10
    for library in ("fastnet", "predictor"):
        predictions.maker(library, name, task, 1)()
    monkeypatch.setattr(predictions, "_MAKERS", {"fastnet": lambda net, threads: lambda X: X[:, :10]})
    with pytest.raises(ArithmeticError, match="fastnet is wrong: it predicts"):
        predictions.maker("fastnet", name, task, 1)


# -------------------------------------------------------------------------------------- small_products

SMALL = ["--shapes", "3,5,2", "--repeats", "2", "--seconds", "0.001"]


def test_small_products_prints_a_line_for_each_call(capsys: pytest.CaptureFixture[str]) -> None:
    small_products.main(SMALL)
    _, heading, *lines, last = capsys.readouterr().out.splitlines()
    assert heading.split()[-1] == "error"
    cells = [re.fullmatch(r"(float\d\d) +3,5,2 +(.*?) +\d[^a-z]*?(\d\.\d{3})", line) for line in lines]
    assert all(cells), lines
    products = [f"{name}{ending}" for name in ("A B", "A.T B", "A B.T") for ending in ("", " out=")]
    expected = [(dtype, name) for dtype in ("float32", "float64") for name in (*products, "dense_forward")]
    assert [cell.group(1, 2) for cell in cells if cell] == expected
    assert all(0 <= float(cell[3]) <= 1 for cell in cells if cell)
    assert last.startswith("geometric mean of 14 cells ")


def test_small_products_names_the_slow_cells() -> None:
    said = small_products.summary({"a": 0.5, "b": 2.0, "c": 0.97})
    assert said == "geometric mean of 3 cells 0.990; below 0.97: a (0.50)"
    assert small_products.summary({"b": 4.0, "c": 1.0}) == "geometric mean of 2 cells 2.000; below 0.97: none"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("matmul", lambda A, B, out=None: np.matmul(A, B, out) * np.nan),
        ("dense_forward", lambda X, W, b, activation: (activation(X @ W.T), X @ W.T)),
        ("relu", lambda Z: Z),
    ],
)
def test_small_products_are_held_against_numpy(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_products, name, wrong)
    with pytest.raises(ArithmeticError, match="fastnet is wrong"):
        small_products.main(SMALL)


# ---------------------------------------------------------------------------------------------- groups


def test_table_of_a_group_fits_120_columns() -> None:
    stats = types.SimpleNamespace(median=0.0123456, iqr=0.001, rounds=20000)
    about = {"gflops": 1234.5678, "fraction_of_limit": 1.31, "error": 0.26}
    benches = [({"variant": name, **about}, stats) for name in ("reference", "cuda_tiled")]
    lines = [*groups.table_of(benches).splitlines(), *groups.LEGEND.splitlines()]
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["time", "us", "iqr", "rounds", "ratio", "GFLOP/s", "of", "limit", "error"]
    assert lines[2].split() == ["cuda_tiled", "1.235e+04", "8%", "20000", "1.00", "1.23e+03", "131%", "0.260"]


@pytest.mark.exhaustive
def test_the_reference_is_in_every_group_that_k_chooses() -> None:
    chosen = "matmul and simd and 64x64x64 and float32"
    command = [sys.executable, "-m", "pytest", str(BENCH), "--benchmark-enable", "--collect-only", "-q", "-k", chosen]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=BENCH.parent).stdout
    names = [line.partition("[")[2].split("-")[1] for line in found.splitlines() if "test_kernel[" in line]
    assert names
    assert names[::2] == ["reference"] * (len(names) // 2)
    assert set(names[1::2]) == {"simd"}
