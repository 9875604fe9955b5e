"""The compiled step: bits of the registered variants, one compilation, micro-batches, threads, memory, interrupts."""

import gc
import tracemalloc
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from backends import assert_backends_agree

from fastnet import SGD, Adam, Network, StepDecay, Trainer
from fastnet.kernels.cpu import activations
from fastnet.kernels.cpu.gemm import blocking
from fastnet.kernels.cpu.gemm.microkernel import NV
from fastnet.kernels.cpu.gemm.operands import Matrix, Shape
from fastnet.kernels.cpu.threads.pool import POOL, limit_threads, num_threads
from fastnet.kernels.engine import engine, partition, plan, training_step, tuner
from fastnet.kernels.engine.backend import start_epoch
from fastnet.kernels.engine.numpy_engine import NumpyEngine
from fastnet.kernels.engine.optimizer_state import OptimizerState
from fastnet.kernels.engine.plan import aligned, padded
from fastnet.kernels.engine.weights_task import pack_weights
from fastnet.kernels.jit import side_by_side
from fastnet.kernels.jit.decorator import jit
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.llvm.memory import address_and_strides
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import layers, losses
from fastnet.kernels.registry import find
from fastnet.kernels.specs.activations import IDENTITY, RELU
from fastnet.kernels.specs.batches import MICRO_BATCH_ROWS
from fastnet.kernels.specs.optimizers import OPTIMIZERS
from fastnet.trainer import DivergenceWarning

NAMES = [activation.name for activation in reference.ACTIVATIONS]
EXACT = ["identity", "relu", "leaky_relu", "tanh", "gelu", "silu"]
"""Activations whose derivative has the same bits here as in the table; sigmoid's is A (1 - A) here."""


def data(rows: int, sizes: tuple[int, ...], dtype: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((rows, size)).astype(dtype) for size in (sizes[0], sizes[-1]))  # type: ignore[return-value]


@pytest.mark.sampled(5)
@pytest.mark.compiled
@pytest.mark.parametrize("hidden", EXACT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(45, (37, 50, 33, 5)), (1, (90, 150, 330, 5)), (130, (70, 300, 129, 5))],
    ids=["edges of tiles", "one row, wider than its tile", "several panels and tasks"],
)
def test_gradient_has_the_bits_of_the_registered_variants(
    dtype: str, hidden: str, rows: int, sizes: tuple[int, ...]
) -> None:
    """What trains is what is held against the oracle: its products, activations and losses, called one by one."""
    X, y = data(rows, sizes, dtype)
    net = Network(sizes, hidden=hidden, dtype=dtype, seed=1)
    net.parameters[:] += 0.01  # biases that are not 0
    codes = [NAMES.index(name) for name in net.activations]

    inputs, Zs = [X], []
    for W, b, code in zip(net.weights, net.biases, codes, strict=True):
        A, Z = (np.full((rows, len(W)), np.nan, dtype) for _ in range(2))
        find("dense_forward", "simd")(inputs[-1], W, b, code, A, Z)
        inputs.append(A)
        Zs.append(Z)
    loss, D = np.empty(1), np.empty_like(inputs[-1])
    find("mse", "simd")(y, inputs[-1], loss)
    find("mse_derivative", "simd")(y, inputs[-1], D)
    parts: list[Any] = []
    for i in reversed(range(3)):
        W = net.weights[i]
        dW, db, dX = np.empty_like(W), np.empty(len(W), dtype), np.empty_like(inputs[i])
        find("dense_backward_batch", "simd")(inputs[i], Zs[i], D, W, codes[i], dW, db, dX)
        parts = [dW.ravel(), db, *parts]
        D = dX

    objective, gradient = net.loss_and_gradient(X, y)
    assert gradient.tobytes() == np.concatenate(parts).tobytes()
    assert objective == pytest.approx(loss[0] * 5, rel=1e-6)
    assert net.predict(X).tobytes() == inputs[-1].tobytes()


@pytest.mark.sampled(3)
@pytest.mark.compiled
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_times_derivative(dtype: str, name: str, rng: np.random.Generator) -> None:
    """The one kernel of an epoch that is in no variant of the table."""
    activation = reference.ACTIVATIONS[NAMES.index(name)]
    Z = (rng.standard_normal(300) * 5).astype(dtype)
    dZ = rng.standard_normal(300).astype(dtype)
    expected = dZ * activation.derivative(Z.astype(np.float64))
    A = activation.function(Z).astype(dtype)
    activations.times_derivative_kernel(NAMES.index(name))(A, Z.copy(), dZ)
    np.testing.assert_allclose(dZ, expected, rtol=0, atol=40 * np.finfo(dtype).eps)


