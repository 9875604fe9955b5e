"""Writes a page of tables and plots for each machine measured, and README's tables, from one file of results a machine.

    python bench/report.py --run            # measure everything (about half an hour), then write tables and plots
    python bench/report.py --run --quick    # one dtype, smaller networks, one round (about five minutes)
    python bench/report.py                  # pages and plots anew, of the results that are there

``--run`` calls pytest on bench/ and bench/peers.py, each with the command that a user would type, and keeps their
results in bench/results/CPU/results.json: medians, spreads, and the machine. docs/benchmarks-CPU.md is
bench/machine_page.md with the text between its markers generated from that file, losses included;
docs/_static/benchmarks-CPU.html is the same page as one file, its plots within; README's tables are generated too.
Needs the extras ``bench`` and ``plot``, and ``peers`` for other libraries.
"""

import argparse
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import plots
import predictions
from markdown_it import MarkdownIt
from sides import NETWORKS, SHOWN_NETWORKS, TASKS, installed, versions

from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.jit.target import target_cpu, vector_bytes
from fastnet.profiling.report import document, svg

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
PAGES = HERE.parent / "docs"
TEMPLATE = HERE / "machine_page.md"
QUICK_NETWORKS = ("1-16-1", "13-64-64-1", "64-128-128-10")
PRODUCTS = ("matmul", "dense_forward", "dense_backward_batch")

Results = dict[str, Any]

# ------------------------------------------------------------------------------------------- measuring


def run(quick: bool, rounds: int) -> Results:
    """Measure everything with the two commands that a user would type; return the results of both."""
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        bench_cases, peers = Path(folder, "benches.json"), Path(folder, "peers.json")
        wanted = "not test_step" + (" and not float64" if quick else "")
        command = [
            "-m",
            "pytest",
            str(HERE),
            "--benchmark-enable",
            f"--benchmark-json={bench_cases}",
            "-q",
            "-k",
            wanted,
        ]
        subprocess.run([sys.executable, *command, "--benchmark-columns=median,iqr,rounds"], check=True)
        command = [str(HERE / "peers.py"), "--json", str(peers), "--rounds", str(rounds)]
        command += ["--threads", ",".join(str(count) for count in (1, 2) if count <= num_threads())]
        command += ["--only", *QUICK_NETWORKS] if quick else []
        subprocess.run([sys.executable, *command], check=True)
        found, steps = json.loads(bench_cases.read_text()), json.loads(peers.read_text())
    return {
        "about": about(quick, rounds, time.time() - begin),
        "benches": [digest(benchmark) for benchmark in found["benchmarks"]],
        "libraries": steps["libraries"],
        "rounds": steps["rounds"],
        "steps": [step for step in steps["results"] if step["task"] in TASKS],
        "predictions": [step for step in steps["results"] if step["task"] in predictions.TASKS],
    }


def save(results: Results, file: Path) -> None:
    """Write results, one per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = [json.dumps({key: value for key, value in results.items() if not isinstance(value, list)}, indent=1)[:-2]]
    for name in ("libraries", "steps", "predictions", "benches"):
        lines = ",\n".join(json.dumps(each) for each in results[name])
        parts.append(f' "{name}": [\n{lines}\n]')
    file.write_text(",\n".join(parts) + "\n}\n")


def about(quick: bool, rounds: int, seconds: float) -> dict[str, Any]:
    """Describe the machine, the versions and the time of the measurement."""
    packages = ("numba", "llvmlite")
    return {
        "date": str(datetime.date.today()),
        "command": "python bench/report.py --run" + " --quick" * quick + f" --rounds {rounds}",
        "quick": quick,
        "minutes": round(seconds / 60, 1),
        "cpu": target_cpu(),
        "vector_bytes": vector_bytes(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": f"{versions(installed())}, " + ", ".join(f"{name} {metadata.version(name)}" for name in packages),
    }


def digest(benchmark: dict[str, Any]) -> dict[str, Any]:
    """Keep the part of one pytest-benchmark record that the report needs; figures to five digits."""
    stats = benchmark["stats"]
    found = {"us": stats["median"] * 1e6, "iqr_us": stats["iqr"] * 1e6, **benchmark["extra_info"]}
    for own in ("step_s", "compile_s"):  # by a clock nearer to what is measured than pytest-benchmark's
        if own in found:
            found["us"] = found.pop(own) * 1e6
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in found.items()}


# ---------------------------------------------------------------------------------------------- tables


def short(number: float) -> str:
    """Three digits."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def set_fractions_of_limit(bench_cases: list[dict[str, Any]]) -> None:
    """Set each benchmark's share of the limit, by the highest limits of the whole run.

    Limits measured right before a kernel are lower if another process had a core at that time: half, of two.
    """
    peaks: dict[tuple[Any, ...], float] = {}
    for bench in bench_cases:
        if "limit_gflops" in bench:
            for name, kind in (("limit_gflops", bench["dtype"]), ("limit_gbps", bench["limit_level"])):
                key = (kind, bench["threads"])
                peaks[key] = max(peaks.get(key, 0.0), bench[name])
    for bench in bench_cases:
        if "limit_gflops" in bench:
            gflops, gbps = (peaks[bench[kind], bench["threads"]] for kind in ("dtype", "limit_level"))
            bench["fraction_of_limit"] = max(bench["gflops"] / gflops, bench["gbps"] / gbps)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def measured_on(results: Results) -> str:
    """Hardware, versions, date and command, in a sentence."""
    of = results["about"]
    warned = " **Provisional: a quick run on a busy machine, to be replaced.**" if of["quick"] else ""
    warned += f" {of['note']}" if "note" in of else ""
    return (
        f"Measured {of['date']} on {of['cores']} cores of a shared {of['cpu']} with {of['vector_bytes']}-byte vectors "
        f"({of['system']}, Python {of['python']}, {of['versions']}) by `{of['command']}`, which took "
        f"{of['minutes']:.0f} minutes.{warned}"
    )


