"""What fastnet's MLPClassifier and MLPRegressor have and scikit-learn's lack."""

import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn.neural_network")

from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastnet import SGD, Network, Trainer
from fastnet import sklearn as ours
from fastnet.sklearn_additions import OWN_ACTIVATIONS, OWN_LOSSES

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

ROWS = 107
X = np.random.default_rng(0).standard_normal((ROWS, 7))
LABELS = np.random.default_rng(2).integers(0, 4, ROWS)
TARGETS = X[:, :3] ** 2
COMMON: dict[str, Any] = {"hidden_layer_sizes": (9, 5), "batch_size": 32, "max_iter": 9, "random_state": 3}
PLAIN: dict[str, Any] = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "shuffle": False, "learning_rate_init": 0.01}


@pytest.mark.parametrize(
    ("activation", "loss"),
    [*((name, "mae") for name in sorted(OWN_ACTIVATIONS)), *(("tanh", name) for name in sorted(OWN_LOSSES))],
)
def test_steps_are_those_of_a_trainer(activation: str, loss: str) -> None:
    found = ours.MLPRegressor(activation=activation, loss=loss, **COMMON | PLAIN).fit(X, TARGETS)
    network = Network((7, 9, 5, 3), hidden=activation, dtype="float64")
    for W, b, coef, intercept in zip(network.weights, network.biases, found.coefs_, found.intercepts_, strict=True):
        W[...], b[...] = coef.T, intercept
    trainer = Trainer(network, loss, SGD(0.01), 32, shuffle=False)
    history = trainer.fit(X, TARGETS, 1)
    found.partial_fit(X, TARGETS)
    for W, coef in zip(network.weights, found.coefs_, strict=True):
        np.testing.assert_allclose(coef.T, W, rtol=1e-12, atol=1e-15)
    assert found.loss_ == pytest.approx(history["loss"][0], rel=1e-12)


@pytest.mark.parametrize("activation", sorted(OWN_ACTIVATIONS))
def test_predictions_of_every_kind_of_array(activation: str) -> None:
    found = ours.MLPClassifier(activation=activation, **COMMON).fit(X, LABELS)
    expected, hidden = found.predict_proba(X), found.transform(X)
    found.set_params(backend="numpy")
    np.testing.assert_allclose(found.predict_proba(X), expected, rtol=1e-9)
    np.testing.assert_allclose(found.transform(X), hidden, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.predict_proba(csr_matrix(X)), expected, rtol=1e-9)
    assert hidden.shape == (ROWS, 5)


@pytest.mark.parametrize("loss", sorted(OWN_LOSSES))
def test_validation_loss_is_on_the_scale_of_the_curve(loss: str) -> None:
    """A step on all rows reports the loss before it, so that of the same rows after it is the next one's."""
    options = COMMON | {"batch_size": ROWS, "alpha": 0.0}
    found = ours.MLPRegressor(loss=loss, **options).fit(X, TARGETS, X_val=X, y_val=TARGETS)
    np.testing.assert_allclose(found.validation_loss_curve_[:-1], found.loss_curve_[1:], rtol=1e-9)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("dropout", [0.3, (0.0, 0.5)])
