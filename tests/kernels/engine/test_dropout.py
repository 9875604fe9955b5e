"""Dropout: its masks, its gradient, the same bits everywhere, and nothing of it outside of training."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import X, assert_backends_agree, targets, trainer

from fastnet import SGD, Adam, Network, Trainer, fit_many
from fastnet.kernels.cpu.dropout import drop_rows
from fastnet.kernels.engine import engine
from fastnet.kernels.engine.numpy_engine import NumpyEngine
from fastnet.kernels.engine.optimizer_state import OptimizerState
from fastnet.kernels.engine.plan import parameter_count
from fastnet.kernels.reference import dropout as reference
from fastnet.kernels.specs import dropout as spec
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.kernels.specs.batches import MICRO_BATCH_ROWS

Kernel = Callable[..., None]

PLACES = [
    # rate, seed, step, layer, first row, rows, columns
    (0.5, 0, 0, 0, 0, 7, 33),
    (0.2, 2**64 - 1, 2**40 + 3, 2, 1019, 5, 100),
    (0.999, 12345678901234, 7, 1, 2**33, 3, 17),
    (1e-9, 1, 2, 3, 4, 2, 64),
]

# --------------------------------------------------------------------------------------------- masks


def check_kernel(kernel: Kernel, dtype: str) -> None:
    """Hold a kernel to the oracle's masks, to the bit."""
    for rate, seed, step, layer, first, rows, columns in PLACES:
        values = np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)
        values[0, 0], values[-1, -1] = np.inf, np.nan  # what is dropped is 0, whatever it was
        mask = reference.mask(rate, seed, step, layer, range(first, first + rows), columns)
        expected = reference.drop(rate, mask)(values)
        words = map(np.uint64, (spec.seed_key(seed), step, layer, first, spec.threshold(rate)))
        kernel(values, *words, spec.scale(rate))
        np.testing.assert_array_equal(values, expected)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernel_has_the_masks_of_the_oracle(dtype: str) -> None:
    check_kernel(drop_rows, dtype)


def mirrored(values: Any, *rest: Any) -> None:
    turned = values[:, ::-1].copy()
    drop_rows(turned, *rest)
    values[:] = turned[:, ::-1]


MUTANTS: dict[str, Kernel] = {
    "the step is forgotten": lambda v, key, step, *rest: drop_rows(v, key, np.uint64(0), *rest),
    "the upper half of the step": lambda v, key, step, *rest: drop_rows(v, key, step & np.uint64(2**32 - 1), *rest),
    "another layer": lambda v, key, step, layer, *rest: drop_rows(v, key, step, layer + np.uint64(1), *rest),
    "rows of the task": lambda v, key, step, layer, first, *rest: drop_rows(v, key, step, layer, np.uint64(0), *rest),
    "not scaled": lambda v, *rest: drop_rows(v, *rest[:-1], 1.0),
    "one in 32 stays": lambda v, *rest: drop_rows(v, *rest[:-2], rest[-2] - (rest[-2] >> np.uint64(5)), rest[-1]),
    "columns from the right": mirrored,
}


@pytest.mark.compiled
@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_masks_are_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        check_kernel(MUTANTS[name], "float32")


def test_masks_are_random() -> None:
    """Counts within 5.5 standard deviations, correlations within 5, over rows, columns, steps, layers and seeds."""
    places = list(itertools.product((0, 1, 2**32), (0, 1, 2), (0, 1)))
    for rate in (0.1, 0.5):
        masks = np.stack([reference.mask(rate, *place, range(128), 256) for place in places]).astype(float)
        off = (masks - (1 - rate)) / np.sqrt(rate * (1 - rate))  # of mean 0 and variance 1
        for axes in (None, (0,), (1,), (2,), (1, 2), (0, 1), (0, 2)):
            sums = off.sum(axis=axes)
            assert np.abs(sums).max() < 5.5 * np.sqrt(off.size / np.size(sums))
        for lag, axis in itertools.product((1, 2, 3, 4, 7, 8, 16), (0, 1, 2)):
            assert abs((off * np.roll(off, lag, axis)).mean()) < 5 / np.sqrt(off.size)


