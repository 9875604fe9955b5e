"""NumpyEngine: trains by the equations of `reference`; the tests check the compiled engines against it."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..reference import activations, dropout, losses, optimizers, training_step
from ..specs.batches import MICRO_BATCH_ROWS
from ..specs.losses import LOSSES
from .backend import OBJECTIVE, Array, Chunk, Visit, check_interrupt, new_progress, new_totals, results_of, start_epoch
from .bounds import check_network
from .optimizer_state import OptimizerState
from .plan import layer_views, micro_batch_rows


class NumpyEngine:
    """Trains and evaluates a network at one batch size in NumPy; a `Backend`.

    Parameters
    ----------
    parameters, layer_sizes, codes, loss, batch_rows, optimizer, uses_order
        As for `CpuEngine`.
    tuner : object, optional
        Not used.
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
        tuner: Any = None,
    ) -> None:
        self.tuner = tuner
        self._parameters, self._batch_rows, self._loss = parameters, batch_rows, LOSSES[loss]
        self._activations = [activations.ACTIVATIONS[code] for code in codes]
        self._outputs = layer_sizes[-1]
        self._optimizer = optimizer or OptimizerState.none(parameters.dtype)
        check_network(parameters, layer_sizes, codes, self._optimizer)
        self._gradient = np.zeros_like(parameters)
        self._sums = np.zeros(parameters.size)  # over micro-batches; float64, so that adding many loses nothing
        self._network = layer_views(parameters, layer_sizes)
        self._gradients = layer_views(self._gradient, layer_sizes)
        self._layer_sums = layer_views(self._sums, layer_sizes)
        self.objective = np.zeros((), OBJECTIVE)
        self.objective["l2_per_batch"] = self._optimizer.l2_per_batch
        self.objective["max_row_loss"] = self._optimizer.max_row_loss

    @property
    def nbytes(self) -> int:
        """Bytes of the gradient and its sums; NumPy allocates the rest as it goes."""
        return self._gradient.nbytes + self._sums.nbytes

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
        """Train from the epoch's current position to the last row of X; see `Backend.train`."""
        progress, totals, batch = self._optimizer.progress, self._optimizer.totals, self._batch_rows
        epoch_rows = len(X) if epoch_rows is None else epoch_rows
        rates = np.zeros(1) if rates is None else rates
        last = first_row + len(X) if order is None else epoch_rows
        with np.errstate(all="ignore"):  # the loss reports overflow, as inf or NaN
            while progress["done"] < last:
                begin = int(progress["done"]) // batch * batch
                end = min(begin + batch, epoch_rows)
                start = int(progress["done"])
                stop = min(start + micro_batch_rows(batch), end)
                if start == begin:
                    self._sums[:] = 0
                    visited: Any = slice(begin, end) if order is None else order[begin:end]
                    totals["batch_weight"] = end - begin if weights is None else weights[visited].sum()
                self._add_gradient(
                    X, y, weights, order, (start, stop, first_row), self._drops(start - begin, stop - begin)
                )
                if stop == end:
                    self._update(float(rates[min(begin // batch, len(rates) - 1)]), end - begin)
                _count(progress, totals, stop, stop == end, 1)
                check_interrupt()

    def _drops(self, start: int, stop: int) -> training_step.Drops:
        """Return the dropout of each hidden layer, if any, for some rows of the batch."""
        rule, widths = self._optimizer, [len(b) for _, b in self._network[:-1]]
        place = rule.seed, int(rule.progress["step"])
        return [
            dropout.drop(rate, dropout.mask(rate, *place, i, range(start, stop), width))
            for i, (rate, width) in enumerate(zip(rule.dropout, widths, strict=False))
        ]

    def _add_gradient(
        self,
        X: Array,
        y: Array,
        weights: Array | None,
        order: Array | None,
        rows: tuple[int, int, int],
        drops: training_step.Drops,
    ) -> None:
        """Forward, loss and backward over a micro-batch; rows: its start and stop, and the index of X's first row."""
        start, stop, first_row = rows
        chosen: Any = slice(start - first_row, stop - first_row) if order is None else order[start:stop]
        visited: Any = slice(start, stop) if order is None else chosen
        inputs, Zs, outputs = training_step.forward(self._network, self._activations, X[chosen], drops)
        w = np.ones(stop - start) if weights is None else weights[visited]
        derivative = self._measure(y[chosen], outputs, w, self._optimizer.progress, self._optimizer.totals)
        batch_weight = self._optimizer.totals["batch_weight"]
        row_weights = np.divide(w, batch_weight, out=np.zeros_like(w), where=w > 0)
        dL_dA = derivative * row_weights[:, None].astype(derivative.dtype)
        for (gradient_W, gradient_b), (dW, db) in zip(
            self._layer_sums,
            training_step.backward(self._network, self._activations, inputs, Zs, dL_dA, drops),
            strict=True,
        ):
            gradient_W += dW
            gradient_b += db

    def _measure(self, y: Array, outputs: Array, w: Array, progress: Array, totals: Array) -> Array:
        """Add losses and correct answers to the counters; return the derivative with respect to the outputs."""
        row_losses, derivative, correct = losses.row_losses(self._loss.code, y, outputs)
        totals["partial_loss"] += np.sum(w * np.minimum(row_losses, self.objective["max_row_loss"]))
        totals["partial_weight"] += np.sum(w)
        progress["partial_correct"] += correct
        return derivative

    def _update(self, rate: float, rows: int) -> None:
        """Add l2, clip, and apply the optimizer."""
        optimizer, objective = self._optimizer, self.objective
        batch_weight, l2 = float(optimizer.totals["batch_weight"]), optimizer.l2
        if batch_weight > 0:
            mean, shared = rows / batch_weight, float(objective["l2_per_batch"])
            squares = sum(float(np.sum(np.square(W, dtype=np.float64))) for W, _ in self._network)
            objective["mean_loss"] += optimizer.totals["partial_loss"] * mean
            objective["penalty"] += shared / 2 * squares * mean
            l2 += shared / batch_weight
        self._gradient[:] = self._sums
        for (gradient_W, _), (W, _) in zip(self._gradients, self._network, strict=True):
            gradient_W += l2 * W
        self._gradient[:] = training_step.clipped(self._gradient, optimizer.clip_norm)
        step, hyper = int(optimizer.progress["step"]) + 1, optimizer.hyper.tolist()
        optimizers.update(optimizer.code, self._parameters, self._gradient, list(optimizer.state), hyper, rate, step)

    def finish(self) -> None:
        """Do nothing: no step runs once `train` has returned."""

    def results(self) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, of the epoch's rows so far."""
        return results_of(self._optimizer.progress, self._optimizer.totals, self._loss, self._outputs)

    def evaluate(self, chunks: Iterable[Chunk], rows: int, visit: Visit | None = None) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, over chunks of ``rows`` rows in all."""
        progress, totals = new_progress(), new_totals()
        for X, y, weights, first_row in chunks:
            for start in range(0, len(X), MICRO_BATCH_ROWS):
                part = slice(start, start + MICRO_BATCH_ROWS)
                first = first_row + start
                with np.errstate(all="ignore"):
                    outputs = training_step.forward(self._network, self._activations, X[part])[2]
                    w = np.ones(len(outputs)) if weights is None else weights[first : first + len(outputs)]
                    self._measure(y[part], outputs, w, progress, totals)
                _count(progress, totals, first + len(outputs), True, 0)
                if visit is not None:
                    visit(outputs, y[part], weights, first)
        return results_of(progress, totals, self._loss, self._outputs)

    def loss_and_gradient(self, X: Array, y: Array) -> tuple[float, Array]:
        """Return the objective of X and y as one batch, and a copy of its gradient (P,)."""
        totals = self._optimizer.totals
        start_epoch(self._optimizer.progress, totals, 0)
        self.train(X, y)
        return float(totals["loss"] / totals["weight"]), self._gradient.copy()


def _count(progress: Array, totals: Array, row: int, is_last: bool, steps: int) -> None:
    """Record that rows before ``row`` are done; after a batch's last one, add up the counters of its micro-batches."""
    progress["done"] = row
    if is_last:
        progress["row"] = row
        progress["step"] += steps
        progress["correct"] += progress["partial_correct"]
        totals["loss"] += totals["partial_loss"]
        totals["weight"] += totals["partial_weight"]
        progress["partial_correct"] = totals["partial_loss"] = totals["partial_weight"] = 0
