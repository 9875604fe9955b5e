"""CudaEngine: trains and evaluates a network on a CUDA device; a `Backend`.

Arrays that arrive have been validated, as `Backend` says.

What is on the device: X, y and weights, sent when they are first seen; parameters, optimizer state, gradient and
workspace, in one buffer; where the epoch stands. Sent before an epoch's first step: parameters and state, which a
callback may have changed; the order of the rows and the learning rate of each step. The order is made on the host,
since its shuffle is a chain of swaps whose bits are the same everywhere, and 8 bytes a row. Fetched after its last
step: parameters, state, the loss. In between nothing crosses the bus.

A batch goes through all layers as one piece: memory grows with it.
"""

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..engine.backend import OBJECTIVE, PROGRESS, Array, Chunk, new_progress, new_totals, results_of
from ..engine.optimizer_state import OptimizerState
from ..engine.plan import MICRO_BATCH_ROWS, padded, parameter_count
from ..engine.tuner import CALL_S, Tuner
from ..jit.decorator import jit
from ..specs.activations import ACTIVATION_BY_CODE, IDENTITY
from ..specs.losses import LOSSES
from . import training_step as e
from .arguments import DEVICE_PROGRESS, GEMM_ARGS, GemmArgs, gemm_args
from .device import SIMULATED, cuda, empty, quiet, require
from .gemm import SIMULATED_TILE, launch
from .rules import batch_weights_of, rate_table
from .steps import THREADS, blocks, splits_for

RESIDENT_FLOPS = 1_000_000
"""Steps of fewer floating-point operations are one block's work. An estimate, not a measurement: a graph's 13 launches
cost some 26 us, in which one SM does about that much."""

_ALIGNED = 32
"""Elements to which regions of the buffer are aligned: whole sectors, and whole vectors."""


@jit
def _settle(
    parameters: Array,
    state: Array,
    progress: Array,
    totals: Array,
    news: Array,
    new_state: Array,
    ends: Array,
    sums: Array,
) -> None:
    """Write everything that came back, in one compiled call: no KeyboardInterrupt comes in between."""
    parameters[:] = news
    state[:, :] = new_state
    progress[:] = ends
    totals[:] = sums


