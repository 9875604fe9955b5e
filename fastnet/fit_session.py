"""FitSession: one call of `Trainer.fit`: epochs, validation, early stopping, callbacks, checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import checks
from .dataset import Dataset
from .diagnosis import MIN_EPOCHS
from .io.checkpoint import CheckpointWriter, state_dict
from .kernels.cpu.threads.pool import limit_threads
from .kernels.engine import rng
from .kernels.engine.backend import Backend, Visit, discard_partial_step, start_epoch
from .kernels.engine.engine import COMPANIONS, LATER, CpuEngine, training_kernels
from .kernels.engine.epochs import RUN_EPOCHS, BestState, EpochLoop
from .kernels.jit.side_by_side import Kernel, compile_side_by_side, is_coming
from .kernels.jit.target import COMPILES
from .kernels.specs.batches import MICRO_BATCH_ROWS
from .kernels.specs.losses import LOSSES
from .messages import counted
from .progress import update_bar
from .training_state import TrainingState

Callback = Callable[[dict[str, float]], Any]
BackendBuilder = Callable[[int, bool], Backend]


class DivergenceWarning(RuntimeWarning):
    """The loss or a parameter stopped being finite, and training ended."""


class FitOptions(NamedTuple):
    """How long a call of `fit` trains, and what it calls after each epoch."""

    epochs: int
    patience: int | None
    callbacks: list[Callback]

    @classmethod
    def checked(cls, epochs: Any, patience: Any, callbacks: Any) -> FitOptions:
        """Return the options that `Trainer.fit` was given, or raise TypeError or ValueError."""
        epochs = checks.integer("epochs", epochs, least=1)
        patience = checks.count_or_none("patience", patience)
        return cls(epochs, patience, checks.callbacks(callbacks))

    def check_monitor(self, dropout: Sequence[float], validates: bool) -> None:
        """Reject patience that would compare losses of the network thinned by dropout with one of the whole network."""
        if self.patience is not None and dropout and not validates:
            raise ValueError(
                f"patience is {self.patience} and dropout {max(dropout):g}, but without validation there is only the "
                "thinned network's loss to watch; give validation_data or validation_split, or leave out patience"
            )


def evaluate_all(backend: Backend, data: Dataset, visit: Visit | None = None) -> dict[str, float]:
    """Return the loss, and for classification the accuracy, over all rows.

    ``visit`` is called with each part's outputs and targets, the weights of all rows or None, and the part's first row.
    """
    chunks = ((X, y, weights, first_row) for X, y, weights, _, first_row in data.iter_chunks(MICRO_BATCH_ROWS))
    return backend.evaluate(chunks, data.rows, visit)


def warn_of_other_data(state: TrainingState, history: Any, data: Dataset, validation: Dataset | None) -> None:
    """Warn if the first `fit` after `Trainer.resume` has a different number of rows, or no validation any more."""
    rows, state.resumed_rows = state.resumed_rows, None
    found = []
    if rows and rows != data.rows:
        found.append(f"it trained on {counted(rows, 'row')}, and this fit trains on {data.rows:,}")
    if rows is not None and validation is None and math.isfinite(history.get("val_loss", [math.nan])[-1]):
        found.append("it had validation, and this fit has none, so that it may train on rows that were held out")
    if found:
        advice = "give fit the same data as before, or train other data by a new Trainer(trainer.network, ...)"
        warnings.warn(f"the checkpoint is of another fit: {'; '.join(found)}; {advice}", stacklevel=4)


def evaluate_as_in_fit(trainer: Any, *data: Any) -> dict[str, float]:
    """Evaluate, to the same bits, with the kernels that training has compiled; `Trainer.evaluate` compiles its own."""
    found = Dataset(trainer.network, trainer.loss, *data)
    with limit_threads(trainer.threads):
        return evaluate_all(trainer._build(min(found.rows, MICRO_BATCH_ROWS)), found)


def compile_kernels(trainer: Any) -> list[Kernel]:
    """Compile the kernels that training needs, in parallel, and start on those needed later; return the former."""
    if trainer.backend != "cpu" or not COMPILES:
        return []
    network, state = trainer.network, trainer._state
    loss, drops, measures = LOSSES[trainer.loss], bool(state.dropout), trainer.l2 > 0 or trainer.clip_norm is not None
    kernels = list(training_kernels(loss, state.code, network.activation_codes, drops, measures).values())
    compile_side_by_side([*kernels, *COMPANIONS], network.dtype, LATER)
    return kernels if is_coming(RUN_EPOCHS, network.dtype) else [*kernels, RUN_EPOCHS]


class FitSession:
    """One call of `Trainer.fit`.

    Parameters
    ----------
    trainer : Trainer
        Its network is trained and its history extended.
    state : TrainingState
        The trainer's state.
    data, validation : Dataset
        Validation may be None.
    build : callable
        ``(batch_rows, train) -> Backend``.
    fail : callable, optional
        Called with the error that ends training, before anything is restored or written.
    """

    def __init__(
        self,
        trainer: Any,
        state: TrainingState,
        data: Dataset,
        validation: Dataset | None,
        build: BackendBuilder,
        fail: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._trainer, self._state, self._data, self._validation, self._build = trainer, state, data, validation, build
        self._fail = fail
        # First, since the backends below start the worker threads, whose loop would otherwise be compiled alone.
        if state.engine is None:
            compile_kernels(trainer)
        self._batch = data.rows if trainer.batch_size is None else min(trainer.batch_size, data.rows)
        self.backend = build(self._batch, True)
        # A backend of its own, so that losses do not depend on the batch size: other micro-batches round differently.
        self._validator = self._evaluator(validation) if validation is not None else self.backend
        self._order = np.empty(data.rows, np.int64) if trainer.shuffle else None
        self._best = self._best_state()

    def _best_state(self) -> Any:
        """Return the object that keeps the best state, on the device that trains the parameters."""
        network, state = self._trainer.network, self._state
        if self._trainer.backend != "cuda":
            return BestState(network.parameters, state.vectors, state.step)
        from .kernels.cuda.best import DeviceBestState  # imports numba.cuda

        return DeviceBestState(network._synced, state.synced, state.step)

    def _evaluator(self, data: Dataset) -> Backend:
        return self._build(min(data.rows, MICRO_BATCH_ROWS), False)

    def run(self, options: FitOptions, bar: Any, writer: CheckpointWriter | None) -> str:
        """Train until the epochs are over, or until patience, a callback, divergence or an interruption ends training.

        Return the text of a `DivergenceWarning`, or "".
        """
        epochs, patience, callbacks = options
        warning = ""
        trainer, state, best = self._trainer, self._state, self._best
        network, history = trainer.network, trainer.history
        validates = self._validation is not None
        monitor = "val_loss" if validates else "loss"
        restores, end = patience is not None, history.epochs + epochs
        loop: EpochLoop | None = None
        try:
            if validates:
                best.update(self._validated()[monitor], of_snapshot=False)
            if not callbacks and writer is None and epochs > 1:
                loop = self._epoch_loop()
            while history.epochs < end:
                epoch = history.epochs
                count = 1 if loop is None else min(end - epoch, loop.epochs_of_a_call)
                if loop is not None and count > 1 and self._starts(epoch):
                    rates = [
                        trainer.optimizer.rates(epoch + i, -(-self._data.rows // self._batch)) for i in range(count)
                    ]
                    loop.train(np.array(rates), trainer.seed, epoch, patience)
                    for row in loop.results(epoch):
                        history.append(row)
                    finite = loop.is_finite
                else:
                    if not validates:
                        best.snapshot()
                    self._train_epoch(epoch)
                    row = self.backend.results() | self._validated()
                    history.append(row)
                    finite = all(map(math.isfinite, row.values())) and best.is_finite()
                    if finite or not validates:
                        best.update(row[monitor], of_snapshot=not validates)
                if not finite:
                    restores = True
                    warning = (
                        f"training diverged in epoch {history.epochs}: a loss or a parameter is no longer finite. "
                        "The network holds the best finite parameters of this call; scale the data, or go on with a "
                        "new Trainer of a lower learning rate"
                    )
                    break
                network.loss = trainer.loss  # callbacks may ask for probabilities
                if bar is not None:
                    update_bar(bar, row, history.epochs - epoch)
                wants_stop = [callback({"epoch": epoch, **row}) for callback in callbacks]
                if writer is not None:
                    writer.write_if_due(lambda: state_dict(trainer, state, best.arrays))
                if any(wants_stop) or (patience is not None and best.age >= patience):
                    break
            if patience is not None and not validates and not warning:
                # The loss at the final parameters has not been measured yet: no epoch has started from them.
                best.update(evaluate_all(self._evaluator(self._data), self._data)["loss"], of_snapshot=False)
        except BaseException as error:
            self._fail(error)
            raise
        finally:  # also after Ctrl-C, which may come anywhere
            history.truncate(history.epochs)
            if loop is not None:  # epochs that a call completed before it was interrupted
                for row in loop.results(history.epochs):
                    history.append(row)
            discard_partial_step(state.progress, state.totals)
            trained = state.progress["step"] > 0
            if trained:
                network.loss = trainer.loss
            if restores or not best.is_finite():
                best.restore()
                start_epoch(state.progress, state.totals, history.epochs)
            if writer is not None and (trained or not writer.is_there()):  # else the file may hold a trained network
                writer.write(*state_dict(trainer, state, best.arrays))
        if history.epochs >= MIN_EPOCHS:
            kept = "The network holds the best parameters of the last fit" if restores else ""
            history.set_remarks(*self._data.remarks(), self._data.constant_loss(), kept)
        return warning

    def _validated(self) -> dict[str, float]:
        """Return the loss and accuracy on the validation data, if there are any."""
        if self._validation is None:
            return {}
        return {f"val_{name}": value for name, value in evaluate_all(self._validator, self._validation).items()}

    def _epoch_loop(self) -> EpochLoop | None:
        """Return a loop that trains several epochs per call, if the backend supports it and all data are in memory."""
        data = self._data.at_once(self._order is not None)
        held = None if self._validation is None else self._validation.at_once(False)
        missing = data is None or (self._validation is not None and held is None)
        if data is None or missing or not isinstance(self.backend, CpuEngine):
            return None
        return EpochLoop(self.backend, data, self._order, self._best, self._validator, held and held[:3])

    def _starts(self, epoch: int) -> bool:
        """Start or continue an epoch; return False if it is the rest of an interrupted one."""
        state, rows = self._state, self._data.rows
        if not state.can_continue(epoch, rows, self._batch):
            start_epoch(state.progress, state.totals, epoch, rows)
        return int(state.progress["row"]) == 0

    def _train_epoch(self, epoch: int) -> None:
        """Train the history's next epoch, or its rest if it was interrupted."""
        trainer, state, rows, batch, order = self._trainer, self._state, self._data.rows, self._batch, self._order
        self._starts(epoch)
        if order is not None:
            rng.shuffle(order, trainer.seed, epoch)
        rates = trainer.optimizer.rates(epoch, -(-rows // batch))
        chunks = self._data.iter_chunks(batch, order, int(state.progress["row"]))
        try:
            for X, y, weights, chunk_order, first_row in chunks:
                self.backend.train(X, y, weights, chunk_order, rates, first_row, rows)
        finally:  # Ctrl-C may come while a chunk is read
            self.backend.finish()
