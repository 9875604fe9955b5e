"""fastnet.sklearn against scikit-learn: its checks, its own tests, its steps, and who took them."""

import inspect
import itertools
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sk = pytest.importorskip("sklearn.neural_network")

from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastnet import sklearn as ours
from fastnet.kernels.engine import sklearn_conversions as conventions
from fastnet.kernels.engine.engine import CpuEngine

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

ROWS = 107  # batches of 32 leave a short one
X = np.random.default_rng(0).standard_normal((ROWS, 7))
WEIGHTS = np.random.default_rng(1).integers(0, 3, ROWS) + 0.0  # zeros among them
PROBLEMS: dict[str, tuple[str, Any]] = {
    "many classes": ("MLPClassifier", np.random.default_rng(2).integers(0, 4, ROWS)),
    "two classes": ("MLPClassifier", np.where(X[:, 0] > 0, 7, 3)),
    "many labels": ("MLPClassifier", (X[:, :3] > 0).astype(int)),
    "one target": ("MLPRegressor", X[:, 0] * X[:, 1]),
    "many targets": ("MLPRegressor", X[:, :3] ** 2),
}
OPTIMIZERS: list[dict[str, Any]] = [
    {"solver": "adam", "alpha": 0.1, "epsilon": 1e-3},
    {"solver": "adam", "alpha": 0.0, "beta_1": 0.0, "early_stopping": True},
    {"solver": "adam", "shuffle": False, "batch_size": "auto"},
    {"solver": "sgd", "alpha": 1.0},
    {"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "invscaling", "power_t": 0.3},
    {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 2},
    {"solver": "sgd", "momentum": 0.0, "batch_size": 1, "max_iter": 2},
]
COMMON = {"hidden_layer_sizes": (9, 5), "batch_size": 32, "max_iter": 9, "random_state": 3, "learning_rate_init": 0.01}


def pair(problem: str, **options: Any) -> tuple[Any, Any, Any]:
    """Our estimator, scikit-learn's, and y."""
    name, y = PROBLEMS[problem]
    return getattr(ours, name)(**COMMON | options), getattr(sk, name)(**COMMON | options), y


def state(estimator: Any) -> list[Any]:
    """Everything that training leaves: parameters, the optimizer's vectors and numbers, curves."""
    optimizer = vars(estimator._optimizer)
    vectors = [optimizer.get(name, []) for name in ("velocities", "ms", "vs")]
    if optimizer.get("momentum") == 0:  # then scikit-learn keeps the last step, and never reads it
        vectors = []
    numbers = [optimizer["learning_rate"], optimizer.get("t", 0), estimator.t_, estimator.n_iter_, estimator.loss_]
    curves = [estimator.loss_curve_, estimator.validation_scores_ or [], [estimator.best_loss_ or 0]]
    return [*estimator.coefs_, *estimator.intercepts_, *itertools.chain(*vectors), numbers, *curves]


def assert_same(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    for ours_is, theirs_is in zip(state(a), state(b), strict=True):
        np.testing.assert_allclose(ours_is, theirs_is, rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------------------- scikit-learn's own


CHECKS = parametrize_with_checks([ours.MLPClassifier(max_iter=100), ours.MLPRegressor(max_iter=100)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)  # a list: 1.7 hands on a generator
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.exhaustive
def test_sklearn_tests_of_its_mlp(tmp_path: Path) -> None:
    """With one line changed, the import."""
    tests = pytest.importorskip("sklearn.neural_network.tests.test_mlp")
    text = Path(tests.__file__).read_text()
    theirs = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
    assert text.count(theirs) == 1
    (tmp_path / "test_mlp.py").write_text(
        text.replace(theirs, "from fastnet.sklearn import MLPClassifier, MLPRegressor")
    )
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef global_random_seed():\n    return 42\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", "."]
    done = subprocess.run([*command, "test_mlp.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 50
    assert "failed" not in done.stdout


def added_to(name: str) -> dict[str, Any]:
    """The parameters that scikit-learn's estimator lacks, and their defaults."""
    added = {"backend": "auto", "threads": None, "progress": False, "callbacks": (), "dropout": 0.0}
    return added | ({"class_weight": None} if name == "MLPClassifier" else {})


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_parameters_are_those_of_sklearn_and_few_more(name: str) -> None:
    mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (ours, sk))
    expected = {key: (one.default, one.kind) for key, one in theirs.items()}
    found = {key: (one.default, one.kind) for key, one in mine.items()}
    assert list(found)[: len(expected)] == list(expected)
    assert {key: found.pop(key)[0] for key in added_to(name)} == added_to(name)
    assert found == expected
    for key in mine:
        assert re.search(rf"\b{key}\b", getattr(ours, name).__doc__), key


# --------------------------------------------------------------------------------------- same steps


@pytest.mark.sampled(7)
@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_steps_equal_those_of_sklearn(problem: str, activation: str, options: dict[str, Any]) -> None:
    for weights in (None, WEIGHTS) if activation == "relu" else (None,):
        if weights is not None and options.get("batch_size") == 1:
            continue  # a batch without weight is an error
        mine, theirs, y = pair(problem, activation=activation, **options)
        assert_same(mine.fit(X, y, weights), theirs.fit(X, y, weights))
        np.testing.assert_allclose(mine.predict(X) == y, theirs.predict(X) == y)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("problem", ["many classes", "many targets"])
def test_warm_start_and_partial_fit_equal_those_of_sklearn(problem: str, solver: str) -> None:
    """In calls of partial_fit, in pickles, and from warm starts; what the user holds of coefs_ is trained."""
    mine, theirs, y = pair(problem, solver=solver, batch_size="auto")
    extra = {"classes": np.unique(y)} if problem == "many classes" else {}
    mine.partial_fit(X, y, **extra)
    theirs.partial_fit(X, y, **extra)
    held = mine.coefs_[0]
    assert held.flags.c_contiguous
    for rows in (slice(50), slice(50, None), slice(0, 1)):
        mine.partial_fit(X[rows], y[rows])
        theirs.partial_fit(X[rows], y[rows])
    assert held is mine.coefs_[0]
    mine = pickle.loads(pickle.dumps(mine))
    assert_same(mine.partial_fit(X, y), theirs.partial_fit(X, y))
    mine, theirs = (estimator.set_params(warm_start=True).fit(X, y).fit(X, y) for estimator in (mine, theirs))
    assert_same(mine, theirs)


def test_string_classes() -> None:
    mine, theirs, y = pair("two classes")
    names = np.where(y == 7, "yes", "no")
    assert_same(mine.fit(X, names), theirs.fit(X, names))
    assert (mine.predict(X) == theirs.predict(X)).all()
    assert mine.score(X, names) > 0.6


@pytest.mark.parametrize("activation", ["logistic", "relu"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_predictions_equal_those_of_sklearn_and_come_from_the_kernels(
    problem: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs, y = pair(problem, activation=activation)
    mine.fit(X, y)
    theirs.fit(X, y)
    theirs.coefs_, theirs.intercepts_ = mine.coefs_, mine.intercepts_
    found: list[Any] = []
    forward = ours.forward_through
    monkeypatch.setattr(ours, "forward_through", lambda *given: found.append(forward(*given)) or found[-1])
    for rows in (X, X[:1], X.astype(np.float32), X[::-1], csr_matrix(X)):
        found.clear()
        outputs = mine._forward_pass_fast(rows)
        np.testing.assert_allclose(outputs, theirs._forward_pass_fast(rows), rtol=1e-10, atol=1e-12)
        assert len(found) == (0 if rows.__class__ is csr_matrix else 1)
        assert all(outputs is each for each in found)
    mine.coefs_[0] = mine.coefs_[0].astype(np.float32)  # the kernels know one dtype at a time
    found.clear()
    np.testing.assert_allclose(mine._forward_pass_fast(X), theirs._forward_pass_fast(X), rtol=1e-4, atol=1e-4)
    assert found == [None] or found == []


def test_float32_is_kept() -> None:
    mine, theirs, y = pair("many classes")
    single = X.astype(np.float32)
    assert_same(mine.fit(single, y), theirs.fit(single, y), 1e-4)
    assert {p.dtype for p in mine.coefs_ + mine.intercepts_} == {np.dtype(np.float32)}
    assert mine.predict_proba(single).dtype == np.float32


def test_loss_clipping_equals_that_of_sklearn() -> None:
    for problem in ("many classes", "two classes"):
        mine, theirs, y = pair(problem, activation="identity", max_iter=3)
        assert_same(mine.fit(X * 1e4, y), theirs.fit(X * 1e4, y), 1e-9)
        assert mine.loss_ > 1


@pytest.mark.parametrize("layout", ["F", "csr", "csc", "strided", "list", "read-only"])
def test_layouts_of_data(layout: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    data: Any = {
        "F": np.asfortranarray,
        "csr": sparse.csr_array,
        "csc": sparse.csc_matrix,
        "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        "list": np.ndarray.tolist,
        "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    }[layout](X)
    mine, theirs, y = pair("many targets")
    assert_same(mine.fit(data, y), theirs.fit(X, y))


def test_backends_and_threads() -> None:
    found = {}
    for backend, threads in (("cpu", 1), ("cpu", None), ("cpu", 2), ("auto", 1), ("numpy", None)):
        mine = ours.MLPClassifier((200,), max_iter=3, random_state=0, backend=backend, threads=threads)
        wide = np.random.default_rng(0).standard_normal((900, 40))
        mine.fit(wide, np.arange(900) % 3)
        found[backend, threads] = np.concatenate([p.ravel() for p in mine.coefs_])
    numpy_ones = found.pop(("numpy", None))
    assert len({one.tobytes() for one in found.values()}) == 1
    np.testing.assert_allclose(numpy_ones, found["auto", 1], rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------------- who trains


def forbid(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(owner, name, forbidden)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("options", OPTIMIZERS, ids=lambda options: "-".join(map(str, options.values())))
def test_engine_does_the_training(problem: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, BaseMultilayerPerceptron, "_backprop")
    forbid(monkeypatch, BaseMultilayerPerceptron, "_compute_loss_grad")
    epochs, train = [], CpuEngine.train
    monkeypatch.setattr(CpuEngine, "train", lambda self, *a, **k: (epochs.append(len(a[0])), train(self, *a, **k)))
    mine, _, y = pair(problem, **options)
    mine.fit(X, y)
    assert len(epochs) == mine.n_iter_
    assert set(epochs) == {96 if mine.early_stopping else ROWS}
    if not mine.early_stopping:
        epochs.clear()
        mine.partial_fit(X, y)
        assert epochs == [ROWS]


@pytest.mark.parametrize(
    ("name", "options", "change"),
    [
        ("MLPRegressor", {"solver": "lbfgs"}, "nothing"),
        ("MLPRegressor", {"loss": "poisson"}, "nothing"),
        ("MLPRegressor", {}, "negative weights"),
        ("MLPClassifier", {}, "very sparse"),
        ("MLPRegressor", {"solver": "sgd", "learning_rate": "invscaling", "power_t": 9.0}, "nothing"),
    ],
)
def test_unsupported_options_fall_back_to_sklearn(
    name: str, options: dict[str, Any], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    forbid(monkeypatch, CpuEngine, "train")
    data = sparse.random_array((ROWS, 7), density=0.02, format="csr", rng=0) if change == "very sparse" else X
    weights = np.where(np.arange(ROWS) == 5, -0.5, 1) if change == "negative weights" else None
    y = np.arange(ROWS) % 3
    mine, theirs = (getattr(module, name)(**COMMON | options).fit(data, y, weights) for module in (ours, sk))
    for a, b in zip(mine.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------ behaviour in pipelines


def test_pipelines_grids_and_copies(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    data, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(
        StandardScaler(), ours.MLPClassifier((20,), learning_rate_init=0.01, max_iter=60, random_state=0)
    )
    assert cross_val_score(pipeline, data, y, cv=3).mean() > 0.9
    grid = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=3, n_jobs=2).fit(data, y)
    assert grid.best_score_ > 0.9
    best = grid.best_estimator_
    joblib.dump(best, tmp_path / "best.joblib")
    for copy in (pickle.loads(pickle.dumps(best)), joblib.load(tmp_path / "best.joblib")):
        np.testing.assert_array_equal(copy.predict_proba(data), best.predict_proba(data))
    fresh = clone(best)
    assert not hasattr(fresh[-1], "coefs_")
    np.testing.assert_array_equal(fresh.fit(data, y).predict_proba(data), best.predict_proba(data))


def test_fit_leaves_no_state_behind() -> None:
    mine, theirs, y = pair("one target")
    mine.fit(X, y)
    theirs.fit(X, y)
    added = added_to("MLPRegressor")
    assert set(vars(mine)) - {*added, "validation_loss_curve_"} == set(vars(theirs))
    assert mine.get_params() == {**theirs.get_params(), **added}
    assert all(p.base is None for p in mine.coefs_ + mine.intercepts_)


def test_interrupted_fit_keeps_completed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs, y = pair("many classes")
    advance, calls = CpuEngine.train, []

    def interrupted(self: CpuEngine, *arguments: Any, **options: Any) -> None:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        advance(self, *arguments, **options)

    monkeypatch.setattr(CpuEngine, "train", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        mine.fit(X, y)
    monkeypatch.undo()
    theirs.set_params(max_iter=2).fit(X, y)
    assert (mine.shuffle, mine.batch_size) == (True, 32)
    assert_same(mine, theirs)


def test_warnings_and_messages_equal_those_of_sklearn(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for estimator in pair("many classes", verbose=True, batch_size=1000, early_stopping=True, tol=1.0, max_iter=30)[:2]:
        with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size"):
            estimator.fit(X, PROBLEMS["many classes"][1])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "Stopping." in printed[0]
    mine, _, y = pair("one target", max_iter=1)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(1\) reached"):
        mine.fit(X, y)


def test_errors_equal_those_of_sklearn() -> None:
    y = np.arange(ROWS) % 3
    with pytest.raises(ValueError, match="The 'backend' parameter of MLPClassifier must be a str among"):
        ours.MLPClassifier(backend="gpu").fit(X, y)
    with pytest.raises(ValueError, match="The 'threads' parameter of MLPRegressor must be an int"):
        ours.MLPRegressor(threads=0).fit(X, y)
    for module in (ours, sk):
        with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
            module.MLPRegressor(batch_size=10, shuffle=False).fit(X, y, np.arange(ROWS) // 10)
        with pytest.raises(ValueError, match="non-finite parameter weights"), np.errstate(all="ignore"):
            module.MLPRegressor(solver="sgd", learning_rate_init=1e30, max_iter=50).fit(X, y)


def test_scores_match_those_of_sklearn() -> None:
    """Paired over seeds on a bundled data set; `bench/sklearn_scores.py` has them all."""
    data, y = load_diabetes(return_X_y=True)
    data, y = data / data.std(axis=0), (y - y.mean()) / y.std()
    scores = []
    for module in (ours, sk):
        models = [module.MLPRegressor("squared_error", (16,), random_state=seed, max_iter=30) for seed in range(3)]
        scores.append([model.fit(data[:300], y[:300]).score(data[300:], y[300:]) for model in models])
    np.testing.assert_allclose(*scores, rtol=1e-6)


def test_adam_bias_corrections_are_in_the_rate() -> None:
    rates = conventions.adam_rates(0.1, 0.9, 0.999, 4, 3)
    expected = [0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) for t in (5, 6, 7)]
    np.testing.assert_allclose(rates, expected, rtol=1e-14)
    assert 1 - np.nextafter(1, 0) ** float(conventions.FAR_STEP) == 1


# ------------------------------------------------------------------------------ what scikit-learn's lack


def test_class_weight_is_a_factor_of_sample_weights() -> None:
    rare = np.where(X[:, 0] > 1, "rare", "often")
    counts = {label: np.sum(rare == label) for label in ("rare", "often")}
    factors = {label: ROWS / 2 / count for label, count in counts.items()}
    weights = WEIGHTS + 1
    expected = sk.MLPClassifier(**COMMON).fit(X, rare, weights * np.array([factors[label] for label in rare]))
    for class_weight in ("balanced", factors):
        found = ours.MLPClassifier(**COMMON, class_weight=class_weight).fit(X, rare, weights)
        assert_same(found, expected, 1e-9)
    with pytest.raises(ValueError, match="partial_fit sees some rows only; give class_weight as a dict"):
        ours.MLPClassifier(class_weight="balanced").partial_fit(X, rare, classes=["often", "rare"])


def test_class_weight_of_rows_without_every_class() -> None:
    """A batch of partial_fit may lack a class; what scikit-learn refuses stays refused in its words."""
    model = ours.MLPClassifier(**COMMON, class_weight={0: 2, 1: 5})
    expected = sk.MLPClassifier(**COMMON)
    some = np.arange(ROWS) % 2 * 2  # classes 0 and 2
    assert_same(
        model.partial_fit(X, some, classes=[0, 1, 2]),
        expected.partial_fit(X, some, np.where(some == 0, 2.0, 1.0), [0, 1, 2]),
        1e-9,
    )
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, some[:20], WEIGHTS + 1)
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.fit(X, None)
    with pytest.raises(ValueError, match="class_weight is a dict and y multi-label"):
        model.fit(X, np.eye(3)[some].astype(int) | 1)


def test_a_callback_ends_a_fit_after_the_epoch_has_been_scored() -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    y = PROBLEMS["many classes"][1]
    options = {**COMMON, "early_stopping": True, "max_iter": 1}
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        found = ours.MLPClassifier(**options, callbacks=[stop]).fit(X, y)
    assert_same(found, ours.MLPClassifier(**options).fit(X, y))
    with pytest.raises(TypeError, match="callbacks holds 3; expected functions of an epoch's row"):
        found.set_params(callbacks=[3]).fit(X, y)
    with pytest.raises(TypeError, match="callbacks holds 3"):
        found.set_params(early_stopping=False).partial_fit(X, y)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_validation_curve_callbacks_and_bar(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, float]] = []
    mine, theirs, y = pair(problem, alpha=0.0, batch_size=ROWS)
    mine.set_params(callbacks=[rows.append], progress=True).fit(X, y, X_val=X, y_val=y)
    assert_same(mine, theirs.fit(X, y))
    assert [row["epoch"] for row in rows] == list(range(mine.n_iter_))
    assert [row["loss"] for row in rows] == mine.loss_curve_
    assert [row["val_loss"] for row in rows] == mine.validation_loss_curve_
    # A step on all rows reports the loss before it, so that of the same rows after it is the next one's.
    np.testing.assert_allclose(mine.validation_loss_curve_[:-1], mine.loss_curve_[1:], rtol=1e-6)
    assert "9/9" in capsys.readouterr().err
    assert mine.fit(X, y).validation_loss_curve_ == []


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_transform_returns_the_last_hidden_layer(activation: str, backend: str) -> None:
    mine, _, y = pair("many classes", activation=activation)
    hidden = mine.set_params(backend=backend).fit(X, y).transform(X)
    assert hidden.shape == (ROWS, 5)
    np.testing.assert_allclose(mine.transform(csr_matrix(X)), hidden, rtol=1e-9, atol=1e-12)
    assert mine.get_feature_names_out().tolist() == [f"mlpclassifier{i}" for i in range(5)]
    logits = hidden @ mine.coefs_[-1] + mine.intercepts_[-1]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(shares / shares.sum(axis=1, keepdims=True), mine.predict_proba(X), rtol=1e-9)
    with pytest.raises(ValueError, match="hidden_layer_sizes is empty"):
        mine.set_params(hidden_layer_sizes=()).fit(X, y).transform(X)


@pytest.mark.parametrize(
    ("problem", "X_val", "y_val", "message"),
    [
        ("many classes", X, None, "y_val is missing"),
        ("many classes", None, [1], "X_val is missing"),
        ("many classes", X[:2], [1, 7], "y_val holds 7, a class that y lacks"),
        ("many classes", X[:2], [1], "inconsistent numbers of samples"),
        ("many classes", X[:2, :3], [1, 2], "X_val: X has 3 features"),
        ("many classes", np.full((2, X.shape[1]), np.nan), [1, 2], "X_val: Input X contains NaN"),
        ("one target", X[:2], [1.0, np.nan], "y_val holds NaN at row 1; remove or replace"),
        ("many targets", X[:2], [1.0, 2.0], "y_val has 1 output; expected 3, as y has"),
    ],
)
def test_validation_rows_are_checked(problem: str, X_val: Any, y_val: Any, message: str) -> None:
    mine, _, y = pair(problem)
    with pytest.raises(ValueError, match=message):
        mine.fit(X, y, X_val=X_val, y_val=y_val)
    assert not {"_bar", "_validation"} & set(vars(mine))