class CudaEngine:
    """Trains and evaluates a network at one batch size on a CUDA device; a `Backend`. Parameters as of `CpuEngine`.

    Attributes
    ----------
    launch_mode : str
        How steps run: "resident", one launch an epoch; "graph", one launch a step; "stream", a launch a phase.
    sent_bytes : int
        Bytes that crossed the bus so far, either way.
    """

    def __init__(
        self,
        parameters: Array,
        layer_sizes: Sequence[int],
        codes: Sequence[int],
        loss: str = "mse",
        batch_rows: int = MICRO_BATCH_ROWS,
        optimizer: OptimizerState | None = None,
        uses_order: bool = False,
        tuner: Tuner | None = None,
    ) -> None:
        require('backend="cuda"')
        if optimizer is not None and (optimizer.l2_per_batch != 0 or optimizer.max_row_loss < np.inf):
            raise ValueError("backend cuda has neither scikit-learn's l2 nor its largest loss of a row; use cpu")
        self._outputs = layer_sizes[-1]
        self._host, self._optimizer, self._sizes = parameters, optimizer, tuple(layer_sizes)
        self._dtype, self._loss, self._batch = parameters.dtype, LOSSES[loss], batch_rows
        self.sent_bytes = 0
        flops = 6 * parameter_count(layer_sizes) * batch_rows
        self.launch_mode = "resident" if flops <= RESIDENT_FLOPS else "stream" if SIMULATED else "graph"
        self._count = parameter_count(layer_sizes)
        self._parts = 1
        if self.launch_mode != "resident":
            self._parts = max(splits_for(self._dtype, k, n, batch_rows) for n, k in pairwise(layer_sizes))
        self._context = np.zeros(1, e.CONTEXT)
        self._lay_out(list(codes))
        self.tuner = Tuner(1, 1, explores=False)
        self.objective = np.zeros((), OBJECTIVE)
        self._seen: dict[str, tuple[Any, Any]] = {}
        self._graphs: dict[bool, Any] = {}  # of a step that trains, or measures
        self._on_device = False
        self._steps_per_call = 1
        self._progress_record = new_progress() if optimizer is None else optimizer.progress
        self._totals_record = new_totals() if optimizer is None else optimizer.totals

    def results(self) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, of the epoch's rows so far."""
        return results_of(self._progress_record, self._totals_record, self._loss, self._outputs)

    def _lay_out(self, codes: list[int]) -> None:
        """Divide the buffer; fill in the context and the arguments of a step's products."""
        sizes, batch, context, trains = self._sizes, self._batch, self._context[0], self._optimizer is not None
        self._size = 0

        def region(elements: int) -> int:
            start, self._size = self._size, self._size + padded(elements, _ALIGNED)
            return start

        vectors = len(self._optimizer.state) if self._optimizer is not None else 0
        weights = region(self._count)
        state = region(vectors * self._count)
        parts = region(self._parts * self._count) if trains else 0
        clips = self._optimizer is not None and bool(self._optimizer.clip_norm < np.inf)
        l2 = self._optimizer is not None and bool(self._optimizer.l2 != 0)
        context["parameters"], context["state"], context["parts"], context["part_count"], context["count"] = (
            weights,
            state,
            parts,
            self._parts,
            self._count,
        )
        context["gradient"] = region(self._count) if clips else 0
        context["l2"] = region(self._count) if l2 else -1
        context["scale"], context["losses"], context["vectors"] = region(1), region(batch), vectors
        context["gathered"] = region(batch * sizes[0])
        context["inputs"], context["outputs"], context["loss"], context["out_code"] = (
            sizes[0],
            sizes[-1],
            self._loss.code,
            codes[-1],
        )
        context["batch"], context["layers"], context["forwards"], context["clips"] = (
            batch,
            len(codes),
            len(codes),
            clips,
        )

        lanes = SIMULATED_TILE.lanes if SIMULATED else 16 // self._dtype.itemsize
        forwards, backwards, gradients, biases = [], [], [], []
        below, offset, part = int(context["gathered"]), weights, -(-batch // self._parts)
        layers: list[tuple[int, int, int]] = []  # A, Z, dZ
        for i, ((n, k), code) in enumerate(zip(pairwise(sizes), codes, strict=True)):
            a = region(batch * k)
            z = region(batch * k) if ACTIVATION_BY_CODE[code].needs_z else -1
            d = region(batch * k) if trains else 0
            layers.append((a, z if z >= 0 else a, d))
            after = {"bias": offset + n * k, "code": code, "z": z}
            forwards.append(gemm_args((-1, k, n), (below, n, 1), (offset, n, 1), (a, k), lanes, **after))
            if trains and i > 0:
                gate_a, gate_z, under = layers[i - 1]
                gate = {"gate_code": codes[i - 1], "gate_a": gate_a, "gate_z": gate_z}
                gate = gate if codes[i - 1] != IDENTITY else {}
                backwards.append(gemm_args((-1, n, k), (d, k, 1), (offset, 1, n), (under, n), lanes, **gate))
            if trains:
                to = parts + offset - weights
                whole = {"split": part, "split_step": self._count}
                gradients.append(gemm_args((k, n, -1), (d, 1, k), (below, 1, n), (to, n), lanes, **whole))
                biases.append((d, k, to + n * k))
            below, offset = a, offset + (n + 1) * k
        context["a_last"], context["z_last"], context["d_last"] = layers[-1]
        self._forwards, self._backwards, self._gradients = forwards, backwards[::-1], gradients
        self._biases = np.array(biases or [(0, 0, 0)], e.BIAS_SUM)
        self._bytes = self._size * self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the device's buffer without parameters and state."""
        vectors = len(self._optimizer.state) if self._optimizer is not None else 0
        return self._bytes - (1 + vectors) * self._count * self._dtype.itemsize

    # ------------------------------------------------------------------------------------ the bus

    def _send(self, array: Array, target: Any) -> None:
        if array.size:
            target[: array.size].copy_to_device(np.ascontiguousarray(array).reshape(-1))
            self.sent_bytes += array.nbytes

    def _data(self, name: str, array: Array | None, dtype: Any) -> Any:
        """The device's copy of an array of data; made anew where it is another array than the last."""
        held, copy = self._seen.get(name, (None, None))
        if copy is None or held is not array:
            self._graphs.clear()  # which read the old place
            size = 0 if array is None else array.size
            copy = empty(size, dtype, f"{name}; train on parts of it, or on the CPU")
            if array is not None:
                self._send(array.astype(dtype, copy=False), copy)
            self._seen[name] = array, copy
        return copy

    def _allocate(self) -> None:
        """Everything on the device but the data, the first time."""
        if self._on_device:
            return
        self._flat = empty(self._size, self._dtype, f"batches of {self._batch} rows; use a smaller batch_size")
        gemms = np.array([*self._forwards, *self._backwards, *self._gradients], GEMM_ARGS)
        self._gemms, self._layer_sums = cuda.to_device(gemms), cuda.to_device(self._biases)
        self._rights = empty(self._batch, np.int64)
        self._norms = empty(blocks(self._count), np.float64)
        self._progress, self._totals = empty(1, DEVICE_PROGRESS), empty(1, np.float64)
        self._device_context = empty(1, e.CONTEXT)
        if self._optimizer is not None and self._context[0]["l2"] >= 0:
            l2 = np.concatenate(
                [np.r_[np.full(n * k, self._optimizer.l2), np.zeros(k)] for n, k in pairwise(self._sizes)]
            )
            self._send(l2.astype(self._dtype), self._flat[int(self._context[0]["l2"]) :])
        self._on_device = True

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
        """Train on from where the epoch stands to the last row of X; see `Backend.train`."""
        assert self._optimizer is not None, "this engine only measures"
        epoch_rows = len(X) if epoch_rows is None else epoch_rows
        rates = np.zeros(1) if rates is None else rates
        with quiet():
            self._run(
                (self._progress_record, self._totals_record),
                self._optimizer,
                X,
                y,
                weights,
                order,
                rates,
                first_row,
                epoch_rows,
            )

    def evaluate(self, chunks: Iterable[Chunk], rows: int) -> dict[str, float]:
        """Loss, and for classification accuracy, over parts (X, y, weights, first row) of so many rows in all."""
        plan = new_progress(), new_totals()
        with quiet():
            for X, y, weights, first_row in chunks:
                self._run(plan, None, X, y, weights, None, np.zeros(1), first_row, rows)
        return results_of(*plan, self._loss, self._outputs)

    def loss_and_gradient(self, X: Array, y: Array) -> tuple[float, Array]:
        """Refused: gradients for inspection are the CPU's, by `Network.loss_and_gradient`."""
        raise NotImplementedError("gradients for inspection run on the CPU: Network.loss_and_gradient")

    def _run(
        self,
        plan: Any,
        optimizer: OptimizerState | None,
        X: Array,
        y: Array,
        weights: Array | None,
        order: Array | None,
        rates: Array,
        first_row: int,
        epoch_rows: int,
    ) -> None:
        """Steps until X is done with; then, or where a KeyboardInterrupt comes, everything is fetched."""
        stop, start, batch = first_row + len(X), int(plan[0]["row"]), self._batch
        if stop < epoch_rows and (stop - start) % batch != 0:
            raise ValueError(
                f"backend cuda takes a batch as one piece, and {batch} rows do not fit a part of this memory map; use "
                "a smaller batch_size, or load the data: numpy.array(X)"
            )
        self._allocate()
        labelled = self._loss.takes_labels
        data = (
            self._data("X", X, self._dtype),
            self._data("targets", None if labelled else y, self._dtype),
            self._data("labels", y if labelled else None, np.int64),
            self._data("weights", weights, self._dtype),
            self._sequence("order", order, np.int64),
        )
        batch_weights = batch_weights_of(weights, order, epoch_rows, batch)
        trained = OptimizerState.none(self._dtype) if optimizer is None else optimizer
        used = range(start // batch, 0 if optimizer is None else -(-min(stop, epoch_rows) // batch))
        steps_before = int(plan[0]["step"]) - start // batch
        found = rate_table(trained.code, trained.hyper, rates, batch_weights, used, steps_before)
        table = self._sequence("rates", found, self._dtype)
        self._note(plan, optimizer, order is not None, weights is not None, first_row, epoch_rows)
        try:
            done, last = start, min(epoch_rows, stop)
            while done < last:
                steps = min(self._steps_per_call, -(-(last - done) // batch))
                began = time.perf_counter()
                self._step(steps, data, table, optimizer is not None)
                cuda.synchronize()
                seconds = time.perf_counter() - began
                done = min(last, done + steps * batch)
                self._steps_per_call = max(1, int(steps * CALL_S / max(seconds, 1e-5)))
        finally:
            cuda.synchronize()
            self._fetch(plan, optimizer, batch_weights, start)

    def _sequence(self, name: str, array: Array | None, dtype: Any) -> Any:
        """The device's copy of what is new in every epoch, in the same place."""
        size = 1 if array is None else array.size
        _, copy = self._seen.get(name, (None, None))
        if copy is None or copy.size < size:
            self._graphs.clear()
            copy = empty(size, dtype)
            self._seen[name] = None, copy
        if array is not None:
            self._send(array.astype(dtype, copy=False), copy)
        return copy

    def _note(
        self,
        plan: Any,
        optimizer: OptimizerState | None,
        ordered: bool,
        weighted: bool,
        first_row: int,
        epoch_rows: int,
    ) -> None:
        """Send the context, where the epoch stands, parameters and state."""
        context = self._context[0]
        context["ordered"], context["weighted"], context["trains"], context["first_row"] = (
            ordered,
            weighted,
            optimizer is not None,
            first_row,
        )
        context["optimizer"] = 0 if optimizer is None else optimizer.code
        self._send(self._context, self._device_context)
        progress = np.zeros(1, DEVICE_PROGRESS)
        for name in PROGRESS.names or ():
            progress[name] = plan[0][name]
        progress["rows"], progress["batch_rows"] = epoch_rows, min(self._batch, epoch_rows - int(plan[0]["row"]))
        self._send(progress, self._progress)
        self._send(np.zeros(1), self._totals)
        self._send(self._host, self._flat[int(context["parameters"]) :])
        if optimizer is not None:
            self._send(optimizer.state, self._flat[int(context["state"]) :])

    def _fetch(self, plan: Any, optimizer: OptimizerState | None, batch_weights: Array, start: int) -> None:
        """Bring back where the epoch stands, and what was trained."""
        progress, sums = plan[0].copy(), plan[1].copy()
        ends = self._progress.copy_to_host()
        for field in ("row", "step", "done", "correct"):
            progress[field] = ends[0][field]
        sums["loss"] += self._totals.copy_to_host()[0]
        done = slice(start // self._batch, -(-int(progress["row"]) // self._batch))
        sums["weight"] += batch_weights[done].sum()
        self.sent_bytes += ends.nbytes + 8
        if optimizer is None:
            plan[0][...], plan[1][...] = progress, sums
            return
        parameters = self._take(self._context[0]["parameters"], self._count)
        state = self._take(self._context[0]["state"], optimizer.state.size).reshape(optimizer.state.shape)
        records = plan[0][None], plan[1][None], progress[None], sums[None]
        _settle(self._host, optimizer.state, *records[:2], parameters, state, *records[2:])

    def _take(self, at: int, size: int) -> Array:
        if size == 0:
            return np.empty(0, self._dtype)
        self.sent_bytes += size * self._dtype.itemsize
        found: Array = self._flat[int(at) : int(at) + size].copy_to_host()
        return found

    # ------------------------------------------------------------------------------------ steps

    def _step(self, steps: int, data: tuple[Any, ...], rates: Any, trains: bool) -> None:
        """Put so many steps on their way."""
        limit = float(self._optimizer.clip_norm) if self._optimizer is not None else 0.0
        flat, context, progress = self._flat, self._device_context, self._progress
        if self.launch_mode == "resident":
            tables = self._totals, self._gemms, self._layer_sums, self._rights
            e.resident[1, THREADS](flat, context, progress, *tables, *data, rates, steps, limit)
            return
        if self.launch_mode == "graph" and trains not in self._graphs:
            self._phases(data, rates, trains, limit, 0)  # a real step, which compiles what is then captured
            steps -= 1
            try:
                self._graphs[trains] = self._captured(data, rates, trains, limit)
            except Exception as error:  # an older numba-cuda or driver: slower steps, but right
                self.launch_mode = f"stream ({type(error).__name__} while capturing: {error})"
        for _ in range(steps):
            if self.launch_mode == "graph":
                self._graphs[trains].launch(self._stream)
            else:
                self._phases(data, rates, trains, limit, 0)

    def _captured(self, data: tuple[Any, ...], rates: Any, trains: bool, limit: float) -> Any:
        """A step as a graph: its launches, put into a builder instead of a stream."""
        from cuda.core import Device

        cuda.synchronize()
        card = Device()
        card.set_current()  # cuda.core asks for it, also where Numba has made the card's context current
        self._stream = card.default_stream
        builder = card.create_graph_builder()
        builder.begin_building()
        self._phases(data, rates, trains, limit, builder)
        return builder.end_building().complete()

    def _phases(self, data: tuple[Any, ...], rates: Any, trains: bool, limit: float, stream: Any) -> None:
        """The launches of one step."""
        X, targets, labels, weights, order = data
        flat, context, progress, dtype, batch = (
            self._flat,
            self._device_context,
            self._progress,
            self._dtype,
            self._batch,
        )

        def products(gemms: list[GemmArgs]) -> None:
            for args in gemms:
                rows, splits = batch if args.m < 0 else args.m, self._parts if args.k < 0 else 1
                launch("cuda", dtype, rows, args.n, splits, stream, (args, progress, flat, flat, flat))

        wide = blocks(self._count)
        e.epoch_gather[blocks(batch * self._sizes[0]), THREADS, stream](flat, context, progress, X, order)
        products(self._forwards)
        arguments = flat, context, progress, self._rights, targets, labels, weights, order, rates
        e.epoch_losses[blocks(batch), THREADS, stream](*arguments)
        if trains:
            products(self._backwards)
            products(self._gradients)
            across = -(-max(self._sizes[1:]) // THREADS)
            e.epoch_sums[(across, self._parts), THREADS, stream](flat, context, progress, self._layer_sums)
            if self._context[0]["clips"]:
                e.epoch_squares[wide, THREADS, stream](flat, context, self._norms)
                e.epoch_clip[1, THREADS, stream](flat, context, self._norms, wide, limit)
            e.epoch_update[wide, THREADS, stream](flat, context, progress, rates)
        e.epoch_close[1, THREADS, stream](flat, context, progress, self._totals, self._rights)
