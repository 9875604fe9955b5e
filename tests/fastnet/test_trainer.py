"""Trainer: batches, shuffling, validation, patience, callbacks, progress, divergence, validation; both backends."""

import array
import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
from backends import LABELS, X, Y, assert_backends_agree, trainer

import fastnet.data
from fastnet import SGD, Adam, AdamW, CosineDecay, StepDecay, Trainer, WarmUp
from fastnet.fit_session import FitSession
from fastnet.kernels.engine import engine as engine_module
from fastnet.kernels.engine import numpy_engine, rng, training_step, tuner
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import layers, losses, optimizers
from fastnet.trainer import DivergenceWarning

OPTIMIZERS = [
    SGD(0.05),
    SGD(0.05, momentum=0.9),
    SGD(0.05, momentum=0.9, nesterov=True),
    Adam(0.01),
    AdamW(0.01, weight_decay=0.1),
]


# ------------------------------------------------------------------------------------- trajectories


LOSSES = ["mse", "mae", "huber", "cross_entropy", "binary_cross_entropy"]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("hidden", [activation.name for activation in reference.ACTIVATIONS])
@pytest.mark.parametrize("loss", LOSSES)
def test_backends_agree_over_ten_steps(loss: str, hidden: str, optimizer: Any) -> None:
    assert_backends_agree({"loss": loss, "hidden": hidden, "optimizer": optimizer}, {})


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_backends_agree_with_all_options(loss: str, optimizer: Any, rng: np.random.Generator) -> None:
    weights = rng.uniform(0, 2, 50) * (np.arange(50) % 7 > 0)
    schedule = WarmUp(0.5, CosineDecay(optimizer.learning_rate, 2))
    assert_backends_agree(
        {
            "loss": loss,
            "hidden": ["tanh", "relu"],
            "output": "identity",
            "optimizer": dataclasses.replace(optimizer, learning_rate=schedule),
            "l2": 0.1,
            "clip_norm": 0.3,
        },
        {"sample_weight": weights, "validation_split": 0.2},
    )


@pytest.mark.parametrize("output", [activation.name for activation in reference.ACTIVATIONS])
def test_backends_agree_for_every_output_activation(output: str) -> None:
    assert_backends_agree({"loss": "mse", "output": output, "optimizer": SGD(0.05)}, {})


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_epoch_equals_the_loop_written_out(optimizer: Any) -> None:
    """Forward, loss, backward, update in plain NumPy, batch by batch, the last one short."""
    ours = trainer(optimizer=optimizer, batch_size=16, shuffle=False)
    net = trainer().network
    (W1, W2), (b1, b2) = net.weights, net.biases
    state = [np.zeros_like(net.parameters) for _ in range(max(1, optimizer.spec.state_vectors))]
    batch_losses, rows = [], []
    for step, start in enumerate(range(0, 50, 16), start=1):
        x, y = X[start : start + 16], Y[start : start + 16]
        A1, Z1 = layers.dense_forward(x, W1, b1, reference.relu)
        A2, Z2 = layers.dense_forward(A1, W2, b2, reference.identity)
        batch_losses.append(losses.mse(y, A2))
        rows.append(len(x))
        d = losses.mse_derivative(y, A2)
        dW2, db2, dA1 = layers.dense_backward_batch(A1, Z2, d, W2, reference.identity_derivative)
        dW1, db1, _ = layers.dense_backward_batch(x, Z1, dA1, W1, reference.relu_derivative)
        gradient = np.concatenate([dW1.ravel(), db1, dW2.ravel(), db2])
        if isinstance(optimizer, Adam):
            hyper = (optimizer.learning_rate, optimizer.beta1, optimizer.beta2, optimizer.epsilon)
            hyper = (*hyper, getattr(optimizer, "weight_decay", 0.0))
            optimizers.adam_update(net.parameters, gradient, *state, *hyper, step)
        else:
            optimizers.sgd_update(
                net.parameters, gradient, *state, optimizer.learning_rate, optimizer.momentum, optimizer.nesterov
            )
    history = ours.fit(X, Y, epochs=1)
    assert history["loss"][0] == pytest.approx(np.average(batch_losses, weights=rows), rel=1e-12)
    np.testing.assert_allclose(ours.network.parameters, net.parameters, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000, None])
