"""`fit_many`: trains several networks at once, each on one core, with the bits of `Trainer.fit`."""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import checks
from .dataset import Dataset, validation_arrays
from .fit_session import Callback, DivergenceWarning, FitOptions, compile_kernels, warn_of_other_data
from .hints import hinting
from .history import History
from .io import storage
from .io.checkpoint import CheckpointWriter
from .kernels.cpu.threads.pool import limit_threads, num_threads
from .kernels.engine.backend import interruptible
from .kernels.engine.plan import parameter_count
from .kernels.specs.base import Array
from .progress import progress_bar
from .trainer import Trainer, fit_prepared, in_fit
from .validation import check_inputs

POLL_S = 0.1
"""Seconds between two checks of the workers, for the progress bar and for Ctrl-C on Windows."""


class _Job(NamedTuple):
    """The training of one network."""

    trainer: Trainer
    data: Dataset
    validation: Dataset | None
    options: FitOptions
    writer: CheckpointWriter | None
    epochs_before: int

    @property
    def work(self) -> int:
        """A number proportional to the time that an epoch takes."""
        return parameter_count(self.trainer.network.layer_sizes) * self.data.rows


@hinting
def fit_many(
    trainers: Iterable[Trainer],
    X: ArrayLike,
    y: ArrayLike,
    epochs: int = 100,
    rows: Sequence[ArrayLike] | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    validation_data: tuple[ArrayLike, ...] | None = None,
    validation_split: float | None = None,
    validation_rows: Sequence[ArrayLike] | None = None,
    patience: int | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
    checkpoint: storage.Path | Sequence[storage.Path | None] | None = None,
    threads: int | None = None,
) -> list[History]:
    """Train several networks on the same data at once, each on one core.

    Each ends with the bits of ``trainer.fit(X, y, ...)`` or, with ``rows``, of ``trainer.fit(X[rows[i]], y[rows[i]],
    ...)``. All share X and y, which are converted once and not copied. If single steps of a network already keep all
    cores busy, as with some hundred thousand parameters and batches of hundreds of rows, training one network after the
    other is just as fast.

    Parameters
    ----------
    trainers : iterable of Trainer
        Trainers of different networks; ``threads`` of each is ignored here.
    X, y, epochs
        As for `Trainer.fit`; the same for all trainers.
    rows : sequence of array_like of int, optional
        The rows of X and y to train on, one array per trainer: folds, or bootstraps, which repeat rows. None means all.
    sample_weight : array_like, shape (n,), optional
        A weight for each row of X.
    validation_data, validation_split
        As for `Trainer.fit`, for all trainers; each trainer's rows are split by its own seed.
    validation_rows : sequence of array_like of int, optional
        The rows of X and y to validate on instead, one array per trainer, such as the fold left out.
    patience
        As for `Trainer.fit`; each trainer stops by its own loss.
    callbacks : iterable of callable
        Each is called after every epoch of every trainer with a dict, to which ``"trainer"`` adds the index, such as
        ``{"trainer": 5, "epoch": 0, "loss": 0.1}`` after the first epoch; if one returns true, this trainer stops.
        They run in the threads that train, several at once.
    progress : bool, optional
        Whether to show one bar for all epochs on standard error; by default on terminals and in notebooks only.
    checkpoint : str, path-like, or sequence of these or None, optional
        A file for each trainer, or a string such as ``"run-{}.safetensors"``, whose ``{}`` is replaced by the index.
    threads : int, optional
        Number of networks to train at once; None means the number of cores that this process may use. If any trainer
        has ``backend="cuda"``, all are trained one after the other, those on the CPU with one core: use a separate call
        for the latter.

    Returns
    -------
    list of History
        The history of each trainer.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `Trainer.fit`, for the first trainer that cannot be trained, whose index is in the error's notes; nothing has
        been changed then. Also if two trainers are the same or share a network.
    Exception
        Any error that ended a trainer's training, or that a callback raised, once all others have been trained; a note
        has the trainer's index.
    ExceptionGroup
        The errors of several trainers; ``except*`` handles it and a single error alike.
    KeyboardInterrupt
        After Ctrl-C, once each trainer has completed its current step; see the notes of `Trainer.fit`.

    Warns
    -----
    DivergenceWarning
        At the end, for each trainer that diverged.
    RuntimeWarning
        If the system refuses to start that many threads; those that have started train all networks.
    UserWarning
        As `Trainer.fit`, about the data of a trainer that was resumed.

    Examples
    --------
    >>> import fastnet.data
    >>> from fastnet import Ensemble, Network, Trainer, fit_many
    >>> X, y = fastnet.data.digits()
    >>> trainers = [Trainer(Network([64, 16, 10], seed=i), loss="cross_entropy", seed=i) for i in range(4)]
    >>> histories = fit_many(trainers, X, y, epochs=5)
    >>> Ensemble([trainer.network for trainer in trainers]).predict_proba(X).shape
    (1797, 10)
    """
    trainers = _checked_trainers(trainers)
    options = FitOptions.checked(epochs, patience, callbacks)
    threads = checks.count_or_none("threads", threads, " for all")
    paths = _paths(checkpoint, len(trainers))
    given = (validation_data, validation_split, validation_rows)
    names = ("validation_data", "validation_split", "validation_rows")
    validations = [name for name, value in zip(names, given, strict=True) if value is not None]
    if len(validations) > 1:
        raise ValueError(f"{' and '.join(validations)} are given; expected one of them")
    share = None if validation_split is None else checks.number("validation_split", validation_split, above=0, below=1)
    shared = _SharedData(X, y, sample_weight, validation_data)
    selections = _per_trainer("rows", rows, len(trainers))
    held_selections = _per_trainer("validation_rows", validation_rows, len(trainers))
    jobs = []
    for i, trainer in enumerate(trainers):
        with _naming(i):
            whole, validation = shared.of(trainer)
            data = whole
            if selections is not None or share is not None:  # a split of all rows copies nothing either
                selected = np.arange(whole.rows) if selections is None else selections[i]
                data = whole.select(_indices("rows", selected, whole.rows))
            if share is not None:
                data, validation = data.split(share, trainer.seed)
            if held_selections is not None:
                validation = whole.select(_indices("validation_rows", held_selections[i], whole.rows))
            options.check_monitor(trainer._state.dropout, validation is not None)
            path = paths[i]
            writer = None if path is None else CheckpointWriter(path, trainer.optimizer)
        own = options._replace(callbacks=[partial(_call, callback, i) for callback in options.callbacks])
        jobs.append(_Job(trainer, data, validation, own, writer, trainer.history.epochs))
    for job in jobs:
        warn_of_other_data(job.trainer._state, job.trainer.history, job.data, job.validation)
    with in_fit(trainers):
        for trainer in trainers:
            for kernel in compile_kernels(trainer):  # in this thread, where Ctrl-C can interrupt compilation
                kernel.address(trainer.network.dtype)
        futures = _run(jobs, progress, threads)
    _report(futures)
    return [trainer.history for trainer in trainers]


