"""Trainings of random networks: backends agree, threads change no bit, interruptions leave no trace."""

import math
import pickle
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import trials

import fastnet
from fastnet import SGD, Adam, AdamW, CosineDecay, Network, RMSprop, StepDecay, Trainer, WarmUp
from fastnet.kernels.engine import engine, tuner
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.kernels.specs.losses import LOSSES


def rate(rng: np.random.Generator) -> Any:
    value = float(10 ** rng.uniform(-4, -2))
    choices = [value, StepDecay(value, 2), CosineDecay(value, 5), WarmUp(1.5, value)]
    return choices[rng.integers(len(choices))]


def optimizer(rng: np.random.Generator) -> Any:
    """Where a gradient is rounding error alone, Adam divides by it: epsilon keeps backends comparable."""
    made = [
        lambda: SGD(rate(rng)),
        lambda: SGD(rate(rng), 0.9),
        lambda: SGD(rate(rng), 0.5, nesterov=True),
        lambda: Adam(rate(rng), epsilon=1e-4),
        lambda: AdamW(rate(rng), epsilon=1e-4),
        lambda: RMSprop(rate(rng), epsilon=1e-4),
    ]
    return made[rng.integers(len(made))]()


def setting(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[Any, Any]]:
    """Return arguments of a Network, a Trainer and of fit, and data."""
    loss = str(rng.choice(list(LOSSES)))
    sizes = [int(rng.integers(1, 40)) for _ in range(rng.integers(2, 5))]
    sizes[-1] = max(sizes[-1], 2 * LOSSES[loss].takes_labels)
    names = [str(rng.choice(list(ACTIVATIONS))) for _ in sizes[1:]]
    if LOSSES[loss].probabilities:
        names[-1] = "identity"
    rows = int(rng.choice([1, 2, 3, 5, 17, 64, 100, 200, 1025, 1500]))
    X = rng.standard_normal((rows, sizes[0]))
    y: Any = rng.standard_normal((rows, sizes[-1]))
    if LOSSES[loss].takes_labels:
        y = rng.integers(0, sizes[-1], rows)
        if rng.random() < 0.4:
            y = rng.dirichlet(np.ones(sizes[-1]), rows)
    elif LOSSES[loss].unit_targets:
        y = (y > 0).astype(float)
    batch = int(rng.choice([1, 2, 7, 32, 100, 1024, 2000])) if rows < 300 else int(rng.choice([100, 1024, 2000]))
    training = {
        "loss": loss,
        "optimizer": optimizer(rng),
        "batch_size": None if rng.random() < 0.2 else batch,
        "shuffle": bool(rng.random() < 0.6),
        "seed": int(rng.integers(2**40)),
        "l2": float(rng.choice([0, 0, 1e-3])),
        "clip_norm": [None, None, 0.1, 1e3][rng.integers(4)],
        "dropout": [float(rng.choice([0, 0, 0.1, 0.5])) for _ in sizes[2:]],
    }
    fit = {"epochs": int(rng.integers(1, 4))}
    if rng.random() < 0.4 and rows > 3:
        fit["validation_split"] = 0.3
    if rng.random() < 0.4:
        lightest = 0.1 if "validation_split" in fit else 0.0  # rows held out that are all of weight 0 are refused
        fit["sample_weight"] = rng.choice([lightest, 0.5, 1.0, 3.0], rows) + (np.arange(rows) == 0)
    if rng.random() < 0.3 and ("validation_split" in fit or not any(training["dropout"])):
        fit["patience"] = 2
    dtype = str(rng.choice(["float32", "float64"]))
    return {"sizes": sizes, "hidden": names[:-1], "output": names[-1], "dtype": dtype}, training, fit, (X, y)


def trained(network: Any, training: Any, fit: Any, data: Any, **options: Any) -> Trainer:
    ours = Trainer(Network(**network), **training, **options)
    ours.fit(*data, **fit)
    return ours


