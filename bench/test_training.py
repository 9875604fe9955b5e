"""An epoch of training, backend against backend, on one thread and on two; the numpy backend stands in every group.

Run it as ``pytest bench/test_training.py --benchmark-enable``.
"""

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

from fastnet import SGD, Adam, Network, Trainer

CASES: dict[str, tuple[list[int], int, int]] = {  # layer sizes, batch size, rows
    "13-64-64-1": ([13, 64, 64, 1], 32, 1024),
    "64-128-10": ([64, 128, 10], 32, 1797),
    "784-256-128-10": ([784, 256, 128, 10], 128, 1024),
}


@pytest.mark.parametrize(("backend", "threads"), [("numpy", 1), ("serial", 1), ("numpy", 2), ("parallel", 2)])
@pytest.mark.parametrize("optimizer", [SGD(1e-3), Adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", CASES)
def test_epoch(benchmark: BenchmarkFixture, name: str, optimizer: Any, backend: str, threads: int) -> None:
    sizes, batch_size, rows = CASES[name]
    rng = np.random.default_rng(0)
    X, y = (rng.standard_normal((rows, size)).astype("float32") for size in (sizes[0], sizes[-1]))
    trainer = Trainer(Network(sizes), optimizer=optimizer, batch_size=batch_size, backend=backend, threads=threads)
    reference = Trainer(Network(sizes), optimizer=optimizer, batch_size=batch_size, backend="numpy")
    losses = [side.fit(X, y, epochs=2)["loss"] for side in (trainer, reference)]  # verified, and compiled
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    benchmark.group = f"epoch {name} {type(optimizer).__name__} batch {batch_size} float32 threads {threads}"
    benchmark.extra_info.update(backend=backend, threads=threads, steps=-(-rows // batch_size))
    with threadpool_limits(threads):
        benchmark(trainer.fit, X, y, epochs=1, progress=False)
