"""Training steps of the CUDA engine in Numba's simulator: those of the CPU, interrupted or not, and as a graph.

`test_cuda.py` runs this file in a process with NUMBA_ENABLE_CUDASIM=1.
"""

import gc
import sys
import types
import weakref
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any
from unittest import mock

import numpy as np
import pytest
from simulator import BATCH, ROWS, SIZES, X, new_trainer, residency, targets_for

from fastnet import SGD, Adam, AdamW, CosineDecay, Network, RMSprop, Trainer, WarmUp
from fastnet.kernels.cuda import counters as cuda_counters
from fastnet.kernels.cuda import engine as cuda_engine
from fastnet.kernels.cuda import launch as cuda_launch
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.kernels.specs.losses import LOSSES
from fastnet.kernels.specs.optimizers import OPTIMIZERS
from fastnet.optimizers import OPTIMIZER_CLASSES

# ----------------------------------------------------------------------------------------------------- the trajectory

Run = tuple[str, Any, str, bool, dict[str, Any]]
"""Loss, optimizer, hidden activation, whether one block runs the epoch, and other options."""
CHOSEN: list[Run] = [
    ("mse", SGD(0.05), "relu", False, {}),
    ("mae", SGD(0.05, momentum=0.9), "tanh", True, {"l2": 0.1}),
    ("huber", SGD(WarmUp(2, 0.05), momentum=0.9, nesterov=True), "gelu", False, {"clip_norm": 0.1}),
    ("cross_entropy", Adam(), "silu", False, {"weighted": True}),
    ("cross_entropy", Adam(CosineDecay(0.01, 4)), "sigmoid", True, {"weighted": True}),
    ("cross_entropy", SGD(0.05), "relu", True, {"soft": True}),
    ("cross_entropy", Adam(), "tanh", False, {"soft": True, "weighted": True}),
    ("binary_cross_entropy", AdamW(0.01), "leaky_relu", True, {"clip_norm": 0.05, "l2": 0.01, "shuffle": False}),
    ("huber", AdamW(0.01), "identity", True, {"clip_norm": 0.5}),
    ("log_cosh", RMSprop(0.01), "mish", False, {}),
    ("mse", SGD(0.05), "tanh", True, {"dropout": 0.4, "seed": 2**63}),
    ("cross_entropy", Adam(), "relu", False, {"dropout": (0.3,)}),
]


def _not_chosen() -> Iterator[Run]:
    """Yield runs with every loss, optimizer and activation that CHOSEN lacks."""
    losses, optimizers, activations = ({run[i] for run in CHOSEN} for i in range(3))
    classes = {type(optimizer) for optimizer in optimizers}
    missing = (
        [name for name in LOSSES if name not in losses],
        [kind for kind in OPTIMIZER_CLASSES.values() if kind not in classes],
        [name for name in ACTIVATIONS if name not in activations],
    )
    for i, (loss, optimizer, hidden) in enumerate(zip_longest(*missing)):
        yield loss or "mse", (optimizer or SGD)(learning_rate=0.01), hidden or "tanh", i % 2 == 1, {}


RUNS = [*CHOSEN, *_not_chosen()]


