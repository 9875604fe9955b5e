"""The estimators of tables: scikit-learn's checks, tables as people have them, what chooses the epoch, same bits."""

from typing import Any

import numpy as np
import pytest

pandas = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastnet.sklearn import TabularClassifier, TabularRegressor

pytestmark = pytest.mark.compiled

SMALL: dict[str, Any] = {"hidden_layer_sizes": (32,), "epochs": 60, "learning_rate": 0.02, "random_state": 0}
RNG = np.random.default_rng(0)
ROWS = 300
FRAME = pandas.DataFrame(
    {
        "colour": np.resize(["red", "green", "blue", None], ROWS),
        "size": np.where(np.arange(ROWS) % 7 == 0, np.nan, RNG.normal(size=ROWS)),
        "day": pandas.date_range("2024-01-01", periods=ROWS),
        "id": np.arange(ROWS),
    }
)
SIGNAL = (FRAME["colour"] == "red").to_numpy() + FRAME["size"].fillna(0).to_numpy()
LABELS = np.where(SIGNAL > 0.5, "large", "small")
ESTIMATORS = [(TabularClassifier, LABELS), (TabularRegressor, SIGNAL)]

CHECKS = parametrize_with_checks([made(**SMALL) for made, _ in ESTIMATORS])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_tables_with_text_gaps_and_dates(made: Any, y: Any) -> None:
    model = made(**SMALL).fit(FRAME[:240], y[:240])
    assert model.score(FRAME[240:], y[240:]) > 0.8
    assert list(model.columns_.left_out) == ["id"]
    polars = pytest.importorskip("polars")
    np.testing.assert_array_equal(model.predict(polars.from_pandas(FRAME)), model.predict(FRAME))
    assert len(model.predict(FRAME.assign(colour="never seen"))) == ROWS
    with pytest.raises(ValueError, match="feature names"):
        model.predict(FRAME[["size", "colour", "day", "id"]])


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_rows_given_for_validation_choose_the_epoch(made: Any, y: Any) -> None:
    model = made(**SMALL).fit(FRAME[:240], y[:240], FRAME[240:], y[240:])
    found = model.histories_[0]["val_loss"]
    if made is TabularRegressor:
        errors = (
            model.ensemble_.predict(model._inputs(FRAME[240:]))[:, 0] - (y[240:] - model.shift_) / model.scale_
        ) ** 2
        assert np.mean(errors) == pytest.approx(min(found), rel=1e-4)
    else:
        right = model.predict_proba(FRAME[240:])[np.arange(60), np.searchsorted(model.classes_, y[240:])]
        assert -np.mean(np.log(right)) == pytest.approx(min(found), rel=1e-4)
    with pytest.raises(ValueError, match="requires y to be passed"):
        made(**SMALL).fit(FRAME[:240], y[:240], FRAME[240:])


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_without_validation_all_rows_are_trained_on(made: Any, y: Any) -> None:
    model = made(**SMALL | {"validation_fraction": 0}).fit(FRAME, y)
    assert "val_loss" not in model.histories_[0]
    assert model.histories_[0].epochs == SMALL["epochs"]


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_same_bits_for_any_threads_and_another_run(made: Any, y: Any) -> None:
    found = [made(**SMALL, n_members=2, threads=threads).fit(FRAME, y) for threads in (1, 2)]
    np.testing.assert_array_equal(found[0].predict(FRAME), found[1].predict(FRAME))
    pairs = [[network.parameters for network in model.ensemble_.networks] for model in found]
    np.testing.assert_array_equal(pairs[0], pairs[1])
    assert not np.array_equal(*pairs[0]), "members differ"


def test_smoothed_labels_keep_probabilities_from_the_ends() -> None:
    options = SMALL | {"validation_fraction": 0, "epochs": 200}
    sharp, soft = (TabularClassifier(**options, label_smoothing=share).fit(FRAME, LABELS) for share in (0, 0.2))
    assert sharp.predict_proba(FRAME).max(axis=1).mean() > soft.predict_proba(FRAME).max(axis=1).mean() + 0.03


def test_numbers_stay_within_those_trained_on() -> None:
    model = TabularRegressor(**SMALL).fit(FRAME, SIGNAL)
    far = model.predict(FRAME.assign(size=1e6))
    assert SIGNAL.min() <= far.min()
    assert far.max() <= SIGNAL.max()


def test_messages() -> None:
    model = clone(TabularClassifier(**SMALL))
    with pytest.raises(ValueError, match="y holds one class, a; expected at least 2"):
        model.fit(FRAME, ["a"] * ROWS)
    with pytest.raises(ValueError, match="y_val holds other, a class that y lacks"):
        model.fit(FRAME, LABELS, FRAME[:1], ["other"])
    with pytest.raises(ValueError, match="no column to learn from; left out: id"):
        model.fit(FRAME[["id"]], LABELS)
