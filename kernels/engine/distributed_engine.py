"""DistributedEngine: the `CpuEngine`s of several processes train one network together.

Each rank takes its rows of a micro-batch through all layers, then all ranks gather A and dZ. Each rank computes its
rows of every dW over the whole micro-batch, as one process would, and updates these rows of W; then all gather W and b.
No sum is ever divided between ranks, so any number of them gives the bits of one process (docs/many-machines.md).
"""

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from ..cpu.threads.pool import POOL
from ..llvm.builder import VECTOR
from . import training_step
from .backend import Array, Chunk, Visit
from .engine import CpuEngine
from .plan import Plan, address_of, layer_views, rank_share

_NO_RATE = np.zeros(1)


class Ranks(Protocol):
    """The processes that train one network."""

    rank: int
    size: int

    @property
    def interrupted(self) -> bool:
        """Whether this rank has received Ctrl-C."""

    def allgather(self, blocks: Array) -> None:
        """Gather an array (size, ...) in place: each rank has filled its own block, ``blocks[rank]``."""

    def end(self, interrupted: bool) -> None:
        """Raise KeyboardInterrupt if any rank has received Ctrl-C; all ranks must call this together."""


class _Gathering:
    """Gathers arrays of which each rank computes some rows, with one message from each rank.

    Parameters
    ----------
    ranks : Ranks
    arrays : sequence of ndarray, shape (rows, ...)
        C-contiguous; filled in place.
    unit : int
        `rank_share` divides rows in multiples of this.
    """

    def __init__(self, ranks: Ranks, arrays: Sequence[Array], unit: int = 1) -> None:
        fields: list[Any] = [("interrupted", np.int64), ("count", np.int64)]
        shares = [rank_share(len(array), ranks.size, unit) for array in arrays]
        for i, (array, share) in enumerate(zip(arrays, shares, strict=True)):
            fields.append((f"rows of array {i}", array.dtype, (share, *array.shape[1:])))
        self._ranks, self._blocks = ranks, np.zeros(ranks.size, np.dtype(fields, align=True))
        blocks = [self._blocks[name] for name, *_ in fields[2:]]
        self._parts = list(zip(arrays, shares, blocks, strict=True))

    def __call__(self, count: int = 0) -> tuple[int, bool]:
        """Gather; return the sum of all ranks' counts, and whether any of them has been interrupted."""
        me = self._ranks.rank
        self._blocks["interrupted"][me], self._blocks["count"][me] = self._ranks.interrupted, count
        for array, share, blocks in self._parts:
            own = array[me * share : (me + 1) * share]
            blocks[me, : len(own)] = own
        self._ranks.allgather(self._blocks)
        for array, share, blocks in self._parts:
            full, rest = divmod(len(array), share)
            array[: full * share].reshape(full, *blocks.shape[1:])[...] = blocks[:full]
            if rest:
                array[full * share :] = blocks[full, :rest]
        return int(self._blocks["count"].sum()), bool(self._blocks["interrupted"].any())


