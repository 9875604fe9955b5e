"""The estimators of tables: scikit-learn's checks, tables as people have them, what chooses the epoch, same bits."""

import sys
from typing import Any

import numpy as np
import pytest

pandas = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

import skops.io
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastnet.sklearn
from fastnet import recipe
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

WHY = "a row of weight 2 is in one batch, and on one side of the split; two equal rows need not be"
CHECKS = parametrize_with_checks(
    [made(**SMALL) for made, _ in ESTIMATORS],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": WHY},
)


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


def test_masked_elements_of_an_array_are_gaps() -> None:
    X = RNG.normal(size=(60, 2))
    masked = np.ma.masked_array(X.copy(), RNG.random((60, 2)) < 0.2, fill_value=-9999)
    masked.data[masked.mask] = -9999
    model, twin = (TabularRegressor(**SMALL).fit(rows, X[:, 0]) for rows in (masked, masked.filled(np.nan)))
    np.testing.assert_array_equal(model.predict(masked), twin.predict(masked.filled(np.nan)))


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_rows_given_for_validation_choose_the_epoch(made: Any, y: Any) -> None:
    model = made(**SMALL).fit(FRAME[:240], y[:240], X_val=FRAME[240:], y_val=y[240:])
    found = model.histories_[0]["val_loss"]
    if made is TabularRegressor:
        errors = (
            model.ensemble_.predict(model._inputs(FRAME[240:]))[:, 0] - (y[240:] - model.shift_) / model.scale_
        ) ** 2
        assert np.mean(errors) == pytest.approx(min(found), rel=1e-4)
    else:
        smoothed = np.where(y[240:, None] == model.classes_, 0.95, 0.05)
        losses = -(smoothed * np.log(model.predict_proba(FRAME[240:]))).sum(axis=1)
        assert np.mean(losses) == pytest.approx(min(found), rel=1e-4)
    with pytest.raises(ValueError, match="X_val is given without y_val; give both, or neither"):
        made(**SMALL).fit(FRAME[:240], y[:240], X_val=FRAME[240:])
    with pytest.raises(ValueError, match="y_val is given without X_val"):
        made(**SMALL).fit(FRAME[:240], y[:240], y_val=y[240:])


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_without_validation_all_rows_are_trained_on(made: Any, y: Any) -> None:
    model = made(**SMALL | {"validation_fraction": 0}).fit(FRAME, y)
    assert "val_loss" not in model.histories_[0]
    assert len(model.histories_[0]["loss"]) == SMALL["epochs"]


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_same_bits_for_any_threads_and_another_run(made: Any, y: Any) -> None:
    weights = np.arange(ROWS) % 5
    for members in (1, 2):
        options = SMALL | {"n_members": members}
        found = [made(**options, threads=threads).fit(FRAME, y, weights) for threads in (1, 2)]
        np.testing.assert_array_equal(found[0].predict(FRAME), found[1].predict(FRAME))
        pairs = [[network.parameters for network in model.ensemble_.networks] for model in found]
        np.testing.assert_array_equal(pairs[0], pairs[1])
        if members == 1:
            alone = pairs[0][0]
    np.testing.assert_array_equal(pairs[0][0], alone)  # one by Trainer.fit, two by fit_many
    assert not np.array_equal(*pairs[0]), "members differ"


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_rows_of_no_weight_teach_nothing(fraction: float) -> None:
    y = np.where(np.arange(ROWS) % 2 == 0, LABELS, np.where(LABELS == "large", "small", "large"))  # odd ones lie
    model = TabularClassifier(**SMALL | {"validation_fraction": fraction})
    weighted = model.fit(FRAME, y, sample_weight=(np.arange(ROWS) % 2 == 0).astype(float)).score(FRAME, LABELS)
    assert weighted > 0.8 > model.fit(FRAME, y).score(FRAME, LABELS)


