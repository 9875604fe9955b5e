"""History: a mapping of curves, and the best epoch."""

import math

import pytest

from fastnet import History


def filled(*rows: dict[str, float]) -> History:
    history = History()
    for row in rows:
        history.append(row)
    return history


def test_a_mapping_of_lists() -> None:
    history = filled({"loss": 2, "accuracy": 0.5}, {"loss": 1, "accuracy": 0.75})
    assert dict(history) == {"loss": [2.0, 1.0], "accuracy": [0.5, 0.75]}
    assert list(history) == ["loss", "accuracy"]
    assert len(history) == 2
    assert history.epochs == 2
    history["loss"].append(99)
    assert history["loss"] == [2.0, 1.0], "a reader cannot change the record"


def test_an_unknown_curve_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no curve 'val_loss'; there are: loss"):
        filled({"loss": 1})["val_loss"]
    with pytest.raises(KeyError, match="none yet"):
        History()["loss"]


def test_curves_stay_as_long_as_the_epochs() -> None:
    history = filled({"loss": 3}, {"loss": 2, "val_loss": 5}, {"loss": 1})
    assert [math.isnan(value) for value in history["val_loss"]] == [True, False, True]
    assert history.watched == "val_loss"
    assert history.best_epoch == 1


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3, 1, 2], 1), ([1, 1], 0), ([math.nan, 2, math.inf], 1), ([math.nan], None), ([], None)],
)
def test_best_epoch(losses: list[float], best: int | None) -> None:
    assert filled(*({"loss": loss} for loss in losses)).best_epoch == best
    assert filled(*({"loss": 0, "val_loss": loss} for loss in losses)).best_epoch == best


def test_truncate_forgets_the_last_epochs() -> None:
    history = filled({"loss": 3}, {"loss": 2, "val_loss": 1}, {"loss": 1})
    history.truncate(1)
    assert history.epochs == 1
    assert history["loss"] == [3.0]


def test_repr() -> None:
    assert repr(filled({"loss": 0.25})) == "History(epochs=1, best_epoch=0, loss=0.25)"
    assert repr(History()) == "History(epochs=0, best_epoch=None)"
