"""TrainingState: what a Trainer keeps from one call of `fit` to the next, besides the network and the history."""

import math
from collections.abc import Sequence
from typing import Any

from . import checks
from .kernels.engine.engine import CpuEngine
from .kernels.engine.optimizer_state import OptimizerState
from .kernels.engine.plan import aligned_zeros, parameter_count
from .kernels.engine.synced import SyncedArray
from .kernels.specs.base import Array
from .network import Network
from .optimizers import Optimizer

KEPT_BYTES = 1 << 20
"""Largest engine, in bytes, that is kept between two calls of `fit`: building even a small one takes 0.2 ms."""

MOST_COPIES = 11
"""Vectors of the parameters' size that training takes with two vectors of state: see `check_memory`."""


def check_memory(network: Network, optimizer: Optimizer, backend: str = "") -> None:
    """Reject a network whose training takes more than all memory.

    Parameters
    ----------
    network : Network
    optimizer : Optimizer
    backend : str, default ""
        The backend of a `fit`; "" counts only what a `Trainer` allocates before.

    Raises
    ------
    MemoryError
        Its message names the bytes of each part.
    """
    each = parameter_count(network.layer_sizes) * network.dtype.itemsize
    if MOST_COPIES * each <= checks.SURELY_FITS:  # what follows takes longer than an epoch of a small network
        return
    vectors, name = optimizer.spec.state_vectors, type(optimizer).__name__
    copies = {"parameters": 1, f"the state of {name}": vectors}
    if backend in ("cpu", "numpy"):  # on a GPU, these are in its memory
        copies |= {"gradient": 1, "packed weights": int(backend == "cpu")}
        copies["two copies to find the best epoch"] = 2 * (1 + vectors)
    parts = ", ".join(f"{part} {checks.gibibytes(number * each)}" for part, number in copies.items() if number)
    total = sum(copies.values()) * each
    said = f"training a network of the sizes {list(network.layer_sizes)} takes {checks.gibibytes(total)} ({parts})"
    other = ", or SGD without momentum, which has no state" if vectors else ""
    checks.memory(total, said, f"choose smaller layers{other}")


class TrainingState(OptimizerState):
    """A Trainer's update rule, the progress of its epoch, and what the backend has learnt about its speed.

    Attributes
    ----------
    progress, totals : ndarray
        Records PROGRESS and TOTALS of `kernels.engine.backend`.
    tuner : Tuner or None
        The last backend's tuner.
    engine : CpuEngine or None
        The last `fit`'s, if it is small: building another takes longer than an epoch of a small network.
    resumed_rows : int or None
        From `Trainer.resume` to the first `fit`: the rows of the checkpoint's last epoch, 0 if unknown.
    """

    resumed_rows: int | None = None
    engine: CpuEngine | None = None

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        l2: float,
        clip_norm: float | None,
        dropout: Sequence[float],
        seed: int,
    ) -> None:
        check_memory(network, optimizer)
        size = parameter_count(network.layer_sizes)
        vectors = aligned_zeros(optimizer.spec.state_vectors, size, network.dtype)
        longest = math.inf if clip_norm is None else clip_norm
        rules = l2, longest
        super().__init__(optimizer.spec.code, vectors, optimizer.hyper, *rules, dropout=dropout, seed=seed)
        self.tuner: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles: the current state vectors, wherever they are, but no engine."""
        return {**self.__dict__, "synced": self.state, "engine": None}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Restore a copy; its vectors are aligned as those of the original."""
        self.__dict__.update(attributes)
        vectors: Array = attributes["synced"]
        self.synced = SyncedArray(aligned_zeros(len(vectors), vectors.shape[1], vectors.dtype))
        self.vectors[...] = vectors

    def keep(self, backend: Any) -> None:
        """Keep the backend of a `fit` that has ended without an error, for the next one."""
        if isinstance(backend, CpuEngine) and backend.nbytes <= KEPT_BYTES:
            backend.forget_data()
            self.engine = backend

    def kept_engine(self, batch_rows: int, uses_order: bool) -> CpuEngine | None:
        """Return the kept engine, if it is suitable, and forget it, since the next `fit` may be interrupted."""
        engine, self.engine = self.engine, None
        return engine if engine is not None and engine.serves(batch_rows, uses_order) else None

    @property
    def vectors(self) -> Array:
        """State vectors of the optimizer (vectors, P), each aligned to a cache line."""
        return self.state

    @property
    def step(self) -> Array:
        """The number of steps taken, as a view (1,) of int64."""
        return self.progress.reshape(1)["step"]

    def can_continue(self, epoch: int, rows: int, batch: int) -> bool:
        """Whether an epoch with these rows and batches was interrupted and can be continued."""
        row = int(self.progress["row"])
        at_end_of_batch = row % batch == 0 or row == rows
        return bool(self.progress["epoch"] == epoch and self.progress["rows"] == rows and at_end_of_batch)
