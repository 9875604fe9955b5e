"""Ctrl-C in the middle of training: whole steps are kept, and the next call goes on from them."""

from typing import Any

import numpy as np
import pytest
from backends import OPTIMIZERS, X, Y, random_data, trainer

from fastnet import Network, Trainer
from fastnet.kernels.engine import engine, numpy_engine, training_step, tuner
from fastnet.kernels.engine.backend import start_epoch
from fastnet.kernels.jit import side_by_side
from fastnet.kernels.specs.batches import MICRO_BATCH_ROWS


@pytest.mark.sampled(3)
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("calls", [1, 4, 7, 10])
def test_interruption_leaves_whole_steps(
    calls: int, optimizer: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after any call of the compiled loop: what ends later is what a straight run ends at, to the bit."""
    straight, ours = (trainer(optimizer=optimizer, batch_size=16, backend=backend) for _ in range(2))
    straight.fit(X, Y, epochs=5)
    module: Any = numpy_engine if backend == "numpy" else training_step
    name, left = "_count" if backend == "numpy" else "run", [calls]
    run = getattr(module, name)

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "CALL_S", 1e-9)  # one step a call
        patch.setattr(engine, "_FIRST_CALL_FLOPS", 1)
        patch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            ours.fit(X, Y, epochs=5)
    assert ours.history.epochs < 5
    assert ours.history["loss"] == straight.history["loss"][: ours.history.epochs] if ours.history else True
    ours.fit(X, Y, epochs=5 - ours.history.epochs)
    assert ours.network.parameters.tobytes() == straight.network.parameters.tobytes()
    assert ours.history == straight.history


@pytest.mark.compiled
def test_call_returns_between_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python can handle Ctrl-C between any two micro-batches, also in the middle of a full batch."""
    monkeypatch.setattr(tuner, "CALL_S", 1e-12)
    X, y = random_data(5 * MICRO_BATCH_ROWS, (4, 1), "float32")
    ours = engine.CpuEngine(np.zeros(5, "float32"), (4, 1), (0,), batch_rows=len(X))
    ours.tuner.rows = 1
    stops: list[int] = []
    run = training_step.run
    monkeypatch.setattr(training_step, "run", lambda *a: (run(*a), stops.append(int(ours.plan.progress["done"]))))
    ours.loss_and_gradient(X, y)
    assert stops == [MICRO_BATCH_ROWS * i for i in range(1, 6)]


@pytest.mark.compiled
def test_a_tuner_without_rows_does_not_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a pickle or a callback has made of it; else the loop over compiled calls would have no end."""
    X, y = random_data(20, (4, 2), "float32")
    ours, run, calls = engine.CpuEngine(np.ones(10, "float32"), (4, 2), (0,), batch_rows=2), training_step.run, []

    def counted(*arguments: Any) -> None:
        calls.append(len(calls))
        assert len(calls) <= 20
        run(*arguments)

    monkeypatch.setattr(training_step, "run", counted)
    ours.tuner.rows = -5
    ours.loss_and_gradient(X, y)


def test_interrupted_epoch_is_not_continued_with_other_data() -> None:
    X, y = random_data(64, (3, 2), "float64")
    ours, plain = (Trainer(Network((3, 2), dtype="float64"), batch_size=16, shuffle=False) for _ in "ab")
    progress = ours._state.progress
    start_epoch(progress, ours._state.totals, 0, 96)
    progress["row"] = progress["done"] = 32  # as if interrupted in the first epoch of 96 rows
    assert ours.fit(X, y, 1)["loss"] == plain.fit(X, y, 1)["loss"]


@pytest.mark.compiled
def test_interrupt_leaves_no_stale_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next call would compute on arrays that may be gone."""
    X, y = random_data(20, (4, 2), "float32")
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
def test_interrupt_during_compilation_leaves_no_kernel_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next call would jump to address 0."""
    X, y = random_data(20, (4, 3, 2), "float32")
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
