"""The networks of tables, as `fastnet train FILE` and the estimators of tables train them.

In size and rates they are those of RealMLP's simple variant (Holzmüller, Grinsztajn and Steinwart 2024); docs/tables.md
says what of it was measured.
"""

import math
from typing import Any

import numpy as np

from .fit_session import evaluate_as_in_fit
from .kernels.specs.base import Array

HIDDEN = (256, 256, 256)
EPOCHS = 64
BETA2 = 0.95
"""Adam's: lower than usual, since a training takes a few hundred steps."""

ACTIVATIONS = {"classification": "relu", "regression": "mish"}
"""Of the hidden layers, by task."""

RATES = {"classification": 0.0025, "regression": 0.004}
"""Adam's learning rate at first, by task; it falls to 0 along half a cosine. Chosen on the tables of docs/tables.md."""

BATCH_SIZE = 256
SMOOTHING = 0.1
"""Share of a label that is spread over all classes."""


def even_batch(rows: int, batch_size: int = BATCH_SIZE) -> int:
    """Return about this batch size, so that the steps of an epoch are equally large.

    A short last one would count as much, at the same rate.
    """
    return -(-rows // max(1, round(rows / batch_size)))


def smoothed(labels: Array, classes: int, share: float) -> Array:
    """Return rows of probabilities, some of each label's spread over all classes."""
    return np.asarray(np.eye(classes)[labels] * (1 - share) + share / classes)


def annealed(epochs: int, of: float) -> int:
    """Return in how many epochs a rate that falls to 0 along a cosine sums up to the first epochs of a longer one's.

    Parameters
    ----------
    epochs : int
        The first epochs of the longer cosine.
    of : float
        How many epochs that one falls for.
    """
    return round(epochs + of / math.pi * math.sin(math.pi * epochs / of))


def kept(trainer: Any, validation: tuple[Any, ...]) -> tuple[int | None, float]:
    """Return the epoch whose parameters the network holds, None for those at the start, and its ``val_loss``.

    Parameters
    ----------
    trainer : Trainer
        It has kept the best epoch.
    validation : tuple (X, y) or (X, y, weights)
        By which it has chosen that.
    """
    value, best = evaluate_as_in_fit(trainer, *validation)["loss"], trainer.history.best_epoch
    return (best if best is not None and trainer.history["val_loss"][best] <= value * (1 + 1e-6) else None), value
