"""Training: an epoch backend against backend, over rows and threads, and a step against the peers.

    pytest bench/test_training.py --benchmark-enable [-m "not peer"]

The numpy backend, or NumPy as an article writes it, stands in every group. Backends are verified against it before they
are timed. Steps are measured by a process for each library (see `workers`): pytest-benchmark times the request, and
``extra_info["step_s"]`` is the time of a step by the process's own clock, which no pipe disturbs.
"""

import statistics
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sides import NETWORKS, TASKS, installed
from threadpoolctl import threadpool_limits
from workers import Worker

from fastnet import SGD, Adam, Network, Trainer
from fastnet.kernels.cpu.threads.pool import num_threads

CASES: dict[str, tuple[list[int], int, int]] = {  # layer sizes, batch size, rows
    "13-64-64-1": ([13, 64, 64, 1], 32, 1024),
    "64-128-10": ([64, 128, 10], 32, 1797),
    "784-256-128-10": ([784, 256, 128, 10], 128, 1024),
}
ROWS = (256, 1024, 4096, 16384)
SIDES = (("numpy", 1), ("cpu", 1), ("numpy", 2), ("cpu", 2))


def epoch(benchmark: BenchmarkFixture, name: str, rows: int, optimizer: Any, backend: str, threads: int) -> None:
    """Verify a backend against NumPy's, then time its epochs."""
    sizes, batch_size, _ = CASES[name]
    rng = np.random.default_rng(0)
    X, y = (rng.standard_normal((rows, size)).astype("float32") for size in (sizes[0], sizes[-1]))
    trainer = Trainer(Network(sizes), optimizer=optimizer, batch_size=batch_size, backend=backend, threads=threads)
    reference = Trainer(Network(sizes), optimizer=optimizer, batch_size=batch_size, backend="numpy")
    losses = [side.fit(X, y, epochs=1)["loss"] for side in (trainer, reference)]  # verified, and compiled
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    steps = -(-rows // batch_size)
    about = {"operation": "epoch", "variant": backend, "case": name, "dtype": "float32", "rows": rows, "steps": steps}
    benchmark.extra_info.update(about, optimizer=type(optimizer).__name__, batch_size=batch_size, threads=threads)
    with threadpool_limits(threads):
        benchmark(trainer.fit, X, y, epochs=1, progress=False)


@pytest.mark.benchmark(max_time=0.5, min_rounds=5)
@pytest.mark.parametrize(("backend", "threads"), SIDES)
@pytest.mark.parametrize("optimizer", [SGD(1e-3), Adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", CASES)
def test_epoch(benchmark: BenchmarkFixture, name: str, optimizer: Any, backend: str, threads: int) -> None:
    benchmark.group = f"epoch {name} {type(optimizer).__name__} threads {threads}"
    epoch(benchmark, name, CASES[name][2], optimizer, backend, threads)


@pytest.mark.timed
@pytest.mark.benchmark(max_time=0.5, min_rounds=5)
@pytest.mark.parametrize(("backend", "threads"), SIDES)
@pytest.mark.parametrize("rows", ROWS)
def test_epoch_over_rows(benchmark: BenchmarkFixture, rows: int, backend: str, threads: int) -> None:
    benchmark.group = f"epoch 784-256-128-10 SGD rows {rows} threads {threads}"
    epoch(benchmark, "784-256-128-10", rows, SGD(1e-3), backend, threads)


# ------------------------------------------------------------------------------------------------ steps

STEPS = [
    pytest.param(
        library,
        name,
        task,
        threads,
        id=f"step-{library}-{name}-{task.replace(', ', '-')}-{threads}",
        marks=[
            *([pytest.mark.peer] if library not in ("fastnet", "numpy") else []),
            # Untimed, one network of each task shows that both sides run, and that fastnet is right.
            *([] if library in ("fastnet", "numpy") and name == "13-64-64-1" and threads == 1 else [pytest.mark.timed]),
        ],
    )
    for task in TASKS
    for name in NETWORKS
    for threads in (1, 2)
    if threads <= num_threads()
    for library in installed()
]


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Give the process that measures a library on so many threads; started once."""
    started: list[Worker] = []

    @cache
    def worker(library: str, threads: int) -> Worker:
        started.append(Worker(library, threads))
        return started[-1]

    yield worker
    for each in started:
        each.end()


@pytest.mark.parametrize(("library", "name", "task", "threads"), STEPS)
def test_step(benchmark: BenchmarkFixture, workers: Any, library: str, name: str, task: str, threads: int) -> None:
    benchmark.group = f"step {name} {task} threads {threads}"
    about = {"operation": "step", "variant": library, "case": name, "task": task, "dtype": "float32"}
    benchmark.extra_info.update(about, threads=threads)
    worker = workers(library, threads)
    least = 0.1 if benchmark.enabled else 0.0

    seconds: list[float] = []
    benchmark.pedantic(lambda: seconds.append(worker.seconds(name, task, least)), rounds=5)
    benchmark.extra_info["step_s"] = statistics.median(seconds)
