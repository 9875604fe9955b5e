"""Where parameters are, in Numba's simulator: when they cross the bus, and what computes where they are.

`test_cuda.py` runs this file in a process with NUMBA_ENABLE_CUDASIM=1.
"""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from simulator import BATCH, ROWS, X, residency

from fastnet import SGD, Adam, Ensemble, Network, Trainer, fit_many
from fastnet.kernels.cuda import best as cuda_best
from fastnet.kernels.cuda import counters as cuda_counters
from fastnet.kernels.cuda import engine as cuda_engine
from fastnet.kernels.cuda import forward as cuda_forward
from fastnet.kernels.cuda.device import cuda
from fastnet.kernels.engine.optimizer_state import OptimizerState
from fastnet.kernels.engine.synced import SyncedArray
from fastnet.kernels.specs.activations import IDENTITY
from fastnet.sklearn import MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor

SIZES = (5, 7, 3)
P = 6 * 7 + 8 * 3
Y = np.arange(ROWS) % SIZES[-1]


@pytest.fixture
def crossings() -> Iterator[Callable[[], list[tuple[str, int]]]]:
    """What of the size of P or 2 P, parameters or Adam's state, has crossed the bus since the last call.

    The direction, and elements.
    """
    array, seen = type(cuda.to_device(np.zeros(1))), list[tuple[str, int]]()
    fetch, send = array.copy_to_host, array.copy_to_device

    def fetched(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(("host", self.size))
        return fetch(self, *arguments, **options)

    def sent(self: Any, source: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(source, np.ndarray):
            seen.append(("device", source.size))
        send(self, source, *arguments, **options)

    def new() -> list[tuple[str, int]]:
        found = [each for each in seen if each[1] in (P, 2 * P)]
        seen.clear()
        return found

    with mock.patch.object(array, "copy_to_host", fetched), mock.patch.object(array, "copy_to_device", sent):
        yield new


def _trainer(backend: str = "cuda", loss: str = "cross_entropy", optimizer: Any = None, **options: Any) -> Trainer:
    network = Network(SIZES, hidden="tanh", dtype="float64", seed=1)
    return Trainer(network, loss=loss, optimizer=optimizer or Adam(0.05), batch_size=BATCH, backend=backend, **options)


def _same(ours: Any, truth: Any) -> None:
    np.testing.assert_allclose(ours.network.parameters, truth.network.parameters, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours._state.vectors, truth._state.vectors, rtol=1e-9, atol=1e-13)
    assert ours._state.progress == truth._state.progress


def test_parameters_cross_the_bus_when_somebody_looks(crossings: Any) -> None:
    trainer, truth = _trainer(), _trainer("numpy")
    net = trainer.network
    for each in (trainer, truth):
        each.fit(X, Y, epochs=2, validation_data=(X[:4], Y[:4]), patience=5)
    trainer.evaluate(X, Y)
    outputs = net.predict(X), net.predict_proba(X)
    labels = net.predict_labels(X)
    assert crossings() == [("device", P), ("device", 2 * P)]
    for each in (trainer, truth):
        each.fit(X, Y, epochs=1)
    assert crossings() == []
    np.testing.assert_allclose(trainer.evaluate(X, Y)["loss"], truth.evaluate(X, Y)["loss"])
    assert crossings() == []
    _same(trainer, truth)
    assert crossings() == [("host", P), ("host", 2 * P)]
    before = net.parameters.copy()
    np.testing.assert_allclose(net.predict(X), truth.network.predict(X), rtol=1e-12)
    assert crossings() == []
    assert not np.array_equal(outputs[0], net.predict(X)), "another epoch was trained in between"
    assert (labels == outputs[1].argmax(axis=1)).all()
    trainer.fit(X, Y, epochs=1)
    assert crossings() == [("device", P), ("device", 2 * P)]
    assert not np.array_equal(net.parameters, before)


def test_evaluation_leaves_parameters_where_they_are() -> None:
    """An array that somebody holds still counts after it."""
    trainer = _trainer()
    weights = trainer.network.weights[0]
    trainer.evaluate(X, Y)
    weights[...] = 0
    assert (trainer.network.predict(X) == trainer.network.predict(-X)).all()


@pytest.mark.parametrize("probabilities", [False, True])
def test_predictions_on_the_device(probabilities: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's to rounding; a row's do not depend on the others, nor on the part that it is in."""
    net = _trainer().network
    trainer = Trainer(net, loss="cross_entropy", batch_size=BATCH, backend="cuda")
    trainer.fit(X, Y, epochs=1)
    predict = net.predict_proba if probabilities else net.predict
    found, out = predict(X), np.full((ROWS, 3), np.nan)
    assert predict(X, out) is out
    np.testing.assert_array_equal(out, found)
    np.testing.assert_array_equal(predict(X[7:8]), found[7:8])
    np.testing.assert_array_equal(predict(X[::2].tolist()), found[::2])
    np.testing.assert_allclose(Ensemble([net]).predict(X), net.predict(X), rtol=1e-15)
    monkeypatch.setattr(cuda_forward, "MAX_ROWS", 8)
    np.testing.assert_array_equal(predict(X), found)
    assert net._synced.device is not None
    net.parameters  # noqa: B018 - a look
    np.testing.assert_allclose(predict(X), found, rtol=1e-12)


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softplus"])
def test_predictions_of_every_kind_of_output(output: str) -> None:
    net = Network([5, 3], output=output, dtype="float64")
    Trainer(net, batch_size=None, backend="cuda").fit(X, np.eye(3)[Y], epochs=1)
    found = net.predict(X)
    assert net._synced.device is not None
    net.parameters  # noqa: B018 - a look
    np.testing.assert_allclose(found, net.predict(X), rtol=1e-12)


def test_predictions_on_a_full_card_are_the_cpus() -> None:
    """The parameters are fetched for them, and stay on the host."""
    trainer = _trainer()
    trainer.fit(X, Y, epochs=1)
    net, out = trainer.network, np.full((ROWS, 3), np.nan)
    with mock.patch.object(cuda_forward, "empty", side_effect=MemoryError):
        assert net.predict_proba(X, out) is out
    assert net._synced.device is None
    np.testing.assert_array_equal(out, net.predict_proba(X))


def test_predictions_on_the_device_refuse_what_the_cpu_refuses() -> None:
    net, hidden = Network([5, 5]), np.ones((2, 5), "float32")
    memory = net.parameters
    Trainer(net, backend="cuda").fit(X, X, epochs=1)
    out = np.full((2, 5), 7, "float32")
    for wrong, said in (
        (np.full((2, 5), np.nan), "holds nan"),
        (np.ones((2, 4)), "4 columns"),
        (X[:0], "empty|no row"),
    ):
        with pytest.raises(ValueError, match=f"(?i){said}"):
            net.predict(wrong, out if len(wrong) else None)
    with pytest.raises(ValueError, match="out shares memory"):
        net.predict(hidden, hidden)
    with pytest.raises(ValueError, match="out shares memory"):
        net.predict(hidden, memory[:10].reshape(2, 5))
    assert (out == 7).all()
    assert net._synced.device is not None


def test_a_look_while_steps_run_loses_nothing() -> None:
    """A look that began before the epoch's end, and ends after it: the network has what the epoch trained."""
    ours, truth = _trainer(), _trainer("numpy")
    array, step, move = type(cuda.to_device(np.zeros(1))), cuda_engine.CudaEngine._step, SyncedArray.move
    fetch, asked, ends = array.copy_to_host, threading.Event(), threading.Event()
    looks = threading.Thread(target=lambda: ours.network.parameters)

    def fetched(self: Any, *arguments: Any, **options: Any) -> Any:
        found = fetch(self, *arguments, **options)
        if threading.current_thread() is looks:
            asked.set()
            ends.wait(20)
        return found

    def stepped(self: Any, *arguments: Any) -> None:
        if looks.ident is None:
            looks.start()
            assert asked.wait(60)
        step(self, *arguments)

    def moved(self: Any, *arguments: Any) -> None:
        if asked.is_set():
            ends.set()
        move(self, *arguments)

    with (
        mock.patch.object(array, "copy_to_host", fetched),
        mock.patch.object(cuda_engine.CudaEngine, "_step", stepped),
        mock.patch.object(SyncedArray, "move", moved),
    ):
        ours.fit(X, Y, epochs=1)
        looks.join()
    truth.fit(X, Y, epochs=1)
    _same(ours, truth)


def test_copies_have_the_parameters_of_the_device() -> None:
    trainer, truth = _trainer(), _trainer("numpy")
    for each in (trainer, truth):
        each.fit(X, Y, epochs=1)
    _same(pickle.loads(pickle.dumps(trainer)), truth)
    trainer.fit(X, Y, epochs=1)
    truth.fit(X, Y, epochs=1)
    assert trainer.network._synced.device is not None
    _same(copy.deepcopy(trainer), truth)


def test_callbacks_that_change_parameters_are_heeded(crossings: Any) -> None:
    trainers = _trainer(), _trainer("numpy")
    for each in trainers:

        def halve(row: Any, each: Any = each) -> None:
            each.network.weights[0][...] /= 2

        each.fit(X, Y, epochs=3, callbacks=[halve])
    assert crossings() == [("device", P), ("device", 2 * P), *[("host", P), ("device", P)] * 2, ("host", P)]
    _same(*trainers)


@pytest.mark.parametrize("validates", [False, True])
def test_the_best_parameters_are_restored(validates: bool) -> None:
    """And the state that goes with them; patience ends both at the same epoch."""
    trainers = [_trainer(b, "mse", SGD(0.9, momentum=0.9)) for b in ("cuda", "numpy")]
    for each in trainers:
        held = (X[:5], np.eye(3)[Y[:5]]) if validates else None
        each.fit(X, np.eye(3)[Y], epochs=8, validation_data=held, patience=2)
    assert len(trainers[0].history["loss"]) == len(trainers[1].history["loss"])
    _same(*trainers)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the simulator's arithmetic
def test_divergence_restores_finite_parameters() -> None:
    trainer = _trainer(loss="mse", optimizer=SGD(1e200))
    before = trainer.network.parameters.copy()
    with pytest.warns(RuntimeWarning, match="diverged"):
        trainer.fit(X, np.eye(3)[Y], epochs=3)
    np.testing.assert_array_equal(trainer.network.parameters, before)


@pytest.mark.parametrize("resident", [True, False])
def test_evaluation_adds_no_penalty(resident: bool) -> None:
    """Nothing stores the weights' squares then; and the engine says how large its buffer is."""
    rule = OptimizerState.none(np.dtype("float64"))
    rule.l2_per_batch = 1.0
    with residency(resident):
        engine = cuda_engine.CudaEngine(
            SyncedArray(np.ones(P)), SIZES, (IDENTITY, IDENTITY), "cross_entropy", BATCH, rule
        )
    engine._allocate()
    norms, totals, flat = (engine._on_device[name] for name in ("norms", "totals", "flat"))
    norms.copy_to_device(np.full(norms.size, np.nan))
    engine.evaluate([(X, Y, None, 0)], ROWS)
    assert totals.copy_to_host()[2] == 0
    assert engine.nbytes == 8 * flat.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_found(bad: float) -> None:
    """In the last parameter, and in the last element of the state."""
    for at in (0, 1):
        arrays = np.ones(P), np.ones((2, P))
        best = cuda_best.DeviceBestState(*map(SyncedArray, arrays), np.zeros(1, np.int64))
        assert best.is_finite()
        arrays[at][..., -1] = bad
        best = cuda_best.DeviceBestState(*map(SyncedArray, arrays), np.zeros(1, np.int64))
        assert not best.is_finite()


def test_ctrl_c_again_and_again_loses_nothing() -> None:
    """While an interrupted epoch's results come back."""
    ours, truth = _trainer(), _trainer("numpy")
    step, settle = cuda_engine.CudaEngine._step, cuda_counters._settle
    steps, settles = list[int](), list[int]()

    def stepped(self: Any, *arguments: Any) -> None:
        steps.append(0)
        if len(steps) == 2:
            raise KeyboardInterrupt
        step(self, 1, *arguments[1:])

    def settled(*arguments: Any) -> None:
        settles.append(0)
        if len(settles) < 4:
            raise KeyboardInterrupt
        settle(*arguments)

    with (
        mock.patch.object(cuda_engine.CudaEngine, "_step", stepped),
        mock.patch.object(cuda_counters, "_settle", settled),
        pytest.raises(KeyboardInterrupt),
    ):
        ours.fit(X, Y, epochs=1)
    assert (len(settles), ours._state.progress["row"]) == (4, BATCH)
    ours.fit(X, Y, epochs=1)
    truth.fit(X, Y, epochs=1)
    _same(ours, truth)


def test_several_trainers_one_after_the_other() -> None:
    """As each alone, also on some rows, in another order or not, and some of them twice."""
    rows = [np.arange(0, ROWS, 2), np.arange(ROWS)[::-1], np.array([0, 3, 3, *range(5, ROWS), 4, 4, 2, 0])]
    for shuffle in (True, False):
        ours, truth = ([_trainer(b, shuffle=shuffle) for _ in rows] for b in ("cuda", "numpy"))
        fit_many(ours, X, Y, 1, rows, validation_rows=rows[::-1])
        fit_many(truth, X, Y, 1, rows, validation_rows=rows[::-1])
        for one, other in zip(ours, truth, strict=True):
            _same(one, other)
            np.testing.assert_allclose(one.history["val_loss"], other.history["val_loss"])


KINDS: list[tuple[Any, dict[str, Any]]] = [
    (MLPClassifier, {"alpha": 0.1}),
    (MLPClassifier, {"solver": "sgd", "learning_rate": "invscaling", "nesterovs_momentum": False, "alpha": 0.0}),
    (MLPClassifier, {"early_stopping": True, "validation_fraction": 0.3}),
    (MLPRegressor, {"solver": "sgd", "alpha": 0.3}),
]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_estimators_of_scikit_learn(kind: Any, options: dict[str, Any], resident: bool) -> None:
    """Parameters and curves of backend numpy, penalty included, also where `fit` goes on."""
    y, weights = (Y if kind is MLPClassifier else np.sin(X)), np.linspace(0.5, 2, ROWS)
    options = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 9, "random_state": 0, **options}
    ours, truth = (kind(backend=backend, **options) for backend in ("cuda", "numpy"))
    with residency(resident):
        for each in (ours, truth):
            each.fit(X, y, weights)
            if not each.early_stopping:
                each.partial_fit(X, y)
    np.testing.assert_allclose(ours.loss_curve_, truth.loss_curve_, rtol=1e-9)
    for one, other in zip(ours.coefs_ + ours.intercepts_, truth.coefs_ + truth.intercepts_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours._forward_pass_fast(X), truth._forward_pass_fast(X), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("own", [True, False])
def test_callbacks_of_estimators_see_each_epochs_parameters(own: bool) -> None:
    """fastnet's, two in an array, and those of scikit-learn's protocol."""
    if own:
        pytest.importorskip("sklearn.callback", reason="scikit-learn has the protocol since 1.9")
    curves = []
    for backend in ("cuda", "numpy"):
        found = MLPClassifier((4,), max_iter=3, batch_size=9, random_state=0, backend=backend)
        seen: list[Any] = []

        class Recorder:
            setup = teardown = on_fit_task_begin = lambda *arguments, **data: None

            def on_fit_task_end(self, estimator: Any, context: Any, seen: Any = seen) -> None:
                seen.append(estimator.coefs_[0].copy())

        def record(row: Any, found: Any = found, seen: Any = seen) -> None:
            seen.append(found.coefs_[0].copy())

        (found.set_callbacks(Recorder()) if own else found.set_params(callbacks=np.array([record, record]))).fit(X, Y)
        curves.append(np.array(seen))
    np.testing.assert_allclose(*curves, rtol=1e-9, atol=1e-13)
    assert not np.array_equal(curves[0][0], curves[0][2])


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_the_largest_loss_of_a_row_is_scikit_learns() -> None:
    """Where it is sure of the wrong class."""
    far = MLPClassifier((), max_iter=1, batch_size=9, backend="numpy", random_state=0)
    far.fit(1000 * X, Y)
    ours = copy.deepcopy(far).set_params(backend="cuda", warm_start=True).fit(1000 * X, Y)
    truth = far.set_params(warm_start=True).fit(1000 * X, Y)
    np.testing.assert_allclose(ours.loss_curve_, truth.loss_curve_, rtol=1e-9)
    assert max(truth.loss_curve_) > 10


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_estimators_of_tables(kind: Any) -> None:
    y = Y if kind is TabularClassifier else X[:, 0]
    options = {"hidden_layer_sizes": 4, "epochs": 2, "batch_size": 8, "n_members": 2, "random_state": 0}
    ours, truth = (kind(backend=backend, **options).fit(X, y) for backend in ("cuda", "numpy"))
    np.testing.assert_allclose(ours.histories_[1]["val_loss"], truth.histories_[1]["val_loss"], rtol=1e-5)
    np.testing.assert_allclose(ours.ensemble_.predict(ours._inputs(X)), truth.ensemble_.predict(truth._inputs(X)), 1e-4)