def test_smoothed_labels_keep_probabilities_from_the_ends() -> None:
    options = SMALL | {"validation_fraction": 0, "epochs": 200}
    sharp, soft = (TabularClassifier(**options, label_smoothing=share).fit(FRAME, LABELS) for share in (0, 0.2))
    assert sharp.predict_proba(FRAME).max(axis=1).mean() > soft.predict_proba(FRAME).max(axis=1).mean() + 0.03


def test_numbers_stay_within_those_trained_on() -> None:
    model = TabularRegressor(**SMALL).fit(FRAME, SIGNAL)
    far = model.predict(FRAME.assign(size=1e6))
    assert SIGNAL.min() <= far.min()
    assert far.max() <= SIGNAL.max()


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_a_fit_that_fails_changes_nothing(made: Any, y: Any) -> None:
    model = made(**SMALL)
    refused: list[tuple[Any, Any]] = [(FRAME, y[:-1]), (FRAME[["id"]], y), (np.ones((ROWS, 2)), y), (FRAME, None)]
    for X, target in refused:
        with pytest.raises(ValueError):  # noqa: PT011 - of several messages
            model.fit(X, target)
        with pytest.raises(NotFittedError):
            model.predict(FRAME)
    before = model.fit(FRAME, y).predict(FRAME)
    for X, target in refused:
        with pytest.raises(ValueError):  # noqa: PT011
            model.fit(X, target)
        np.testing.assert_array_equal(model.predict(FRAME), before)


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_parameters_are_checked(made: Any, y: Any) -> None:
    wrong: list[tuple[str, Any]] = [
        ("hidden_layer_sizes", 0),
        ("epochs", 0),
        ("batch_size", 1.5),
        ("learning_rate", 0.0),
        ("n_members", 0),
        ("validation_fraction", 1.0),
        ("random_state", "one"),
        ("threads", 0),
        ("activation", "sigmoid"),
        ("dropout", 1.0),
        ("l2", -0.1),
        ("patience", 0),
        ("callbacks", None),
        ("progress", "yes"),
    ]
    for name, value in wrong + [("label_smoothing", 1.0), ("class_weight", "equal")] * (made is TabularClassifier):
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of {made.__name__}"):
            made(**SMALL | {name: value}).fit(FRAME, y)
    one, sequence = (made(**SMALL | {"hidden_layer_sizes": sizes}).fit(FRAME, y) for sizes in (8, (8,)))
    np.testing.assert_array_equal(one.predict(FRAME), sequence.predict(FRAME))


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_what_the_drop_in_estimators_have_too(made: Any, y: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plain = made(**SMALL).fit(FRAME, y)
    assert not capsys.readouterr().err
    logistic = made(**SMALL, activation="logistic", progress=True).fit(FRAME, y)
    assert logistic.ensemble_.networks[0].activations == ("sigmoid", "identity")
    assert "60/60" in capsys.readouterr().err
    small = made(**SMALL, l2=0.1).fit(FRAME, y)
    lengths = [np.linalg.norm(model.ensemble_.networks[0].weights[0]) for model in (small, plain)]
    assert lengths[0] < lengths[1]
    dropped = made(**SMALL, dropout=0.3).fit(FRAME, y)
    np.testing.assert_array_equal(made(**SMALL, dropout=[0.3]).fit(FRAME, y).predict(FRAME), dropped.predict(FRAME))
    assert dropped.histories_[0]["loss"] != plain.histories_[0]["loss"]
    with pytest.raises(ValueError, match="dropout has 2 rates; expected 1, one for each hidden layer"):
        made(**SMALL, dropout=[0.1, 0.1]).fit(FRAME, y)


@pytest.mark.parametrize("members", [1, 2])
def test_the_bar_of_the_second_training_says_so(members: int, capsys: pytest.CaptureFixture[str]) -> None:
    for refit in (False, True):
        TabularRegressor(**SMALL, n_members=members, progress=True, refit=refit).fit(FRAME, SIGNAL)
        bars = [line for line in capsys.readouterr().err.split("\n") if line]
        assert [bar.rpartition("\r")[2].partition("100%")[0] for bar in bars] == ["", "refit: "][: 1 + refit]


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_patience_and_callbacks_end_a_fit(made: Any, y: Any) -> None:
    options = SMALL | {"learning_rate": 0.2}
    losses = made(**options).fit(FRAME, y).histories_[0]["val_loss"]
    stopped = made(**options, patience=3).fit(FRAME, y).histories_[0]["val_loss"]
    assert stopped == losses[: len(stopped)]
    assert int(np.argmin(stopped)) == len(stopped) - 4
    rows: list[dict[str, float]] = []
    model = made(**options, callbacks=[lambda row: rows.append(row) or row["epoch"] == 1]).fit(FRAME, y)
    assert [row["val_loss"] for row in rows] == model.histories_[0]["val_loss"] == losses[:2]
    again = made(**options, callbacks=[lambda row: row["epoch"] == 1], refit=False).fit(FRAME, y)
    np.testing.assert_array_equal(model.predict(FRAME), again.predict(FRAME))  # who ends a fit wants no second training
    model.set_params(n_members=2).fit(FRAME, y)
    assert sorted((row["trainer"], row["epoch"]) for row in rows[2:]) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    with pytest.raises(TypeError, match="callbacks holds 1; expected functions"):
        made(**options, callbacks=[1]).fit(FRAME, y)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_members_are_refitted_on_all_rows(made: Any, y: Any, members: int) -> None:
    options, weights = SMALL | {"n_members": members, "learning_rate": 0.05}, 1.0 + np.arange(ROWS) % 3
    first, model = (made(**options, refit=refit).fit(FRAME, y, weights) for refit in (False, True))
    assert model.histories_ == first.histories_
    for i, history in enumerate(model.histories_):
        epochs = recipe.annealed(int(np.argmin(history["val_loss"])) + 1, SMALL["epochs"])
        alone = made(**options | {"epochs": epochs, "validation_fraction": 0}).fit(FRAME, y, weights)
        found, kept, expected = (each.ensemble_.networks[i].parameters for each in (model, first, alone))
        np.testing.assert_array_equal(found, expected)
        assert not np.array_equal(found, kept)


@pytest.mark.parametrize("members", [1, 2])
def test_what_never_gets_better_is_not_refitted(members: int) -> None:
    model = TabularRegressor(**SMALL | {"learning_rate": 1e3, "epochs": 2, "n_members": members}).fit(FRAME, SIGNAL)
    assert model.predict(FRAME) == pytest.approx(SIGNAL.mean())


@pytest.mark.parametrize("held", [False, True])
def test_classes_are_weighted(held: bool) -> None:
    y, given = LABELS[:240], np.arange(240) % 3 + 1.0
    validation = {"X_val": FRAME[240:], "y_val": LABELS[240:]} if held else {}
    counts = {label: int((y == label).sum()) for label in ("large", "small")}
    factors = {label: 120 / count for label, count in counts.items()}
    balanced = TabularClassifier(**SMALL, class_weight="balanced").fit(FRAME[:240], y, given, **validation)
    assert balanced.class_weight_ == pytest.approx([factors["large"], factors["small"]])
    equal = TabularClassifier(**SMALL, class_weight=factors).fit(FRAME[:240], y, given, **validation)
    assert equal.histories_ == balanced.histories_
    by_row = given * np.array([factors[label] for label in y])
    same = TabularClassifier(**SMALL).fit(FRAME[:240], y, by_row, **validation)
    assert same.histories_[0]["loss"] == balanced.histories_[0]["loss"]
    assert (same.histories_[0]["val_loss"] == balanced.histories_[0]["val_loss"]) != held
    if held:
        smoothed = np.where(LABELS[240:, None] == balanced.classes_, 0.95, 0.05)
        losses = -(smoothed * np.log(balanced.predict_proba(FRAME[240:]))).sum(axis=1)
        weights = [factors[label] for label in LABELS[240:]]
        expected = np.average(losses, weights=weights)
        assert min(balanced.histories_[0]["val_loss"]) == pytest.approx(expected, rel=1e-4)
    only = TabularClassifier(**SMALL, class_weight={"small": 0}).fit(FRAME[:240], y, **validation)
    assert (only.predict(FRAME) == "large").all()


def test_weights_of_classes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"class_weight is .*; expected finite numbers, at least 0"):
        TabularClassifier(**SMALL, class_weight={"small": -1}).fit(FRAME, LABELS)
    with pytest.raises(ValueError, match="every row weighs 0, by sample_weight or class_weight; expected one above 0"):
        TabularClassifier(**SMALL, class_weight={"small": 0, "large": 0}).fit(FRAME, LABELS)
    expected = "a key 'lagre', which is no class of y; there are: 'large', 'small'; did you mean 'large'"
    with pytest.raises(ValueError, match=expected):
        TabularClassifier(**SMALL, class_weight={"lagre": 1, "small": 2}).fit(FRAME, LABELS)