# ------------------------------------------------------------------------------------------- arguments


def _checked_trainers(trainers: Any) -> list[Trainer]:
    """Return the trainers as a list; raise if two have the same network."""
    if isinstance(trainers, Trainer) or not isinstance(trainers, Iterable):
        raise TypeError(f"trainers is {trainers!r}; expected a list of Trainers")
    found, networks = list(trainers), dict[int, int]()
    if not found:
        raise ValueError("trainers is empty; expected at least one Trainer")
    for i, trainer in enumerate(found):
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainers[{i}] is a {type(trainer).__name__}; expected a fastnet.Trainer")
        if trainer.ranks > 1:
            raise ValueError(
                f"trainers[{i}] has a comm of {trainer.ranks} ranks; fit_many trains on cores: call its fit"
            )
        first = networks.setdefault(id(trainer.network), i)
        if first != i:
            what = "are the same Trainer" if found[first] is trainer else "have the same network"
            raise ValueError(f"trainers[{first}] and trainers[{i}] {what}; expected a network for each")
    return found


def _per_trainer(name: str, value: Any, count: int) -> list[Any] | None:
    """Return a sequence that has one element per trainer, as a list."""
    if value is None:
        return None
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a list with one element for each trainer")
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} elements; expected {count}, one for each trainer")
    return list(value)


