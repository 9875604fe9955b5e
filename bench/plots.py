"""The report's plots: PNG files of results.

Imports matplotlib and `fastnet.roofline`. Lines and points are named where they are, not in a legend; colours are Okabe
and Ito's, which the colour-blind tell apart, and every side has a mark of its own.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from sides import NETWORKS, SHOWN_NETWORKS

from fastnet.profiling.roofline import COLOURS, Point, draw

Results = dict[str, Any]

SIDES = {
    "fastnet": (COLOURS[0], "o"),
    "simd": (COLOURS[0], "o"),
    "parallel": (COLOURS[0], "o"),
    "cpu": (COLOURS[0], "o"),
    "serial": (COLOURS[0], "o"),  # results of before the backends cpu and cuda
    "reference": (COLOURS[1], "s"),
    "numpy": (COLOURS[1], "s"),
    "blocked": (COLOURS[2], "^"),
    "sklearn": (COLOURS[2], "^"),
    "loops": (COLOURS[3], "D"),
    "torch": (COLOURS[3], "D"),
    "torch.compile": (COLOURS[4], "v"),
    "jax": (COLOURS[5], "P"),
    "predictor": (COLOURS[5], "P"),
    "onnxruntime": (COLOURS[4], "v"),
}
"""Colour and mark of each side."""

SHOWN = {"reference": "NumPy", "numpy": "NumPy", "sklearn": "scikit-learn", "torch": "PyTorch", "jax": "JAX"}
SHOWN |= {"onnxruntime": "ONNX Runtime", "predictor": "fastnet's predictor"}
PRODUCTS = ("matmul", "dense_forward", "dense_backward_batch")
UPDATES = ("sgd_update", "adam_update")


def draw_all(results: Results, folder: Path) -> None:
    """Write every plot."""
    for name, figure in figures(results):
        figure.savefig(folder / f"{name}.png", dpi=110)


def figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Draw every plot that the results allow; yield its name with it."""
    for name, plot in PLOTS.items():
        if plot is predictions_against_peers and not results.get("predictions"):  # results of before have none
            continue
        figure = Figure(layout="constrained")
        plot(figure, results)
        of = results["about"]
        said = f"{of['cpu']}, {of['cores']} cores, {of['date']}, {of['command']}"
        figure.text(0.995, 0.005, said, ha="right", va="bottom", fontsize=6.5, color="0.5")
        figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))
        yield name, figure


def _plain(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def _numbers(axis: Any, values: list[float]) -> None:
    """Tick these places of a logarithmic axis, with their numbers."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _spread_out(heights: list[float], least: float) -> list[float]:
    """Places for labels: these heights, moved up where two are closer than ``least``."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for before, i in pairwise(order):
        placed[i] = max(placed[i], placed[before] + least)
    return placed


def _name_ends(ax: Any, ends: list[tuple[str, float, float, str]], top: float) -> None:
    """Name lines at their right ends: (name, x, y, colour); linear y up to ``top``."""
    for (name, x, y, colour), height in zip(ends, _spread_out([end[2] for end in ends], top * 0.055), strict=True):
        del y
        ax.annotate(
            name, (x, height), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8.5, color=colour
        )


def gflops_against_size(figure: Figure, results: Results) -> None:
    """Square products: GFLOP/s of each variant against the size, with the limit; a panel for each number of threads."""
    found = [b for b in results["benches"] if b.get("operation") == "matmul" and b.get("dtype") == "float32"]
    found = [b for b in found if len(set(b["dims"])) == 1 and b["case"].endswith("nn")]
    counts = sorted({b["threads"] for b in found})
    figure.set_size_inches(4.6 * len(counts) + 0.4, 3.9)
    for ax, count in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts, strict=True):
        own = [b for b in found if b["threads"] == count]
        sizes = sorted({b["dims"][0] for b in own})
        limit = max(b["limit_gflops"] for b in own)
        top = 1.2 * limit
        ax.plot([sizes[0], sizes[-1]], [limit, limit], color="0.4", linestyle="--", linewidth=1)
        ax.annotate("limit: FMAs on registers", (sizes[0], limit), xytext=(0, 5), textcoords="offset points",
                    fontsize=8.5, color="0.35")  # fmt: skip
        ends = []
        for name in dict.fromkeys(b["variant"] for b in own):
            colour, mark = SIDES[name]
            line = sorted((b["dims"][0], b["gflops"]) for b in own if b["variant"] == name)
            ax.plot(*zip(*line, strict=True), color=colour, marker=mark, markersize=4.5, linewidth=1.5)
            ends.append((SHOWN.get(name, name), *line[-1], colour))
        _name_ends(ax, ends, top)
        ax.set_xscale("log")
        _numbers(ax.xaxis, [float(size) for size in sizes])
        ax.set(xlim=(sizes[0] / 1.1, sizes[-1] * 2.1), ylim=(0, top))
        slow = " (loops, blocked: not measured above 256)" if count == 1 else ""
        ax.set_xlabel(f"M = K = N{slow}")
        ax.set(title=f"matmul, float32, {count} thread{'s' * (count > 1)}", ylabel="GFLOP/s")
        _plain(ax)