class DistributedEngine:
    """Trains and evaluates a network on several ranks; a `Backend` whose methods all ranks must call alike.

    Parameters
    ----------
    engine : CpuEngine
        A new engine, of the same network and batch size on every rank.
    ranks : Ranks
    """

    def __init__(self, engine: CpuEngine, ranks: Ranks) -> None:
        self._engine, self._ranks, self._all_tasks = engine, ranks, engine.plan.weight_tasks
        engine.take_part(ranks.rank, ranks.size)
        plan, unit = engine.plan, VECTOR // engine.plan.parameters.itemsize
        self._own_tasks, self.tuner = plan.weight_tasks, engine.tuner
        sizes = [int(plan.layers["n_in"][0]), *plan.layers["n_out"].tolist()]
        ends = np.cumsum(sizes[1:])

        def of_neurons(vectors: Iterable[Array]) -> _Gathering:
            views = [view for vector in vectors for layer in layer_views(vector, sizes) for view in layer]
            return _Gathering(ranks, views, unit)

        self._gather_parameters, self._gather_state = of_neurons([plan.parameters]), of_neurons(plan.state)
        self._gather_norms = _Gathering(ranks, np.split(plan.row_norms, ends[:-1]), unit)
        self._row_gatherings: dict[tuple[int, bool], _Gathering] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of everything on this rank that is not data, parameters, optimizer state or messages."""
        return self._engine.nbytes

    @property
    def objective(self) -> Array:
        """The record OBJECTIVE; l2_per_batch is not supported, since its penalty is not gathered."""
        return self._engine.objective

    def finish(self) -> None:
        """Do nothing: no step runs once `train` has returned."""

    def results(self) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, of the epoch's rows so far."""
        return self._engine.results()

    def train(
        self,
        X: Array,
        y: Array,
        weights: Array | None = None,
        order: Array | None = None,
        rates: Array | None = None,
        first_row: int = 0,
        epoch_rows: int | None = None,
    ) -> None:
        """Train from the epoch's current position to the last row of X; see `Backend.train`.

        Every rank holds all of X and y, and afterwards all of the optimizer's state. Ctrl-C on any rank ends the call
        on all of them after the same step.
        """
        rates = _NO_RATE if rates is None else np.ascontiguousarray(rates, np.float64)
        interrupted = self._advance(self._engine.plan, True, (X, y, weights, order, rates), first_row, epoch_rows)
        _, later = self._gather_state()
        self._ranks.end(interrupted or later)

    def evaluate(self, chunks: Iterable[Chunk], rows: int, visit: Visit | None = None) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, over chunks of ``rows`` rows in all."""
        assert visit is None  # no rank has all outputs; `Trainer.evaluate` measures on one
        plan = self._engine.evaluation_plan()
        for X, y, weights, first_row in chunks:
            self._ranks.end(self._advance(plan, False, (X, y, weights, None, _NO_RATE), first_row, rows))
        return self._engine.results(plan)

    def _advance(
        self, plan: Plan, trains: bool, arrays: tuple[Array | None, ...], first_row: int, epoch_rows: int | None
    ) -> bool:
        """Take steps until all rows are processed or a rank is interrupted; return whether one was.

        Arguments are those of `bind`. Each step is a call of the compiled loop, which packs all of W^T first, followed
        by further calls that continue with the gathered results.
        """
        engine, progress, context = self._engine, plan.progress, plan.context
        address = engine.bind(plan, trains, arrays, first_row, epoch_rows)
        stop, batch, interrupted = int(context["stop_row"]), int(context["batch_rows"]), False
        while not interrupted and progress["done"] < stop:
            done, seconds, tasks = int(progress["done"]), 0.0, self._all_tasks
            context["stop_row"] = min(stop, (done // batch + 1) * batch)
            while True:
                context["weight_tasks"], context["weight_task_count"] = address_of(tasks), len(tasks)
                start = time.perf_counter()
                training_step.run(plan.parameters.dtype, address, engine.threads, POOL)
                seconds += time.perf_counter() - start
                if not context["paused"]:
                    break
                interrupted, tasks = self._gather(plan, arrays) or interrupted, self._own_tasks
                if interrupted and context["stage"] == training_step.ROWS:  # this step has not changed anything yet
                    context["paused"] = 0
                    break
            if trains and not interrupted:
                self.tuner.update(int(progress["done"]) - done, seconds)
        return interrupted

    def _gather(self, plan: Plan, arrays: tuple[Array | None, ...]) -> bool:
        """Gather what the ranks have computed in a stage; return whether any of them has been interrupted."""
        context = plan.context
        if context["stage"] == training_step.ROWS:
            count, interrupted = self._gathering_of_rows(plan)(int(context["correct_count"]))
            context["correct_count"] = count
            X, order = arrays[0], arrays[3]
            if order is not None:  # each rank has taken only its own rows of X, but needs all for the first layer's dW
                assert X is not None
                start, rows = int(context["start"]), int(context["rows"])
                inputs = _matrix(plan.workspace, int(context["gathered_inputs"]), rows, X.shape[1])
                np.take(X, order[start : start + rows], axis=0, out=inputs, mode="clip")
            return interrupted
        if not context["is_last"]:
            return False
        clips = context["stage"] == training_step.WEIGHTS and context["clip_norm"] < math.inf
        return (self._gather_norms if clips else self._gather_parameters)()[1]

    def _gathering_of_rows(self, plan: Plan) -> _Gathering:
        """Return the `_Gathering` of a micro-batch's row losses and, in training, of A and dZ."""
        rows, trains = int(plan.context["rows"]), bool(plan.context["trains"])
        if (rows, trains) not in self._row_gatherings:
            arrays, last = [plan.row_losses[:rows]], len(plan.layers) - 1
            for i, layer in enumerate(plan.layers if trains else ()):
                offsets = [layer["gradient"]] if i == last else [layer["dropped"], layer["gradient"]]
                arrays += [_matrix(plan.workspace, offset, rows, layer["n_out"]) for offset in offsets]
            self._row_gatherings[rows, trains] = _Gathering(self._ranks, arrays)
        return self._row_gatherings[rows, trains]


def _matrix(workspace: Array, offset: int, rows: int, columns: int) -> Array:
    """Return the matrix that begins at an offset of the workspace."""
    return workspace[offset : offset + rows * columns].reshape(rows, columns)
