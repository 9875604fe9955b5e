"""Updates of slices: a thread that updates its own part of the parameters must leave the bits of the whole."""

from typing import Any

import numpy as np
import pytest

from fastnet.kernels.cpu import optimizers
from fastnet.kernels.jit.decorator import jit


@jit
def sgd_in_pieces(cuts: Any, p: Any, g: Any, v: Any, momentum: float, nesterov: bool) -> None:
    for i in range(cuts.size - 1):
        a, b = cuts[i], cuts[i + 1]
        optimizers.sgd_update(p[a:b], g[a:b], v[a:b], 0.1, momentum, nesterov)


@jit
def adam_in_pieces(cuts: Any, p: Any, g: Any, m: Any, v: Any, weight_decay: float, step: int) -> None:
    for i in range(cuts.size - 1):
        a, b = cuts[i], cuts[i + 1]
        optimizers.adam_update(p[a:b], g[a:b], m[a:b], v[a:b], 0.1, 0.9, 0.999, 1e-8, weight_decay, step)


CUTS = ([0, 1003], [0, 1, 500, 1003], [0, 17, 17, 80, 999, 1003])


def vectors(count: int, dtype: str) -> list[Any]:
    rng = np.random.default_rng(0)
    return [np.abs(rng.standard_normal(1003)).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_of_slices(momentum: float, nesterov: bool, dtype: str) -> None:
    whole = vectors(3, dtype)
    optimizers.sgd_update(*whole, 0.1, momentum, nesterov)
    for cuts in CUTS:
        parts = vectors(3, dtype)
        sgd_in_pieces(np.array(cuts), *parts, momentum, nesterov)
        assert [part.tobytes() for part in parts] == [vector.tobytes() for vector in whole]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adam_of_slices(weight_decay: float, dtype: str) -> None:
    whole = vectors(4, dtype)
    optimizers.adam_update(*whole, 0.1, 0.9, 0.999, 1e-8, weight_decay, 7)
    for cuts in CUTS:
        parts = vectors(4, dtype)
        adam_in_pieces(np.array(cuts), *parts, weight_decay, 7)
        assert [part.tobytes() for part in parts] == [vector.tobytes() for vector in whole]
