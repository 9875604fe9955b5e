"""Trainings on every backend, compared with each other."""

from typing import Any

import numpy as np
import pytest

from fastnet import SGD, Adam, AdamW, Network, Trainer
from fastnet.kernels.engine import engine

X = np.random.default_rng(0).standard_normal((50, 3))
Y = np.stack([X[:, 0] - X[:, 1], np.sin(X[:, 2])], axis=1)
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)

OPTIMIZERS = [
    SGD(0.05),
    SGD(0.05, momentum=0.9),
    SGD(0.05, momentum=0.9, nesterov=True),
    Adam(0.01),
    AdamW(0.01, weight_decay=0.1),
]


def random_data(rows: int, sizes: tuple[int, ...], dtype: str) -> tuple[Any, Any]:
    """Return X and y, normally distributed, for a network of these layers."""
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((rows, size)).astype(dtype) for size in (sizes[0], sizes[-1]))  # type: ignore[return-value]


def trainer(sizes: Any = (3, 8, 2), **options: Any) -> Trainer:
    """Return a Trainer of a float64 network."""
    network = {name: options.pop(name) for name in ("hidden", "output", "dtype") if name in options}
    return Trainer(Network(sizes, **{"dtype": "float64", **network}), **options)


def targets(loss: str) -> Any:
    """Return targets for three outputs."""
    three = np.hstack([Y, Y[:, :1]])
    return {"cross_entropy": LABELS, "binary_cross_entropy": (three > 0).astype(float)}.get(loss, three)


def assert_backends_agree(options: dict[str, Any], fit: dict[str, Any]) -> None:
    """The numpy backend runs the oracle's own functions, so agreement is correctness; threads do not change a bit."""
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "SURE_FLOPS", 0)  # otherwise networks so small stay on one thread
        patch.setattr(engine, "THREAD_FLOPS", 0)
        for backend, threads in (("numpy", None), ("cpu", 1), ("cpu", None)):
            ours = trainer((3, 8, 5, 3), batch_size=5, backend=backend, threads=threads, **options)
            history = ours.fit(X, targets(options["loss"]), epochs=1, **fit)
            runs.append((dict(history), ours.network.parameters))
    for name, curve in runs[0][0].items():
        np.testing.assert_allclose(runs[1][0][name], curve, rtol=1e-11)
    np.testing.assert_allclose(runs[1][1], runs[0][1], rtol=1e-9, atol=1e-11)
    assert runs[1][0] == runs[2][0]
    assert runs[1][1].tobytes() == runs[2][1].tobytes()
