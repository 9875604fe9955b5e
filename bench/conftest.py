"""What all benchmarks share: how long they run, what is said of the machine, which are for timing only.

Imports fastnet. A benchmark marked `timed` is left out where nothing is timed, since running it once proves nothing
that another does not; one marked `peer` needs another library than NumPy (``-m "not peer"``).
"""

from typing import Any

import pytest
from threadpoolctl import threadpool_info

from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.jit.target import target_cpu, vector_bytes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("benchmark_enable"):
        return
    kept = [item for item in items if item.get_closest_marker("timed") is None]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("timed") is not None])
    items[:] = kept


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["fastnet"] = {"cpu": target_cpu(), "vector_width": vector_bytes(), "cores": num_threads()}


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """What every result's ``extra_info`` says of the machine."""
    blas = next((f"{pool['internal_api']} {pool.get('threading_layer', '')}".strip() for pool in threadpool_info()), "")
    return {"cpu": target_cpu(), "vector_width": vector_bytes(), "blas": blas}