FASTEST = "fastest other / fastnet"


def fastest_other(cell: dict[str, Any]) -> tuple[float, str]:
    """Return the ratio of the fastest other library's time to fastnet's; as text, with the lowest and highest round.

    NaN and "-" where there was no other.
    """
    us = cell["us"]
    others = [name for name in us if name not in ("fastnet", "predictor")]
    if not others:
        return math.nan, "-"
    library = min(others, key=lambda name: us[name])
    ratio = us[library] / us["fastnet"]
    low, high = cell.get("spans", {}).get(library, (None, None))  # results of before have no spans
    return ratio, short(ratio) if low is None else f"{short(ratio)} [{short(low)}, {short(high)}]"


def _means(cells: list[dict[str, Any]]) -> str:
    """Geometric means of the last column, in a sentence."""
    ratios: dict[int, list[float]] = {}
    for cell in cells:
        ratio = fastest_other(cell)[0]
        if ratio == ratio:
            ratios.setdefault(cell["threads"], []).append(ratio)
    means = [
        f"{threads} thread{'s' * (threads > 1)} {short(statistics.geometric_mean(found))} ({len(found)} rows)"
        for threads, found in ratios.items()
    ]
    return f"Geometric mean of the last column: {', '.join(means)}."


def step_tables(results: Results) -> str:
    """One training step: microseconds, and the ratio to fastnet's time."""
    lines = []
    libraries = results["libraries"]
    for task in TASKS:
        lines += ["", *_head([f"{task}: network, batch", "threads", *libraries, FASTEST])]
        for step in results["steps"]:
            if step["task"] != task:
                continue
            us, batch = step["us"], NETWORKS[step["network"]][1]
            cells = [_against(us.get(library), us["fastnet"], library) for library in libraries]
            lines.append(_row([f"{step['network']}, {batch}", str(step["threads"]), *cells, fastest_other(step)[1]]))
    return "\n".join([*lines[1:], "", _means(results["steps"])])


def prediction_table(results: Results) -> str:
    """One prediction: microseconds, and the ratio to fastnet's time."""
    libraries = predictions.LIBRARIES
    lines = _head(["network, rows", "threads", *libraries, FASTEST])
    for found in results.get("predictions", []):  # results of before have none
        us, rows = found["us"], predictions.TASKS[found["task"]]
        cells = [_against(us.get(library), us["fastnet"], library) for library in libraries]
        lines.append(_row([f"{found['network']}, {rows}", str(found["threads"]), *cells, fastest_other(found)[1]]))
    if results.get("predictions"):
        lines += ["", _means(results["predictions"])]
        path = f"../bench/results/{results['about']['cpu']}/predictions_against_peers.png"
        lines += ["", f"![Time of a prediction as a multiple of fastnet's]({path})"]
    return "\n".join(lines)


def _against(us: float | None, ours: float, library: str) -> str:
    if us is None:
        return "-"
    return short(us) if library == "fastnet" else f"{short(us)} ({short(us / ours)})"