def _paths(checkpoint: Any, count: int) -> list[Any]:
    """Return each trainer's checkpoint path, or None."""
    if checkpoint is None:
        return [None] * count
    if isinstance(checkpoint, (str, os.PathLike)):
        template = os.fspath(checkpoint)
        if "{}" not in template and count > 1:
            raise ValueError(
                f"checkpoint is {template!r}, one file for {count} trainers; expected a list of paths, or a text with "
                '{}, which is replaced by the index, such as "run-{}.safetensors"'
            )
        return [template.replace("{}", str(i)) for i in range(count)]
    paths = _per_trainer("checkpoint", checkpoint, count) or []
    seen: dict[str, int] = {}
    for i, path in enumerate(paths):
        first = i if path is None else seen.setdefault(os.path.realpath(path), i)
        if first != i:
            raise ValueError(f"checkpoint[{first}] and checkpoint[{i}] are the same file; expected one for each")
    return paths


def _indices(name: str, value: Any, rows: int) -> Array:
    """Return row numbers as int64, in a private copy: compiled code reads the rows without checking bounds."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} holds a masked array, whose masked rows would be used; give its compressed()")
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        hint = "; for a mask use np.flatnonzero(mask)" if array.dtype == bool else ""
        raise TypeError(
            f"{name} holds an array of {array.dtype}, shape {array.shape}; expected whole numbers (m,){hint}"
        )
    if array.size == 0:
        raise ValueError(f"{name} holds no row; expected at least one")
    if array.min() < 0 or array.max() >= rows:
        raise ValueError(f"{name} runs from {array.min()} to {array.max()}; expected numbers from 0 to {rows - 1}")
    return np.array(array, np.int64)


class _SharedData:
    """X, y and validation data, converted and checked once for all trainers that need them in the same form."""

    def __init__(self, X: Any, y: Any, sample_weight: Any, validation_data: Any) -> None:
        self._X, self._y, self._weights, self._held = X, y, sample_weight, validation_data
        self._converted: dict[Any, Array] = {}
        self._found: dict[Any, tuple[Dataset, Dataset | None]] = {}

    def of(self, trainer: Trainer) -> tuple[Dataset, Dataset | None]:
        """Return the data in the form that this trainer needs."""
        network, loss = trainer.network, trainer.loss
        sizes, dtype, X = network.layer_sizes, network.dtype, self._X
        key = sizes[0], sizes[-1], dtype, loss
        if key not in self._found:
            if not isinstance(X, np.memmap):
                if dtype not in self._converted:
                    self._converted[dtype] = check_inputs(X, sizes, dtype)
                X = self._converted[dtype]
            data = Dataset(network, loss, X, self._y, self._weights)
            held = None
            if self._held is not None:
                held = Dataset(network, loss, *validation_arrays(self._held), prefix="validation ")
            self._found[key] = data, held
        return self._found[key]


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Add a trainer's index to errors."""
    try:
        yield
    except Exception as error:
        error.add_note(f"(raised for trainers[{index}])")
        raise


# --------------------------------------------------------------------------------------------- running


def _call(callback: Callback, index: int, row: dict[str, float]) -> Any:
    return callback({"trainer": index, **row})


