"""What all benchmarks share: what they record of the machine, and which are for timing only.

A benchmark marked `timed` is left out if nothing is timed, since running it once shows nothing that another does not.
Of the others each runs once as a test, most of them in the exhaustive tests only. One marked `peer` needs another
library than NumPy (``-m "not peer"``). Where they are timed, NumPy is in every group, and a table of at most 120
columns shows each group: time, ratio to NumPy's, GFLOP/s, share of the limit, error.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from groups import LEGEND, table_of, with_references
from threadpoolctl import threadpool_info

from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.jit.target import target_cpu, vector_bytes

SAMPLED = 11
"""Of the benchmarks, this many have one that runs by default."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    if config.getoption("benchmark_enable"):
        collected = list(items)
        yield  # -k and -m choose
        items[:] = with_references(items, collected)
        return
    kept = [item for item in items if item.get_closest_marker("timed") is None]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("timed") is not None])
    items[:] = kept
    for i, item in enumerate(item for item in items if item.path.parent == Path(__file__).parent):
        if i % SAMPLED:
            item.add_marker(pytest.mark.exhaustive)
    yield


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print a table of each group in place of pytest-benchmark's, unless --benchmark-columns asks for that one."""
    session: Any = getattr(config, "_benchmarksession", None)
    if (
        session is None
        or not session.benchmarks
        or any("--benchmark-col" in each for each in config.invocation_params.args)
    ):
        return
    session.quiet = True
    groups: dict[str, list[Any]] = {}
    for bench in session.benchmarks:
        groups.setdefault(bench.group or "", []).append(bench)
    for name, benches in groups.items():
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{name}\n{table_of([(b.extra_info, b.stats) for b in benches])}")
    terminalreporter.write_line(LEGEND)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["fastnet"] = {"cpu": target_cpu(), "vector_width": vector_bytes(), "cores": num_threads()}


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """What every result's ``extra_info`` says of the machine."""
    blas = next((f"{pool['internal_api']} {pool.get('threading_layer', '')}".strip() for pool in threadpool_info()), "")
    return {"cpu": target_cpu(), "vector_width": vector_bytes(), "blas": blas}
