"""The article's code runs unchanged on fastnet's functions, and gives the article's numbers."""

from typing import Any

import article
import numpy as np
import pytest

import fastnet.kernels
from fastnet import SGD, Network, Trainer

SIZES = [5, 8, 3]
ROWS = 70  # the last mini-batch of 16 is short
PARAMETERS = ("W1", "b1", "W2", "b2")


def data(dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(13)
    X = rng.standard_normal((ROWS, 5))
    y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2], X.sum(axis=1)], axis=1)
    net = Network(SIZES, dtype=dtype, seed=3)
    (W1, W2), (b1, b2) = net.weights, net.biases
    names = {"X": X, "y": y, "W1": W1, "b1": b1, "W2": W2, "b2": b2}
    return {name: np.array(value, dtype) for name, value in names.items()}


def run(loop: str, functions: dict[str, Any], dtype: str) -> list[tuple[float, np.ndarray]]:
    """Execute a loop as printed; at every call of mse note the loss and the parameters."""
    notes: list[tuple[float, np.ndarray]] = []
    names: dict[str, Any] = {"np": np, **data(dtype), **functions}
    mse = names["mse"]

    def noting_mse(y_true: Any, y_pred: Any) -> Any:
        loss = mse(y_true, y_pred)
        notes.append((float(loss), np.concatenate([names[name].ravel() for name in PARAMETERS])))
        return loss

    names["mse"] = noting_mse
    exec(loop, names)
    return notes


def numpy_functions() -> dict[str, Any]:
    names: dict[str, Any] = {"np": np}
    exec(article.RESTATED + article.DEFINITIONS, names)
    return names


def fastnet_functions() -> dict[str, Any]:
    names = ("dense_forward", "dense_backward_batch", "relu", "relu_derivative", "mse", "mse_derivative")
    return {name: getattr(fastnet.kernels, name) for name in names}


def normwise(a: Any, b: Any) -> float:
    return float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b)))


LOOPS = {"batch": article.BATCH_LOOP, "mini-batch": article.MINI_BATCH_LOOP}
STEPS = {"batch": 1, "mini-batch": -(-ROWS // 16)}  # an epoch


@pytest.mark.parametrize("loop", LOOPS)
def test_article_loop_float64(loop: str) -> None:
    theirs, ours = (run(LOOPS[loop], functions, "float64") for functions in (numpy_functions(), fastnet_functions()))
    assert len(theirs) == len(ours) == 500 * STEPS[loop]
    assert theirs[-1][0] < 0.5 * theirs[0][0], "the example must learn something"
    for (loss, parameters), (our_loss, our_parameters) in zip(theirs, ours, strict=True):
        assert abs(our_loss - loss) <= 1e-12 * abs(loss)
        assert normwise(our_parameters, parameters) <= 1e-12


@pytest.mark.parametrize("loop", LOOPS)
def test_article_loop_float32(loop: str) -> None:
    theirs, ours = (run(LOOPS[loop], functions, "float32") for functions in (numpy_functions(), fastnet_functions()))
    ten_epochs = 10 * STEPS[loop]  # beyond, rounding alone drifts apart
    for (loss, parameters), (our_loss, our_parameters) in zip(theirs[:ten_epochs], ours[:ten_epochs], strict=True):
        assert abs(our_loss - loss) <= 1e-5 * abs(loss)
        assert normwise(our_parameters, parameters) <= 1e-5
    assert our_parameters.dtype == np.float32


def test_article_loop_output(capsys: pytest.CaptureFixture[str]) -> None:
    run(article.BATCH_LOOP, fastnet_functions(), "float64")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("Epoch 0, Loss: ")


def trainer(dtype: str, backend: str, batch_size: int | None) -> Trainer:
    net = Network(SIZES, dtype=dtype, seed=3)
    return Trainer(net, loss="mse", optimizer=SGD(0.01), batch_size=batch_size, shuffle=False, backend=backend)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize(("dtype", "tolerance", "epochs"), [("float64", 1e-12, 499), ("float32", 1e-5, 10)])
def test_trainer_equals_the_full_batch_loop(backend: str, dtype: str, tolerance: float, epochs: int) -> None:
    notes = run(article.BATCH_LOOP, numpy_functions(), dtype)[: epochs + 1]
    names = data(dtype)
    ours = trainer(dtype, backend, None)
    history = ours.fit(names["X"], names["y"], epochs=epochs)
    assert normwise(history["loss"], [loss for loss, _ in notes[:epochs]]) <= tolerance
    assert normwise(ours.network.parameters, notes[epochs][1]) <= tolerance


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize(("dtype", "tolerance", "epochs"), [("float64", 1e-12, 20), ("float32", 1e-5, 10)])
def test_trainer_equals_the_loop_batch_by_batch(backend: str, dtype: str, tolerance: float, epochs: int) -> None:
    notes = iter(run(article.MINI_BATCH_LOOP, numpy_functions(), dtype))
    names = data(dtype)
    ours = trainer(dtype, backend, 16)
    for _ in range(epochs):
        for i in range(0, ROWS, 16):
            loss, parameters = next(notes)
            assert normwise(ours.network.parameters, parameters) <= tolerance
            history = ours.fit(names["X"][i : i + 16], names["y"][i : i + 16], epochs=1)
            assert abs(history["loss"][-1] - loss) <= tolerance * abs(loss)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_trainer_equals_the_mini_batch_loop(backend: str) -> None:
    notes = run(article.MINI_BATCH_LOOP, numpy_functions(), "float64")
    names = data("float64")
    ours = trainer("float64", backend, 16)
    history = ours.fit(names["X"], names["y"], epochs=40)
    rows = np.array([16, 16, 16, 16, 6])
    losses = np.array([loss for loss, _ in notes[: 40 * len(rows)]]).reshape(40, len(rows))
    assert normwise(history["loss"], losses @ rows / ROWS) <= 1e-12
    assert normwise(ours.network.parameters, notes[40 * len(rows)][1]) <= 1e-12
