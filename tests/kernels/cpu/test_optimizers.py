"""Updates of parts of the vectors: a thread that updates its own part must leave the bits of the whole."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fastnet.kernels.cpu.optimizers import update_kernel
from fastnet.kernels.reference.optimizers import update as reference_update
from fastnet.kernels.specs.optimizers import LEAST_STATE, OPTIMIZERS

CUTS = ([0, 1003], [0, 1, 500, 1003], [0, 17, 17, 80, 999, 1003])
HYPER = {"momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "alpha": 0.99, "epsilon": 1e-8, "weight_decay": 0.3}


def vectors(count: int, dtype: str) -> list[Any]:
    rng = np.random.default_rng(0)
    return [np.abs(rng.standard_normal(1003)).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(OPTIMIZERS)[1:])
def test_parts_give_the_bits_of_the_whole(name: str, dtype: str) -> None:
    spec = OPTIMIZERS[name]
    hyper = np.array([HYPER[hyperparameter] for hyperparameter in spec.hyperparameters])
    kernel, whole = update_kernel(spec.code), vectors(4, dtype)
    kernel(*whole, hyper, 0.1, 7)
    for cuts in CUTS:
        parts = vectors(4, dtype)
        for begin, end in pairwise(cuts):
            kernel(*(part[begin:end] for part in parts), hyper, 0.1, 7)
        assert [part.tobytes() for part in parts] == [vector.tobytes() for vector in whole]


@pytest.mark.parametrize("name", list(OPTIMIZERS)[1:])
def test_states_that_a_rule_lacks_are_left_alone(name: str) -> None:
    spec = OPTIMIZERS[name]
    given, before = vectors(4, "float64"), vectors(4, "float64")
    hyper = np.array([HYPER[hyperparameter] for hyperparameter in spec.hyperparameters])
    update_kernel(spec.code)(*given, hyper, 0.1, 7)
    changed = [not np.array_equal(a, b) for a, b in zip(given, before, strict=True)]
    assert changed == [True, False, spec.state_vectors > 0, spec.state_vectors > 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(OPTIMIZERS)[1:])
def test_parameters_never_stay_among_denormal_numbers(name: str, dtype: str) -> None:
    """Weights that l2 or decay shrinks become 0, in compiled code as in NumPy; what is larger, and NaN, is kept."""
    spec = OPTIMIZERS[name]
    hyper = [HYPER[hyperparameter] for hyperparameter in spec.hyperparameters]
    for update in (update_kernel(spec.code), reference_update):
        p, g = np.array([LEAST_STATE / 4, -LEAST_STATE / 4, 1.0, np.nan], dtype), np.zeros(4, dtype)
        states = [np.ones(4, dtype) if "square" in spec.state else g.copy() for _ in range(2)]
        if spec.state_vectors == 2:
            states[0][:] = 0
        if update is reference_update:
            update(spec.code, p, g, states[: spec.state_vectors], hyper, 0.1, 7)
        else:
            update(p, g, *states, np.array(hyper), 0.1, 7)
        assert (p[:2] == 0).all(), update
        assert 0.5 < p[2] <= 1
        assert np.isnan(p[3])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name, spec in OPTIMIZERS.items() if spec.state])
def test_states_never_stay_among_denormal_numbers(name: str, dtype: str) -> None:
    """They decay to 0, in compiled code as in NumPy; what is larger, and NaN, is kept."""
    spec = OPTIMIZERS[name]
    hyper = [HYPER[hyperparameter] for hyperparameter in spec.hyperparameters]
    state = np.array([LEAST_STATE, LEAST_STATE * 4, 1e-45, 1.0, np.nan], dtype)
    found = []
    for update in (update_kernel(spec.code), reference_update):
        p, g, *states = np.ones(5, dtype), np.zeros(5, dtype), state.copy(), state.copy()
        if update is reference_update:
            update(spec.code, p, g, states[: spec.state_vectors], hyper, 0.1, 7)
        else:
            update(p, g, *states, np.array(hyper), 0.1, 7)
        found.append(np.array(states[: spec.state_vectors]))
        assert (found[-1][:, [0, 2]] == 0).all()
        assert (found[-1][:, [1, 3]] > LEAST_STATE).all()
        assert np.isnan(found[-1][:, 4]).all()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
