"""OptimizerState: an update rule with its hyper-parameters and state, and the progress of training."""

import math
from collections.abc import Sequence

import numpy as np

from ..specs.optimizers import HYPER_SIZE, OPTIMIZERS
from .backend import Array, new_progress, new_totals
from .synced import SyncedArray


class OptimizerState:
    """How parameters are updated; shared by a Trainer and the backend that it builds.

    Parameters
    ----------
    code : int
        Code of an `OptimizerSpec`.
    state : ndarray, shape (vectors, P)
        State vectors, of the parameters' dtype; each row is aligned to a cache line. Updated in place.
    hyper : sequence of float
        Hyper-parameters in the order of the spec; stored as float64 (8,).
    l2 : float, default 0.0
        Adds l2/2 times the sum of squared weights to the objective.
    clip_norm : float, default inf
        Largest Euclidean norm of a step's gradient.
    progress, totals : ndarray, optional
        Records PROGRESS and TOTALS; new ones by default.
    l2_per_batch : float, default 0.0
        An l2 that each batch divides by its weight, as scikit-learn does.
    max_row_loss : float, default inf
        Reported losses count a row for at most this much.
    dropout : sequence of float, optional
        Dropout rate of each hidden layer; empty for none.
    seed : int, default 0
        Seed of dropout's masks.
    """

    def __init__(
        self,
        code: int,
        state: Array,
        hyper: Sequence[float] | Array = (),
        l2: float = 0.0,
        clip_norm: float = math.inf,
        progress: Array | None = None,
        totals: Array | None = None,
        l2_per_batch: float = 0.0,
        max_row_loss: float = math.inf,
        dropout: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        self.code = code
        self.synced = SyncedArray(state)
        self.hyper = np.zeros(HYPER_SIZE)
        self.hyper[: len(hyper)] = hyper
        self.l2, self.clip_norm = l2, clip_norm
        self.progress = new_progress() if progress is None else progress
        self.totals = new_totals() if totals is None else totals
        self.l2_per_batch, self.max_row_loss = l2_per_batch, max_row_loss
        self.dropout, self.seed = tuple(dropout), seed

    @property
    def state(self) -> Array:
        """The state vectors (vectors, P), fetched from a device if they are newer there."""
        return self.synced.host

    @classmethod
    def none(cls, dtype: np.dtype[np.floating]) -> "OptimizerState":
        """Return a rule that leaves the parameters unchanged: for computing the gradient only."""
        return cls(OPTIMIZERS["none"].code, np.zeros((0, 0), dtype))
