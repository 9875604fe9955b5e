"""What Trainer, optimizers and schedules refuse: the error says what arrived and what was expected."""

import array
import math
from typing import Any

import numpy as np
import pytest
from backends import LABELS, X, Y, trainer

from fastnet import SGD, Adam, AdamW, CosineDecay, StepDecay, Trainer, WarmUp


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


def test_rates_of_dropout_may_be_any_sequence() -> None:
    for rates in ([0.25, 0.5], np.array([0.25, 0.5], "float32"), array.array("d", [0.25, 0.5])):
        ours = trainer((3, 8, 5, 2), dropout=rates)
        assert ours.dropout == ours._state.dropout == (0.25, 0.5)
    for wrong in ("ab", np.array(0.5), ["a", "b"]):
        with pytest.raises(TypeError, match="expected a number"):
            trainer((3, 8, 5, 2), dropout=wrong)


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


@pytest.mark.parametrize("optimizer", [Adam(epsilon=1e-50), SGD(1e300)], ids=repr)
def test_hyper_parameters_must_fit_the_networks_dtype(optimizer: Any) -> None:
    trainer(optimizer=optimizer)
    with pytest.raises(ValueError, match=r"which float32 cannot hold; use another, or a network of dtype=\"float64\""):
        trainer(optimizer=optimizer, dtype="float32")


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


def test_sample_weight_sum_must_be_finite() -> None:
    with pytest.raises(ValueError, match="sample_weight sums to infinity; only ratios matter"):
        trainer().fit(X, Y, epochs=1, sample_weight=np.full(len(X), 1e308))


def test_evaluate_is_checked() -> None:
    with pytest.raises(ValueError, match="X has 2 columns"):
        trainer().evaluate(X[:, :2], Y)
