"""The roofline plot: speed against arithmetic intensity, under the limits of this machine.

Source: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model" (2009).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart."""

MARKS = ("o", "s", "^", "D", "v", "P", "X")

_SLANTED: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "transform_rotates_text": True}
_SLANTED |= {"color": "0.35", "fontsize": 7.5}


class Point(NamedTuple):
    """A measured kernel: label, FLOP/byte, GFLOP/s, and the group that determines its colour and marker."""

    name: str
    intensity: float
    gflops: float
    group: str


def draw(ax: Any, points: Sequence[Point], gflops: float, gbps: Mapping[str, float], title: str) -> None:
    """Draw a roofline plot into axes.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Changed in place.
    points : sequence of Point
        Their intensities must be above 0.
    gflops : float
        The FMA peak in GFLOP/s.
    gbps : mapping of str to float
        Bandwidths in GB/s, by level of the memory hierarchy.
    title : str
        Title of the plot.
    """
    left = min([point.intensity for point in points] + [0.1]) / 2
    right = max([point.intensity for point in points] + [10 * gflops / min(gbps.values())]) * 3
    bottom = min([point.gflops for point in points] + [gflops / 100]) / 2
    for level, rate in gbps.items():
        knee = gflops / rate
        ax.plot([left, knee, right], [left * rate, gflops, gflops], color="0.55", linewidth=1, zorder=1)
        start = max(left, bottom / rate, 0.28 * knee)  # near the knee, where there are no points
        label = f"{level} {rate:.0f} GB/s"
        ax.annotate(label, (start, start * rate), (0, 2), textcoords="offset points", **_SLANTED)
    ax.text(gflops / max(gbps.values()), gflops * 1.06, f"FMA peak {gflops:.0f} GFLOP/s", color="0.35", fontsize=8)
    groups = dict.fromkeys(point.group for point in points)
    styles = dict(zip(groups, cycle(zip(COLOURS, MARKS, strict=True)), strict=False))
    for group, (colour, mark) in styles.items():
        own = [point for point in points if point.group == group]
        x, y = [point.intensity for point in own], [point.gflops for point in own]
        ax.scatter(x, y, s=26, zorder=3, label=group, color=colour, marker=mark)
    _label(ax, points, {group: colour for group, (colour, _) in styles.items()})
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, gflops * 1.7), title=title)
    ax.set(xlabel="arithmetic intensity in FLOP/byte", ylabel="GFLOP/s")
    ax.spines[["top", "right"]].set_visible(False)


def _label(ax: Any, points: Sequence[Point], colours: Mapping[str, str]) -> None:
    """Write labels to the right of their points, below each other where they would overlap."""
    taken: list[tuple[float, float]] = []  # intensity, height of the label
    for point in sorted((point for point in points if point.name), key=lambda point: -point.gflops):
        height = point.gflops
        for x, y in taken:
            if 0.2 < x / point.intensity < 5 and height > y / 1.22:
                height = y / 1.22
        taken.append((point.intensity, height))
        look = {"fontsize": 8, "va": "center", "color": colours[point.group]}
        ax.annotate(point.name, (point.intensity, height), (6, 0), textcoords="offset points", **look)
