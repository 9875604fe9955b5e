"""The tables of losses and optimizers: they agree with what is generated from them, and wrong functions are noticed."""

import inspect
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

import fastnet
import fastnet.kernels
from fastnet.io import checkpoint
from fastnet.kernels.reference import losses as reference
from fastnet.kernels.reference import optimizers as reference_optimizers
from fastnet.kernels.registry import find, variants
from fastnet.kernels.specs.losses import LOSS_BY_CODE, LOSSES, LossSpec
from fastnet.kernels.specs.operations import OP_SPECS
from fastnet.kernels.specs.optimizers import OPTIMIZER_BY_CODE, OPTIMIZERS, UPDATES, OptimizerSpec
from fastnet.optimizers import OPTIMIZER_CLASSES

ELEMENTWISE = [spec for spec in LOSS_BY_CODE if spec.value is not None]
RULES = [spec for spec in OPTIMIZER_BY_CODE if spec.name != "none"]
HYPER = {"momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "alpha": 0.99, "epsilon": 1e-3, "weight_decay": 0.3}


def test_codes_are_positions() -> None:
    assert [spec.code for spec in LOSSES.values()] == list(range(len(LOSSES)))
    assert [spec.code for spec in OPTIMIZERS.values()] == list(range(len(OPTIMIZERS)))


def test_the_reference_states_every_loss_and_rule() -> None:
    assert set(reference.EQUATIONS) == set(LOSSES)
    assert set(reference_optimizers.RULES) == set(OPTIMIZERS)


def test_every_loss_is_a_public_operation_with_a_derivative() -> None:
    for name in LOSSES:
        for operation in (name, f"{name}_derivative"):
            assert operation in OP_SPECS
            function = getattr(fastnet.kernels, operation)
            assert function.__name__ == operation
            assert {"Parameters", "Returns", "Raises"} <= set((function.__doc__ or "").split())
            assert list(inspect.signature(function).parameters)[::2] == ["y_true", "variant"]
            assert variants(operation)[:2] == ("reference", "loops")


def test_updates_are_public_operations() -> None:
    for name, spec in UPDATES.items():
        assert OP_SPECS[name].in_place
        parameters = list(inspect.signature(getattr(fastnet.kernels, name)).parameters)
        assert parameters[: 3 + len(spec.state)] == ["parameters", "gradient", *spec.state, "learning_rate"]


def test_targets_decide_what_is_counted_and_asked_for() -> None:
    assert all(spec.targets in ("values", "probabilities", "labels") for spec in LOSS_BY_CODE)
    assert [spec.name for spec in LOSS_BY_CODE if spec.takes_labels] == ["cross_entropy"]
    assert all(bool(spec.probabilities) == spec.counts_correct for spec in LOSS_BY_CODE)
    assert all(spec.mean_over_outputs == (spec.targets == "values") for spec in LOSS_BY_CODE)


# -------------------------------------------------------------------------- functions of one element


def points(spec: LossSpec) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    targets = rng.uniform(0, 1, 40) if spec.targets == "probabilities" else rng.standard_normal(40) * 2
    return list(zip((rng.standard_normal(40) * 3).tolist(), targets.tolist(), strict=True))


def disagreement(spec: LossSpec) -> float:
    """Largest difference of the spec's functions from the reference's, and of the slope from central differences."""
    equations, worst, step = reference.EQUATIONS[LOSS_BY_CODE[spec.code].name], 0.0, 1e-6
    for z, y in points(spec):
        arrays = np.array([[y]]), np.array([[z]])
        worst = max(worst, abs(spec.value(z, y) - equations.value(*arrays).item()))
        worst = max(worst, abs(spec.slope(z, y) - equations.derivative(*arrays).item()))
        numeric = (spec.value(z + step, y) - spec.value(z - step, y)) / (2 * step)
        worst = max(worst, 1e-4 * abs(spec.slope(z, y) - numeric))  # differences have 8 digits
    return worst


@pytest.mark.parametrize("spec", ELEMENTWISE, ids=lambda spec: spec.name)
def test_functions_agree_with_the_reference_and_each_other(spec: LossSpec) -> None:
    assert disagreement(spec) < 1e-12


@pytest.mark.parametrize("spec", ELEMENTWISE, ids=lambda spec: spec.name)
def test_wrong_functions_are_noticed(spec: LossSpec) -> None:
    mutants = (
        {"value": lambda z, y: spec.value(z, y) * 1.001},
        {"value": lambda z, y: spec.value(z, y) + 1e-6},
        {"slope": lambda z, y: -spec.slope(z, y)},
        {"slope": lambda z, y: spec.slope(z, y) * 1.001},
        {"slope": lambda z, y: spec.slope(y, z)},
    )
    for mutant in mutants:
        assert disagreement(replace(spec, **mutant)) > 1e-9


@pytest.mark.parametrize("spec", ELEMENTWISE, ids=lambda spec: spec.name)
def test_functions_stay_in_float32(spec: LossSpec) -> None:
    """Constants have the type of z, so that the compiled functions do not widen float32."""
    z, y = np.float32(0.75), np.float32(0.25)
    if "math" not in spec.value.__code__.co_names:  # math's functions give Python floats, Numba's float32
        assert type(spec.value(z, y)) is type(spec.slope(z, y)) is np.float32


# ----------------------------------------------------------------------------------------- optimizers


def step_difference(spec: OptimizerSpec) -> float:
    """Largest difference of three steps by the spec's rule from three by the reference's."""
    rng, rate = np.random.default_rng(0), 0.05
    hyper = [HYPER[name] for name in spec.hyperparameters]
    ours, theirs = [rng.standard_normal(20), np.zeros(20), np.zeros(20)], [np.zeros(20) for _ in range(3)]
    theirs[0][:] = ours[0]
    for step in (1, 2, 3):
        gradient = rng.standard_normal(20)
        constants = spec.constants(hyper, rate, step)
        for i in range(20):
            values = spec.rule(ours[0][i], gradient[i], ours[1][i], ours[2][i], constants)
            for vector, value in zip(ours, values, strict=True):
                vector[i] = value
        state = theirs[1 : 1 + spec.state_vectors]
        reference_optimizers.update(spec.code, theirs[0], gradient, state, hyper, rate, step)
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("spec", RULES, ids=lambda spec: spec.name)
def test_rules_agree_with_the_reference(spec: OptimizerSpec) -> None:
    assert step_difference(spec) < 1e-14


@pytest.mark.parametrize("spec", RULES, ids=lambda spec: spec.name)
def test_wrong_rules_are_noticed(spec: OptimizerSpec) -> None:
    def slower(hyper: Any, rate: float, step: int) -> tuple[float, ...]:
        return spec.constants(hyper, rate * 0.999, step)

    def forgets(p: Any, g: Any, s0: Any, s1: Any, constants: Any) -> tuple[Any, Any, Any]:
        return (*spec.rule(p, g, s0, s1, constants)[:1], s0, s1)

    wrong: list[dict[str, Callable[..., Any]]] = [{"constants": slower}]
    if spec.state:
        wrong.append({"rule": forgets})
    for mutant in wrong:
        assert step_difference(replace(spec, **mutant)) > 1e-6


def test_classes_cover_the_rules_and_name_their_hyperparameters() -> None:
    made = [cls() for cls in OPTIMIZER_CLASSES.values()]
    made += [fastnet.SGD(0.1, 0.9), fastnet.SGD(0.1, 0.9, nesterov=True)]
    assert {optimizer.spec.name for optimizer in made} == set(OPTIMIZERS) - {"none"}
    for optimizer in made:
        names = {field.name for field in fields(optimizer)}
        for name in names - {"nesterov"}:
            with pytest.raises(ValueError, match=rf"{type(optimizer).__name__} {name} is -1"):
                replace(optimizer, **{name: -1})
        for name, value in zip(optimizer.spec.hyperparameters, optimizer.hyper, strict=True):
            assert value == (getattr(optimizer, name) if name in names else 0)


def test_checkpoints_know_every_optimizer() -> None:
    for cls in OPTIMIZER_CLASSES.values():
        optimizer = cls()
        assert checkpoint._from_json(checkpoint._to_json(optimizer)) == optimizer


def test_rmsprop_written_out() -> None:
    """PyTorch's form in plain Python numbers: epsilon is added to the root."""
    p, v = 1.0, 0.0
    parameters, square = np.array([p]), np.array([v])
    for g in (0.5, -2.0, 0.0, 1e-9):
        v = 0.99 * v + (1 - 0.99) * g * g
        p -= 0.1 * g / (math.sqrt(v) + 1e-8)
        fastnet.kernels.rmsprop_update(parameters, np.array([g]), square, 0.1)
        assert parameters[0] == pytest.approx(p, rel=1e-14)
        assert square[0] == pytest.approx(v, rel=1e-14)
    assert find("rmsprop_update", "auto") is find("rmsprop_update", "loops")


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("RMSprop learning_rate is 0; expected", {"learning_rate": 0}),
        ("RMSprop alpha is 1; expected", {"alpha": 1}),
        ("RMSprop epsilon is 0; expected", {"epsilon": 0}),
    ],
)
def test_rmsprop_refuses(message: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=message):
        fastnet.RMSprop(**options)
