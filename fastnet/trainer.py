"""Trainer: epochs, batches, validation, early stopping.

Imports the network, the optimizers, the history and ``fastnet.kernels``. No arithmetic on arrays lives here.
"""

from __future__ import annotations  # so that help() shows ArrayLike by its name

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from . import _checks
from .data import split
from .history import History
from .kernels import doors, rng
from .kernels.contracts import Array
from .kernels.engine import Engine
from .kernels.plan import SLICE_ROWS as PREDICT_ROWS
from .kernels.threads import at_most
from .network import Network
from .optimizers import SGD, Adam

BACKENDS = {"numpy": "reference", "serial": "simd", "parallel": "parallel"}
"""How far up the ladder of kernels each backend goes."""

Callback = Callable[[dict[str, float]], Any]


class DivergenceWarning(RuntimeWarning):
    """The loss or a parameter stopped being finite, and training ended."""


def _bar(epochs: int, show: bool) -> Any:
    return tqdm(total=epochs, unit="epoch", disable=not show, file=sys.stderr, dynamic_ncols=True)


class _State(NamedTuple):
    """What training changes, and the length of its History; a snapshot holds copies."""

    parameters: Array
    vectors: tuple[Array, ...]
    step: int
    epochs: int


class _Watch:
    """The best state so far, and how many epochs ago that was."""

    def __init__(self, start: _State, value: float) -> None:
        self.best = start
        self.value = value
        self.age = 0

    def see(self, value: float, state: _State) -> None:
        self.age += 1
        if value < self.value:
            self.best, self.value, self.age = state, value, 0


