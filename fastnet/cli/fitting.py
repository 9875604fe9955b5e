"""Fits the networks of ``fastnet train``: one with a progress bar, or several in parallel; a signal ends the fits."""

import copy
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..history import History
from ..kernels.cpu.threads.pool import num_threads
from ..kernels.specs.base import Array
from ..messages import counted
from ..network import Network
from ..optimizers import CosineDecay
from ..recipe import annealed, kept
from ..trainer import DivergenceWarning, Trainer


@dataclass
class Data:
    """The data to learn: features, targets, and for a table how to read its columns."""

    X: Any
    y: Array
    classes: list[Any] | None
    target: str
    lines: list[str]
    columns: Any = None
    scaling: tuple[float, float] = (0.0, 1.0)
    balanced: bool = False
    unread: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task."""
        return "regression" if self.classes is None else "classification"


@dataclass
class Member:
    """A network to fit, with its data, and the state of its training.

    Attributes
    ----------
    trainer : Trainer
    data, validation : tuple (X, y) or (X, y, weights)
    baseline : float or None
        The loss of the best constant prediction.
    fold : int
        Index of the part of the rows that is held out from it.
    transformer : ColumnTransformer or None
        The transformer that made X from a table.
    checkpoint : str or None
        The file to write after each epoch.
    prepare_all : callable or None
        Makes the transformer, a trainer and the data, as above, for all rows, including those of the validation. Takes
        the number of epochs of the learning rate's schedule, None for that of ``trainer``.
    refitted : Trainer or None
        Has trained on all rows for as long as ``trainer`` took to its best epoch; if set, its network is the result.
    """

    trainer: Trainer
    data: tuple[Any, ...]
    validation: tuple[Any, ...]
    baseline: float | None
    fold: int = 0
    transformer: Any = None
    checkpoint: str | None = None
    prepare_all: Callable[[int | None], tuple[Any, Trainer, list[tuple[Any, ...]]]] | None = None
    refitted: Trainer | None = None

    @property
    def network(self) -> Network:
        """The resulting network."""
        return (self.refitted or self.trainer).network

    @property
    def histories(self) -> list[History]:
        """The histories of all trainings."""
        return [trainer.history for trainer in (self.trainer, self.refitted) if trainer is not None]

    @property
    def history(self) -> History:
        """The history of the first training."""
        return self.trainer.history

    @property
    def rows(self) -> int:
        """Number of rows that the first training uses."""
        return len(self.data[1])

    def fit(self, epochs: int, patience: int, stop: Callable[[Any], None], progress: bool | None = None) -> None:
        """Train until ``history`` has this many epochs, then refit on all rows; the best is kept, whatever ends it."""
        if epochs > self.history.epochs:
            rest: dict[str, Any] = {"patience": patience, "callbacks": [stop], "progress": progress}
            rest |= {"validation_data": self.validation, "checkpoint": self.checkpoint}
            X, y, *weights = self.data
            self.trainer.fit(X, y, epochs - self.history.epochs, sample_weight=weights[0] if weights else None, **rest)
        self.refit(stop)

    def refit(self, stop: Callable[[Any], None]) -> None:
        """Train a new network on all rows, for as many epochs as the first training took to reach its best one.

        At the best epoch of a cosine schedule the rate is still high. The new network's rate falls to 0, over as many
        epochs as give the same sum of rates.
        """
        best, rate = self.kept()[0], self.trainer.optimizer.learning_rate
        if self.prepare_all is not None and best is not None:
            falls = annealed(best + 1, rate.epochs) if isinstance(rate, CosineDecay) else None
            transformer, trainer, [(X, y, *weights)] = self.prepare_all(falls)
            rest: dict[str, Any] = {"sample_weight": weights[0] if weights else None, "progress": False}
            trainer.fit(X, y, falls or best + 1, callbacks=[stop], **rest)
            self.transformer, self.refitted = transformer, trainer

    def kept(self) -> tuple[int | None, float]:
        """Return the result of `recipe.kept` for the first training."""
        return kept(self.trainer, self.validation)

    def diagnosis(self) -> str:
        """Describe how training went, without remarks on the data, which the command line itself has prepared."""
        history = copy.copy(self.history)
        kept = (
            "The best epoch is kept"
            if self.refitted is None
            else "A new network was trained on all rows, for that long"
        )
        history.set_remarks("", "", kept=kept)
        return history.diagnosis(self.baseline)


def fit(members: Sequence[Member], epochs: int, patience: int) -> int:
    """Fit all members; report each problem in one line, and return the exit status.

    Ctrl-C and SIGTERM end the fits with the best epoch so far; the status is then 128 plus the signal's number.
    """
    status = 0
    with warnings.catch_warnings(record=True) as caught, _heeded_signals(members[0].trainer.ranks == 1) as (stop, came):
        warnings.simplefilter("always")
        try:
            if len(members) == 1:
                members[0].fit(epochs, patience, stop)
            else:
                _fit_side_by_side(members, epochs, patience, stop)
        except KeyboardInterrupt:
            status = 128 + (came[0] if came else signal.SIGINT)
    for warning in caught:
        print(f"fastnet train: {warning.message}", file=sys.stderr)
        if issubclass(warning.category, DivergenceWarning):
            status = 1
    if status > 1:
        said = "interrupted" if status == 130 else "stopped by SIGTERM"
        print(f"fastnet train: {said} {_kept(members)}", file=sys.stderr)
    return status


def _fit_side_by_side(members: Sequence[Member], epochs: int, patience: int, stop: Callable[[Any], None]) -> None:
    """Fit all members on the threads that the system starts, the caller's if it starts none; an error stops new fits.

    The threads take members from one shared iterator instead of one task per member: if the system refuses to start a
    thread for a task, the pool loses that task.
    """
    waiting, count, running = iter(members), min(len(members), num_threads()), list[Future[None]]()

    def work() -> None:
        try:
            for member in waiting:
                member.fit(epochs, patience, stop, False)
        finally:
            deque(waiting, 0)

    with ThreadPoolExecutor(count) as pool:
        try:
            for _ in range(count):
                running.append(pool.submit(work))
        except RuntimeError as refused:
            threads = max(1, len(running))
            if threads < count:
                said = f"networks are trained on {threads} of {count} threads, since the system starts no more"
                advice = "see its limits of processes and of memory"
                warnings.warn(f"{said} ({refused}); {advice}", RuntimeWarning, stacklevel=2)
        try:
            if not running:
                work()
            for each in running:
                each.result()
        finally:
            deque(waiting, 0)


def _kept(members: Sequence[Member]) -> str:
    """Describe after how many epochs the interruption came, and what is kept."""
    begun = [member for member in members if member.history.epochs]
    done = min((member.history.epochs for member in begun), default=0)
    kept = "; the best of them is kept" if begun else "; nothing is kept"
    if 0 < len(begun) < len(members):
        kept += f", of {len(begun)} of {len(members)} networks, since the others have no whole epoch"
    kept += ", not refitted on all rows" * any(map(_lacks_refit, begun))
    return f"after {counted(done, 'whole epoch')}{kept}"


def _lacks_refit(member: Member) -> bool:
    return member.prepare_all is not None and member.refitted is None


@contextmanager
def _heeded_signals(at_once: bool) -> Iterator[tuple[Callable[[Any], None], list[int]]]:
    """Yield a callback that raises KeyboardInterrupt once a signal has arrived, and the list of signals that have.

    Python prints and drops exceptions raised in destructors and in callbacks from C, of which compilation has many, and
    a signal interrupts only the main thread. In these cases only the callback makes the signal take effect. Several
    ranks must end together, after an epoch, so none of them raises ``at_once``.
    """
    came: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        came.append(number)
        if at_once:
            raise KeyboardInterrupt

    def stop(row: Any) -> None:
        if came:
            raise KeyboardInterrupt

    # A background job ignores SIGINT, which must stay so; and only the main thread may set a handler.
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    in_main = threading.current_thread() is threading.main_thread()
    replaced = {number: old for number, old in defaults.items() if in_main and signal.getsignal(number) is old}
    for number in replaced:
        signal.signal(number, interrupt)
    try:
        yield stop, came
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)
