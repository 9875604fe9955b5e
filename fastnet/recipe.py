"""Default networks and training settings for tables, for `fastnet train FILE` and the estimators of tables.

Sizes and rates are those of RealMLP's simple variant (Holzmüller, Grinsztajn and Steinwart 2024); docs/tables.md
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
"""Adam's beta2: lower than usual, since training takes only a few hundred steps."""

ACTIVATIONS = {"classification": "relu", "regression": "mish"}
"""Activation of the hidden layers, by task."""

RATES = {"classification": 0.0025, "regression": 0.004}
"""Adam's initial learning rate, by task; it falls to 0 along half a cosine. Chosen on the tables of docs/tables.md."""

BATCH_SIZE = 256
SMOOTHING = 0.1
"""Label smoothing: the fraction of a label that is spread over all classes."""


def even_batch(rows: int, batch_size: int = BATCH_SIZE) -> int:
    """Return a batch size close to this one that makes the steps of an epoch about equally large.

    A short last batch would otherwise count as much as the others, at the same rate.
    """
    return -(-rows // max(1, round(rows / batch_size)))


def smoothed(labels: Array, classes: int, share: float) -> Array:
    """Return rows of probabilities: smoothed labels, of which a share is spread over all classes."""
    return np.asarray(np.eye(classes)[labels] * (1 - share) + share / classes)


def annealed(epochs: int, of: float) -> int:
    """Return the length of a cosine decay to 0 whose rates have the sum of a longer decay's first epochs.

    Parameters
    ----------
    epochs : int
        The number of first epochs of the longer decay.
    of : float
        The length of the longer decay in epochs.
    """
    return round(epochs + of / math.pi * math.sin(math.pi * epochs / of))


def kept(trainer: Any, validation: tuple[Any, ...]) -> tuple[int | None, float]:
    """Return the epoch whose parameters the network holds, None for those at the start, and its ``val_loss``.

    Parameters
    ----------
    trainer : Trainer
        A trainer that has kept its best epoch.
    validation : tuple (X, y) or (X, y, weights)
        The data by which it has chosen that epoch.
    """
    value, best = evaluate_as_in_fit(trainer, *validation)["loss"], trainer.history.best_epoch
    return (best if best is not None and trainer.history["val_loss"][best] <= value * (1 + 1e-6) else None), value