class Trainer:
    """Trains a network by gradient descent over batches.

    Per batch it minimises the mean over rows of the sum over outputs: for mse that is the article's
    gradient 2 (A - y) / B, k times the derivative of the reported mean over all elements.

    Parameters
    ----------
    network : Network
        Trained in place.
    loss : {"mse", "cross_entropy"}, default "mse"
        cross_entropy takes class labels and applies softmax to the outputs itself.
    optimizer : SGD or Adam, default SGD(0.01)
    batch_size : int or None, default 32
        Rows a step: 1 is stochastic gradient descent, None the full batch. The last batch may be short.
    shuffle : bool, default True
        Visit the rows in another order each epoch, a function of seed and epoch. False is the plain loop.
    seed : int, default 0
        Of the shuffling and of ``validation_split``.
    backend : {"auto", "numpy", "serial", "parallel"}, default "auto"
        numpy is the reference, serial the compiled kernels on one thread, parallel those on several, with the
        same bits; small layers stay on one. auto picks serial.
    threads : int, optional
        Upper bound for parallel; more than there are is no error, None means all.

    Attributes
    ----------
    network : Network
    history : History
        Cumulative over all calls of `fit`.
    backend : str
        What runs: "auto" is resolved.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If a name is unknown, a number out of range, or the loss does not fit the network's outputs.

    Examples
    --------
    >>> import fastnet.data
    >>> from fastnet import Adam, Network, Trainer
    >>> X, y = fastnet.data.digits()
    >>> trainer = Trainer(Network([64, 32, 10]), loss="cross_entropy", optimizer=Adam())
    >>> history = trainer.fit(X, y, epochs=5)
    >>> trainer.evaluate(X, y)["accuracy"] > 0.9
    True
    """

    def __init__(
        self,
        network: Network,
        loss: str = "mse",
        optimizer: SGD | Adam = SGD(0.01),  # noqa: B008 - frozen
        batch_size: int | None = 32,
        *,
        shuffle: bool = True,
        seed: int = 0,
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(f"network is a {type(network).__name__}; expected a fastnet.Network")
        if not isinstance(optimizer, (SGD, Adam)):
            raise TypeError(f"optimizer is {optimizer!r}; expected one such as SGD(0.01) or Adam()")
        if not isinstance(shuffle, (bool, np.bool_)):
            raise TypeError(f"shuffle is {shuffle!r}; expected True or False")
        network._check_loss(loss)
        if batch_size is not None:
            batch_size = _checks.integer("batch_size", batch_size, least=1, hint=", or None for the full batch")
        for field in dataclasses.fields(optimizer):
            value = getattr(optimizer, field.name)
            with np.errstate(over="ignore"):
                held = float(network.dtype.type(value))
            if value != 0 and not 0 < held < math.inf:
                raise ValueError(
                    f"{type(optimizer).__name__} {field.name} is {value!r}, which {network.dtype} cannot hold; "
                    'use another, or a network of dtype="float64"'
                )
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.shuffle = bool(shuffle)
        self.seed = _checks.seed(seed)
        if threads is not None:
            threads = _checks.integer("threads", threads, least=1, hint=", or None for all")
        self.threads = threads
        self.backend = "serial" if backend == "auto" else _checks.choice("backend", backend, (*BACKENDS, "auto"))
        self.history = History()
        self._vectors = tuple(np.zeros_like(network.parameters) for _ in range(optimizer.vectors))
        self._step = 0
        self._fitting = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Attributes stay as they were checked: state and History belong to them."""
        if name in self.__dict__ and not name.startswith("_"):
            raise AttributeError(f"{name} cannot be changed; make another Trainer of the same network")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, made in a callback say, is not in `fit`."""
        return {**self.__dict__, "_fitting": False}

    # ---------------------------------------------------------------------------------------- fitting

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        epochs: int = 100,
        *,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        validation_split: float | None = None,
        patience: int | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
    ) -> History:
        """Train for further epochs: called again it goes on where it stopped.

        Parameters
        ----------
        X : array_like, shape (n, n_in)
            One sample a row; converted to the network's dtype.
        y : array_like
            For mse targets (n, n_out), or (n,) for one output; for cross_entropy labels (n,) from 0 to
            n_out - 1, or one-hot rows (n, n_out).
        epochs : int, default 100
            Passes over the data.
        validation_data : tuple (X, y), optional
            Measured after every epoch, never trained on.
        validation_split : float, optional
            Share of the rows to hold out instead, chosen by the seed, 0 < share < 1.
        patience : int, optional
            Stop after this many epochs without a new best ``val_loss`` (``loss`` where there is no
            validation); at the end the network holds the best parameters of this call, those at its start
            included, and the optimizer the state that goes with them.
        callbacks : iterable of callable
            Each is called after every epoch with its row, a dict such as ``{"epoch": 3, "loss": 0.1}``; if
            one returns true, training stops.
        progress : bool, optional
            A bar on standard error; by default only where that is a terminal.

        Returns
        -------
        History
            The trainer's one cumulative history: ``loss`` is the row-weighted mean of the batches' losses
            before each update.

        Raises
        ------
        TypeError, ValueError
            If anything that arrives is of the wrong type, shape or range, or holds NaN or infinity;
            nothing has been changed then.
        RuntimeError
            If this trainer is in `fit` already, in another thread or above a callback.

        Warns
        -----
        DivergenceWarning
            If the loss or a parameter stops being finite: training ends, and the network holds the best
            finite parameters of this call.

        Notes
        -----
        Ctrl-C, or an exception in a callback, leaves everything as it was after the last whole epoch of the
        history (with ``patience``, the best parameters so far), and `fit` can be called again.
        """
        X, y, validation = self._data(X, y, validation_data, validation_split)
        epochs = _checks.integer("epochs", epochs, least=1)
        if patience is not None:
            patience = _checks.integer("patience", patience, least=1, hint=", or None")
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks is {callbacks!r}; expected a list of functions of an epoch's row")
        callbacks = tuple(callbacks)
        for callback in callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks holds {callback!r}; expected functions of an epoch's row")
        terminal = sys.stderr is not None and sys.stderr.isatty()  # None under pythonw
        show = terminal if progress is None else bool(progress)

        self._check_ready()
        batch_size = len(X) if self.batch_size is None else min(self.batch_size, len(X))
        # An engine of its own, so that a loss does not depend on the batch size: sums of other slices round otherwise.
        validator = self._engine(min(len(validation[0]), PREDICT_ROWS)) if validation is not None else None

        def validate() -> dict[str, float]:
            if validator is None or validation is None:
                return {}
            return {f"val_{name}": value for name, value in validator.evaluate(*validation).items()}

        last = self._snapshot()
        with at_most(self.threads):
            watch = _Watch(last, validate().get("val_loss", math.inf))
        diverged = False
        try:
            self._fitting = True
            with at_most(self.threads), _bar(epochs, show) as bar:
                for row in self._epochs(X, y, epochs, batch_size):
                    row |= validate()
                    epoch = self.history.epochs
                    self.history.append(row)
                    # From here on the epoch counts as whole. The loss was measured before the updates, so it belongs
                    # to the parameters at the epoch's start; the validation loss to those at its end.
                    start, last = last, self._snapshot()
                    finite = all(map(math.isfinite, row.values())) and bool(np.isfinite(last.parameters).all())
                    if "val_loss" not in row:
                        watch.see(row["loss"], start)
                    elif finite:
                        watch.see(row["val_loss"], last)
                    if not finite:
                        diverged = True
                        warnings.warn(
                            f"training diverged in epoch {epoch}: a loss or a parameter is no longer finite. The "
                            "network holds the best finite parameters of this call; lower the learning rate, or scale "
                            "the data",
                            DivergenceWarning,
                            stacklevel=2,
                        )
                        break
                    self.network.loss = self.loss
                    bar.set_postfix({name: f"{value:.4g}" for name, value in row.items()}, refresh=False)
                    bar.update()
                    wants_stop = [callback({"epoch": epoch, **row}) for callback in callbacks]
                    if callbacks:  # which may have changed the parameters
                        last = self._snapshot()
                    if any(wants_stop) or (patience is not None and watch.age >= patience):
                        break
                if patience is not None and validation is None and not diverged:
                    # The last epoch's parameters have started no epoch, so no loss was measured at them yet.
                    watch.see(self._engine(min(len(X), PREDICT_ROWS)).evaluate(X, y)["loss"], last)
        finally:  # Ctrl-C included, which may come anywhere
            self.history.truncate(last.epochs)
            self._restore(watch.best if diverged or patience is not None else last)
            self._fitting = False
        return self.history

    def _epochs(self, X: Array, y: Array, epochs: int, batch_size: int) -> Iterator[dict[str, float]]:
        """Train epoch after epoch; each yields its row."""
        engine = self._engine(batch_size)
        for _ in range(epochs):
            order = rng.permutation(self.seed, rng.ORDER, self.history.epochs, len(X)) if self.shuffle else None
            yield engine.train_epoch(self._update, X, y, order, batch_size)

    def evaluate(self, X: ArrayLike, y: ArrayLike) -> dict[str, float]:
        """Loss, and for classification accuracy, at the present parameters.

        Parameters
        ----------
        X, y : array_like
            As `fit` takes them.

        Returns
        -------
        dict
            ``{"loss": ...}`` or ``{"loss": ..., "accuracy": ...}``.

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        X, y = self._pair(X, y, "X", "y")
        with at_most(self.threads):
            return self._engine(min(len(X), PREDICT_ROWS)).evaluate(X, y)

    def __repr__(self) -> str:
        return (
            f"Trainer({self.network!r}, loss={self.loss!r}, optimizer={self.optimizer}, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, seed={self.seed}, backend={self.backend!r}, "
            f"threads={self.threads})"
        )

    # ---------------------------------------------------------------------------------------- inside

    def _check_ready(self) -> None:
        """Refuse to start from what cannot be trained."""
        if self._fitting:
            raise RuntimeError(
                "this Trainer is already in fit, in another thread or above a callback; use one for each"
            )
        if not self.network.parameters.flags.writeable:
            raise ValueError("network.parameters is read-only; training changes it in place")
        doors.finite("network.parameters", self.network.parameters)

    def _engine(self, rows: int) -> Engine:
        return self.network._engine(loss=self.loss, rung=BACKENDS[self.backend], rows=rows)

    def _update(self, parameters: Array, gradient: Array) -> None:
        self._step += 1
        self.optimizer.update(BACKENDS[self.backend], parameters, gradient, self._vectors, self._step)

    def _snapshot(self) -> _State:
        vectors = tuple(vector.copy() for vector in self._vectors)
        return _State(self.network.parameters.copy(), vectors, self._step, self.history.epochs)

    def _restore(self, state: _State) -> None:
        self.network.parameters[...] = state.parameters
        for vector, kept in zip(self._vectors, state.vectors, strict=True):
            vector[...] = kept
        self._step = state.step

    def _pair(self, X: ArrayLike, y: ArrayLike, X_name: str, y_name: str) -> tuple[Array, Array]:
        X = self.network._check_inputs(X, X_name)
        return X, self.network._check_targets(y, len(X), self.loss, y_name)

    def _data(
        self, X: ArrayLike, y: ArrayLike, data: tuple[ArrayLike, ArrayLike] | None, share: float | None
    ) -> tuple[Array, Array, tuple[Array, Array] | None]:
        """Everything that training and validation read, checked and converted."""
        X, y = self._pair(X, y, "X", "y")
        if data is not None and share is not None:
            raise ValueError("validation_data and validation_split are both given; expected one of them")
        if data is not None:
            if not isinstance(data, (tuple, list)) or len(data) != 2:
                raise TypeError("validation_data must be a pair (X, y)")
            return X, y, self._pair(*data, "validation X", "validation y")
        if share is None:
            return X, y, None
        share = _checks.number("validation_split", share, above=0, below=1)
        X, X_held_out, y, y_held_out = split(X, y, share, self.seed)
        return X, y, (X_held_out, y_held_out)
