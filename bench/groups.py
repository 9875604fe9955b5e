"""Groups of benchmarks: NumPy's is in each, and a table shows them side by side."""

from typing import Any

import pytest

from fastnet.cli.textplot import table

LEGEND = """
time: median of a call; ratio: to NumPy's time; error: the worst, as a share of what is allowed.
of limit: what the binding limit, measured just before, would take, as a share of the time; above 100%, that
measurement was disturbed, or the arrays lay in a nearer cache."""


def _sides(item: Any) -> tuple[tuple[str, ...], str]:
    """Return what a benchmark has in common with those it is compared with, and whose it is."""
    parameters = dict(getattr(getattr(item, "callspec", None), "params", {}))
    side = next((parameters.pop(name) for name in ("variant", "backend", "library") if name in parameters), "")
    group = (item.nodeid.partition("[")[0], getattr(side, "operation", ""), *map(str, parameters.values()))
    return group, getattr(side, "name", side)


def with_references(chosen: list[pytest.Item], collected: list[pytest.Item]) -> list[pytest.Item]:
    """Put NumPy's benchmark first in every group that it belongs to, whatever -k chose."""
    references = {group: item for item in collected for group, side in [_sides(item)] if side in ("reference", "numpy")}
    wanted = [item for each in chosen for item in (references.get(_sides(each)[0]), each) if item is not None]
    return list(dict.fromkeys(wanted))


def table_of(benches: list[tuple[dict[str, Any], Any]]) -> str:
    """Format a group: ``extra_info`` and statistics of each benchmark."""
    seconds = [next((i[own] for own in ("step_s", "compile_s") if own in i), stats.median) for i, stats in benches]
    reference = next(
        (s for (i, _), s in zip(benches, seconds, strict=True) if i["variant"] in ("reference", "numpy")), 0
    )
    rows = [("", "time us", "iqr", "rounds", "ratio", "GFLOP/s", "of limit", "error")]
    for (info, stats), time in zip(benches, seconds, strict=True):
        limit, error = info.get("fraction_of_limit"), info.get("error")
        rows.append(
            (
                str(info["variant"]),
                f"{time * 1e6:.4g}" if time < 0.1 else f"{time * 1e6:.0f}",
                f"{stats.iqr / stats.median:.0%}",
                str(stats.rounds),
                f"{time / reference:.2f}" if reference else "-",
                f"{info['gflops']:.3g}" if "gflops" in info else "-",
                f"{limit:.0%}" if limit is not None else "-",
                f"{error:.3f}" if error is not None else "-",
            )
        )
    return table("<>>>>>>>", rows)
