"""Callbacks of Trainer.fit, and the progress that it shows."""

import pickle

import numpy as np
import pytest
from backends import X, Y, trainer

from fastnet import SGD, Trainer


def test_callbacks_see_every_row_and_can_stop() -> None:
    rows: list[dict[str, float]] = []
    others: list[int] = []
    ours = trainer()
    history = ours.fit(
        X, Y, epochs=50, callbacks=[lambda row: rows.append(row) or row["epoch"] == 4, lambda row: others.append(1)]
    )
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["loss"] for row in rows] == history["loss"]
    assert len(others) == 5, "all callbacks are called, also in the last epoch"


def test_callback_may_change_the_parameters() -> None:
    """As projections and maximum norms do."""
    ours = trainer(optimizer=SGD(0.1))
    clip = ours.network.parameters
    for stop in (False, True):
        ours.fit(X, Y, epochs=3, callbacks=[lambda row, stop=stop: clip.clip(-0.05, 0.05, out=clip) is None or stop])
        assert np.abs(ours.network.parameters).max() <= 0.05


def test_fit_is_not_reentrant() -> None:
    ours = trainer()
    with pytest.raises(RuntimeError, match="already in fit"):
        ours.fit(X, Y, epochs=2, callbacks=[lambda row: ours.fit(X, Y, epochs=1)])
    assert ours.fit(X, Y, epochs=1).epochs == 2, "and is free again after an error"


def test_copies_made_in_a_callback_can_be_fitted() -> None:
    copies: list[Trainer] = []
    ours = trainer()
    ours.fit(X, Y, epochs=1, callbacks=[lambda row: copies.append(pickle.loads(pickle.dumps(ours)))])
    copies[0].fit(X, Y, epochs=1)
    ours.fit(X, Y, epochs=1)
    assert copies[0].network.parameters.tobytes() == ours.network.parameters.tobytes()


def test_progress_leaves_standard_output_empty(capfd: pytest.CaptureFixture[str]) -> None:
    trainer().fit(X, Y, epochs=2)
    assert capfd.readouterr() == ("", "")  # standard error is no terminal here, so no bar
    trainer().fit(X, Y, epochs=2, validation_split=0.1, progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    assert "val_loss=" in captured.err


def test_progress_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    trainer().fit(X, Y, epochs=1)