def roofline(figure: Figure, results: Results) -> None:
    """The best variant of every operation on one thread, under the roofs."""
    figure.set_size_inches(8, 5.4)
    found = [b for b in results["benches"] if "error" in b and b["dtype"] == "float32" and b["threads"] == 1]
    best: dict[str, dict[str, Any]] = {}
    for bench in found:
        key = f"{bench['operation']} {bench['case']}"
        if bench["variant"] != "reference" and bench["us"] < best.get(key, {"us": float("inf")})["us"]:
            best[key] = bench
    named = {
        "matmul 1024x1024x1024-nn": "1024 cubed",
        "matmul 100x30x7-nn": "100x30x7",
        "adam_update 9610-later": "Adam",
    }
    named |= {"sgd_update 9610-momentum": "SGD", "tanh 16384": "tanh", "relu 16384": "ReLU"}
    named |= {"cross_entropy 32x10": "cross-entropy 32x10", "mse 1024x128": "mse 1024x128"}
    points = []
    for key, bench in best.items():
        operation = bench["operation"]
        group = "products" if operation in PRODUCTS else "updates" if operation in UPDATES else "elementwise and losses"
        points.append(Point(named.get(key, ""), bench["intensity"], bench["gflops"], group))
    peak = max(bench["limit_gflops"] for bench in found)
    gbps: dict[str, float] = {}
    for bench in found:
        gbps[bench["limit_level"]] = max(gbps.get(bench["limit_level"], 0), bench["limit_gbps"])
    ax = figure.subplots()
    draw(ax, points, peak, gbps, "Every operation's best variant, float32, 1 thread")
    ax.legend(frameon=False, fontsize=8.5, loc="lower right")


def _against_peers(axes: Any, found: dict[int, list[tuple[str, dict[str, float]]]], what: str, title: str) -> None:
    """Draw times as multiples of fastnet's: a panel for each number of threads, a row for each name."""
    ratios = [value / us["fastnet"] for rows in found.values() for _, us in rows for value in us.values()]
    for ax, (count, rows) in zip(axes, found.items(), strict=True):
        for row, (_, us) in enumerate(rows):
            ax.axhline(row, color="0.92", linewidth=0.8, zorder=0)
            for place, (library, value) in enumerate(us.items()):
                colour, mark = SIDES[library]
                ax.plot(value / us["fastnet"], row + 0.1 * (place - (len(us) - 1) / 2), color=colour, marker=mark,
                        markersize=6.5, linestyle="none", markeredgecolor="white", markeredgewidth=0.5,
                        label=SHOWN.get(library, library) if row == 0 else None)  # fmt: skip
        ax.axvline(1, color=SIDES["fastnet"][0], linewidth=1, zorder=0)
        ax.set(xscale="log", title=f"{title}, {count} thread{'s' * (count > 1)}", ylim=(len(rows) - 0.4, -0.6))
        ax.set_xlabel(f"time of {what}, times fastnet's (right of the line: slower)")
        ticks = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if max(ratios) > 20 else (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
        _numbers(ax.xaxis, [tick for tick in ticks if 0.9 * min(ratios) < tick < 1.5 * max(ratios)])
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes[0].get_figure().legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False, fontsize=8.5
    )