@pytest.mark.parametrize(("loss", "optimizer", "hidden", "resident", "options"), RUNS, ids=lambda p: str(p)[:40])
def test_ten_steps_as_on_the_cpu(
    loss: str, optimizer: Any, hidden: str, resident: bool, options: dict[str, Any]
) -> None:
    options = dict(options)
    weights = np.linspace(0, 1, ROWS) if options.pop("weighted", False) else None
    y = (
        np.random.default_rng(0).dirichlet(np.ones(SIZES[-1]), ROWS)
        if options.pop("soft", False)
        else targets_for(loss)
    )
    ours, truth = (new_trainer(backend, loss, optimizer, hidden, **options) for backend in ("cuda", "cpu"))
    with residency(resident):
        ours.fit(X, y, epochs=4, sample_weight=weights, validation_data=(X[:4], targets_for(loss)[:4]))
    truth.fit(X, y, epochs=4, sample_weight=weights, validation_data=(X[:4], targets_for(loss)[:4]))
    assert set(ours.history) == set(truth.history)
    for name, curve in truth.history.items():
        np.testing.assert_allclose(ours.history[name], curve, rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(ours.network.parameters, truth.network.parameters, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours._state.vectors, truth._state.vectors, rtol=1e-9, atol=1e-13)
    assert ours._state.progress == truth._state.progress


def test_every_loss_optimizer_and_activation_is_run() -> None:
    assert {run[0] for run in RUNS} == set(LOSSES)
    assert {type(run[1]) for run in RUNS} == set(OPTIMIZER_CLASSES.values())
    assert {run[1].spec.name for run in RUNS} | {"none"} == set(OPTIMIZERS)
    assert {run[2] for run in RUNS} == set(ACTIVATIONS)
    assert {run[3] for run in RUNS} == {False, True}


def test_a_wrong_step_is_noticed() -> None:
    """A trajectory that forgets the last part of dW is not the CPU's."""
    ours, truth = (new_trainer(backend, "mse", SGD(0.05), "relu") for backend in ("cuda", "cpu"))
    truth.fit(X, targets_for("mse"), epochs=1)
    lay_out = cuda_engine.CudaEngine._lay_out

    def short(self: Any, *arguments: Any) -> None:
        lay_out(self, *arguments)
        self._sums["parts"] -= 1

    with residency(False), mock.patch.object(cuda_engine.CudaEngine, "_lay_out", short):
        ours.fit(X, targets_for("mse"), epochs=1)
    assert not np.allclose(ours.network.parameters, truth.network.parameters, rtol=1e-6)


@pytest.mark.parametrize("resident", [True, False])
def test_dropout(resident: bool) -> None:
    """Another layer's mask is not the CPU's; an engine that trains evaluates with the whole network."""

    def trained(backend: str) -> Trainer:
        network = Network([5, 9, 4, 3], hidden="tanh", dtype="float64", seed=1)
        trainer = Trainer(network, "mse", SGD(0.05), BATCH, backend=backend, dropout=(0.4, 0.2))
        with residency(resident):
            trainer.fit(X, targets_for("mse"), epochs=1)
        return trainer

    lay_out, truth = cuda_engine.CudaEngine._lay_out, trained("cpu")

    def wrong(self: Any, *arguments: Any) -> None:
        lay_out(self, *arguments)
        self._drops["layer"][1:] += 1

    np.testing.assert_allclose(trained("cuda").network.parameters, truth.network.parameters, rtol=1e-9, atol=1e-13)
    with mock.patch.object(cuda_engine.CudaEngine, "_lay_out", wrong):
        assert not np.allclose(trained("cuda").network.parameters, truth.network.parameters, rtol=1e-6)
    with residency(resident):
        training, measuring = (trained("cuda")._build(BATCH, train) for train in (True, False))
        inputs = X.astype(np.float64), targets_for("mse")
        found, expected = (engine.evaluate([(*inputs, None, 0)], len(X)) for engine in (training, measuring))
    assert found == expected


def test_every_product_has_its_own_parts() -> None:
    """A wide layer's gradient is not kept in as many parts as that of a small one."""
    found = []

    def parts(dtype: Any, rows: int, columns: int, depth: int) -> int:
        return 2 if (rows, columns) == (9, 5) else 3

    with residency(False), mock.patch.object(cuda_engine, "splits_for", parts):
        ours, truth = (new_trainer(backend, "mse", SGD(0.05), "relu", clip_norm=0.1) for backend in ("cuda", "cpu"))
        step = cuda_engine.CudaEngine._step

        def watched(self: Any, *arguments: Any) -> None:
            found.append((*self._sums["parts"], *(args.split for args in self._backwards[-2:])))
            step(self, *arguments)

        with mock.patch.object(cuda_engine.CudaEngine, "_step", watched):
            ours.fit(X, targets_for("mse"), epochs=2)
    truth.fit(X, targets_for("mse"), epochs=2)
    assert set(found) == {(2, 3, 5, 3)}
    np.testing.assert_allclose(ours.network.parameters, truth.network.parameters, rtol=1e-9, atol=1e-13)


def test_same_bits_from_run_to_run() -> None:
    runs = []
    for _ in range(2):
        trainer = new_trainer("cuda", "mse", Adam(), "tanh")
        with residency(False):
            trainer.fit(X, targets_for("mse"), epochs=1)
        runs.append(trainer.network.parameters)
    np.testing.assert_array_equal(*runs)


def test_evaluate_and_resume(tmp_path: Any) -> None:
    trainer = new_trainer("cuda", "mse", SGD(0.05, momentum=0.9), "relu")
    trainer.fit(X, targets_for("mse"), epochs=1, checkpoint=tmp_path / "run.safetensors")
    again = Trainer.resume(tmp_path / "run.safetensors", backend="cpu")
    assert trainer.evaluate(X, targets_for("mse"))["loss"] == pytest.approx(
        again.evaluate(X, targets_for("mse"))["loss"]
    )


# ------------------------------------------------------------------------------------------------------ interruptions


def test_interrupted_and_taken_up_again() -> None:
    """After the first step; the rest of the epoch is the next fit's."""
    whole, iter_chunks = (new_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    step = cuda_engine.CudaEngine._step
    calls = []

    def interrupted(self: Any, *arguments: Any) -> None:
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        step(self, 1, *arguments[1:])

    with residency(True):
        whole.fit(X, targets_for("mse"), epochs=1)
        with mock.patch.object(cuda_engine.CudaEngine, "_step", interrupted), pytest.raises(KeyboardInterrupt):
            iter_chunks.fit(X, targets_for("mse"), epochs=1)
        assert iter_chunks._state.progress["row"] == BATCH
        iter_chunks.fit(X, targets_for("mse"), epochs=1)
    np.testing.assert_array_equal(iter_chunks.network.parameters, whole.network.parameters)
    assert iter_chunks.history["loss"] == whole.history["loss"]


def test_an_interruption_while_results_are_written_counts_nothing_twice() -> None:
    """Ctrl-C right after the epoch's results are the host's: the engine finishes once more."""
    ours, truth = (new_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    settle, calls = cuda_counters._settle, []

    def interrupted(*arguments: Any) -> None:
        settle(*arguments)
        calls.append(0)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with mock.patch.object(cuda_counters, "_settle", interrupted), pytest.raises(KeyboardInterrupt):
        ours.fit(X, targets_for("mse"), epochs=1)
    assert len(calls) == 2
    ours.fit(X, targets_for("mse"), epochs=1)  # of which nothing is left to train
    truth.fit(X, targets_for("mse"), epochs=1)
    assert ours._state.totals == truth._state.totals
    assert ours.history["loss"] == truth.history["loss"]
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)


# ------------------------------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_is_freed_with_its_engine(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at once, where it fails; cuda.core is simulated: a builder collects launches, a graph repeats them."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    closed = []
    launches = {module: module.enqueue for module in (cuda_engine, cuda_launch)}

    class Graph:
        def __init__(self, taken: Any) -> None:
            self.taken = taken
            alive.add(self)

        def launch(self, stream: Any) -> None:
            for kernel, given in self.taken:
                launches[cuda_engine](kernel, *given)

    class Builder:
        def __init__(self) -> None:
            self.taken: Any = []
            alive.add(self)

        def begin_building(self) -> None:
            pass

        def end_building(self) -> Any:
            if fails:
                raise RuntimeError("no graphs here")
            return self

        def complete(self) -> Graph:
            return Graph(self.taken)

        def close(self) -> None:
            closed.append(True)

    def enqueued(kernel: Any, *arguments: Any, stream: Any = 0) -> None:
        if isinstance(stream, Builder):
            stream.taken.append((kernel, arguments))
        else:
            launches[cuda_engine](kernel, *arguments)

    core: Any = types.ModuleType("cuda.core")
    core.Device = lambda: types.SimpleNamespace(
        set_current=lambda: None, default_stream=0, create_graph_builder=Builder
    )
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    for module in launches:
        monkeypatch.setattr(module, "enqueue", enqueued)
    ours, truth = (new_trainer("cuda", "mse", SGD(0.05), "relu", shuffle=False) for _ in range(2))
    with residency(False):
        truth.fit(X, targets_for("mse"), epochs=1)
        engine = ours._build(BATCH, train=True)
        engine.launch_mode = "graph"
        engine.train(X, targets_for("mse"), rates=np.array([0.05]))
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)
    assert closed == [True]
    gc.collect()
    assert (engine.launch_mode, len(alive)) == (
        ("stream (RuntimeError while capturing: no graphs here)", 0) if fails else ("graph", 1)
    )
    del engine
    gc.collect()
    assert not alive
