"""Trainer.fit with validation: which rows are held out, when patience ends it, which parameters it keeps."""

from typing import Any

import numpy as np
import pytest
from backends import LABELS, X, Y, trainer

import fastnet.data
from fastnet import SGD, Adam

# --------------------------------------------------------------------------------------------------------- validation


def test_validation_data_are_not_trained_on() -> None:
    plain, ours = trainer(), trainer()
    plain.fit(X, Y, epochs=3)
    held_out = (X[:10] * 2, Y[:10])
    history = ours.fit(X, Y, epochs=3, validation_data=held_out)
    assert history["loss"] == plain.history["loss"]
    assert history["val_loss"][-1] == ours.evaluate(*held_out)["loss"]


def test_validation_split_trains_on_the_other_rows() -> None:
    split, given = trainer(seed=7), trainer(seed=7)
    split.fit(X, Y, epochs=3, validation_split=0.2)
    X_train, X_out, y_train, y_out = fastnet.data.split(X, Y, 0.2, seed=7)
    given.fit(X_train, y_train, epochs=3, validation_data=(X_out, y_out))
    assert split.history == given.history
    assert len(X_out) == 10


def test_classification_curves() -> None:
    ours = trainer((3, 16, 3), loss="cross_entropy", optimizer=Adam(0.02))
    history = ours.fit(X, LABELS, epochs=40, validation_split=0.2)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    result = ours.evaluate(X, np.eye(3)[LABELS])
    assert result["accuracy"] == np.mean(ours.network.predict(X).argmax(axis=1) == LABELS) > 0.8
    assert all(0 <= value <= 1 for value in history["accuracy"])


# ----------------------------------------------------------------------------------------------------------- patience

_RNG = np.random.default_rng(1)
NOISE, OTHER_NOISE = _RNG.standard_normal((20, 2)), (_RNG.standard_normal((20, 3)), _RNG.standard_normal((20, 2)))
"""To fit, and to validate: the validation loss must rise."""


@pytest.mark.parametrize("optimizer", [SGD(0.02), SGD(0.005, momentum=0.9), Adam(0.01)], ids=repr)
def test_patience_stops_and_restores_the_best(optimizer: Any) -> None:
    ours = trainer((3, 32, 2), optimizer=optimizer, batch_size=5)
    history = ours.fit(X[:20], NOISE, epochs=1000, validation_data=OTHER_NOISE, patience=7)
    best = history.best_epoch
    assert best is not None
    assert history.epochs == best + 1 + 7
    assert ours.evaluate(*OTHER_NOISE)["loss"] == history["val_loss"][best] == min(history["val_loss"])

    straight = trainer((3, 32, 2), optimizer=optimizer, batch_size=5)
    straight.fit(X[:20], NOISE, epochs=best + 1, validation_data=OTHER_NOISE)
    assert straight.network.parameters.tobytes() == ours.network.parameters.tobytes()
    assert straight._state.vectors.tobytes() == ours._state.vectors.tobytes(), "and the optimizer's state"
    assert straight._state.progress["step"] == ours._state.progress["step"]


@pytest.mark.parametrize("rate", [0.9, 0.4])
def test_patience_without_validation_watches_the_loss(rate: float) -> None:
    """The loss of an epoch is that before its updates, so in full batch it is exactly that of the parameters kept."""
    ours = trainer(optimizer=SGD(rate), batch_size=None)  # so large a rate that the loss goes up
    history = ours.fit(X, Y, epochs=500, patience=3)
    assert history.epochs < 500
    assert history.best_epoch == history.epochs - 1 - 3
    assert ours.evaluate(X, Y)["loss"] == pytest.approx(min(history["loss"]), rel=1e-12)


def test_patience_without_validation_may_keep_the_last_epoch() -> None:
    """The loss at the last epoch's end is measured by no epoch."""
    ours, plain = trainer(batch_size=None), trainer(batch_size=None)
    for _ in range(3):
        ours.fit(X, Y, epochs=2, patience=3)
    plain.fit(X, Y, epochs=6)
    assert ours.network.parameters.tobytes() == plain.network.parameters.tobytes()


def test_patience_with_dropout_needs_validation() -> None:
    """Else it would compare the loss of the thinned network with that of the whole one."""
    ours, zero = (trainer((3, 8, 5, 2), dropout=rates) for rates in ((0.0, 0.5), 0.0))
    before = ours.network.parameters.copy()
    with pytest.raises(ValueError, match="give validation_data or validation_split, or leave out patience"):
        ours.fit(X, Y, patience=3)
    assert (ours.network.parameters == before).all()
    ours.fit(X, Y, epochs=2, patience=3, validation_split=0.2)
    ours.fit(X, Y, epochs=2)
    zero.fit(X, Y, epochs=2, patience=3)


def test_patience_in_a_second_fit_never_ends_worse() -> None:
    ours = trainer((3, 32, 2), optimizer=Adam(0.01), batch_size=5)
    ours.fit(X[:20], NOISE, epochs=1000, validation_data=OTHER_NOISE, patience=7)
    best = ours.evaluate(*OTHER_NOISE)["loss"]
    ours.fit(X[:20], NOISE, epochs=1000, validation_data=OTHER_NOISE, patience=2)
    assert ours.evaluate(*OTHER_NOISE)["loss"] <= best


def test_patience_restores_the_best_even_when_interrupted() -> None:
    def interrupt(row: dict[str, float]) -> None:
        if row["epoch"] == 150:
            raise KeyboardInterrupt

    ours = trainer((3, 32, 2), optimizer=Adam(0.01), batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        ours.fit(X[:20], NOISE, 500, validation_data=OTHER_NOISE, patience=1000, callbacks=[interrupt])
    assert ours.history.epochs == 151
    assert ours.evaluate(*OTHER_NOISE)["loss"] == min(ours.history["val_loss"])
    assert ours.history.best_epoch != 150
