"""Times a kernel over a range of sizes, and finds cliffs: sizes at which the speed falls from one size to the next.

Speeds are compared as fractions of the FMA peak measured at the same size, so that a change of the machine's load
between two sizes is not taken for a cliff.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from typing import Any, NamedTuple

import numpy as np

from ..kernels.jit import target
from ..kernels.registry import Variant
from ..kernels.specs.operations import OP_SPECS
from ..messages import counted
from .roofline import COLOURS, MARKS
from .variants import Measurement, Profile, case_of, profile

SIZES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)

MAX_FLOAT64 = 512
"""Largest size in float64: for larger products the reference takes minutes, since its wider dtype has no BLAS."""

SLOWEST_S = 0.1
"""A variant whose call takes longer is skipped at larger sizes."""

FALL = 0.8
"""A cliff: the speed falls below this fraction of that at the previous size, by more than both quartiles explain."""

_STRIDE = 2048
"""Rows whose distance is a multiple of this many bytes map to one or two sets of an L1 cache with 64 sets."""


class Cliff(NamedTuple):
    """A fall of a variant's speed between two sizes: its ratio, and its cause as far as rules can tell."""

    variant: str
    before: int
    size: int
    ratio: float
    cause: str

    def sentence(self) -> str:
        """Describe the cliff in a sentence."""
        return f"{self.variant} from {self.before} to {self.size}: {self.ratio:.2f} of its speed; {self.cause}"


def default_sizes(operation: str, dtype: str) -> tuple[int, ...]:
    """Return the default sizes of a sweep: `SIZES`, or their squares for an operation on vectors."""
    if "," not in OP_SPECS[operation].dims:
        return tuple(size * size for size in SIZES)
    return tuple(size for size in SIZES if dtype == "float32" or size <= MAX_FLOAT64)


def sweep(
    operation: str,
    candidates: Sequence[Variant],
    sizes: Sequence[int],
    dtype: str = "float32",
    threads: int = 1,
    seconds: float = 0.1,
) -> Iterator[Profile]:
    """Yield a profile for each size, which sets all dims of the operation; see `variants.profile` for the arguments."""
    left = tuple(candidates)
    for size in sorted(set(sizes)):
        case = case_of(operation, (size,) * len(OP_SPECS[operation].dims.split(",")))
        found = profile(operation, case, left, dtype, threads, seconds, code=False)
        yield found
        slow = {m.variant for m in found.measurements if m.seconds.median > SLOWEST_S}
        left = tuple(variant for variant in left if variant.name not in slow)
        if not left:
            return


def speeds(profiles: Sequence[Profile]) -> dict[str, list[tuple[Profile, Measurement]]]:
    """Group measurements by variant."""
    found: dict[str, list[tuple[Profile, Measurement]]] = {}
    for each in profiles:
        for m in each.measurements:
            found.setdefault(m.variant, []).append((each, m))
    return found


def cliffs(profiles: Sequence[Profile]) -> list[Cliff]:
    """Find the cliffs of profiles of growing sizes, and name their causes."""
    found = []
    for variant, points in speeds(profiles).items():
        for (p, m), (q, n) in pairwise(points):
            slow_before = m.gflops / p.limits.gflops * m.seconds.median / m.seconds.high
            fast_after = n.gflops / q.limits.gflops * n.seconds.median / n.seconds.low
            if fast_after < FALL * slow_before:
                ratio = (n.gflops / q.limits.gflops) / (m.gflops / p.limits.gflops)
                found.append(Cliff(variant, p.case.dims[0], q.case.dims[0], ratio, _cause(p, q)))
    return found


def _cause(before: Profile, after: Profile) -> str:
    size, itemsize = after.case.dims[-1], np.dtype(after.dtype).itemsize
    causes = []
    if after.limits.level != before.limits.level:
        causes.append(f"the arrays no longer fit {before.limits.level} and lie in {after.limits.level}")
    if len(after.case.dims) > 1 and size * itemsize % _STRIDE == 0:
        causes.append(f"rows lie {size * itemsize} bytes apart and share few sets of L1")
    if size % (lanes := target.vector_bytes() // itemsize):
        causes.append(f"{size} elements leave {-size % lanes} of the {lanes} lanes of the last vector empty")
    return ", and ".join(causes) or "no rule names the cause"


def draw(ax: Any, profiles: Sequence[Profile], shown: Sequence[Cliff] = (), times: bool = False) -> None:
    """Plot GFLOP/s or times against the size: a line for each variant, the limit, and rings at cliffs."""
    first, sizes = profiles[0], [each.case.dims[0] for each in profiles]
    least = [each.limits.seconds(each.flops, each.bytes_moved) for each in profiles]
    limits = [1e6 * s if times else each.flops / s / 1e9 for each, s in zip(profiles, least, strict=True)]
    ax.plot(sizes, limits, color="0.4", linestyle="--", linewidth=1, label="limit")
    styles = cycle(zip(COLOURS, MARKS, strict=True))
    for (variant, points), (colour, mark) in zip(speeds(profiles).items(), styles, strict=False):
        line = {p.case.dims[0]: 1e6 * m.seconds.median if times else m.gflops for p, m in points}
        name = "NumPy" if variant == "reference" else variant
        ax.plot(list(line), list(line.values()), color=colour, marker=mark, markersize=4, linewidth=1.4, label=name)
        rings = [cliff.size for cliff in shown if cliff.variant == variant]
        ax.scatter(rings, [line[size] for size in rings], s=110, facecolors="none", edgecolors=colour, zorder=3)
    count, names = first.limits.threads, " = ".join(OP_SPECS[first.operation].dims.split(","))
    ax.set(xscale="log", xlabel=names, ylabel="microseconds" if times else "GFLOP/s")
    scale: dict[str, Any] = {"yscale": "log"} if times else {"ylim": (0, 1.15 * max(limits))}
    ax.set(**scale)
    title = f"{first.operation}, {first.dtype}, {counted(count, 'thread')}, {target.target_cpu()}"
    ax.set_title(title, fontsize=10)
    ticks = [size for size in sizes if math.log2(size).is_integer()] or sizes
    ax.set_xticks(ticks, [str(size) for size in ticks])
    ax.minorticks_off()
    ax.legend(loc="best", frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
