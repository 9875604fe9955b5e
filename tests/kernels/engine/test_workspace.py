"""The memory of a training step: reserved before the first, large enough for each, and no more than that."""

import gc
import tracemalloc
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from backends import random_data

from fastnet import Network, Trainer
from fastnet.kernels.cpu.gemm import blocking
from fastnet.kernels.cpu.gemm.microkernel import NV
from fastnet.kernels.cpu.gemm.operands import Matrix, Shape
from fastnet.kernels.cpu.threads.pool import POOL, limit_threads, num_threads
from fastnet.kernels.engine import engine, partition, plan, training_step
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.specs.activations import IDENTITY, RELU
from fastnet.kernels.specs.batches import MICRO_BATCH_ROWS


def test_workspace_does_not_grow_with_the_data() -> None:
    few, many = (
        engine.CpuEngine(np.zeros(31), (4, 5, 1), (1, 0), batch_rows=rows).nbytes
        for rows in (2 * MICRO_BATCH_ROWS, 10**7)
    )
    assert many - few == 31 * 8, "the gradient of a group of micro-batches"


@pytest.mark.compiled
def test_steady_training_allocates_nothing() -> None:
    """Some 10000 steps after the first: neither Python's memory nor the process's grows."""
    X, y = random_data(2000, (8, 16, 1), "float32")
    ours = Trainer(Network((8, 16, 1)), batch_size=16)
    ours.fit(X, y, 5)
    gc.collect()
    before_kib = resident_kib()
    tracemalloc.start()
    try:
        ours.fit(X, y, 1)
        first, _ = tracemalloc.get_traced_memory()
        ours.fit(X, y, 80)
        last, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last - first < 20_000, "80 rows of history and little else"
    assert resident_kib() - before_kib < 4096


def resident_kib() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4
    except OSError:
        pytest.skip("reads Linux's /proc")


@pytest.mark.sampled(3)
@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [608, 513, 512, 257, 100])
def test_short_last_micro_batch_fits_its_workspace(rows: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows may need more workspace for packing: W is large enough for that, and guards follow every array."""
    guards = []

    def guarded(size: int, dtype: Any) -> Any:
        raw = plan.aligned(size + 70_000, dtype)
        raw[size:] = 7
        guards.append(raw[size:])
        return raw[:size]

    monkeypatch.setattr(engine, "aligned", guarded)
    X, y = random_data(MICRO_BATCH_ROWS + rows, (784, 10), dtype)
    net, twin = (Network((784, 200, 10), hidden="tanh", dtype=dtype) for _ in "ab")
    Trainer(net, batch_size=None, shuffle=False).fit(X, y, 1)
    assert guards
    assert all((guard == 7).all() for guard in guards)
    Trainer(twin, batch_size=None, shuffle=False, backend="numpy").fit(X, y, 1)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sizes", [(512, 128, 10), (512, 64, 10), (1024, 200, 10)], ids=str)
@pytest.mark.parametrize("item", [4, 8])
def test_scratch_holds_the_inputs_that_the_forward_product_packs(item: int, sizes: tuple[int, ...]) -> None:
    """Of X whose rows are 2 KiB apart, with AVX2 and NEON; without, each task allocated its own memory."""
    choose: Any = getattr(blocking.choose_blocking, "py_func", blocking.choose_blocking)
    lanes = VECTOR // item
    for rows in (16, 32, 40):
        x, w = Matrix(0, sizes[0] * item, item, 0), Matrix(0, NV * VECTOR, item, -1)
        needed = choose(item, Shape(rows, sizes[1], sizes[0]), x, w).buffer_bytes
        layers, _ = plan.layer_table(sizes, (RELU, IDENTITY), (), rows, lanes, NV * lanes)
        assert partition.scratch_elements(layers, np.array([[0, 0, 1]]), rows, item, rows) * item >= needed


@pytest.mark.parametrize("sizes", [(512, 128, 10), (128, 1024, 512, 10)], ids=str)
@pytest.mark.parametrize("item", [4, 8])
def test_scratch_holds_what_tasks_of_every_height_pack(item: int, sizes: tuple[int, ...]) -> None:
    """Two tasks of 95 rows pack more than one of `task_rows`, 128, with AVX2: they allocated memory amid a step."""
    choose: Any = getattr(blocking.choose_blocking, "py_func", blocking.choose_blocking)
    lanes = VECTOR // item
    layers, _ = plan.layer_table(sizes, (RELU,) * (len(sizes) - 2) + (IDENTITY,), (), 256, lanes, NV * lanes)
    packed = Matrix(0, NV * VECTOR, item, -1)
    for task_rows, rank, ranks in ((128, 0, 1), (128, 2, 3), (64, 0, 1)):
        for rows in range(1, 257):
            share = -(-rows // ranks)
            own = min(rows, (rank + 1) * share) - min(rows, rank * share)
            tasks = -(-own // task_rows)
            heights = {own * (t + 1) // tasks - own * t // tasks for t in range(tasks)}
            reserved = (
                partition.scratch_elements(layers, np.array([[0, 0, 1]]), task_rows, item, rows, rank, ranks) * item
            )
            for height, (i, (n, k)) in product(heights, enumerate(pairwise(sizes))):
                x, w = Matrix(0, n * item, item, 0), Matrix(0, n * item, item, NV * VECTOR)
                assert choose(item, Shape(height, k, n), x, packed).buffer_bytes <= reserved
                dz = Matrix(0, k * item, item, 0)
                assert i == 0 or choose(item, Shape(height, n, k), dz, w).buffer_bytes <= reserved


@pytest.mark.compiled
@pytest.mark.skipif(num_threads() < 2, reason="needs a second thread")
def test_no_more_threads_work_than_have_scratch() -> None:
    """CPUs may be added between the making of an engine and its use."""
    X, y = random_data(MICRO_BATCH_ROWS, (64, 128, 8), "float32")
    with limit_threads(1):
        ours = engine.CpuEngine(np.ones(128 * 65 + 8 * 129, "float32"), (64, 128, 8), (0, 0))
    outer = np.full(8 * ours.plan.scratch.size, np.nan, "float32")
    ours.plan = ours.plan._replace(scratch=outer)
    address = ours.bind(ours.plan, False, (X, y, None, None, np.zeros(1)), 0, None)
    for _ in range(20):
        ours.plan.progress["done"] = 0
        training_step.run(X.dtype, address, num_threads(), POOL)
    slot = int(ours.plan.context["scratch_size"])
    assert not np.isnan(outer[:slot]).all()
    assert np.isnan(outer[slot:]).all()
    assert ours.plan.context["threads"] == 1