@pytest.mark.compiled
def test_step_is_compiled_once_for_all_networks() -> None:
    def train(sizes: tuple[int, ...], hidden: Any, optimizer: Any, loss: str) -> None:
        X, y = data(70, sizes, "float32")
        y = y if loss == "mse" else (y > 0).astype("float32")
        Trainer(Network(sizes, hidden=hidden), loss, optimizer, 16).fit(X, y, 2, validation_split=0.2)

    train((3, 4, 2), "tanh", SGD(0.01), "mse")
    train((3, 4, 2), "tanh", Adam(), "mse")
    compiled = [len(f.signatures) for f in (training_step.run, training_step.rows_task, training_step.weights_task)]  # type: ignore[attr-defined]
    train((7, 5, 6, 4, 9, 1), ["relu", "gelu", "sigmoid", "tanh"], SGD(0.01, momentum=0.5), "binary_cross_entropy")
    train((2, 1), "relu", Adam(), "huber")
    assert compiled == [
        len(f.signatures) for f in (training_step.run, training_step.rows_task, training_step.weights_task)
    ]  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_micro_batches_add_up_to_the_batch(backend: str) -> None:
    """A full batch of several micro-batches has the gradient of one NumPy product over all rows."""
    sizes = (6, 9, 2)
    X, y = data(2 * MICRO_BATCH_ROWS + 77, sizes, "float64")
    net = Network(sizes, hidden="tanh", dtype="float64")
    ours = Trainer(net, optimizer=SGD(1.0), batch_size=None, shuffle=False, backend=backend)
    before = net.parameters.copy()
    (W1, W2), (b1, b2) = ([array.copy() for array in arrays] for arrays in (net.weights, net.biases))
    A1, Z1 = layers.dense_forward(X, W1, b1, reference.tanh)
    A2, Z2 = layers.dense_forward(A1, W2, b2, reference.identity)
    D = losses.mse_derivative(y, A2)
    dW2, db2, dA1 = layers.dense_backward_batch(A1, Z2, D, W2, reference.identity_derivative)
    dW1, db1, _ = layers.dense_backward_batch(X, Z1, dA1, W1, reference.tanh_derivative)
    gradient = np.concatenate([dW1.ravel(), db1, dW2.ravel(), db2])
    history = ours.fit(X, y, 1)
    np.testing.assert_allclose(before - net.parameters, gradient, rtol=1e-10, atol=1e-13)
    assert history["loss"][0] == pytest.approx(losses.mse(y, A2), rel=1e-12)


def test_workspace_does_not_grow_with_the_data() -> None:
    few, many = (
        engine.CpuEngine(np.zeros(31), (4, 5, 1), (1, 0), batch_rows=rows).nbytes
        for rows in (2 * MICRO_BATCH_ROWS, 10**7)
    )
    assert many - few == 31 * 8, "the gradient of a group of micro-batches"


@pytest.mark.compiled
def test_steady_training_allocates_nothing() -> None:
    """Some 10000 steps after the first: neither Python's memory nor the process's grows."""
    X, y = data(2000, (8, 16, 1), "float32")
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