def _run(jobs: list[_Job], progress: bool | None, threads: int | None) -> list[Future[str]]:
    """Run all jobs on threads, the longest first; return a future for each."""
    with limit_threads(threads):
        workers = min(num_threads(), len(jobs))
    if any(job.trainer.backend == "cuda" for job in jobs):
        workers = 1  # on one GPU, steps of several networks would only wait for each other
    started, stop = threading.Event(), threading.Event()
    fatal: list[BaseException] = []

    def run(job: _Job) -> str:
        started.wait()  # until all threads run: Ctrl-C may come while they start, and `_join` must know all of them
        if stop.is_set():
            return ""
        try:
            with limit_threads(1), interruptible(stop):
                return fit_prepared(*job[:-1])
        except Exception:
            raise
        except BaseException as error:  # such as a callback's sys.exit
            if not stop.is_set():
                fatal.append(error)
                stop.set()
            raise

    futures: list[Future[str]] = [Future() for _ in jobs]
    longest_first = deque(sorted(range(len(jobs)), key=lambda i: -jobs[i].work))

    def work() -> None:
        while True:
            try:
                i = longest_first.popleft()
            except IndexError:
                return
            try:
                futures[i].set_running_or_notify_cancel()  # before `run` checks stop, for `_join`
                futures[i].set_result(run(jobs[i]))
            except BaseException as error:
                futures[i].set_exception(error)

    threads_at_work: list[threading.Thread] = []
    with progress_bar(sum(job.options.epochs for job in jobs), progress) as bar:
        try:
            refused = _start(work, workers, threads_at_work)
            started.set()
            if refused is not None:
                warnings.warn(
                    f"fit_many trains on {max(1, len(threads_at_work))} of {workers} threads, since the system starts "
                    f"no more ({refused}); see its limits of processes and of memory",
                    RuntimeWarning,
                    stacklevel=4,
                )
            if not threads_at_work:
                work()
            while wait(futures, POLL_S).not_done:
                _show(bar, jobs, futures)
            _show(bar, jobs, futures)
        finally:
            stop.set()
            started.set()
            _join(threads_at_work, futures)
    if fatal:
        raise fatal[0]
    return futures


def _start(work: Callable[[], None], count: int, started: list[threading.Thread]) -> RuntimeError | None:
    """Start threads and add them to a list; stop at the first that the system refuses and return its error."""
    for i in range(count):
        thread = threading.Thread(target=work, name=f"fastnet-fit_{i}")
        started.append(thread)  # before it starts: Ctrl-C may come as soon as it runs
        try:
            thread.start()
        except RuntimeError as error:
            started.pop()
            return error
    return None


def _join(threads: list[threading.Thread], futures: list[Future[str]]) -> None:
    """Wait for all threads to end, however often Ctrl-C comes: before that, networks are in the middle of a step."""
    interrupted = False
    while threads:
        try:
            # First, since up to Python 3.12 a thread counts as ended once Ctrl-C has interrupted its join.
            wait([future for future in futures if future.running()])
            for thread in threads:
                if thread.is_alive():  # false if it never started
                    thread.join()
            break
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def _show(bar: Any, jobs: list[_Job], futures: list[Future[str]]) -> None:
    """Show the epochs of all trainers; the remaining epochs of trainers that stopped early no longer count."""
    if bar is None:
        return
    done = [future.done() for future in futures]  # before the epochs are read
    trained = [job.trainer.history.epochs - job.epochs_before for job in jobs]
    bar.total = sum(n if end else job.options.epochs for job, n, end in zip(jobs, trained, done, strict=True))
    bar.set_postfix_str(f"{sum(done)} of {len(jobs)} networks trained", refresh=False)
    bar.update(sum(trained) - bar.n)


def _report(futures: list[Future[str]]) -> None:
    """Raise the trainers' errors, or warn of networks that diverged."""
    errors = []
    for i, future in enumerate(futures):
        error = future.exception()
        if isinstance(error, Exception):
            error.add_note(f"(raised for trainers[{i}]; trainers without an error are trained)")
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(futures)} trainers failed", errors)
    for i, future in enumerate(futures):
        if future.result():
            warnings.warn(f"trainers[{i}]: {future.result()}", DivergenceWarning, stacklevel=4)