# ------------------------------------------------------------------------------------------ gradients

SIZES = (3, 8, 5, 2)


def engine_of(hidden: str, backend: Any, parameters: Any, rates: Any = (0.4, 0.25)) -> Any:
    codes = [ACTIVATIONS[name].code for name in (hidden, hidden, "identity")]
    rule = OptimizerState.none(parameters.dtype)
    rule.dropout, rule.seed = rates, 3
    return backend(parameters, SIZES, codes, batch_rows=len(X), optimizer=rule)


def check_gradient(made: Any, parameters: Any) -> None:
    """Compare the gradient with differences of the objective, which has the mask of the same step."""
    y = targets("mse")[:, :2]
    x = np.ascontiguousarray(X)
    rule = made.plan if hasattr(made, "plan") else made._optimizer

    def objective() -> tuple[float, Any]:
        rule.progress["step"] = 11
        value, gradient = made.loss_and_gradient(x, np.ascontiguousarray(y))
        return value, gradient

    gradient = objective()[1]
    for i in range(parameters.size):
        kept, values = parameters[i], []
        for step in (1e-6, -1e-6):
            parameters[i] = kept + step
            values.append(objective()[0])
        parameters[i] = kept
        assert gradient[i] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("hidden", ["relu", "tanh", "elu", "mish", "identity"])
@pytest.mark.parametrize("backend", [NumpyEngine, pytest.param(engine.CpuEngine, marks=pytest.mark.compiled)])
def test_gradient_with_a_fixed_mask(backend: Any, hidden: str) -> None:
    parameters = np.random.default_rng(1).standard_normal(parameter_count(SIZES))
    check_gradient(engine_of(hidden, backend, parameters), parameters)


@pytest.mark.compiled
def test_wrong_gradients_are_noticed() -> None:
    """tanh's derivative taken from dropped outputs."""
    parameters = np.random.default_rng(1).standard_normal(parameter_count(SIZES))
    wrong = engine_of("tanh", engine.CpuEngine, parameters)
    wrong.evaluation_plan()  # links the kernels
    table = wrong.plan.layers
    table["dropped"][:-1] = table["output"][:-1]
    with pytest.raises(AssertionError):
        check_gradient(wrong, parameters)


# ----------------------------------------------------------------------------------------------- bits


@pytest.mark.compiled
@pytest.mark.parametrize("hidden", ["relu", "tanh", "gelu", "sigmoid", "identity"])
@pytest.mark.parametrize("dropout", [0.5, (0.0, 0.3), (0.3, 0.0)], ids=str)
def test_backends_agree(hidden: str, dropout: Any) -> None:
    options = {"loss": "cross_entropy", "optimizer": Adam(), "hidden": hidden, "dropout": dropout, "seed": 2**63}
    assert_backends_agree(options, {"validation_split": 0.2, "sample_weight": np.linspace(0, 1, 50)})