@pytest.mark.compiled
def test_call_returns_between_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python can handle Ctrl-C between any two micro-batches, also in the middle of a full batch."""
    monkeypatch.setattr(tuner, "CALL_S", 1e-12)
    X, y = data(5 * MICRO_BATCH_ROWS, (4, 1), "float32")
    ours = engine.CpuEngine(np.zeros(5, "float32"), (4, 1), (0,), batch_rows=len(X))
    ours.tuner.rows = 1
    stops: list[int] = []
    run = training_step.run
    monkeypatch.setattr(training_step, "run", lambda *a: (run(*a), stops.append(int(ours.plan.progress["done"]))))
    ours.loss_and_gradient(X, y)
    assert stops == [MICRO_BATCH_ROWS * i for i in range(1, 6)]


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
    X, y = data(MICRO_BATCH_ROWS + rows, (784, 10), dtype)
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
def test_infinite_gradient_norm_is_divergence() -> None:
    for backend in ("numpy", "cpu"):
        ours = Trainer(Network((1, 1), dtype="float64"), optimizer=SGD(0.1), clip_norm=1, backend=backend)
        with pytest.warns(DivergenceWarning):
            ours.fit([[1e200]], [-1e200], 2)


def test_infinite_optimizer_state_is_divergence() -> None:
    ours = Trainer(Network((1, 1)), optimizer=Adam(), batch_size=None)
    with pytest.warns(DivergenceWarning):
        ours.fit(np.full((4, 1), 1e3), np.full((4, 1), 1e18), 3)
    assert np.isfinite(ours._state.vectors).all()


@pytest.mark.parametrize(
    "rate", [Fraction(1, 20), np.float32(0.05), np.longdouble(0.05)], ids=lambda r: type(r).__name__
)
def test_learning_rate_of_any_number_type(rate: Any) -> None:
    X, y = data(50, (3, 2), "float64")
    runs = []
    for number in (rate, 0.05):
        ours = Trainer(Network((3, 2), dtype="float64"), optimizer=SGD(StepDecay(number, Fraction(2))), batch_size=9)
        runs.append(ours.fit(X, y, 5)["loss"])
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-6)


def test_interrupted_epoch_is_not_continued_with_other_data() -> None:
    X, y = data(64, (3, 2), "float64")
    ours, plain = (Trainer(Network((3, 2), dtype="float64"), batch_size=16, shuffle=False) for _ in "ab")
    progress = ours._state.progress
    start_epoch(progress, ours._state.totals, 0, 96)
    progress["row"] = progress["done"] = 32  # as if interrupted in the first epoch of 96 rows
    assert ours.fit(X, y, 1)["loss"] == plain.fit(X, y, 1)["loss"]


@pytest.mark.parametrize("weight", [1.0, 0.25, 7.0])
def test_equal_sample_weights_change_nothing(weight: float) -> None:
    X, y = data(50, (3, 8, 2), "float64")
    plain, weighted = (Trainer(Network((3, 8, 2), dtype="float64"), optimizer=SGD(0.05), batch_size=9) for _ in "ab")
    plain.fit(X, y, 3)
    weighted.fit(X, y, 3, sample_weight=np.full(50, weight))
    np.testing.assert_allclose(weighted.network.parameters, plain.network.parameters, rtol=1e-12)
    np.testing.assert_allclose(weighted.history["loss"], plain.history["loss"], rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_sample_weight_two_equals_two_rows(backend: str) -> None:
    X, y = data(10, (3, 4, 2), "float64")
    twice = np.r_[np.arange(10), [3]]
    runs = []
    for chosen, weights in ((np.arange(10), np.where(np.arange(10) == 3, 2.0, 1.0)), (twice, None)):
        ours = Trainer(Network((3, 4, 2), dtype="float64"), optimizer=SGD(0.1), batch_size=None, backend=backend)
        ours.fit(X[chosen], y[chosen], 4, sample_weight=weights)
        runs.append(
            (ours.network.parameters, ours.history["loss"], ours.evaluate(X[chosen], y[chosen], weights)["loss"])
        )
    for one, other in zip(*runs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_batch_of_zero_weight_changes_nothing() -> None:
    X, y = data(8, (3, 2), "float64")
    ours = Trainer(Network((3, 2), dtype="float64"), batch_size=4, shuffle=False)
    before = ours.network.parameters.copy()
    ours.fit(X[:4], y[:4], 1, sample_weight=[0, 0, 0, 1])
    moved = ours.network.parameters.copy()
    assert not (moved == before).all()
    ours.fit(X, y, 1, sample_weight=[0, 0, 0, 0, 0, 0, 0, 1])
    assert np.isfinite(ours.network.parameters).all()


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
    X, y = data(130, sizes, dtype)
    parameters = Network(sizes, dtype=dtype, seed=1).parameters
    ours = engine.CpuEngine(parameters, sizes, (0, 0, 0), batch_rows=65)
    _, expected = ours.loss_and_gradient(X, y)
    expected = expected.copy()
    tasks = partition.partition_weights(sizes, 8, 5)
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
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "loss"), [("float64", "mse"), ("float64", "cross_entropy"), ("float32", "mse")])
def test_l2_per_batch(dtype: str, loss: str, weighted: bool, rng: np.random.Generator) -> None:
    """By hand, a batch at a time: each divides it by its weight, and counts its mean loss and penalty by its rows."""
    sizes, batch, l2, cap = (17, 30, 3), 8, 0.3, 1.5
    X, y = data(21, sizes, dtype)  # the last batch holds 5 rows
    truth = y if loss == "mse" else y.argmax(axis=1)
    weights = rng.uniform(0.5, 2, 21) if weighted else None
    start = (rng.standard_normal(plan.parameter_count(sizes)) * 0.3).astype(dtype)
    codes = [NAMES.index("tanh"), NAMES.index("identity")]

    found = {}
    for name, make, threads in (
        ("numpy", NumpyEngine, 1),
        ("one", engine.CpuEngine, 1),
        ("three", engine.CpuEngine, 3),
    ):
        parameters = start.copy()
        with limit_threads(threads):
            state = OptimizerState(
                OPTIMIZERS["sgd"].code, np.zeros((0, start.size), dtype), l2_per_batch=l2, max_row_loss=cap
            )
            at_work: Any = make(parameters, sizes, codes, loss, batch, state)
            at_work.train(X, truth, weights, rates=np.array([0.1]))
        found[name] = (parameters, [float(at_work.objective[term]) for term in ("mean_loss", "penalty")])

    expected, mean_loss, penalty = start.copy(), 0.0, 0.0
    for top in range(0, 21, batch):
        rows = slice(top, min(top + batch, 21))
        count = rows.stop - rows.start
        w = np.ones(count) if weights is None else weights[rows]
        one = engine.CpuEngine(expected, sizes, codes, loss, count)
        each = [one.evaluate([(X[i : i + 1], truth[i : i + 1], None, 0)], 1)["loss"] for i in range(top, rows.stop)]
        each = np.minimum(np.array(each) * (sizes[-1] if loss == "mse" else 1), cap)
        mean_loss += count * np.sum(w * each) / np.sum(w)
        one.train(X[rows], truth[rows], None if weights is None else weights[rows])
        step = one.plan.gradient.copy()
        for (W, _), (dW, _) in zip(plan.layer_views(expected, sizes), plan.layer_views(step, sizes), strict=True):
            penalty += count * l2 / 2 * np.sum(np.square(W, dtype=np.float64)) / np.sum(w)
            dW += dW.dtype.type(l2 / np.sum(w)) * W
        expected -= step.dtype.type(0.1) * step
    for parameters, terms in found.values():
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(parameters, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(terms, [mean_loss, penalty], rtol=tolerance)
    assert found["one"][0].tobytes() == found["three"][0].tobytes()
    assert found["one"][1] == found["three"][1]


def without_l2(real: Any) -> Any:
    def update(self: Any, rate: float, rows: int) -> None:
        self._optimizer.l2 = 0.0
        real(self, rate, rows)

    return update


def without_clipping(real: Any) -> Any:
    def update(self: Any, rate: float, rows: int) -> None:
        self._optimizer.clip_norm = 1e9
        real(self, rate, rows)

    return update


def of_the_next_step(real: Any) -> Any:
    def update(self: Any, rate: float, rows: int) -> None:
        self._optimizer.progress["step"] += 1
        real(self, rate, rows)
        self._optimizer.progress["step"] -= 1

    return update


MUTANTS: dict[str, Any] = {
    "forgets l2": without_l2,
    "half the rate": lambda real: lambda self, rate, rows: real(self, rate / 2, rows),
    "never clips": without_clipping,
    "counts steps from 2": of_the_next_step,
}


@pytest.mark.compiled
@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_of_backends_rejects_wrong_updates(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"loss": "mse", "optimizer": Adam(0.01), "l2": 0.1, "clip_norm": 0.3}
    assert_backends_agree(options, {})
    monkeypatch.setattr(NumpyEngine, "_update", MUTANTS[mutant](NumpyEngine._update))
    with pytest.raises(AssertionError):
        assert_backends_agree(options, {})


@pytest.mark.compiled
def test_python_threads_train_concurrently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a trainer of its own; one has the workers, the others work alone; all end at the same bits."""
    monkeypatch.setattr(engine, "SURE_FLOPS", 0)
    monkeypatch.setattr(engine, "THREAD_FLOPS", 0)
    from concurrent.futures import ThreadPoolExecutor

    X, y = data(1000, (60, 80, 10), "float32")

    def train(_: int) -> bytes:
        net = Network((60, 80, 10))
        Trainer(net, batch_size=100).fit(X, y, 5)
        return net.parameters.tobytes()

    with limit_threads(None), ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(train, range(8)))) == 1


