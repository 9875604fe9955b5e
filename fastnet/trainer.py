"""Trainer: trains a network by gradient descent over batches; `kernels` does the arithmetic."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import checks
from .dataset import Dataset, validation_arrays
from .distributed import facts_of, ranks_of
from .fit_session import Callback, DivergenceWarning, FitOptions, FitSession, evaluate_all, warn_of_other_data
from .hints import Hinting, hinting
from .history import History
from .io import checkpoint, model, storage
from .io.checkpoint import CheckpointWriter
from .kernels.api import validation
from .kernels.cpu.threads.pool import limit_threads
from .kernels.engine.backend import Backend, start_epoch
from .kernels.engine.engine import CPU
from .kernels.engine.evaluation import Evaluator
from .kernels.engine.numpy_engine import NumpyEngine
from .kernels.jit.target import COMPILES
from .kernels.specs.batches import MICRO_BATCH_ROWS
from .kernels.specs.losses import LOSSES
from .network import Network
from .optimizers import SGD, Optimizer
from .progress import progress_bar
from .regression import RegressionScores
from .training_state import TrainingState, check_memory
from .validation import check_loss, check_optimizer

__all__ = ["BACKENDS", "DivergenceWarning", "Trainer"]

BACKENDS = ("numpy", "cpu", "cuda")
"""The backends; "auto" means "cpu"."""

_IN_FIT: dict[int, list[Trainer]] = {}
"""For each network (by its id) that is being trained, the trainers of that call. There is no lock, since a fork in
another thread could copy it in its locked state."""


@contextmanager
def in_fit(trainers: Sequence[Trainer]) -> Iterator[None]:
    """Within a block, mark networks as being trained: all, or none if one of the trainers cannot train now."""
    mark = list(trainers)
    try:
        for i, trainer in enumerate(trainers):
            try:
                found = _IN_FIT.setdefault(id(trainer.network), mark)
                trainer._check_ready([] if found is mark else found)
            except Exception as error:
                if len(trainers) > 1:
                    error.add_note(f"(raised for trainers[{i}])")
                raise
        yield
    finally:
        for trainer in trainers:
            if _IN_FIT.get(id(trainer.network)) is mark:
                del _IN_FIT[id(trainer.network)]


def fit_prepared(
    trainer: Trainer, data: Dataset, validation: Dataset | None, options: FitOptions, writer: CheckpointWriter | None
) -> str:
    """Run a `fit` whose arguments `fit_many` has checked; return the text of a `DivergenceWarning`, or ""."""
    return FitSession(trainer, trainer._state, data, validation, trainer._build).run(options, None, writer)


class Trainer(Hinting):
    """Trains a network by gradient descent over batches.

    Each step minimises the mean over the batch's rows of the sum over outputs. For mse this gives the article's
    gradient 2 (A - y) / B, which is k times the derivative of the reported mean over all elements.

    Parameters
    ----------
    network : Network
        Trained in place.
    loss : str, default "mse"
        "mse", "mae", "huber" (of width 1) or "log_cosh" for regression; "cross_entropy", which takes class labels and
        itself applies softmax to the outputs; "binary_cross_entropy", which takes targets from 0 to 1, one per output,
        and itself applies the sigmoid.
    optimizer : SGD, Adam, AdamW or RMSprop, default SGD(0.01)
    batch_size : int or None, default 32
        Rows per step: 1 is stochastic gradient descent, None the full batch. The last batch may be short.
    shuffle : bool, default True
        Visit the rows in a new order each epoch, which depends on seed and epoch. False visits them in their own order.
    seed : int or None, default 0
        Seed of shuffling, dropout and ``validation_split``. None draws a seed, which the attribute then holds.
    l2 : float, default 0.0
        Adds l2/2 times the sum of all squared weights, without biases, to the objective (not to reported losses).
    clip_norm : float, optional
        Scale a step's gradient, including that of l2, down to this Euclidean norm if it is larger.
    dropout : float or sequence of float, default 0.0
        Fraction in [0, 1) of the hidden layers' outputs that a step sets to 0, or one per hidden layer; the other
        outputs are divided by 1 - rate. Dropout applies only in training. The history's ``loss`` is that of the thinned
        network, so `fit` refuses ``patience`` without validation.
    backend : {"auto", "numpy", "cpu", "cuda"}, default "auto"
        "numpy" runs the reference equations. "cpu", which "auto" means, runs the compiled kernels, with the same bits
        for any number of threads: small networks use one thread, medium ones periodically time both and keep the
        faster. "cuda" trains on an NVIDIA GPU, with different bits, but the same from run to run. It copies X and y to
        the GPU once per `fit`, so it does not see changes by callbacks; parameters stay there until they are read.
    threads : int, optional
        Upper bound for the cpu backend; others ignore it. 1 is serial, None means all; it may exceed what there is.
    comm : mpi4py.MPI.Intracomm, optional
        Train over these ranks, such as ``MPI.COMM_WORLD``, to the bits of one process. Each runs the same program with
        the same data, on its share of its machine's threads. ``batch_size`` is that of all; ``ranks`` counts the ranks.
    sharded : bool, default False
        Each rank passes its own rows to `fit`, for validation too; all train as one process on rank 0's, rank 1's, ...

    Attributes
    ----------
    network : Network
    history : History
        Cumulative over all calls of `fit`.
    backend : str
        The backend that runs: never "auto".

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If a name is unknown, a number out of range, or the loss does not fit the network's outputs.
    MemoryError
        If the parameters and the optimizer's state are larger than all memory.
    OSError
        If the backend is "cuda", but numba-cuda, the driver or the GPU is missing; the message says which.

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

    @hinting
    def __init__(
        self,
        network: Network,
        loss: str = "mse",
        optimizer: Optimizer = SGD(0.01),  # noqa: B008 - frozen
        batch_size: int | None = 32,
        *,
        shuffle: bool = True,
        seed: int | None = 0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        dropout: float | Sequence[float] = 0.0,
        backend: str = "auto",
        threads: int | None = None,
        comm: Any = None,
        sharded: bool = False,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(f"network is a {type(network).__name__}; expected a fastnet.Network")
        if not isinstance(optimizer, Optimizer) or type(optimizer) is Optimizer:
            raise TypeError(f"optimizer is {optimizer!r}; expected one such as SGD(0.01) or Adam()")
        if not isinstance(shuffle, (bool, np.bool_)):
            raise TypeError(f"shuffle is {shuffle!r}; expected True or False")
        check_loss(loss, network.layer_sizes, network.activations)
        self.batch_size = checks.count_or_none("batch_size", batch_size, " for the full batch")
        self.l2 = checks.number("l2", l2, least=0)
        self.clip_norm = None if clip_norm is None else checks.number("clip_norm", clip_norm, above=0)
        self.dropout, rates = checks.dropout(dropout, len(network.layer_sizes) - 2)
        check_optimizer(optimizer, network.dtype)
        self.network, self.loss, self.optimizer, self.shuffle = network, loss, optimizer, bool(shuffle)
        self.seed = checks.seed(seed)
        self.threads = checks.count_or_none("threads", threads, " for all")
        if backend in ("serial", "parallel"):
            threads_hint = ", threads=1" if backend == "serial" else ""
            raise ValueError(f'backend is {backend!r}, a former name; use backend="cpu"{threads_hint}')
        self.backend = "cpu" if backend == "auto" else checks.choice("backend", backend, (*BACKENDS, "auto"))
        if self.backend == "cuda":
            from .kernels.cuda import device  # imports numba.cuda

            device.require('backend="cuda"')
        self._comm = ranks_of(comm, self.backend, sharded)
        self.ranks = self._comm.size
        self.history = History()
        self.history.set_run(network.layer_sizes, loss, optimizer, self.batch_size)
        self._state = TrainingState(network, optimizer, self.l2, self.clip_norm, rates, self.seed)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change public attributes: they have been checked, and state and history depend on them."""
        if name in self.__dict__ and not name.startswith("_"):
            raise AttributeError(f"{name} cannot be changed; make another Trainer of the same network")
        super().__setattr__(name, value)

    # ---------------------------------------------------------------------------------------- fitting

    @hinting
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        epochs: int = 100,
        *,
        sample_weight: ArrayLike | None = None,
        validation_data: tuple[ArrayLike, ...] | None = None,
        validation_split: float | None = None,
        patience: int | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        checkpoint: storage.Path | None = None,
    ) -> History:
        """Train for further epochs; another call continues where the last one stopped.

        Parameters
        ----------
        X : array_like, shape (n, n_in)
            One sample per row; converted to the network's dtype. A `numpy.memmap` is read in chunks.
        y : array_like
            Targets (n, n_out), or (n,) for one output. For cross_entropy: labels (n,) from 0 to n_out - 1, or soft
            labels (n, n_out), class probabilities that sum to 1; accuracies then take the most probable class as the
            right one.
        epochs : int, default 100
            Passes over the data.
        sample_weight : array_like, shape (n,), optional
            Weight of each row: a batch's loss is sum(w loss) / sum(w).
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Evaluated after every epoch, never trained on.
        validation_split : float, optional
            Fraction of the rows to hold out instead, chosen by the seed, 0 < fraction < 1.
        patience : int, optional
            Stop after this many epochs without a new best ``val_loss`` (``loss`` if there is no validation; with
            dropout there must be). Finally the network holds the best parameters of this call, including those at its
            start, and the optimizer the corresponding state.
        callbacks : iterable of callable
            Each is called after every epoch with a dict, such as ``{"epoch": 0, "loss": 0.1}`` after the first; if one
            returns true, training stops.
        progress : bool, optional
            Whether to show a bar on standard error; by default on terminals and in notebooks only.
        checkpoint : str or path-like, optional
            A file for `resume`, replaced as a whole after the first epoch, then after each (if writing takes long, only
            so often that it takes a twentieth of the time), and whenever `fit` ends, for any reason. An existing file
            is not replaced before the first step.

        Returns
        -------
        History
            The trainer's cumulative history: ``loss`` is the row-weighted mean of the batches' losses before each
            update.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or range, or holds NaN or infinity; nothing has been changed then.
            Rows of a memory map are checked only when they are read, when steps may have been taken.
        MemoryError
            If what training allocates is larger than all memory; the message names the bytes of each part.
        OSError
            If the checkpoint cannot be written.
        RuntimeError
            If this trainer, or another of the same network, is already in `fit`, in another thread or in this one.

        Warns
        -----
        DivergenceWarning
            If the loss or a parameter stops being finite: training ends, and the network holds the best
            finite parameters of this call.
        UserWarning
            If the first call after `resume` has a different number of rows than before, or no validation any more.

        Notes
        -----
        Ctrl-C leaves the network in its state after the last whole step (with ``patience``, with the best parameters so
        far), and the history with the completed epochs. Calling `fit` again with the same data continues from there;
        without ``patience`` with the rest of the interrupted epoch, to the bits of an uninterrupted run. With the
        numpy backend, an interruption in the middle of a step may leave that step half done. Accuracies ignore weights.
        """

        def prepare() -> tuple[Dataset, Dataset | None, FitOptions, Any]:
            data, validation = ranks.dataset(self.network, self.loss, X, y, sample_weight), None
            if validation_data is not None and validation_split is not None:
                raise ValueError("validation_data and validation_split are both given; expected one of them")
            if validation_data is not None:
                held = validation_arrays(validation_data)
                validation = ranks.dataset(self.network, self.loss, *held, prefix="validation ")
            if validation_split is not None:
                share = checks.number("validation_split", validation_split, above=0, below=1)
                data, validation = data.split(share, self.seed)
            options = FitOptions.checked(epochs, patience, callbacks)
            options.check_monitor(self._state.dropout, validation is not None)
            if ranks.size > 1:
                self._check_ready(_IN_FIT.get(id(self.network), []))  # an error here reaches all ranks
            return data, validation, options, None if checkpoint is None else ranks.writer(checkpoint, self.optimizer)

        ranks = self._comm
        with ranks.training():
            data, validation, options, writer = ranks.agreed(prepare, lambda found: facts_of(self, self._state, *found))
            warn_of_other_data(self._state, self.history, data, validation)
            shown, threads = progress if ranks.rank == 0 else False, ranks.threads(self.threads)
            with in_fit([self]), limit_threads(threads), progress_bar(options.epochs, shown) as bar:
                session = FitSession(self, self._state, data, validation, ranks.builder(self._build), ranks.fail)
                warning = session.run(options._replace(callbacks=ranks.joined(options.callbacks)), bar, writer)
                self._state.keep(session.backend)  # not by `fit_many`: thousands of them would fill the memory
        if warning:
            warnings.warn(warning, DivergenceWarning, stacklevel=3)
        return self.history

    def evaluate(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """Return the loss at the current parameters, with accuracy or, for regression losses, RMSE and R^2.

        Parameters
        ----------
        X, y, sample_weight : array_like
            As for `fit`.

        Returns
        -------
        dict
            ``{"loss": ..., "accuracy": ...}`` for either cross-entropy, else ``{"loss": ..., "rmse": ..., "r2": ...}``:
            the root mean squared error in the target's units, and R^2 as scikit-learn's ``r2_score``, NaN if a target
            is constant.

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        network, data = self.network, Dataset(self.network, self.loss, X, y, sample_weight)
        with limit_threads(self.threads):
            scores = None if LOSSES[self.loss].counts_correct else RegressionScores()
            if self.backend == "cpu" and COMPILES:
                sizes, names = network.layer_sizes, network.activations
                backend: Any = Evaluator(network.parameters, network.dtype, sizes, names, self.loss)
            else:
                backend = self._build(min(data.rows, MICRO_BATCH_ROWS))
            found = evaluate_all(backend, data, None if scores is None else scores.add)
        return found if scores is None else found | scores.results()

    @classmethod
    def resume(
        cls,
        path: storage.Path,
        *,
        best: bool = False,
        backend: str | None = None,
        threads: int | None = None,
        comm: Any = None,
        sharded: bool = False,
    ) -> Trainer:
        """Read a trainer, with its network, from a checkpoint.

        `fit` with the same data and validation continues as if it had never stopped: training 10 epochs, resuming and
        training 10 more gives the bits of training 20.

        Parameters
        ----------
        path : str or path-like
            The ``checkpoint`` that was passed to `fit`.
        best : bool, default False
            Take the best parameters of the run so far, and the corresponding optimizer state, instead of the last.
        backend : str, optional
            Replaces the checkpoint's backend.
        threads : int, optional
            Replaces the checkpoint's bound.
        comm, sharded : optional
            As for the class: continue over these ranks, however many there were before. Rank 0 reads the file for all.

        Returns
        -------
        Trainer

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not a complete checkpoint of a version that this fastnet knows. Nothing in a file is ever executed.
        """
        ranks = ranks_of(comm, "cpu", sharded)
        with ranks.training():
            arrays, metadata = ranks.on_first("a checkpoint", lambda: storage.read(path, "checkpoint"))
        given = {"backend": backend, "threads": threads}
        with storage.naming_file(path):
            network = model.network_of(Network, arrays, metadata)
            settings = checkpoint.settings(metadata)
            settings |= {name: value for name, value in given.items() if value is not None}
            trainer = cls(network, **settings, comm=comm, sharded=sharded)
            checkpoint.load_state(arrays, trainer._state, best)
            checkpoint.load_history(arrays, metadata, trainer.history)
            if best:
                network.parameters[...] = checkpoint.load_array(arrays, "best.parameters", network.parameters)
                start_epoch(trainer._state.progress, trainer._state.totals, trainer.history.epochs)
        return trainer

    def __repr__(self) -> str:
        return (
            f"Trainer({self.network!r}, loss={self.loss!r}, optimizer={self.optimizer}, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, seed={self.seed}, l2={self.l2:g}, clip_norm={self.clip_norm}, "
            f"dropout={self.dropout}, backend={self.backend!r}, threads={self.threads})"
        )

    # ---------------------------------------------------------------------------------------- inside

    def _check_ready(self, others: list[Trainer]) -> None:
        """Raise if this trainer cannot train now; ``others`` are the trainers of a call that trains its network."""
        if any(each is self for each in others):
            raise RuntimeError(
                "this Trainer is already in fit, in another thread or above a callback; use one for each"
            )
        if others:
            raise RuntimeError(
                "another Trainer is training this network, in another thread or above a callback; wait for it, or "
                "train a copy.deepcopy of the network"
            )
        if not self.network._synced.memory.flags.writeable:
            raise ValueError("network.parameters is read-only; training changes it in place")
        if self.network._synced.device is None:  # parameters that `fit` has left on a device are finite
            validation.finite("network.parameters", self.network.parameters)
        check_memory(self.network, self.optimizer, self.backend)

    def _build(self, batch_rows: int, train: bool = False) -> Backend:
        """Build a backend that trains, or one that only evaluates."""
        network = self.network
        layers = network.layer_sizes, network.activation_codes, self.loss, batch_rows, self._state if train else None
        if self.backend == "cuda":
            from .kernels.cuda.engine import CudaEngine  # imports numba.cuda

            backend: Any = CudaEngine(network._synced, *layers)
        else:
            engine: Any = NumpyEngine if self.backend == "numpy" else CPU
            backend = self._state.kept_engine(batch_rows, self.shuffle) if train else None
            backend = backend or engine(network.parameters, *layers, train and self.shuffle, self._state.tuner)
        if train:
            self._state.tuner = backend.tuner
        return backend