@pytest.mark.parametrize("made", [TabularClassifier, TabularRegressor])
def test_codes_are_categories_where_they_tell_more_so(made: Any) -> None:
    rng = np.random.default_rng(0)
    hour, year, noise, number = rng.integers(0, [24, 6, 10, 40], (600, 4)).T
    frame = pandas.DataFrame(
        {"hour": hour, "year": year, "noise": noise, "number": number, "real": rng.normal(size=600)}
    )
    y = np.sin(hour * np.pi / 4) + year / 3 + rng.normal(size=600) / 3
    if made is TabularClassifier:
        y = np.digitize(y, [0.3, 1.5])
    model = made(**SMALL).fit(frame[:500], y[:500])
    assert model.columns_.kinds == dict.fromkeys(frame, "number") | {"hour": "category"}
    assert model.score(frame[500:], y[500:]) > 0.7
    gaps = frame.assign(hour=frame["hour"].astype("Int64").where(np.arange(600) % 50 > 0)).astype({"year": "float64"})
    again = made(**SMALL).fit(gaps[:500], y[:500])
    assert again.columns_.kinds == model.columns_.kinds
    rest = gaps[1:50].assign(hour=gaps["hour"][1:50].astype("int64"))
    np.testing.assert_array_equal(again.predict(rest), again.predict(gaps[1:50]))
    plain = made(**SMALL).fit(frame.to_numpy()[:500], y[:500])
    assert {*plain.columns_.kinds.values()} == {"number"}