def test_dropout(dropout: Any, solver: str) -> None:
    runs = [
        ours.MLPClassifier(dropout=dropout, solver=solver, **COMMON, **options).fit(X, LABELS)
        for options in ({"backend": "numpy"}, {"threads": 1}, {})
    ]
    for a, b, c in zip(*(run.coefs_ for run in runs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        assert b.tobytes() == c.tobytes()
    plain = ours.MLPClassifier(solver=solver, **COMMON).fit(X, LABELS)
    assert not np.allclose(plain.coefs_[0], runs[0].coefs_[0])
    again = pickle.loads(pickle.dumps(clone(runs[2]))).fit(X, LABELS)
    assert again.coefs_[0].tobytes() == runs[2].coefs_[0].tobytes()


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_each_epoch_has_masks_of_its_own(solver: str) -> None:
    """With rates so small that the weights stay, losses differ by the masks alone; prediction has none."""
    options = COMMON | {"learning_rate_init": 1e-14, "shuffle": False, "batch_size": ROWS, "alpha": 0.0}
    found = ours.MLPRegressor(dropout=0.5, solver=solver, **options)
    found.fit(X, TARGETS, X_val=X, y_val=TARGETS)
    assert len({round(loss, 8) for loss in found.loss_curve_}) == 9
    assert np.ptp(found.validation_loss_curve_) < 1e-9
    losses = []
    for _ in range(3):
        found.partial_fit(X, TARGETS)
        losses.append(found.loss_)
    assert len({round(loss, 8) for loss in [*losses, *found.loss_curve_[:1]]}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lbfgs", "activation": "mish"}, "activation='mish' is not .* here, because solver is 'lbfgs';"),
        ({"solver": "lbfgs", "loss": "mae"}, "loss='mae' is not scikit-learn's"),
        (
            {"loss": "poisson", "dropout": 0.1, "activation": "elu"},
            "activation='elu' and dropout=0.1 are not .* because loss is 'poisson';",
        ),
        ({"dropout": [0.1]}, "dropout has 1 rate; expected 2, one for each hidden layer"),
        ({"dropout": 1.0}, "'dropout' parameter of MLPRegressor"),
        ({"activation": "sigmoid"}, "'activation' parameter of MLPRegressor"),
        ({"loss": "cross_entropy"}, "'loss' parameter of MLPRegressor"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours.MLPRegressor(**COMMON | options).fit(X, abs(TARGETS[:, 0]))


def test_the_reason_why_scikit_learn_would_train_is_told() -> None:
    def refused(because: str, found: Any = None, rows: Any = X, y: Any = LABELS, weights: Any = None) -> None:
        found = ours.MLPClassifier(dropout=0.1, **COMMON) if found is None else found
        with pytest.raises(ValueError, match=f"^dropout=0.1 is not .* train here, because .*{because}.*; change this"):
            found.fit(rows, y, weights)

    def fitted(**options: Any) -> Any:
        return ours.MLPClassifier(dropout=0.1, warm_start=True, **COMMON).fit(X, LABELS).set_params(**options)

    refused("sample_weight holds negative", weights=np.linspace(-1, 1, ROWS))
    refused("less than 5% of it is not zero", rows=csr_matrix((ROWS, 7)))
    refused("hidden_layer_sizes are not those", fitted(hidden_layer_sizes=(9, 4)))
    refused("arrays of float32, X's dtype", fitted(), rows=X.astype("float32"))
    falling = {"solver": "sgd", "learning_rate": "invscaling", "power_t": 9}
    refused("rate of invscaling", ours.MLPClassifier(dropout=0.1, **COMMON, **falling))


# ------------------------------------------------------------------------- scikit-learn's own callbacks


class Recorder:
    """A callback of scikit-learn's protocol that stops after some epochs."""

    def __init__(self, epochs: int = 10**9) -> None:
        self.seen: list[Any] = []
        self.epochs = epochs

    def setup(self, estimator: Any, context: Any) -> None:
        """Before the fit."""
        self.seen.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        """After the fit."""
        self.seen.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Before the fit, and before an epoch."""
        self.seen.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool:
        """After the fit, and after an epoch: return whether to stop."""
        self.seen.append((context.task_name, context.task_id, fitted_estimator.score(X, y)))
        return context.task_name == "epoch" and context.task_id + 1 == self.epochs


@pytest.fixture
def protocol() -> Any:
    return pytest.importorskip("sklearn.callback", reason="scikit-learn has the protocol since 1.9")


STOPPED: list[dict[str, Any]] = [
    {"solver": "adam"},
    {"solver": "adam", "n_iter_no_change": np.inf},
    {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2, "tol": 1e9},
    {"solver": "sgd", "learning_rate": "invscaling"},
]


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("options", STOPPED)
def test_callbacks_of_sklearn(name: str, options: dict[str, Any], protocol: Any, capsys: Any) -> None:
    y = LABELS if name == "MLPClassifier" else TARGETS
    recorder = Recorder()
    found = clone(getattr(ours, name)(**COMMON, **options).set_callbacks(recorder)).fit(X, y)
    assert recorder.seen[:2] == ["setup", "begin fit"]
    assert recorder.seen[-1] == "teardown"
    ends = [each for each in recorder.seen if isinstance(each, tuple)]
    assert [each[:2] for each in ends] == [*(("epoch", i) for i in range(9)), ("fit", 0)]
    assert ends[-1][2] == ends[-2][2] == found.score(X, y)
    assert len({each[2] for each in ends}) > 1, "each epoch's estimator has parameters of its own"
    stopped = getattr(ours, name)(**COMMON, **options, verbose=True).set_callbacks(Recorder(3)).fit(X, y)
    assert stopped.n_iter_ == 3
    assert stopped.n_iter_no_change == options.get("n_iter_no_change", 10)
    assert "Stopping" not in capsys.readouterr().out, "it is no lack of progress that has ended it"
    same = getattr(ours, name)(**COMMON | {"max_iter": 3}, **options).fit(X, y)
    assert same.coefs_[0].tobytes() == stopped.coefs_[0].tobytes()
    assert vars(same._optimizer).keys() == vars(stopped._optimizer).keys()
    assert same._optimizer.learning_rate == stopped._optimizer.learning_rate
    assert stopped.set_callbacks().partial_fit(X, y).n_iter_ == 1


def test_callbacks_of_sklearn_in_a_pipeline_and_for_lbfgs(protocol: Any) -> None:
    monitor = protocol.ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), ours.MLPClassifier(**COMMON).set_callbacks(monitor))
    pipeline.fit(X, LABELS)
    assert len([row for row in monitor.get_logs().data if row["task_name"] == "epoch"]) == 9
    recorder = Recorder()
    ours.MLPClassifier(**COMMON | {"solver": "lbfgs"}).set_callbacks(recorder).fit(X, LABELS)
    assert [each if isinstance(each, str) else each[0] for each in recorder.seen] == [
        *("setup", "begin fit", "fit", "teardown")
    ]


def test_a_call_of_partial_fit_is_one_epoch(protocol: Any) -> None:
    class Counter(Recorder):
        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            self.seen.append((context.task_name, context.max_subtasks))

    counter = Counter()
    ours.MLPRegressor(**COMMON).set_callbacks(counter).partial_fit(X, TARGETS)
    assert ("fit", 1) in counter.seen
    assert len([each for each in counter.seen if each == ("epoch", 0)]) == 1


class Copier(Recorder):
    """A callback that pickles the estimator, and one that is as fitted by now, and copies the latter."""

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool:
        """After the fit, and after an epoch."""
        copies = [pickle.loads(pickle.dumps(each)) for each in (estimator, fitted_estimator)]
        copies.append(deepcopy(fitted_estimator))
        COPIES.extend((copied, fitted_estimator.predict(X)) for copied in copies)
        return False


COPIES: list[Any] = []


def test_estimators_can_be_copied_in_callbacks_of_sklearn(protocol: Any) -> None:
    COPIES.clear()
    ours.MLPRegressor(**COMMON, progress=True).set_callbacks(Copier()).fit(X, TARGETS, X_val=X, y_val=TARGETS)
    assert len(COPIES) == 30
    for copied, expected in COPIES:
        np.testing.assert_allclose(copied.predict(X), expected, rtol=1e-12)
        assert copied._bar is copied._validation is None


def test_estimators_can_be_copied_in_callbacks() -> None:
    """Which may come as an array, too."""
    copies: list[Any] = []

    def copied(row: Any) -> None:
        found.set_params(callbacks=())
        copies.extend((pickle.loads(pickle.dumps(found)), deepcopy(found)))
        found.set_params(callbacks=called)

    def nothing(row: Any) -> None:
        """The second of two."""

    called = np.array([copied, nothing])
    found = ours.MLPClassifier(**COMMON, callbacks=called)
    found.fit(X, LABELS, X_val=X, y_val=LABELS)
    assert len(copies) == 18
    for each in copies[-2:]:
        np.testing.assert_allclose(each.predict_proba(X), found.predict_proba(X), rtol=1e-12)
        assert each._validation is None


@pytest.mark.parametrize(
    ("class_weight", "classes", "said"),
    [
        ({"Mael": 2}, ["female", "male"], "'Mael', which is no class of y; there are: 'female', 'male'; did you mean"),
        ({"female": 1, "femael": 2}, ["female", "male"], "'femael', .*; did you mean 'male'"),
        ({"1": 2}, np.arange(10), "'1', .*: 0, 1, 2, 3, 4, 5, 6, 7 and 2 more; did you mean 1?"),
        ({"other": 2}, [False, True], "'other', .*: False, True; correct the key, or leave it out"),
    ],
)
def test_keys_that_are_no_class_are_named(class_weight: dict[Any, float], classes: Any, said: str) -> None:
    y = np.resize(classes, 60)
    model = ours.MLPClassifier(**COMMON, class_weight=class_weight)
    with pytest.raises(ValueError, match=f"class_weight has a key {said}"):
        model.fit(X[:60], y)
    with pytest.raises(ValueError, match=f"class_weight has a key {said}"):
        model.partial_fit(X[:60], y, classes=classes)


def test_keys_of_classes_that_the_rows_lack_are_no_mistake() -> None:
    model = ours.MLPClassifier(**COMMON, class_weight={0: 1, 1: 2, 2: 3}).fit(X, np.arange(ROWS) % 2)
    assert model.classes_.tolist() == [0, 1]


TEXT = np.resize(["female", "male"], ROWS)


def changed(target: Any, row: int, value: Any) -> Any:
    found = target.astype(object)
    found[row] = value
    return found


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor", "TabularClassifier", "TabularRegressor"])
def test_targets_of_the_wrong_kind_are_named_with_their_row(name: str) -> None:
    pandas = pytest.importorskip("pandas")
    made = getattr(ours, name)
    y = TEXT if name.endswith("Classifier") else X[:, 0]
    wrong = [(changed(y, 5, gap), f" holds {gap} at row 5; remove or replace") for gap in (None, np.nan, pandas.NA)]
    wrong.append((changed(y, 6, np.float32("nan")), " holds nan at row 6; remove or replace"))
    dates = pandas.Series(pandas.to_datetime(["2020-01-01"] * 3 + [None] + ["2021-01-01"] * (ROWS - 4)))
    wrong.append((dates, " holds NaT at row 3; remove or replace"))
    wrong.append((np.where(np.arange(ROWS) == 7, np.nan, X[:, 0] > 0), " holds NaN at row 7; remove or replace"))
    if name.endswith("Classifier"):
        wrong.append((X[:, 0], f" holds {X[0, 0]} at row 0: it is continuous, but {name} predicts classes; name the"))
        wrong.append(((X[:, 0] > 0).astype(object), r" holds booleans as objects; write y\w*.astype\(bool\)"))
    else:
        said = f" holds 'female' at row 0, but {name} predicts numbers; give numbers, or take {name[:-9]}Classifier"
        wrong += [(TEXT, said), (pandas.Series(TEXT), said)]
        wrong.append((changed(y, 9, "?"), r" holds '\?' at row 9"))
        days = np.arange(ROWS).astype("timedelta64[D]")
        said = rf" holds .+ at row 0, but {name} predicts numbers; write {{}} / np.timedelta64\(1, \"s\"\)$"
        wrong.append((np.datetime64("2020-01-01") + days, said.format(r"\(y\w* - y\w*.min\(\)\)")))
        wrong.append((pandas.Series(days), said.format(r"y\w*")))
    wrong.append((np.ma.masked_array(np.arange(ROWS) % 2, np.arange(ROWS) == 4), " holds -- at row 4; remove or"))
    wrong.append((None, r" to be passed, but the target"))
    for target, said in wrong:
        with pytest.raises(ValueError, match=f"^({name} requires )?y{said}"):
            made().fit(X, target)
        if target is not None:
            with pytest.raises(ValueError, match=f"^y_val{said}"):
                made().fit(X, y, X_val=X, y_val=target)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor", "TabularClassifier", "TabularRegressor"])
@pytest.mark.parametrize("y", ["income", {"y": 1}, iter([1, 2])], ids=["a name", "a dict", "an iterator"])
def test_a_target_that_is_no_array_is_left_to_scikit_learn(name: str, y: Any) -> None:
    pytest.importorskip("pandas")
    with pytest.raises((TypeError, ValueError), match=r"1d array|at least 1 dimension"):
        getattr(ours, name)().fit(X, y)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor", "TabularClassifier", "TabularRegressor"])
def test_one_callback_without_a_list_is_told_what_to_write(name: str) -> None:
    if name.startswith("Tabular"):
        pytest.importorskip("pandas")
    model = getattr(ours, name)(callbacks=print)
    with pytest.raises(TypeError, match=r"^callbacks is <built-in function print>; .*: write callbacks=\[print\]$"):
        model.fit(X, LABELS)