@pytest.mark.compiled
def test_interrupt_leaves_no_stale_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next call would compute on arrays that may be gone."""
    X, y = data(20, (4, 2), "float32")
    ours = engine.CpuEngine(np.ones(10, "float32"), (4, 2), (0,), batch_rows=20)
    expected, _ = ours.loss_and_gradient(X, y)
    address, calls = engine.address_of, iter(range(9))

    def interrupted(array: Any) -> int:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return int(address(array))

    with monkeypatch.context() as patch:
        patch.setattr(engine, "address_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ours.loss_and_gradient(X + 1, y + 1)
    assert ours.loss_and_gradient(X, y)[0] == expected


@pytest.mark.compiled
@pytest.mark.skipif(num_threads() < 2, reason="needs a second thread")
def test_no_more_threads_work_than_have_scratch() -> None:
    """CPUs may be added between the making of an engine and its use."""
    X, y = data(MICRO_BATCH_ROWS, (64, 128, 8), "float32")
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


@pytest.mark.compiled
@pytest.mark.skipif(num_threads() < 2, reason="needs a second thread")
def test_a_step_knows_how_many_threads_are_at_work() -> None:
    """Fewer than it has scratch for, where the tuner finds that faster: what one thread packs stays in its caches."""
    X, y = data(MICRO_BATCH_ROWS, (64, 128, 8), "float32")
    ours = engine.CpuEngine(np.ones(128 * 65 + 8 * 129, "float32"), (64, 128, 8), (0, 0))
    address = ours.bind(ours.plan, False, (X, y, None, None, np.zeros(1)), 0, None)
    for threads in (1, 2):
        ours.plan.progress["done"] = 0
        training_step.run(X.dtype, address, threads, POOL)
        assert ours.plan.context["threads"] == min(threads, ours.plan.context["scratch_threads"])
    assert ours.plan.context["scratch_threads"] > 1


@jit
def _pack(W: Any, packed: Any, begin: int, end: int, streams: bool) -> None:
    w, to = address_and_strides(W)[0], address_and_strides(packed)[0]
    pack_weights(W.dtype, w, to, W.shape[1], begin, end, streams)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_packed_weights_are_the_transpose_from_any_vector_on(dtype: str) -> None:
    """Stored past the caches or not; a rank's part of W may begin in the middle of a micro-panel."""
    lanes, n = VECTOR // np.dtype(dtype).itemsize, 13
    k, height, nr = 5 * NV * lanes, padded(n, lanes), NV * lanes
    W = np.random.default_rng(0).standard_normal((k, n)).astype(dtype)
    for begin in range(0, k, lanes):
        for end in {min(begin + lanes, k), min(begin + 3 * lanes, k), k}:
            packed = aligned(k * height, np.dtype(dtype))
            packed[:] = np.nan
            _pack(W, packed, begin, end, True)
            found = packed.reshape(-1, height, nr).transpose(0, 2, 1).reshape(k, height)
            assert np.array_equal(found[begin:end, :n], W[begin:end])
            assert np.isnan(found[:begin]).all()
            assert np.isnan(found[end:]).all()