def test_amounts_on_a_curve_are_no_codes_and_rows_of_weight_0_do_not_count() -> None:
    rng = np.random.default_rng(1)
    rooms, hour = rng.integers(1, [9, 24], (600, 2)).T
    y = (rooms - 1.0) ** 2 + rng.normal(size=600)
    frame = pandas.DataFrame({"rooms": rooms, "hour": hour})
    model = TabularRegressor(**SMALL).fit(frame, y)
    assert model.columns_.kinds == {"rooms": "number", "hour": "number"}
    y[300:] += 20 * (hour[300:] % 5 == 0)
    assert TabularRegressor(**SMALL).fit(frame, y).columns_.kinds["hour"] == "category"
    weighted = TabularRegressor(**SMALL).fit(frame, y, sample_weight=np.arange(600) < 300)
    assert weighted.columns_.kinds == model.columns_.kinds


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_columns_without_names_go_by_position(made: Any, y: Any) -> None:
    named = pandas.DataFrame({"id": np.arange(ROWS), "size": SIGNAL, "one": 1.0})
    forms = [named.to_numpy(), named.set_axis(range(3), axis=1)]
    model = made(**SMALL).fit(named, y)
    assert model.columns_.left_out == {"id": "an id: every row has another", "one": "constant"}
    for form in forms:
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            np.testing.assert_array_equal(model.predict(form), model.predict(named))
    model = made(**SMALL).fit(forms[0], y)
    assert model.columns_.kinds == {"x0": "number", "x1": "number"}, "of an array no column is an id"
    assert model.columns_.left_out == {"x2": "constant"}
    with pytest.warns(UserWarning, match="X has feature names"):
        np.testing.assert_array_equal(model.predict(named), model.predict(forms[0]))
    np.testing.assert_array_equal(model.predict(forms[1]), model.predict(forms[0]))


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S"])
def test_dates_as_text_and_as_dates_are_the_same(form: str) -> None:
    dates = FRAME[["day"]]
    text, y = dates.assign(day=dates["day"].dt.strftime(form)), np.sin(np.arange(ROWS) / 50)
    for fitted, other in ((text, dates), (dates, text)):
        model = TabularRegressor(**SMALL).fit(fitted, y)
        np.testing.assert_array_equal(model.predict(other), model.predict(fitted))
        with pytest.raises(
            ValueError, match="column 'day' holds 'soon'; the model was trained on dates there, such as"
        ):
            model.predict(dates.assign(day="soon"))


