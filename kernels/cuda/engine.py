"""CudaEngine: trains and evaluates a network on a CUDA device; a `Backend`.

Callers have validated the arrays, as `Backend` says.

The device holds X, y and weights, sent when they are first seen; parameters, optimizer state, gradient and workspace,
in one buffer; and the epoch's position. Parameters and state are `SyncedArray`s, which the device owns while it trains:
an epoch starts from their vectors on the device, and its results are copied back to these. They are sent again only if
they have been accessed on the host, and so may have changed. Before an epoch's first step the engine sends the order of
the rows and the learning rate of each step. The host makes the order, since its shuffle is a chain of swaps that gives
the same bits everywhere, and takes 8 bytes per row. After the last step the engine fetches the position and the loss.
In between only the parts of a memory map cross the bus: while steps run, the next is read, and `DeviceData` copies it.

A batch goes through all layers as one piece, so memory grows with it.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import OBJECTIVE, Array, Chunk, Visit, check_interrupt, new_progress, new_totals, results_of
from ..engine.optimizer_state import OptimizerState
from ..engine.plan import drops_in_place, layer_views, padded, parameter_count
from ..engine.synced import SyncedArray
from ..engine.tuner import Tuner
from ..specs import dropout
from ..specs.activations import ACTIVATION_BY_CODE, IDENTITY
from ..specs.batches import MICRO_BATCH_ROWS
from ..specs.losses import LOSSES
from . import training_step as e
from .arguments import DEVICE_PROGRESS, GEMM_ARGS, GemmArgs, gemm_args
from .counters import Counters
from .data import DeviceData, copy_between, copy_newest, move_to_device, send_to
from .device import SIMULATED, cuda, empty, enqueue, require
from .forward import DeviceForward
from .graph import CapturedStep
from .launch import launch
from .rules import batch_weights_of, rate_table
from .steps import SOFT_CROSS_ENTROPY, THREADS
from .variants import blocks, splits_for

RESIDENT_FLOPS = 1_000_000
"""Steps of fewer floating-point operations run in one block. An estimate, not a measurement: for L layers a graph has
3 L + 4 launches, 13 for three layers, which cost some 26 us, and in that time one SM does about that much."""

_ALIGNED = 32
"""Alignment of the buffer's regions in elements, for whole sectors and whole vectors."""


class _Epoch(NamedTuple):
    """An epoch whose steps have begun: the values that all its parts share."""

    counters: Counters
    rows: int
    visits: bool  # whether there is an order, so that X holds all rows
    batch_weights: Array  # float64, of all batches
    arrays: dict[str, Any]  # fields of `StepArrays`
    trains: bool


def _assign(record: Any, **values: Any) -> None:
    """Write fields of a record."""
    for name, value in values.items():
        record[name] = value