@pytest.mark.compiled
def test_a_tuner_without_rows_does_not_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a pickle or a callback has made of it; else the loop over compiled calls would have no end."""
    X, y = data(20, (4, 2), "float32")
    ours, run, calls = engine.CpuEngine(np.ones(10, "float32"), (4, 2), (0,), batch_rows=2), training_step.run, []

    def counted(*arguments: Any) -> None:
        calls.append(len(calls))
        assert len(calls) <= 20
        run(*arguments)

    monkeypatch.setattr(training_step, "run", counted)
    ours.tuner.rows = -5
    ours.loss_and_gradient(X, y)


@pytest.mark.compiled
def test_interrupt_during_compilation_leaves_no_kernel_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next call would jump to address 0."""
    X, y = data(20, (4, 3, 2), "float32")
    parameters = np.linspace(-1, 1, 23).astype("float32")
    expected, _ = engine.CpuEngine(parameters, (4, 3, 2), (2, 0), batch_rows=20).loss_and_gradient(X, y)
    for at in range(6):
        ours, calls, kernel_address = (
            engine.CpuEngine(parameters, (4, 3, 2), (2, 0), batch_rows=20),
            [0],
            side_by_side.kernel_address,
        )

        def interrupted(*arguments: Any, at: int = at, calls: list[int] = calls, found: Any = kernel_address) -> int:
            calls[0] += 1
            if calls[0] == at + 1:
                raise KeyboardInterrupt
            return int(found(*arguments))

        side_by_side.Kernel.address.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(side_by_side, "kernel_address", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ours.loss_and_gradient(X, y)
        assert ours.loss_and_gradient(X, y)[0] == expected