def steps_against_peers(figure: Figure, results: Results) -> None:
    """A step's time as a multiple of fastnet's; a row a network, a panel a number of threads, plain SGD."""
    found: dict[int, list[tuple[str, dict[str, float]]]] = {}
    for step in results["steps"]:
        if step["task"] == "sgd, mse" and step["network"] in SHOWN_NETWORKS:
            name = f"{step['network']}, batch {NETWORKS[step['network']][1]}"
            found.setdefault(step["threads"], []).append((name, step["us"]))
    figure.set_size_inches(10.4, 1.9 + 0.6 * max(map(len, found.values())))
    _against_peers(
        figure.subplots(1, len(found), squeeze=False, sharey=True)[0],
        found,
        "a step",
        "mean squared error, SGD, float32",
    )


def predictions_against_peers(figure: Figure, results: Results) -> None:
    """A prediction's time as a multiple of fastnet's; a row for each network and number of rows."""
    found: dict[int, list[tuple[str, dict[str, float]]]] = {}
    for each in results["predictions"]:
        rows = int(each["task"].split()[1])
        us = {library: us for library, us in each["us"].items() if us is not None}
        found.setdefault(each["threads"], []).append((f"{each['network']}, {rows} row{'s' * (rows > 1)}", us))
    figure.set_size_inches(10.4, 1.9 + 0.5 * max(map(len, found.values())))
    _against_peers(
        figure.subplots(1, len(found), squeeze=False, sharey=True)[0], found, "a call", "Prediction, ReLU, float32"
    )


def time_against_rows(figure: Figure, results: Results) -> None:
    """A row's time in an epoch against the epoch's rows, NumPy and fastnet, by number of threads."""
    figure.set_size_inches(6.8, 4.2)
    found = [b for b in results["benches"] if b.get("operation") == "epoch" and b["case"] == "784-256-128-10"]
    found = [b for b in found if b["optimizer"] == "SGD"]
    ax = figure.subplots()
    ends = []
    for backend, threads in dict.fromkeys((b["variant"], b["threads"]) for b in found):
        line = sorted({b["rows"]: b["us"] for b in found if (b["variant"], b["threads"]) == (backend, threads)}.items())
        line = [(rows, us / rows) for rows, us in line]
        colour, mark = SIDES[backend]
        style = "-" if threads == 1 else "--"
        ax.plot(*zip(*line, strict=True), color=colour, marker=mark, markersize=4.5, linewidth=1.5, linestyle=style)
        who = "NumPy" if backend == "numpy" else "fastnet"
        ends.append((f"{who}, {threads} thread{'s' * (threads > 1)}", *line[-1], colour))
    top = 1.12 * max(b["us"] / b["rows"] for b in found)
    _name_ends(ax, ends, top)
    rows = sorted({b["rows"] for b in found})
    ax.set(xscale="log", xlim=(rows[0] / 1.15, rows[-1] * 3.4), ylim=(0, top))
    ax.set(xlabel="rows of an epoch: one call of fit, its set-up included", ylabel="microseconds a row")
    _numbers(ax.xaxis, [float(value) for value in rows])
    ax.set_title("An epoch of 784-256-128-10: mean squared error, plain SGD, float32, batch 128", fontsize=10)
    _plain(ax)


PLOTS: dict[str, Callable[[Figure, Results], None]] = {
    "gflops_against_size": gflops_against_size,
    "roofline": roofline,
    "steps_against_peers": steps_against_peers,
    "time_against_rows": time_against_rows,
    "predictions_against_peers": predictions_against_peers,
}
"""Each is a PNG file of its name, and an SVG picture in the HTML page."""