@pytest.mark.parametrize(
    ("form", "other", "example"),
    [
        ("%d.%m.%Y", "%m/%d/%y", "31.12.2024"),
        ("%Y-%m-%d %H:%M:%S", "%d.%m.%Y", "2024-12-31 18:30:00"),
        (None, "%d.%m.%Y", "2024-12-31"),
    ],
)
def test_dates_in_another_format_are_told_the_one_trained_on(form: str | None, other: str, example: str) -> None:
    day = FRAME["day"]
    fitted = FRAME[["day"]].assign(day=day.dt.strftime(form) if form else day)
    model = TabularRegressor(**SMALL).fit(fitted, np.sin(np.arange(ROWS) / 50))
    with pytest.raises(ValueError, match=f"was trained on dates there, such as '{example}'$"):
        model.predict(fitted.assign(day=day.dt.strftime(other)))


def test_a_column_of_numbers_that_holds_text_is_refused() -> None:
    model = TabularRegressor(**SMALL).fit(FRAME, SIGNAL)
    with pytest.raises(ValueError, match="column 'size' holds 'wide'; the model was trained on numbers there"):
        model.predict(FRAME.assign(size="wide"))
    few = FRAME.assign(size=FRAME["size"].astype(object).where(np.arange(ROWS) > 20, "wide"))
    assert np.isfinite(model.predict(few)).all()


@pytest.mark.parametrize(("made", "y"), ESTIMATORS)
def test_skops_keeps_an_estimator(made: Any, y: Any) -> None:
    model = made(**SMALL, n_members=2).fit(FRAME, y)
    stored = skops.io.dumps(model)
    names = ["ensemble.Ensemble", "network.Network", "table.Columns", f"tabular.{made.__name__}"]
    read = skops.io.loads(stored, trusted=[*(f"fastnet.{name}" for name in names), "numpy.dtype"])
    np.testing.assert_array_equal(read.predict(FRAME), model.predict(FRAME))
    assert read.histories_ == model.histories_


def test_infinity_and_numbers_too_large_are_refused() -> None:
    model = TabularRegressor(**SMALL)
    for scale in (1e300, 1e-300):
        with pytest.raises(ValueError, match=r"y holds numbers of about .e.300, whose squares float64 cannot hold"):
            model.fit(FRAME, SIGNAL * scale)
        with pytest.raises(ValueError, match=r"column 'size' holds numbers of about .e.300, whose squares"):
            model.fit(FRAME.assign(size=FRAME["size"] * scale), SIGNAL)
    assert model.fit(FRAME, np.full(ROWS, 1.7e308)).predict(FRAME)[0] == 1.7e308
    tiny = TabularRegressor(**SMALL).fit(FRAME.assign(size=FRAME["size"] * 2.0**-140), SIGNAL)
    assert [*tiny.histories_[0]["loss"]] == [*TabularRegressor(**SMALL).fit(FRAME, SIGNAL).histories_[0]["loss"]]
    infinite = np.where(np.arange(ROWS) == 3, np.inf, SIGNAL)
    with pytest.raises(ValueError, match="y holds infinity at row 3; remove or replace"):
        model.fit(FRAME, infinite)
    with pytest.raises(ValueError, match="y_val holds infinity at row 3"):
        model.fit(FRAME, SIGNAL, X_val=FRAME, y_val=infinite.astype(object))
    with pytest.raises(ValueError, match="column 'size' of X contains infinity"):
        model.fit(FRAME.assign(size=infinite), SIGNAL)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        model.fit(infinite[:, None], SIGNAL)