def test_every_batch_size_learns(batch_size: int | None, backend: str) -> None:
    ours = trainer(optimizer=Adam(0.01), batch_size=batch_size, backend=backend)
    before = ours.evaluate(X, Y)["loss"]
    ours.fit(X, Y, epochs=60)
    assert ours.evaluate(X, Y)["loss"] < 0.6 * before
    assert list(ours.history) == ["loss"]


def test_batch_larger_than_the_data_is_the_full_batch() -> None:
    runs = [trainer(batch_size=size, shuffle=False).fit(X, Y, epochs=3)["loss"] for size in (None, 50, 10**9)]
    assert runs[0] == runs[1] == runs[2]


def test_batch_of_one_row() -> None:
    assert math.isfinite(trainer().fit(X[:1], Y[:1], epochs=2)["loss"][-1])


# ----------------------------------------------------------------------------- shuffling and repeats


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_seed_determines_every_bit(dtype: str, backend: str) -> None:
    runs = [trainer(dtype=dtype, seed=4, backend=backend) for _ in range(2)]
    for run in runs:
        run.fit(X, Y, epochs=5)
    assert runs[0].network.parameters.tobytes() == runs[1].network.parameters.tobytes()
    assert runs[0].history == runs[1].history
    other = trainer(dtype=dtype, seed=5, backend=backend)
    other.fit(X, Y, epochs=5)
    assert runs[0].network.parameters.tobytes() != other.network.parameters.tobytes()


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [None, 1, 2, 7])
def test_threads_do_not_change_a_bit(threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SURE_FLOPS", 0)
    monkeypatch.setattr(engine_module, "THREAD_FLOPS", 0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 100)), rng.integers(0, 10, 300)
    runs = []
    for options in ({"threads": 1}, {"threads": threads}):
        ours = trainer(
            (100, 150, 10), loss="cross_entropy", optimizer=Adam(), batch_size=128, dtype="float32", **options
        )
        ours.fit(x, y, epochs=3, validation_split=0.1)
        runs.append((ours.network.parameters.tobytes(), dict(ours.history), ours.evaluate(x, y)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_fit_continues_where_it_stopped(optimizer: Any) -> None:
    once, twice = trainer(optimizer=optimizer), trainer(optimizer=optimizer)
    once.fit(X, Y, epochs=10)
    twice.fit(X, Y, epochs=4)
    history = twice.fit(X, Y, epochs=6)
    assert history is twice.history
    assert history.epochs == 10
    assert once.network.parameters.tobytes() == twice.network.parameters.tobytes()
    assert once.history == history


def test_shuffling_visits_every_row_once_in_another_order_each_epoch() -> None:
    orders = [np.empty(20, np.int64) for _ in range(3)]
    for order, (seed, epoch) in zip(orders, ((3, 0), (3, 1), (4, 0)), strict=True):
        rng.shuffle(order, seed, epoch)
        assert sorted(order.tolist()) == list(range(20))
    assert len({tuple(order) for order in (*orders, range(20))}) == 4
    again = np.empty(20, np.int64)
    rng.shuffle(again, 3, 1)
    assert (again == orders[1]).all(), "the order of an epoch is a function of seed and epoch"


def test_shuffling_is_fair() -> None:
    """Every row is equally often at every place: chi-squared over 6 rows and 6000 epochs, far from both tails."""
    counts = np.zeros((6, 6))
    order = np.empty(6, np.int64)
    for epoch in range(6000):
        rng.shuffle(order, 0, epoch)
        counts[np.arange(6), order] += 1
    assert 5 < ((counts - 1000) ** 2 / 1000).sum() < 60  # 25 expected


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_shuffling_order_is_used_in_training(backend: str) -> None:
    shuffled, sorted_ = (
        trainer(optimizer=SGD(0.05), batch_size=7, shuffle=s, seed=3, backend=backend) for s in (True, False)
    )
    order = np.empty(50, np.int64)
    for epoch in range(3):
        rng.shuffle(order, 3, epoch)
        shuffled.fit(X, Y, epochs=1)
        sorted_.fit(X[order], Y[order], epochs=1)
        assert shuffled.network.parameters.tobytes() == sorted_.network.parameters.tobytes()


# ------------------------------------------------------------------------ validation and early stopping


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


@pytest.mark.parametrize("optimizer", [SGD(0.02), SGD(0.005, momentum=0.9), Adam(0.01)], ids=repr)
def test_patience_stops_and_restores_the_best(optimizer: Any) -> None:
    """Noise to fit and other noise to validate: the validation loss must rise."""
    rng = np.random.default_rng(1)
    noise, other = rng.standard_normal((20, 2)), (rng.standard_normal((20, 3)), rng.standard_normal((20, 2)))
    ours = trainer((3, 32, 2), optimizer=optimizer, batch_size=5)
    history = ours.fit(X[:20], noise, epochs=1000, validation_data=other, patience=7)
    best = history.best_epoch
    assert best is not None
    assert history.epochs == best + 1 + 7
    assert ours.evaluate(*other)["loss"] == history["val_loss"][best] == min(history["val_loss"])

    straight = trainer((3, 32, 2), optimizer=optimizer, batch_size=5)
    straight.fit(X[:20], noise, epochs=best + 1, validation_data=other)
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


def test_rates_of_dropout_may_be_any_sequence() -> None:
    for rates in ([0.25, 0.5], np.array([0.25, 0.5], "float32"), array.array("d", [0.25, 0.5])):
        ours = trainer((3, 8, 5, 2), dropout=rates)
        assert ours.dropout == ours._state.dropout == (0.25, 0.5)
    for wrong in ("ab", np.array(0.5), ["a", "b"]):
        with pytest.raises(TypeError, match="expected a number"):
            trainer((3, 8, 5, 2), dropout=wrong)


def test_patience_without_validation_may_keep_the_last_epoch() -> None:
    """The loss at the last epoch's end is measured by no epoch."""
    ours, plain = trainer(batch_size=None), trainer(batch_size=None)
    for _ in range(3):
        ours.fit(X, Y, epochs=2, patience=3)
    plain.fit(X, Y, epochs=6)
    assert ours.network.parameters.tobytes() == plain.network.parameters.tobytes()


def test_callback_may_change_the_parameters() -> None:
    """As projections and maximum norms do."""
    ours = trainer(optimizer=SGD(0.1))
    clip = ours.network.parameters
    for stop in (False, True):
        ours.fit(X, Y, epochs=3, callbacks=[lambda row, stop=stop: clip.clip(-0.05, 0.05, out=clip) is None or stop])
        assert np.abs(ours.network.parameters).max() <= 0.05


def test_patience_in_a_second_fit_never_ends_worse() -> None:
    rng = np.random.default_rng(1)
    noise, other = rng.standard_normal((20, 2)), (rng.standard_normal((20, 3)), rng.standard_normal((20, 2)))
    ours = trainer((3, 32, 2), optimizer=Adam(0.01), batch_size=5)
    ours.fit(X[:20], noise, epochs=1000, validation_data=other, patience=7)
    best = ours.evaluate(*other)["loss"]
    ours.fit(X[:20], noise, epochs=1000, validation_data=other, patience=2)
    assert ours.evaluate(*other)["loss"] <= best


def test_patience_restores_the_best_even_when_interrupted() -> None:
    rng = np.random.default_rng(1)
    other = (rng.standard_normal((20, 3)), rng.standard_normal((20, 2)))

    def interrupt(row: dict[str, float]) -> None:
        if row["epoch"] == 150:
            raise KeyboardInterrupt

    ours = trainer((3, 32, 2), optimizer=Adam(0.01), batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        ours.fit(X[:20], rng.standard_normal((20, 2)), 500, validation_data=other, patience=1000, callbacks=[interrupt])
    assert ours.history.epochs == 151
    assert ours.evaluate(*other)["loss"] == min(ours.history["val_loss"])
    assert ours.history.best_epoch != 150


@pytest.mark.sampled(3)
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("calls", [1, 4, 7, 10])
def test_interruption_leaves_whole_steps(
    calls: int, optimizer: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after any call of the compiled loop: what ends later is what a straight run ends at, to the bit."""
    straight, ours = (trainer(optimizer=optimizer, batch_size=16, backend=backend) for _ in range(2))
    straight.fit(X, Y, epochs=5)
    module: Any = numpy_engine if backend == "numpy" else training_step
    name, left = "_count" if backend == "numpy" else "run", [calls]
    run = getattr(module, name)

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "CALL_S", 1e-9)  # one step a call
        patch.setattr(engine_module, "_FIRST_CALL_FLOPS", 1)
        patch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            ours.fit(X, Y, epochs=5)
    assert ours.history.epochs < 5
    assert ours.history["loss"] == straight.history["loss"][: ours.history.epochs] if ours.history else True
    ours.fit(X, Y, epochs=5 - ours.history.epochs)
    assert ours.network.parameters.tobytes() == straight.network.parameters.tobytes()
    assert ours.history == straight.history


# ------------------------------------------------------------------------------ callbacks and progress


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


def test_progress_leaves_standard_output_empty(capfd: pytest.CaptureFixture[str]) -> None:
    trainer().fit(X, Y, epochs=2)
    assert capfd.readouterr() == ("", "")  # standard error is no terminal here, so no bar
    trainer().fit(X, Y, epochs=2, validation_split=0.1, progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    assert "val_loss=" in captured.err


# ------------------------------------------------------------------------------------------ divergence


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_divergence_warns_once_and_keeps_the_best_finite_parameters(backend: str) -> None:
    ours = trainer(optimizer=SGD(1e6), backend=backend)
    start = ours.network.parameters.copy()
    before = ours.evaluate(X, Y)["loss"]
    with pytest.warns(DivergenceWarning, match="training diverged in epoch .*lower learning rate") as caught:
        history = ours.fit(X, Y, epochs=500)
    assert len(caught) == 1
    assert history.epochs < 500
    assert not math.isfinite(history["loss"][-1]) or history.epochs == 1
    assert np.isfinite(ours.network.parameters).all()
    assert ours.evaluate(X, Y)["loss"] <= before
    if history.best_epoch is None:
        assert (ours.network.parameters == start).all()


def test_an_error_after_divergence_leaves_finite_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Ctrl-C while the epoch that diverged is validated."""
    right, diverging = FitSession._validated, trainer(optimizer=SGD(1e200))

    def interrupted(session: FitSession) -> dict[str, float]:
        if diverging._state.step[0] > 0:
            assert not np.isfinite(diverging.network.parameters).all()
            raise KeyboardInterrupt
        return right(session)

    monkeypatch.setattr(FitSession, "_validated", interrupted)
    before = diverging.network.parameters.copy()
    with pytest.raises(KeyboardInterrupt):
        diverging.fit(X, Y, epochs=1, validation_data=(X, Y))
    np.testing.assert_array_equal(diverging.network.parameters, before)


def test_divergence_in_full_batch_keeps_the_best_parameters() -> None:
    ours = trainer(optimizer=SGD(5.0), batch_size=None)
    with pytest.warns(DivergenceWarning):
        history = ours.fit(X, Y, epochs=500)
    assert ours.evaluate(X, Y)["loss"] == pytest.approx(np.nanmin(history["loss"]), rel=1e-12)


def test_divergence_of_the_validation_loss() -> None:
    ours = trainer(optimizer=SGD(1e-3))
    with pytest.warns(DivergenceWarning, match="epoch 1"):
        ours.fit(X, Y, epochs=5, validation_data=(np.full((2, 3), 1e200), Y[:2]))
    assert ours.history.epochs == 1


def test_divergence_in_the_last_step_is_noticed() -> None:
    ours = trainer((1, 1), optimizer=SGD(1e300), batch_size=None)
    with pytest.warns(RuntimeWarning, match="diverged in epoch 1"):
        history = ours.fit([[1e10]], [-1e10], epochs=1)
    assert math.isfinite(history["loss"][0])
    assert np.isfinite(ours.network.parameters).all()


# ---------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "unknown loss 'l1'; there are: mse, mae, huber, cross_entropy, binary", {"loss": "l1"}),
        (ValueError, "l2 is -1; expected a finite number >= 0", {"l2": -1}),
        (ValueError, "clip_norm is 0; expected a finite number > 0", {"clip_norm": 0}),
        (ValueError, "binary_cross_entropy applies the sigmoid", {"loss": "binary_cross_entropy", "output": "tanh"}),
        (ValueError, 'backend is .serial., a former name; use backend="cpu", threads=1', {"backend": "serial"}),
        (ValueError, "unknown backend 'gpu'; there are: numpy, cpu, cuda, auto", {"backend": "gpu"}),
        (ValueError, "batch_size is 0; expected a whole number of at least 1, or None", {"batch_size": 0}),
        (TypeError, "batch_size is 2.5; expected a whole number", {"batch_size": 2.5}),
        (TypeError, "batch_size is True", {"batch_size": True}),
        (TypeError, "optimizer is 'adam'; expected one such as", {"optimizer": "adam"}),
        (TypeError, "optimizer is <class", {"optimizer": Adam}),
        (TypeError, "shuffle is 'no'", {"shuffle": "no"}),
        (ValueError, "seed is -3", {"seed": -3}),
        (ValueError, "threads is 0; expected a whole number of at least 1, or None for all", {"threads": 0}),
        (TypeError, "threads is 1.5", {"threads": 1.5}),
        (ValueError, "output is 'sigmoid'; build it with", {"loss": "cross_entropy", "output": "sigmoid"}),
        (ValueError, "at least 2; this network has 1", {"loss": "cross_entropy", "sizes": (3, 1)}),
    ],
)
def test_construction_is_checked(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        trainer(**options)


def test_construction_requires_a_network() -> None:
    with pytest.raises(TypeError, match=r"network is a list; expected a fastnet.Network"):
        Trainer([3, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "make"),
    [
        (ValueError, lambda: SGD(0)),
        (ValueError, lambda: SGD(-0.1)),
        (ValueError, lambda: SGD(math.nan)),
        (ValueError, lambda: SGD(math.inf)),
        (ValueError, lambda: SGD(10**400)),
        (TypeError, lambda: SGD("fast")),
        (TypeError, lambda: SGD(True)),
        (ValueError, lambda: SGD(momentum=1)),
        (ValueError, lambda: SGD(nesterov=True)),
        (TypeError, lambda: SGD(0.1, 0.9, nesterov=1)),
        (ValueError, lambda: AdamW(weight_decay=-1)),
        (ValueError, lambda: StepDecay(0.1, 0)),
        (ValueError, lambda: StepDecay(0.1, 5, 1.5)),
        (ValueError, lambda: CosineDecay(-1, 5)),
        (ValueError, lambda: CosineDecay(0.1, 5, 2)),
        (TypeError, lambda: WarmUp(1, "fast")),
        (ValueError, lambda: WarmUp(0, 0.1)),
        (ValueError, lambda: SGD(momentum=-0.1)),
        (ValueError, lambda: Adam(0)),
        (ValueError, lambda: Adam(beta1=1.0)),
        (ValueError, lambda: Adam(beta2=-0.1)),
        (ValueError, lambda: Adam(epsilon=0)),
    ],
)
def test_hyper_parameters_are_checked(error: type[Exception], make: Any) -> None:
    with pytest.raises(error, match=r"^(SGD|Adam|AdamW|StepDecay|CosineDecay|WarmUp) \w+ is .*; expected "):
        make()


def test_hyper_parameters_are_frozen() -> None:
    with pytest.raises(AttributeError):
        SGD().learning_rate = 1  # type: ignore[misc]


NAN_X = np.where(np.arange(150) == 31, np.nan, X.ravel()).reshape(50, 3)


@pytest.mark.parametrize(
    ("error", "message", "loss", "arguments", "options"),
    [
        (ValueError, "X has 2 columns; this network takes 3", "mse", (X[:, :2], Y), {}),
        (ValueError, "X holds NaN at row 10, column 1", "mse", (NAN_X, Y), {}),
        (ValueError, "X is empty", "mse", (X[:0], Y[:0]), {}),
        (ValueError, r"y has shape \(49, 2\); expected \(50, 2\)", "mse", (X, Y[:49]), {}),
        (ValueError, r'y has shape \(50,\); expected \(50, 2\).*loss="cross_entropy"', "mse", (X, LABELS), {}),
        (ValueError, "y holds infinity at row 0, column 0", "mse", (X, Y * np.inf), {}),
        (TypeError, "y has dtype <U3; expected class labels", "cross_entropy", (X, ["cat"] * 50), {}),
        (ValueError, "y holds 2 in row", "cross_entropy", (X, LABELS), {}),
        (ValueError, "epochs is 0", "mse", (X, Y, 0), {}),
        (TypeError, "epochs is 1.5", "mse", (X, Y, 1.5), {}),
        (ValueError, "patience is 0", "mse", (X, Y), {"patience": 0}),
        (ValueError, "validation_split is 1", "mse", (X, Y), {"validation_split": 1}),
        (ValueError, "validation_split is nan", "mse", (X, Y), {"validation_split": math.nan}),
        (ValueError, "both given", "mse", (X, Y), {"validation_split": 0.1, "validation_data": (X, Y)}),
        (ValueError, "leaves none", "mse", (X[:1], Y[:1]), {"validation_split": 0.5}),
        (TypeError, "must be a pair", "mse", (X, Y), {"validation_data": X}),
        (ValueError, "validation X has 1 column;", "mse", (X, Y), {"validation_data": (X[:, :1], Y)}),
        (ValueError, r"validation y has shape \(50, 1\)", "mse", (X, Y), {"validation_data": (X, Y[:, :1])}),
        (TypeError, "callbacks holds 3", "mse", (X, Y), {"callbacks": [3]}),
        (TypeError, "callbacks is <built-in function print>; expected a list", "mse", (X, Y), {"callbacks": print}),
    ],
)
def test_fit_is_checked_and_changes_nothing(
    error: type[Exception], message: str, loss: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    ours = trainer(loss=loss, optimizer=SGD(0.1, momentum=0.5))
    before = ours.network.parameters.copy()
    with pytest.raises(error, match=message):
        ours.fit(*arguments, **options)
    assert (ours.network.parameters == before).all()
    assert ours.history.epochs == 0
    assert ours.network.loss is None
    assert ours._state.progress["step"] == 0
    assert not ours._state.vectors.any()


def test_parameters_must_be_trainable() -> None:
    ours = trainer()
    ours.network.parameters[3] = np.nan
    with pytest.raises(ValueError, match=r"network.parameters holds NaN at row 3"):
        ours.fit(X, Y)
    ours = trainer()
    ours.network.parameters.flags.writeable = False
    with pytest.raises(ValueError, match=r"network.parameters is read-only"):
        ours.fit(X, Y)


def test_fit_is_not_reentrant() -> None:
    ours = trainer()
    with pytest.raises(RuntimeError, match="already in fit"):
        ours.fit(X, Y, epochs=2, callbacks=[lambda row: ours.fit(X, Y, epochs=1)])
    assert ours.fit(X, Y, epochs=1).epochs == 2, "and is free again after an error"


def test_attributes_are_read_only() -> None:
    ours = trainer()
    for name, value in {"backend": "numpy", "batch_size": 0, "optimizer": Adam(), "loss": "mae"}.items():
        with pytest.raises(AttributeError, match=f"{name} cannot be changed; make another Trainer"):
            setattr(ours, name, value)


def test_copies_made_in_a_callback_can_be_fitted() -> None:
    copies: list[Trainer] = []
    ours = trainer()
    ours.fit(X, Y, epochs=1, callbacks=[lambda row: copies.append(pickle.loads(pickle.dumps(ours)))])
    copies[0].fit(X, Y, epochs=1)
    ours.fit(X, Y, epochs=1)
    assert copies[0].network.parameters.tobytes() == ours.network.parameters.tobytes()


@pytest.mark.parametrize("optimizer", [Adam(epsilon=1e-50), SGD(1e300)], ids=repr)
def test_hyper_parameters_must_fit_the_networks_dtype(optimizer: Any) -> None:
    trainer(optimizer=optimizer)
    with pytest.raises(ValueError, match=r"which float32 cannot hold; use another, or a network of dtype=\"float64\""):
        trainer(optimizer=optimizer, dtype="float32")


def test_progress_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    trainer().fit(X, Y, epochs=1)


def test_repr_of_a_trainer() -> None:
    assert repr(trainer(optimizer=Adam(0.01), seed=3)).endswith(
        "loss='mse', optimizer=Adam(learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08), "
        "batch_size=32, shuffle=True, seed=3, l2=0, clip_norm=None, dropout=0.0, backend='cpu', threads=None)"
    )


def test_evaluate_is_checked() -> None:
    with pytest.raises(ValueError, match="X has 2 columns"):
        trainer().evaluate(X[:, :2], Y)


def test_one_output_takes_a_vector() -> None:
    flat, column = trainer((3, 4, 1)), trainer((3, 4, 1))
    flat.fit(X, Y[:, 0], epochs=2)
    column.fit(X, Y[:, :1], epochs=2)
    assert flat.network.parameters.tobytes() == column.network.parameters.tobytes()


def test_inputs_of_any_form_train_the_same() -> None:
    runs = []
    for x, y in ((X, Y), (X.tolist(), Y.tolist()), (np.asfortranarray(X), Y[::-1][::-1])):
        ours = trainer()
        ours.fit(x, y, epochs=2)
        runs.append(ours.network.parameters.tobytes())
    assert runs[0] == runs[1] == runs[2]


def test_sample_weight_sum_must_be_finite() -> None:
    with pytest.raises(ValueError, match="sample_weight sums to infinity; only ratios matter"):
        trainer().fit(X, Y, epochs=1, sample_weight=np.full(len(X), 1e308))