@pytest.mark.exhaustive
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::fastnet.trainer.DivergenceWarning")
def test_backends_agree_on_random_trainings() -> None:
    for number, rng in trials("trainings on all backends", 60, 0.2):
        network, training, fit, data = setting(rng)
        network["dtype"] = "float64"
        one = trained(network, training, fit, data, backend="cpu", threads=1)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("SURE_FLOPS", "THREAD_FLOPS"):
                patch.setattr(engine, name, 0)  # otherwise networks so small stay on one thread
            many = trained(network, training, fit, data, backend="cpu")
        assert one.network.parameters.tobytes() == many.network.parameters.tobytes(), number
        assert repr(dict(one.history)) == repr(dict(many.history)), number
        oracle = trained(network, training, fit, data, backend="numpy")
        if "patience" not in fit or oracle.history.best_epoch == one.history.best_epoch:
            shown = f"trial {number}: {network}, {training}, {fit}"
            for name, curve in oracle.history.items():
                np.testing.assert_allclose(one.history[name], curve, rtol=1e-6, atol=1e-9, err_msg=shown)
            expected = oracle.network.parameters
            np.testing.assert_allclose(one.network.parameters, expected, rtol=1e-6, atol=1e-7, err_msg=shown)


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::fastnet.trainer.DivergenceWarning")
def test_interruptions_at_random_steps_leave_no_trace(tmp_path: Path) -> None:
    """Ctrl-C between any two compiled calls; then go on in the same Trainer, in a copy, or from the checkpoint."""
    for number, rng in trials("trainings interrupted and continued", 30, 0.1):
        network, training, fit, data = setting(rng)
        (tmp_path / "run").unlink(missing_ok=True)  # before its first step a fit replaces no other's checkpoint
        fit.pop("patience", None)
        fit["epochs"] = 4
        straight = trained(network, training, fit, data)
        ours, run, left = Trainer(Network(**network), **training), engine.training_step.run, [int(rng.integers(0, 12))]

        def step(*arguments: Any, run: Any = run, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            run(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuner, "CALL_S", 1e-12)
            patch.setattr(engine, "_FIRST_CALL_FLOPS", 1)
            patch.setattr(engine.training_step, "run", step)
            with suppress(KeyboardInterrupt):
                ours.fit(*data, **fit, checkpoint=tmp_path / "run")
        way = int(rng.integers(3))
        ours = (ours, pickle.loads(pickle.dumps(ours)), Trainer.resume(tmp_path / "run"))[way]
        if 4 - ours.history.epochs:
            ours.fit(*data, **{**fit, "epochs": 4 - ours.history.epochs})
        assert ours.network.parameters.tobytes() == straight.network.parameters.tobytes(), (number, way)


@pytest.mark.compiled
def test_predictions_of_random_networks(tmp_path: Path) -> None:
    """Of a network, its snapshot and its file, by row and by batch: the same bits, near the reference's numbers."""
    for number, rng in trials("networks predicting", 40, 0.05):
        network, _, _, (X, _) = setting(rng)
        net = Network(**network)
        net.parameters[:] = rng.uniform(-0.7, 0.7, net.parameters.size)
        found = net.predict(X)
        net.save(tmp_path / "net")
        for twin in (net.predictor(), fastnet.load(tmp_path / "net").predict, pickle.loads(pickle.dumps(net)).predict):
            assert twin(X).tobytes() == found.tobytes(), number
        row = int(rng.integers(len(X)))
        assert (net.predict(X[row : row + 1]) == found[row]).all(), number
        with warnings.catch_warnings(action="ignore"):
            from fastnet.kernels.engine.forward import NumpyForward

            forward = NumpyForward(net.layer_sizes, net.activations, net.dtype, False)
            expected = np.empty_like(found)
            forward(net.parameters, np.ascontiguousarray(X, net.dtype), expected, False)
        tolerance = 1e-4 if net.dtype == np.float32 else 1e-11
        scale = max(1.0, float(np.abs(expected).max()))
        assert math.isfinite(scale)
        assert np.abs(found - expected).max() <= tolerance * scale, number
