"""Threads of a training step: tasks that cover the work, the same bits for any number of them, trainings at once."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from backends import random_data

from fastnet import SGD, Adam, Network, Trainer
from fastnet.kernels.cpu.threads.pool import POOL, limit_threads, num_threads
from fastnet.kernels.engine import engine, partition, training_step
from fastnet.kernels.specs.batches import MICRO_BATCH_ROWS


@pytest.mark.compiled
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("optimizer", [SGD(0.01), Adam()], ids=repr)
def test_threads_never_change_a_bit(optimizer: Any, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves, parameters, evaluations; batches of several micro-batches, the last one short; clipping and l2."""
    monkeypatch.setattr(engine, "SURE_FLOPS", 0)
    monkeypatch.setattr(engine, "THREAD_FLOPS", 0)
    rng = np.random.default_rng(1)
    X = rng.standard_normal((3000, 40)).astype("float32")
    y = rng.integers(0, 10, 3000) if loss == "cross_entropy" else rng.standard_normal((3000, 10)).astype("float32")
    runs = []
    for threads in (1, 2, 3, 7, None):
        for batch in (100, 2500):
            net = Network((40, 100, 70, 10))
            ours = Trainer(net, loss, optimizer, batch, l2=1e-3, clip_norm=0.5, threads=threads)
            ours.fit(X, y, 2, sample_weight=np.linspace(0, 1, 3000), validation_split=0.1)
            runs.append((batch, dict(ours.history), net.parameters.tobytes(), ours.evaluate(X, y)))
    assert all(run == other for run in runs[:2] for other in runs if other[0] == run[0])


@pytest.mark.compiled
def test_python_threads_train_concurrently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a trainer of its own; one has the workers, the others work alone; all end at the same bits."""
    monkeypatch.setattr(engine, "SURE_FLOPS", 0)
    monkeypatch.setattr(engine, "THREAD_FLOPS", 0)
    from concurrent.futures import ThreadPoolExecutor

    X, y = random_data(1000, (60, 80, 10), "float32")

    def train(_: int) -> bytes:
        net = Network((60, 80, 10))
        Trainer(net, batch_size=100).fit(X, y, 5)
        return net.parameters.tobytes()

    with limit_threads(None), ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(train, range(8)))) == 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_weight_tasks_cover_every_row_once(threads: int) -> None:
    sizes = (30, 100, 7, 64, 1)
    tasks = partition.partition_weights(sizes, 4, threads)
    for layer, (_, k) in enumerate(pairwise(sizes)):
        edges = sorted((top, bottom) for at, top, bottom in tasks.tolist() if at == layer)
        assert [top for top, _ in edges] == [0, *(bottom for _, bottom in edges[:-1])]
        assert edges[-1][1] == k
        assert all(top % 16 == 0 for top, _ in edges), "two threads never write one cache line of W^T"


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_order_of_weight_tasks_does_not_matter(dtype: str) -> None:
    """Layers' inputs are packed once for all tasks, or by each task into its thread's scratch, as those of the last."""
    sizes = (70, 300, 129, 5)
    X, y = random_data(130, sizes, dtype)
    parameters = Network(sizes, dtype=dtype, seed=1).parameters
    ours = engine.CpuEngine(parameters, sizes, (0, 0, 0), batch_rows=65)
    _, expected = ours.loss_and_gradient(X, y)
    expected = expected.copy()
    tasks = partition.partition_weights(sizes, np.dtype(dtype).itemsize, 5)
    assert len(set(tasks["layer"].tolist())) == 3
    assert len(tasks) > 10
    for seed in range(3):
        ours.plan = ours.plan._replace(weight_tasks=np.random.default_rng(seed).permutation(tasks))
        ours.plan.bind_arrays()
        ours.plan.context["weight_task_count"] = len(tasks)
        for x in (X, X + 1, X):  # inputs are packed anew for each step
            _, found = ours.loss_and_gradient(x, y)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.compiled
@pytest.mark.skipif(num_threads() < 2, reason="needs a second thread")
def test_a_step_knows_how_many_threads_are_at_work() -> None:
    """Fewer than it has scratch for, where the tuner finds that faster: what one thread packs stays in its caches."""
    X, y = random_data(MICRO_BATCH_ROWS, (64, 128, 8), "float32")
    ours = engine.CpuEngine(np.ones(128 * 65 + 8 * 129, "float32"), (64, 128, 8), (0, 0))
    address = ours.bind(ours.plan, False, (X, y, None, None, np.zeros(1)), 0, None)
    for threads in (1, 2):
        ours.plan.progress["done"] = 0
        training_step.run(X.dtype, address, threads, POOL)
        assert ours.plan.context["threads"] == min(threads, ours.plan.context["scratch_threads"])
    assert ours.plan.context["scratch_threads"] > 1
