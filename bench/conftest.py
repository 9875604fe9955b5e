"""What all benchmarks share: what they record of the machine, and which are for timing only.

A benchmark marked `timed` is left out if nothing is timed, since running it once shows nothing that another does not.
Of the others each runs once as a test, most of them in the exhaustive tests only. One marked `peer` needs another
library than NumPy (``-m "not peer"``).
"""

from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info

from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.jit.target import target_cpu, vector_bytes

SAMPLED = 11
"""Of the benchmarks, this many have one that runs by default."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("benchmark_enable"):
        return
    kept = [item for item in items if item.get_closest_marker("timed") is None]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("timed") is not None])
    items[:] = kept
    for i, item in enumerate(item for item in items if item.path.parent == Path(__file__).parent):
        if i % SAMPLED:
            item.add_marker(pytest.mark.exhaustive)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["fastnet"] = {"cpu": target_cpu(), "vector_width": vector_bytes(), "cores": num_threads()}


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """What every result's ``extra_info`` says of the machine."""
    blas = next((f"{pool['internal_api']} {pool.get('threading_layer', '')}".strip() for pool in threadpool_info()), "")
    return {"cpu": target_cpu(), "vector_width": vector_bytes(), "blas": blas}
