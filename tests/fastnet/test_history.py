"""History: a mapping of curves, and the best epoch; CSV and plot."""

import copy
import json
import math
import pickle
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fastnet import SGD, AdamW, CosineDecay, History, Network, Trainer
from fastnet.cli import figure


def filled(*rows: dict[str, float]) -> History:
    history = History()
    for row in rows:
        history.append(row)
    return history


def test_history_is_a_mapping_of_lists() -> None:
    history = filled({"loss": 2, "accuracy": 0.5}, {"loss": 1, "accuracy": 0.75})
    assert dict(history) == {"loss": [2.0, 1.0], "accuracy": [0.5, 0.75]}
    assert list(history) == ["loss", "accuracy"]
    assert len(history) == 2
    assert history.epochs == 2
    history["loss"].append(99)
    assert history["loss"] == [2.0, 1.0], "a reader cannot change the record"


def test_unknown_curve_error_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no curve 'val_loss'; there are: loss"):
        filled({"loss": 1})["val_loss"]
    with pytest.raises(KeyError, match="none yet"):
        History()["loss"]


def test_curves_are_no_attributes() -> None:
    for name, hint in (("loss", r"write history\['loss'\]"), ("history", "it is itself the mapping of curves")):
        with pytest.raises(AttributeError, match=f"'History' object has no attribute '{name}': {hint}"):
            getattr(History(), name)


def test_curves_have_one_value_an_epoch() -> None:
    history = filled({"loss": 3}, {"loss": 2, "val_loss": 5}, {"loss": 1})
    assert [math.isnan(value) for value in history["val_loss"]] == [True, False, True]
    assert history.monitor == "val_loss"
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
    assert repr(filled({"loss": 0.25})) == "History(epochs=1, best_epoch=0 (counted from 0), loss=0.25)"
    assert repr(History()) == "History(epochs=0, best_epoch=None)"


# -------------------------------------------------------------------------------------------- CSV and plot


def test_to_csv(tmp_path: Path) -> None:
    history = filled({"loss": 0.1}, {"loss": 1 / 3, "val_loss": math.inf}, {"loss": 1e-30, "val_loss": 2})
    history.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text().splitlines() == [
        "epoch,loss,val_loss",
        "0,0.1,",
        f"1,{1 / 3!r},inf",
        "2,1e-30,2.0",
    ]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        history.to_csv(tmp_path / "no" / "h.csv")


def drawn(history: History) -> Any:
    return history.plot(pytest.importorskip("matplotlib.figure").Figure().add_subplot())


def test_plot_shows_the_curves_and_the_best_epoch() -> None:
    ax = drawn(filled(*({"loss": 3 - t, "val_loss": [2.5, 1.5, 2.0][t]} for t in range(3))))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["loss (training)", "val_loss (validation)", "best: epoch 2, val_loss 1.5"]
    by_label = {line.get_label(): line for line in ax.lines}
    assert list(by_label["loss (training)"].get_ydata()) == [3, 2, 1]
    assert list(by_label["val_loss (validation)"].get_xdata()) == [1, 2, 3]
    assert list(by_label[labels[2]].get_xdata()) == [2]
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("optimizer", "short"),
    [
        (SGD(0.25), "SGD(0.25)"),
        (SGD(Fraction(1, 4)), "SGD(0.25)"),  # type: ignore[arg-type]
        (AdamW(CosineDecay(0.001, 30)), "AdamW(CosineDecay)"),
    ],
)
def test_plot_has_a_title_of_one_line(optimizer: Any, short: str) -> None:
    trainer = Trainer(Network([2, 64, 64, 64, 1]), "log_cosh", optimizer, None)
    trainer.fit([[1.0, 2.0]], [1.0], 1)
    assert drawn(trainer.history).get_title(loc="left") == f"2-64-64-64-1: log_cosh, {short}, full batch"


def test_plot_of_several_networks_has_whole_epochs() -> None:
    ax = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    figure.draw([filled(*({"loss": 3 - t, "val_loss": 3 - t} for t in range(3)))] * 2, ax)
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_plot_is_logarithmic_where_that_helps() -> None:
    assert drawn(filled({"loss": 1}, {"loss": 0.01})).get_yscale() == "log"
    assert drawn(filled({"loss": 1}, {"loss": 0.01}, {"loss": 0})).get_yscale() == "linear"


def test_plot_leaves_out_what_is_not_finite() -> None:
    ax = drawn(filled({"loss": 1, "val_loss": math.inf}, {"loss": math.nan, "val_loss": 2}))
    assert math.isnan(ax.lines[1].get_ydata()[0])
    with pytest.raises(ValueError, match="nothing to plot"):
        drawn(filled({"loss": math.nan}))
    with pytest.raises(ValueError, match="nothing to plot"):
        drawn(History())


def test_plot_makes_a_figure_of_its_own_and_never_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "show", lambda *_: pytest.fail("shown"))
    ax = filled({"loss": 1}).plot()
    assert ax.figure.number in pyplot.get_fignums()
    pyplot.close(ax.figure)


def test_plot_reports_a_missing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.ticker", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        filled({"loss": 1}).plot()


# ------------------------------------------------------------------------------------------ as a mapping


def test_pandas_makes_a_column_of_each_curve() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(filled({"loss": 2, "accuracy": 0.5}, {"loss": 1, "accuracy": 0.75}))
    assert list(frame.columns) == ["loss", "accuracy"]
    assert frame["loss"].tolist() == [2.0, 1.0]


def test_only_training_changes_a_history() -> None:
    history = filled({"loss": 2}, {"loss": 1})
    for copied in (dict(history), {**history}, history.copy(), json.loads(json.dumps(history))):
        copied["loss"].append(0)
    for curves in (history.values(), [history.get("loss"), *(curve for _, curve in history.items())]):
        for curve in curves:
            curve.append(0)
    assert history["loss"] == [2.0, 1.0]
    for change in (lambda: history.update(loss=[1]), history.clear, lambda: history.pop("loss")):
        with pytest.raises(TypeError, match="changed by training alone"):
            change()
    for twin in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        twin.append({"loss": 0})
        assert (twin["loss"], twin.epochs, history.epochs) == ([2.0, 1.0, 0.0], 3, 2)
