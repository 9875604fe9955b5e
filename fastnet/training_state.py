"""TrainingState: what a Trainer carries from one call of `fit` to the next, besides the network and the history."""

from typing import Any

from .kernels.cpu.elementwise import all_finite
from .kernels.engine.backend import new_progress, new_totals
from .kernels.engine.optimizer_state import OptimizerState
from .kernels.engine.plan import aligned_zeros
from .kernels.specs.base import Array
from .network import Network
from .optimizers import Optimizer


class TrainingState:
    """The optimizer's state vectors, where the epoch stands, and what the backend has learnt about its speed.

    Attributes
    ----------
    vectors : ndarray, shape (vectors, P)
        State vectors of the optimizer, each at the beginning of a cache line.
    progress, totals : ndarray
        Records PROGRESS and TOTALS of `kernels.engine.backend`.
    tuner : Tuner or None
        Of the last backend.
    """

    def __init__(self, network: Network, optimizer: Optimizer) -> None:
        self.vectors = aligned_zeros(optimizer.spec.state_vectors, network.parameters.size, network.dtype)
        self.progress, self.totals = new_progress(), new_totals()
        self.tuner: Any = None

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Align the vectors of a copy as those of the original are."""
        self.__dict__.update(attributes)
        vectors = self.vectors
        self.vectors = aligned_zeros(len(vectors), vectors.shape[1], vectors.dtype)
        self.vectors[...] = vectors

    def optimizer_state(self, optimizer: Optimizer, l2: float, clip_norm: float) -> OptimizerState:
        """Return what a backend updates: the arrays are this state's own."""
        return OptimizerState(
            optimizer.spec.code, self.vectors, optimizer.hyper, l2, clip_norm, self.progress, self.totals
        )

    @property
    def step(self) -> Array:
        """The number of steps taken, as a view (1,) of int64."""
        return self.progress.reshape(1)["step"]

    def is_finite(self, network: Network) -> bool:
        """Whether parameters and state vectors hold finite numbers; a state of infinity would never move again."""
        return all(map(all_finite, (network.parameters, *self.vectors)))

    def can_continue(self, epoch: int, rows: int, batch: int) -> bool:
        """Whether an interrupted epoch of the same rows and batches can be continued where it stands."""
        row = int(self.progress["row"])
        at_end_of_batch = row % batch == 0 or row == rows
        return bool(self.progress["epoch"] == epoch and self.progress["rows"] == rows and at_end_of_batch)
