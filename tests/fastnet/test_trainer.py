"""Trainer: the trajectories of all backends, batches, shuffling, what a fit continues and takes."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from backends import OPTIMIZERS, X, Y, assert_backends_agree, trainer

from fastnet import SGD, Adam, CosineDecay, WarmUp
from fastnet.kernels.engine import rng
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import layers, losses, optimizers

# ------------------------------------------------------------------------------------------------------- trajectories

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


# ---------------------------------------------------------------------------------------------- shuffling and repeats


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


# -------------------------------------------------------------------------------------------------------- one Trainer


def test_attributes_are_read_only() -> None:
    ours = trainer()
    for name, value in {"backend": "numpy", "batch_size": 0, "optimizer": Adam(), "loss": "mae"}.items():
        with pytest.raises(AttributeError, match=f"{name} cannot be changed; make another Trainer"):
            setattr(ours, name, value)


def test_repr_of_a_trainer() -> None:
    assert repr(trainer(optimizer=Adam(0.01), seed=3)).endswith(
        "loss='mse', optimizer=Adam(learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08), "
        "batch_size=32, shuffle=True, seed=3, l2=0, clip_norm=None, dropout=0.0, backend='cpu', threads=None)"
    )


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