def kernels(results: Results, dtype: str = "float32") -> list[dict[str, Any]]:
    """The kernels' results, of one dtype."""
    return [bench for bench in results["benches"] if "error" in bench and bench["dtype"] == dtype]


def product_table(results: Results) -> str:
    """Products and layers: GFLOP/s, and the share of the limit that binds."""
    found = [bench for bench in kernels(results) if bench["operation"] in PRODUCTS]
    columns = [(name, 1) for name in ("reference", "loops", "blocked", "simd")]
    most = max(bench["threads"] for bench in found)
    columns += [("reference", most), ("parallel", most)] if most > 1 else []
    names = [f"{name}, {threads} thread{'s' * (threads > 1)}" for name, threads in columns]
    lines = _head(["operation", "case", *names])
    for operation, case in dict.fromkeys((bench["operation"], bench["case"]) for bench in found):
        cells = []
        for name, threads in columns:
            key = (operation, case, name, threads)
            own = [b for b in found if (b["operation"], b["case"], b["variant"], b["threads"]) == key]
            cells.append(f"{short(own[0]['gflops'])} ({own[0]['fraction_of_limit']:.0%})" if own else "-")
        lines.append(_row([operation, case, *cells]))
    return "\n".join(lines)


def elementwise_table(results: Results) -> str:
    """All other operations: microseconds, and how many times faster than NumPy the best variant is."""
    found = [bench for bench in kernels(results) if bench["operation"] not in PRODUCTS]
    lines = _head(["operation", "case", "NumPy, us", "loops, us", "simd, us", "times faster", "of limit"])
    for operation, case in dict.fromkeys((bench["operation"], bench["case"]) for bench in found):
        own = {b["variant"]: b for b in found if (b["operation"], b["case"]) == (operation, case)}
        best = min((bench for name, bench in own.items() if name != "reference"), key=lambda bench: bench["us"])
        cells = [short(own[name]["us"]) if name in own else "-" for name in ("reference", "loops", "simd")]
        gain = own["reference"]["us"] / best["us"]
        lines.append(_row([operation, case, *cells, short(gain), f"{best['fraction_of_limit']:.0%}"]))
    return "\n".join(lines)


def start_table(results: Results) -> str:
    """Seconds of compiling and of starting."""
    lines = _head(["what", "", "seconds"])
    for bench in results["benches"]:
        if bench["operation"].startswith("compile") or bench["operation"] == "process":
            what = bench["operation"] if bench["operation"] != "process" else f"process: {bench['variant']}"
            which = bench["variant"] if bench["operation"] != "process" else bench["case"]
            lines.append(_row([what, which, f"{bench['us'] / 1e6:.2f}"]))
    return "\n".join(lines)


def losses(results: Results) -> str:
    """List every measurement in which something else is faster."""
    lines = []
    found = [bench for bench in results["benches"] if "error" in bench]
    for key in dict.fromkeys((b["operation"], b["case"], b["dtype"], b["threads"]) for b in found):
        own = {b["variant"]: b["us"] for b in found if (b["operation"], b["case"], b["dtype"], b["threads"]) == key}
        numpy = own.pop("reference", None)
        if numpy is not None and own and numpy < min(own.values()):
            name = min(own, key=lambda variant: own[variant])
            threads = f", {key[3]} threads" if key[3] > 1 else ""
            ratio = short(min(own.values()) / numpy)
            lines.append(f"- {key[0]} {key[1]}, {key[2]}{threads}: NumPy is {ratio} times as fast as {name}")
    for step in results["steps"] + results.get("predictions", []):
        for library, us in step["us"].items():
            if library not in ("fastnet", "predictor") and us < step["us"]["fastnet"]:
                threads = f"{step['threads']} thread{'s' * (step['threads'] > 1)}"
                ratio = short(step["us"]["fastnet"] / us)
                what = "a step of" if step["task"] in TASKS else "predictions of"
                lines.append(
                    f"- {what} {step['network']} ({step['task']}, {threads}): {library} is {ratio} times as fast"
                )
    return "\n".join(lines) if lines else "- nowhere in these tables"