def test_lazy_names_are_listed() -> None:
    assert {"MLPClassifier", "TabularClassifier", "TabularRegressor"} <= {*dir(fastnet.sklearn)}


def test_messages() -> None:
    model = clone(TabularClassifier(**SMALL))
    with pytest.raises(ValueError, match="y holds one class, a; expected at least 2"):
        model.fit(FRAME, ["a"] * ROWS)
    with pytest.raises(ValueError, match="y_val holds other, a class that y lacks"):
        model.fit(FRAME, LABELS, X_val=FRAME[:1], y_val=["other"])
    with pytest.raises(ValueError, match="no column to learn from; left out: id"):
        model.fit(FRAME[["id"]], LABELS)
    with pytest.raises(ValueError, match="several columns of the same name: 'size'"):
        model.fit(FRAME[["size", "size", "day"]], LABELS)
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(FRAME, LABELS, np.ones(3))


@pytest.mark.parametrize("package", ["pandas", "sklearn.base"])
def test_a_missing_package_is_asked_for(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fastnet.tabular")
    monkeypatch.delattr(fastnet, "tabular")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"need pandas and scikit-learn: pip install pandas scikit-learn \("):
        _ = fastnet.sklearn.TabularClassifier


@pytest.mark.parametrize(("Estimator", "y"), ESTIMATORS)
def test_tables_without_rows_are_named(Estimator: Any, y: Any) -> None:
    for X in (FRAME[:0], np.zeros((0, 3)), []):
        with pytest.raises(ValueError, match=r"^X and y hold 0 rows; expected at least 2$"):
            Estimator().fit(X, y[:0])
    with pytest.raises(ValueError, match=r"^X_val and y_val hold 0 rows; expected at least 1$"):
        Estimator().fit(FRAME, y, X_val=FRAME[:0], y_val=y[:0])


@pytest.mark.parametrize(("Estimator", "y"), ESTIMATORS)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_arrays_that_hold_text_are_told_where_and_what_to_give(Estimator: Any, y: Any) -> None:
    """They ended with "could not convert string to float"; None is a gap."""
    quick = Estimator(**SMALL | {"epochs": 1}, refit=False)
    table = FRAME[["size", "colour"]]
    said = r"X is an array that holds 'red' at row 0, column 1{}; expected numbers, and NaN for gaps; {}$".format
    with pytest.raises(ValueError, match=said("", r"text is taken in a DataFrame: give pandas.DataFrame\(X\)")):
        quick.fit(table.to_numpy(), y)
    framed = clone(quick).fit(table, y)
    frame = r"text is taken in a DataFrame: give pandas.DataFrame\(X, columns=model.feature_names_in_\)"
    with pytest.raises(ValueError, match=said(r" \(colour\)", frame)):
        framed.predict(table.to_numpy())
    as_told = pandas.DataFrame(table.to_numpy(), columns=framed.feature_names_in_)
    assert np.array_equal(framed.predict(as_told), framed.predict(table))
    gaps = np.array([[0.5, None], [1.0, 2.0]] * (ROWS // 2), object)
    numbers = quick.fit(gaps, y)
    assert len(numbers.predict(gaps)) == ROWS
    gaps[3, 0] = "abc"
    with pytest.raises(ValueError, match=r"'abc' at row 3, column 0; .*; the model was trained on an array of numbers"):
        numbers.predict(gaps)
    with pytest.raises(ValueError, match=r"X is an array that holds '0.5' at row 0, column 0; expected numbers"):
        numbers.predict([["0.5", "1"]])