@pytest.mark.compiled
@pytest.mark.parametrize("hidden", ["relu", "tanh"])
def test_threads_never_change_a_bit(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of several micro-batches, the last one short."""
    monkeypatch.setattr(engine, "SURE_FLOPS", 0)
    monkeypatch.setattr(engine, "THREAD_FLOPS", 0)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((3000, 40)).astype("float32"), rng.integers(0, 10, 3000)
    for batch in (100, 2500):
        runs = []
        for threads in (1, 2, 3, None):
            ours = Trainer(
                Network((40, 100, 70, 10), hidden=hidden), "cross_entropy", Adam(), batch, dropout=0.3, threads=threads
            )
            ours.fit(x, y, 2)
            runs.append((dict(ours.history), ours.network.parameters.tobytes()))
        assert all(run == runs[0] for run in runs)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_rows_of_a_batch_have_masks_of_their_own(backend: str) -> None:
    """Micro-batches of one batch: the second one's rows are not dropped as the first one's."""
    rows = 2 * MICRO_BATCH_ROWS
    x, y = np.ones((rows, 1)), np.zeros((rows, 1))
    ours = trainer((1, 1, 1), optimizer=SGD(1.0), batch_size=None, shuffle=False, backend=backend, dropout=0.5)
    ours.network.parameters[:] = before = np.array([0.5, 0.1, 0.7, 0.2])
    ours.fit(x, y, 1)
    mask = reference.mask(0.5, 0, 0, 0, range(rows), 1)[:, 0]
    assert abs(mask[:MICRO_BATCH_ROWS].mean() - mask[MICRO_BATCH_ROWS:].mean()) > 1e-3, "else this shows nothing"
    w1, b1, w2, b2 = before
    hidden = np.maximum(w1 + b1, 0) * 2 * mask
    gradient = np.mean(2 * (hidden * w2 + b2) * hidden)
    assert before[2] - ours.network.parameters[2] == pytest.approx(gradient, rel=1e-12)


@pytest.mark.compiled
def test_fit_many_has_the_bits_of_fit() -> None:
    made = [[trainer((3, 8, 2), dropout=0.3, seed=seed) for seed in range(3)] for _ in range(2)]
    fit_many(made[0], X, targets("mse")[:, :2], 3)
    for mine, theirs in zip(*made, strict=True):
        theirs.fit(X, targets("mse")[:, :2], 3)
        assert mine.network.parameters.tobytes() == theirs.network.parameters.tobytes()


def test_rate_of_0_has_the_bits_of_no_dropout() -> None:
    plain, zero = (trainer((3, 8, 2), **options) for options in ({}, {"dropout": [0.0]}))
    for ours in (plain, zero):
        ours.fit(X, targets("mse")[:, :2], 3)
    assert plain.network.parameters.tobytes() == zero.network.parameters.tobytes()


# ---------------------------------------------------------------------------------- outside of training


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_prediction_evaluation_and_validation_drop_nothing(backend: str) -> None:
    y = targets("mse")[:, :2]
    ours = trainer((3, 50, 2), hidden="tanh", dropout=0.5, backend=backend)
    history = ours.fit(X, y, 3, validation_data=(X, y))
    by_hand = np.mean((ours.network.predict(X) - y) ** 2)
    assert ours.evaluate(X, y)["loss"] == pytest.approx(by_hand, rel=1e-12)
    assert history["val_loss"][-1] == pytest.approx(by_hand, rel=1e-12)
    assert history["loss"][-1] > 1.05 * by_hand, "the loss of training is the thinned network's"


def test_an_engine_that_trains_evaluates_without() -> None:
    parameters = np.random.default_rng(1).standard_normal(parameter_count(SIZES))
    y = np.ascontiguousarray(targets("mse")[:, :2])
    for backend in (NumpyEngine, engine.CPU):
        dropping, plain = (engine_of("tanh", backend, parameters, rates) for rates in ((0.5, 0.5), ()))
        dropping.train(X, y)
        assert dropping.evaluate([(X, y, None, 0)], len(X)) == plain.evaluate([(X, y, None, 0)], len(X))


# -------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("dropout", "error", "message"),
    [
        (1.0, ValueError, "dropout is 1.0; expected a finite number >= 0 and < 1"),
        (-0.1, ValueError, "dropout is -0.1; expected a finite number >= 0 and < 1"),
        (float("nan"), ValueError, "dropout is nan"),
        ("0.5", TypeError, "dropout is '0.5'; expected a number"),
        (True, TypeError, "dropout is True; expected a number"),
        ((0.1, 1.5), ValueError, r"dropout\[1\] is 1.5"),
        ((0.1,), ValueError, "dropout has 1 rate; expected 2, one for each hidden layer"),
    ],
)
def test_rates_are_checked(dropout: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer(SIZES, dropout=dropout)


def test_a_network_without_hidden_layers_drops_nothing() -> None:
    with pytest.raises(ValueError, match="no hidden layer whose outputs could be dropped"):
        trainer((3, 2), dropout=0.1)
    assert trainer((3, 2), dropout=0.0).dropout == 0


@pytest.mark.parametrize("rates", [(0.1,), (0.1, 1.0), (0.1, -0.1)])
def test_engines_check_what_they_are_given(rates: Any) -> None:
    for backend in (NumpyEngine, engine.CpuEngine):
        with pytest.raises(ValueError, match="rates of dropout"):
            engine_of("relu", backend, np.zeros(parameter_count(SIZES)), rates)