def summary(results: Results) -> str:
    """One training step of each network and predictions, on one thread, and the machine: README's table."""
    of, task = results["about"], next(iter(TASKS))
    libraries = ["fastnet", "predictor", "numpy", "sklearn", "torch", "jax", "onnxruntime"]
    lines = _head(["network, rows", *(plots.SHOWN.get(name, name) for name in libraries)])
    for step in results["steps"] + results.get("predictions", []):
        trains = step["task"] in TASKS
        rows = NETWORKS[step["network"]][1] if trains else predictions.TASKS[step["task"]]
        shown = step["task"] == task and step["network"] in SHOWN_NETWORKS if trains else rows in (1, 200)
        if step["threads"] == 1 and shown:
            us, what = {**step["us"]}, "step" if trains else "predict"
            if "torch.compile" in us:
                us["torch"] = min(us["torch"], us["torch.compile"])
            cells = [_against(us.get(library), us["fastnet"], library) for library in libraries]
            lines.append(_row([f"{what} {step['network']}, {rows}", *cells]))
    cpu = f"{of['cores']} cores of a shared {of['cpu']} with {of['vector_bytes']}-byte vectors"
    return "\n".join([*lines, "", f"Measured {of['date']} on {cpu}; medians. {of['versions']}."])


TABLES = {
    "measured": measured_on,
    "steps": step_tables,
    "predictions": prediction_table,
    "products": product_table,
    "elementwise": elementwise_table,
    "start": start_table,
    "losses": losses,
}
"""The text between the markers of each name in a machine's page."""


def between_markers(whole: str, name: str, text: str) -> str:
    """Replace the text between the markers of a name."""
    begin, end = f"<!-- bench/report.py {name} begins -->", f"<!-- bench/report.py {name} ends -->"
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"the page lacks the markers of {name}, or has them twice: {begin} and {end}")
    before, rest = whole.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def machines(folder: Path) -> dict[str, Results]:
    """The results of each machine in a folder, those with the widest vectors first."""
    found = {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/results.json"))}
    return dict(sorted(found.items(), key=lambda machine: -int(machine[1]["about"]["vector_bytes"])))


def page(cpu: str, results: Results) -> str:
    """Return the page of a machine."""
    set_fractions_of_limit(results["benches"])
    whole = TEMPLATE.read_text().replace("{cpu}", cpu)
    for name, table in TABLES.items():
        whole = between_markers(whole, name, table(results))
    return whole


def html_page(markdown: str, results: Results) -> str:
    """Return a machine's page as one HTML file that needs nothing else."""
    title, text = between_markers(markdown, "link", "").removeprefix("# ").split("\n", 1)
    body = MarkdownIt().enable("table").render(text)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    for name, figure in plots.figures(results):
        before, caption, after = re.split(rf'<p><img src="[^"]*/{name}\.png" alt="([^"]*)" /></p>', body)
        body = f"{before}<figure>{svg(figure, name)}<figcaption>{caption}</figcaption></figure>{after}"
    return document(title, body)


def summaries(found: dict[str, Results]) -> str:
    """README's tables, of the newest version measured: for each width of vectors the machine measured last."""
    versions = [results["about"]["versions"].split(",")[0] for results in found.values()]
    newest = max(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version)])
    recent = [results for results, version in zip(found.values(), versions, strict=True) if version == newest]
    recent.sort(key=lambda results: (results["about"]["vector_bytes"], results["about"]["date"]))  # stable
    last = {results["about"]["vector_bytes"]: results for results in recent}
    return "\n\n".join(map(summary, reversed(last.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure first")
    parser.add_argument("--quick", action="store_true", help="with --run: less of everything")
    parser.add_argument("--rounds", type=int, help="with --run: of the libraries' steps (default: 5, or 1 if quick)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="a folder for each machine")
    parser.add_argument("--pages", type=Path, default=PAGES, metavar="FOLDER", help="where the machines' pages are")
    parser.add_argument("--readme", type=Path, default=README, metavar="FILE", help="where the summary is")
    options = parser.parse_args()
    if options.quick and not options.run:
        parser.error("--quick goes with --run")
    if options.run:
        results = run(options.quick, options.rounds or (1 if options.quick else 5))
        save(results, options.results / target_cpu() / "results.json")
    found = machines(options.results)
    for cpu, results in found.items():
        markdown = page(cpu, results)
        (options.pages / f"benchmarks-{cpu}.md").write_text(markdown)
        static = options.pages / "_static"
        static.mkdir(exist_ok=True)
        (static / f"benchmarks-{cpu}.html").write_text(html_page(markdown, results))
        plots.draw_all(results, options.results / cpu)
    options.readme.write_text(between_markers(options.readme.read_text(), "summary", summaries(found)))


if __name__ == "__main__":
    main()