class CudaEngine:
    """Trains and evaluates a network at one batch size on a CUDA device; a `Backend`.

    Parameters
    ----------
    parameters : SyncedArray, shape (P,)
        float32 or float64; the device owns them once `train` has begun, and `evaluate` leaves them where they are.
    layer_sizes : sequence of int
        Inputs, hidden sizes, outputs.
    codes : sequence of int
        Code of an ActivationSpec for every layer.
    loss : str, default "mse"
        A key of `specs.losses.LOSSES`.
    batch_rows : int, default MICRO_BATCH_ROWS
        Rows of a step; all of them are on the device at once.
    optimizer : OptimizerState, optional
        Without it the engine evaluates only.

    Attributes
    ----------
    launch_mode : str
        How steps run: "resident", one launch per epoch; "graph", one per step; "stream", one per phase.
    tuner : Tuner
        Chooses only how many rows the next launches train before Ctrl-C can take effect.
    objective : OBJECTIVE, shape ()

    Raises
    ------
    OSError
        If there is no device.
    """

    def __init__(
        self,
        parameters: SyncedArray,
        layer_sizes: Sequence[int],
        codes: Sequence[int],
        loss: str = "mse",
        batch_rows: int = MICRO_BATCH_ROWS,
        optimizer: OptimizerState | None = None,
    ) -> None:
        require('backend="cuda"')
        self._trains = optimizer is not None
        self._optimizer = optimizer or OptimizerState.none(parameters.dtype)
        self._parameters, self._sizes, self._dtype = parameters, tuple(layer_sizes), parameters.dtype
        self._loss, self._batch, self._count = LOSSES[loss], batch_rows, parameter_count(layer_sizes)
        flops = 6 * self._count * batch_rows
        small = flops <= RESIDENT_FLOPS and batch_rows <= MICRO_BATCH_ROWS  # so the sums have one part
        self.launch_mode = "resident" if small else "stream" if SIMULATED else "graph"
        self._context = np.zeros(1, e.DEVICE_CONTEXT)
        self._names = tuple(ACTIVATION_BY_CODE[code].name for code in codes)
        self._lay_out(codes)
        self.tuner = Tuner(1, 1, explores=False)
        self.objective = np.zeros((), OBJECTIVE)
        self._data = DeviceData()
        self._epoch: _Epoch | None = None
        self._trained: list[tuple[SyncedArray, Any, int]] = []  # trained array, its vector, its offset in the buffer
        self._row = 0  # the epoch's position once all launched steps are done
        self._graphs: dict[bool, tuple[CapturedStep, e.StepArrays]] = {}  # by whether the step trains
        self._on_device: dict[str, Any] = {}  # the other arrays of `StepArrays`

    def results(self) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, of the epoch's rows so far."""
        return results_of(self._optimizer.progress, self._optimizer.totals, self._loss, self._sizes[-1])

    def _lay_out(self, codes: Sequence[int]) -> None:
        """Lay out the buffer, and fill in the context and a step's products; ``codes``: the layers' activations."""
        sizes, batch, count, dtype, context = self._sizes, self._batch, self._count, self._dtype, self._context[0]
        optimizer, trains = self._optimizer, self._trains
        self._size = 0

        def region(elements: int) -> int:
            """Reserve this many elements, and return the offset of the first."""
            start, self._size = self._size, self._size + padded(elements, _ALIGNED)
            return start

        vectors, clips = len(optimizer.synced.memory), bool(optimizer.clip_norm < np.inf)
        decays = optimizer.l2 != 0 or optimizer.l2_per_batch != 0
        weights, state = region(count), region(vectors * count)
        gathered = region(batch * sizes[0])
        _assign(context, parameters=weights, state=state, gathered=gathered, optimizer=optimizer.code)
        _assign(context, count=count, vectors=vectors, batch=batch, layers=len(codes))
        _assign(context, gradient=region(count * clips), is_weight=region(count) if decays else -1)
        _assign(context, scale=region(1), losses=region(batch), clips=clips, clip_norm=optimizer.clip_norm)
        _assign(context, l2_per_batch=optimizer.l2_per_batch)
        _assign(context, inputs=sizes[0], outputs=sizes[-1], out_code=codes[-1])
        context["dropout_key"] = dropout.seed_key(optimizer.seed)
        rates = [*optimizer.dropout, *[0.0] * (len(codes) - len(optimizer.dropout))]

        def dropping(i: int, source: int, target: int) -> tuple[float, ...]:
            """Return a record DROPOUT of layer i."""
            return source, target, sizes[i + 1], i, dropout.threshold(rates[i]), dropout.scale(rates[i])

        forwards, backwards, gradients, sums = [], [], [], []
        drops = np.zeros(3 * len(codes) - 1, e.DROPOUT)  # of the products in their order: forward, dZ, dW
        below, offset = gathered, weights
        # Of the layer below: the offset of its dZ, and the arguments that multiply dX by its activation's derivative.
        under, gate = 0, dict[str, int]()
        for i, ((n, k), code) in enumerate(zip(pairwise(sizes), codes, strict=True)):
            a = region(batch * k)
            z = region(batch * k) if ACTIVATION_BY_CODE[code].needs_z else -1
            d = region(batch * k * trains)
            after = {"bias": offset + n * k, "code": code, "z": z}
            forwards.append(gemm_args((-1, k, n), (below, n, 1), (offset, n, 1), (a, k), dtype, **after))
            if trains and i > 0:
                backwards.append(gemm_args((-1, n, k), (d, k, 1), (offset, 1, n), (under, n), dtype, **gate))
                if rates[i - 1] > 0:
                    drops[2 * len(codes) - 1 - i] = dropping(i - 1, under, under)
            if trains:
                splits = 1 if self.launch_mode == "resident" else splits_for(dtype, k, n, batch)
                part, size = -(-batch // splits), (n + 1) * k
                parts = -(-batch // part)  # none of them is empty
                to, split = region(parts * size), {"split": part, "split_step": size}
                gradients.append(gemm_args((k, n, -1), (d, 1, k), (below, 1, n), (to, n), dtype, **split))
                sums.append((d, k, offset - weights, size, parts, to))
            _assign(context, a_last=a, z_last=z if z >= 0 else a, d_last=d)
            gate = {"gate_code": code, "gate_a": a, "gate_z": z if z >= 0 else a} if code != IDENTITY else {}
            below, under, offset = a, d, offset + (n + 1) * k
            if rates[i] > 0:
                below = a if drops_in_place(code) else region(batch * k)
                drops[i] = dropping(i, a, below)
        self._forwards, self._backwards, self._drops = forwards, [*reversed(backwards), *gradients], drops
        self._sums = np.array(sums or [(0,) * 6], e.LAYER_SUMS)  # kernels need at least one element

    @property
    def nbytes(self) -> int:
        """Bytes of the device's buffer, including its second copies of parameters and state."""
        return self._size * self._dtype.itemsize

    def _allocate(self) -> None:
        """On the first call allocate and fill everything on the device except the data. Raises MemoryError."""
        if self._on_device:
            return
        flat = empty(self._size, self._dtype, f"batches of {self._batch} rows; use a smaller batch_size")
        if self._context[0]["is_weight"] >= 0:
            is_weight = np.zeros(self._count, self._dtype)
            for weights, _ in layer_views(is_weight, self._sizes):
                weights[...] = 1
            send_to(is_weight, flat[int(self._context[0]["is_weight"]) :])
        self._on_device = {
            "flat": flat,
            "context": empty(1, e.DEVICE_CONTEXT),
            "progress": empty(1, DEVICE_PROGRESS),
            "totals": empty(3, np.float64),
            "gemms": cuda.to_device(np.array([*self._forwards, *self._backwards], GEMM_ARGS)),
            "sums": cuda.to_device(self._sums),
            "drops": cuda.to_device(self._drops),
            "correct": empty(self._batch, np.int64),
            "norms": empty(1 if self.launch_mode == "resident" else blocks(self._count), np.float64),
        }

    # ------------------------------------------------------------------------------------ training

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
        """Train from the epoch's position to the last row of X.

        After the epoch's last row, progress, totals and objective are written, and the device owns the trained arrays.
        Before that, steps may still run when this returns, and it may be called for the next part only; `finish` waits
        for the steps.

        Parameters
        ----------
        X : ndarray, shape (rows, n_in)
            Rows of the epoch from ``first_row`` on. The device keeps its copy of a whole epoch for the next call with
            the same array.
        y : ndarray, shape (rows,) or (rows, n_out)
            Labels or targets of these rows, kept likewise.
        weights : ndarray of float64, shape (epoch_rows,), optional
            A sample weight for each row of the epoch; with an order, for each row of X. Kept likewise.
        order : ndarray of int64, shape (epoch_rows,), optional
            The order in which to visit the rows; X and y then hold all of them.
        rates : ndarray of float64, optional
            The learning rate of each of the epoch's steps, or one for all; by default 0.
        first_row, epoch_rows : int, optional
            By default X is the whole epoch.

        Raises
        ------
        ValueError
            If X ends within a batch before the epoch does, since a batch is processed as one piece.
        MemoryError
            If the batch or the data do not fit on the card.
        KeyboardInterrupt
            After complete steps, whose results are fetched first.
        """
        assert self._trains, "this engine only measures"
        epoch_rows = len(X) if epoch_rows is None else epoch_rows
        if self._epoch is None:
            counters = Counters(self._optimizer.progress, self._optimizer.totals, self.objective)
            self._start(counters, epoch_rows, weights, order, np.zeros(1) if rates is None else rates)
        self._advance(X, y, first_row)
        if self._row >= epoch_rows:
            self.finish()

    def finish(self) -> None:
        """Wait for the steps of `train`, if any, and write their results, however often Ctrl-C is pressed."""
        interrupted = False
        while self._epoch is not None:
            try:
                cuda.synchronize()
                self._fetch(self._epoch)
                self._epoch = None
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            raise KeyboardInterrupt

    def evaluate(self, chunks: Iterable[Chunk], rows: int, visit: Visit | None = None) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, with the newest parameters; changes nothing.

        Parameters
        ----------
        chunks : iterable of Chunk
            Parts (X, y, weights, first row) of the rows, in order.
        rows : int
            Rows of all parts together.
        visit : callable, optional
            Called with each part's outputs, for which the forward pass runs once more.

        Returns
        -------
        dict
            "loss" and, if the loss counts correct answers, "accuracy".

        Raises
        ------
        ValueError, MemoryError
            As `train`.
        """
        counters = Counters(new_progress(), new_totals(), np.zeros((), OBJECTIVE))
        try:
            for X, y, weights, first_row in chunks:
                if self._epoch is None:
                    self._start(counters, rows, weights)
                self._advance(X, y, first_row)
                if visit is not None:
                    outputs = np.empty((len(X), self._sizes[-1]), self._dtype)
                    DeviceForward(self._on_device["flat"], self._sizes, self._names, False)(outputs, X, outputs, False)
                    visit(outputs, y, weights, first_row)
        finally:
            self.finish()
        return results_of(counters.progress, counters.totals, self._loss, self._sizes[-1])

    def _start(
        self,
        counters: Counters,
        rows: int,
        weights: Array | None,
        order: Array | None = None,
        rates: Array | None = None,
    ) -> None:
        """Send the data that all parts of an epoch of ``rows`` rows need: its position, parameters, state, rates.

        ``counters``: the records that `finish` will write. ``weights``, ``order``, ``rates``: as in `train`;
        without ``rates`` the steps only evaluate.
        """
        self._allocate()
        optimizer, batch, trains, progress = self._optimizer, self._batch, rates is not None, counters.progress
        batch_weights = batch_weights_of(weights, order, rows, batch)
        first, self._row = int(progress["row"]) // batch, int(progress["row"])
        used = range(first, len(batch_weights) if trains else 0)
        steps_before = int(progress["step"]) - first
        table = rate_table(optimizer, rates, batch_weights, used, steps_before)
        arrays = {
            "weights": self._data.copy("weights", weights, self._dtype),
            "order": self._data.copy("order", order, np.int64, changes=True),
            "rates": self._data.copy("rates", table, self._dtype, changes=True),
        }
        _assign(self._context[0], ordered=order is not None, weighted=weights is not None, trains=trains)
        counters.send(self._on_device, rows, batch)
        flat = self._on_device["flat"]
        if trains:
            held = (self._parameters, 0), (optimizer.synced, int(self._context[0]["state"]))
            self._trained = [(array, move_to_device(array), at) for array, at in held]
            for array, vector, at in self._trained:
                copy_between(vector, flat[at:], array.memory.size)
        else:
            copy_newest(self._parameters, flat)
        self._epoch = _Epoch(counters, rows, order is not None, batch_weights, self._on_device | arrays, trains)

    def _advance(self, X: Array, y: Array, first_row: int) -> None:
        """Launch the steps over a part, X and y from the epoch's ``first_row`` on, and wait for all but the last ones.

        If anything is raised, such as a KeyboardInterrupt, the results of the steps are fetched first.
        """
        assert self._epoch is not None
        (_, rows, visits, _, arrays, trains), batch = self._epoch, self._batch
        stop = rows if visits else first_row + len(X)
        try:
            if stop < rows and (stop - self._row) % batch != 0:
                raise ValueError(
                    f"backend cuda takes a batch as one piece, and {batch} rows do not fit a part of this memory map; "
                    "use a smaller batch_size, or load the data: numpy.array(X)"
                )
            data, begins = self._data.copy_rows(X, y, self._dtype, whole=visits or len(X) >= rows)
            step = e.StepArrays(**arrays, **data)
            loss = SOFT_CROSS_ENTROPY if self._loss.takes_labels and y.ndim > 1 else self._loss.code
            _assign(self._context[0], first_row=first_row - begins, loss=loss)
            send_to(self._context, step.context)  # takes effect after the steps over the previous part
            last = min(rows, stop)
            while self._row < last:
                steps = -(-min(max(1, self.tuner.rows), last - self._row) // batch)
                began = time.perf_counter()
                self._step(steps, step, trains)
                self._row += steps * batch
                if self._row < last:
                    cuda.synchronize()
                    self.tuner.update(steps * batch, time.perf_counter() - began)
                    check_interrupt()
            self._data.mark_launched()
        except BaseException:
            self.finish()
            raise

    def _fetch(self, epoch: _Epoch) -> None:
        """Keep the trained arrays, and fetch the counters; a second call, after Ctrl-C, changes nothing more."""
        for array, vector, at in self._trained if epoch.trains else ():
            array.move(vector, partial(copy_between, self._on_device["flat"][at:], vector, array.memory.size))
        epoch.counters.fetch(self._on_device, epoch.batch_weights, self._batch)

    # ------------------------------------------------------------------------------------ steps

    def _step(self, steps: int, step: e.StepArrays, trains: bool) -> None:
        """Launch this many steps, without waiting for them; ``trains``: whether they train, or only evaluate."""
        if self.launch_mode == "resident":
            enqueue(e.resident, 1, THREADS, step, steps)
            return
        graph, read = self._graphs.get(trains, (None, step))
        if self.launch_mode == "graph" and (graph is None or not all(map(is_, step, read))):
            self._phases(step, trains)  # a real step, which compiles the kernels to capture
            steps -= 1
            try:
                graph = CapturedStep(partial(self._phases, step, trains))
                self._graphs[trains] = graph, step
            except Exception as error:  # an older numba-cuda or driver: slower steps, but correct
                self.launch_mode = f"stream ({type(error).__name__} while capturing: {error})"
        launch_step = graph.launch if graph and self.launch_mode == "graph" else partial(self._phases, step, trains)
        for _ in range(steps):
            launch_step()

    def _phases(self, step: e.StepArrays, trains: bool, stream: Any = 0) -> None:
        """Launch the phases of one step, in order; ``stream``: a stream, or the builder of a graph."""
        batch, wide, across = self._batch, blocks(self._count), -(-max(self._sizes[1:]) // THREADS)

        def phase(kernel: Any, grid: Any, *index: int) -> None:
            """Launch one phase's kernel."""
            enqueue(kernel, grid, THREADS, step, *index, stream=stream)

        def products(gemms: list[GemmArgs], first: int) -> None:
            """Launch products one after the other, each with its dropout; those that sum over rows use split-K."""
            for i, args in enumerate(gemms, first):
                arrays = step.progress, step.flat, step.flat, step.flat
                launch("cuda", args, arrays, -(-batch // args.split), batch, stream)
                if self._drops["threshold"][i] > 0:
                    phase(e.epoch_dropout, blocks(batch * int(self._drops["columns"][i])), i)

        phase(e.epoch_gather, blocks(batch * self._sizes[0]))
        products(self._forwards, 0)
        phase(e.epoch_losses, blocks(batch))
        if trains:
            products(self._backwards, len(self._forwards))
            phase(e.epoch_sums, (across, int(self._sums["parts"].max())))
            if self._context[0]["clips"]:
                phase(e.epoch_squares, wide)
                phase(e.epoch_clip, 1)
            if self._context[0]["l2_per_batch"] > 0:
                phase(e.epoch_penalty, wide)
            phase(e.epoch_update, wide)
        phase(e.epoch_close, 1)
