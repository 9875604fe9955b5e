"""Several epochs in one compiled call: the bits, curves and decisions of epoch after epoch."""

from typing import Any

import numpy as np
import pytest
from backends import LABELS, X, Y, trainer

from fastnet import SGD, Adam, CosineDecay, RMSprop, WarmUp
from fastnet.kernels.engine import epochs
from fastnet.trainer import DivergenceWarning, Trainer

pytestmark = pytest.mark.compiled

WEIGHTS = np.random.default_rng(1).uniform(0, 2, 50) * (np.arange(50) % 7 > 0)
CLASSES: dict[str, Any] = {"sizes": (3, 6, 3), "loss": "cross_entropy"}


def state(ours: Trainer) -> tuple[Any, ...]:
    arrays = ours.network.parameters, ours._state.vectors, ours._state.progress, ours._state.totals
    return *(array.tobytes() for array in arrays), repr(dict(ours.history))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the epochs of each call."""
    found: list[int] = []
    train = epochs.EpochLoop.train

    def noting(self: Any, rates: Any, *arguments: Any) -> None:
        train(self, rates, *arguments)
        found.append(int(self.record["done"]))

    monkeypatch.setattr(epochs.EpochLoop, "train", noting)
    monkeypatch.setattr(epochs, "is_coming", lambda kernel, dtype: False)
    return found


def both(options: dict[str, Any], y: Any, arguments: dict[str, Any], times: int = 1) -> None:
    """Train with a callback, after which each epoch returns to Python, and without."""
    singly, together = trainer(**options), trainer(**options)
    for _ in range(times):
        singly.fit(X, y, 30, callbacks=[lambda row: False], **arguments)
        together.fit(X, y, 30, **arguments)
    assert state(singly) == state(together)
    assert singly.history.best_epoch == together.history.best_epoch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [SGD(0.05), SGD(0.02, momentum=0.9), Adam(0.05), RMSprop(0.01)], ids=repr)
@pytest.mark.parametrize(
    "validation", [{}, {"validation_split": 0.3}, {"validation_data": (X[:9], LABELS[:9], WEIGHTS[:9])}]
)
@pytest.mark.parametrize("patience", [None, 1, 3])
def test_bits_are_those_of_single_epochs(
    patience: int | None, validation: dict[str, Any], optimizer: Any, dtype: str, calls: list[int]
) -> None:
    options = {**CLASSES, "optimizer": optimizer, "dtype": dtype, "batch_size": 16}
    both(options, LABELS, {"patience": patience, **validation}, times=2)
    assert max(calls) > 1 or patience == 1


@pytest.mark.parametrize("shuffle", [True, False])
def test_bits_with_all_options(shuffle: bool, calls: list[int]) -> None:
    schedule = WarmUp(2.5, CosineDecay(0.1, 20))
    options = {
        "optimizer": SGD(schedule, momentum=0.5),
        "l2": 0.1,
        "clip_norm": 0.3,
        "shuffle": shuffle,
        "batch_size": 8,
    }
    both(options, Y, {"sample_weight": WEIGHTS, "validation_split": 0.2, "patience": 9})
    both({**options, "batch_size": None}, Y, {"sample_weight": WEIGHTS})
    both({"loss": "binary_cross_entropy", "shuffle": shuffle, "seed": 2**64 - 1}, (Y > 0).astype(float), {})
    assert max(calls) > 1


@pytest.mark.parametrize("validation", [{}, {"validation_split": 0.3}])
@pytest.mark.parametrize("rate", [0.5, 30.0, 1e30])
@pytest.mark.filterwarnings("ignore::fastnet.trainer.DivergenceWarning")
def test_divergence_ends_at_the_same_epoch(rate: float, validation: dict[str, Any]) -> None:
    both({"optimizer": SGD(rate), "dtype": "float32"}, Y * 100, validation)
    ours = trainer(optimizer=SGD(rate), dtype="float32")
    if rate > 1:
        with pytest.warns(DivergenceWarning, match=f"in epoch {trainer_epoch(rate)}: "):
            ours.fit(X, Y * 100, 30)
    assert np.isfinite(ours.network.parameters).all()


def test_while_the_loop_is_being_compiled_epochs_are_trained_singly(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = trainer(**CLASSES)
    looks = iter([True] * 5)
    monkeypatch.setattr(epochs, "is_coming", lambda kernel, dtype: next(looks, False))
    monkeypatch.setattr(epochs, "LOOK_S", 0.0)
    together.fit(X, LABELS, 30)
    assert sum(calls) == 25
    singly = trainer(**CLASSES)
    singly.fit(X, LABELS, 30, callbacks=[lambda row: False])
    assert state(singly) == state(together)


@pytest.mark.parametrize("comes", [True, False])
def test_epochs_do_not_look_for_the_loop_each_time(comes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(epochs, "is_coming", lambda kernel, dtype: bool(looks.append(kernel)) or comes)
    monkeypatch.setattr(epochs, "LOOK_S", 1000.0 if comes else 0.0)
    monkeypatch.setattr(epochs, "MAX_EPOCHS", 2)
    trainer(**CLASSES).fit(X, LABELS, 30)
    assert len(looks) == 1


def trainer_epoch(rate: float) -> int:
    ours = trainer(optimizer=SGD(rate), dtype="float32")
    ours.fit(X, Y * 100, 30, callbacks=[lambda row: False])
    return ours.history.epochs


def test_interruption_after_a_call_keeps_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ours, whole = trainer(), trainer()
    ours.fit(X, Y, 3)
    with monkeypatch.context() as patch:
        patch.setattr(epochs, "check_interrupt", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ours.fit(X, Y, 20)
    assert 3 < ours.history.epochs <= 23
    assert ours.history.epochs == int(ours._state.progress["epoch"]) + 1
    ours.fit(X, Y, 30 - ours.history.epochs)
    whole.fit(X, Y, 30)
    assert state(ours) == state(whole)


def test_the_rest_of_an_interrupted_epoch_comes_first(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnet.kernels.engine import backend, engine

    def interrupt() -> None:
        raise KeyboardInterrupt

    ours, whole = trainer(batch_size=4), trainer(batch_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_FIRST_CALL_FLOPS", 1e3)
        patch.setattr(engine, "check_interrupt", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ours.fit(X, Y, 20)
    assert engine.check_interrupt is backend.check_interrupt
    assert 0 < int(ours._state.progress["row"]) < 50
    assert calls == []
    ours.fit(X, Y, 20)
    whole.fit(X, Y, 20)
    assert state(ours) == state(whole)


def test_no_more_epochs_than_asked_for(calls: list[int]) -> None:
    ours = trainer()
    for count in (1, 2, 300, 257):
        before = ours.history.epochs
        ours.fit(X, Y, count)
        assert ours.history.epochs == before + count
    assert max(calls) <= epochs.MAX_EPOCHS
    assert sum(calls) >= 550
