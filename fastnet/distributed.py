"""Training over the ranks of an MPI communicator: agreement on arguments, checkpoints, handling of Ctrl-C and errors.

`kernels.engine.distributed_engine` defines what each rank computes and when results are gathered. mpi4py is imported
only when a communicator is given.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib import metadata
from typing import Any, NoReturn, TypeVar

import numba
import numpy as np

from .dataset import Dataset
from .fit_session import BackendBuilder, Callback, FitOptions
from .io import storage
from .io.checkpoint import CheckpointWriter
from .kernels.cpu.threads.usable import usable
from .kernels.engine.backend import Backend
from .kernels.engine.distributed_engine import DistributedEngine
from .kernels.engine.engine import CpuEngine
from .kernels.jit.target import COMPILES
from .kernels.llvm.builder import VECTOR
from .kernels.specs.base import Array
from .shards import DividedDataset, ShardedDataset
from .training_state import TrainingState

T = TypeVar("T")

FORWARDING_SECONDS = 0.2
"""Seconds between a failing rank's last output and MPI's Abort: mpiexec drops output that it has not read by then."""

_yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))

YIELD_S, SLEEP_S = 0.01, 0.001
"""A rank that waits for another first polls for YIELD_S, yielding its core, since polling also progresses messages.
Then it sleeps for SLEEP_S between two polls, since the other rank may be compiling or writing a file."""


class Alone:
    """A single process, which need not agree with others: every method simply applies its arguments."""

    rank, size = 0, 1
    dataset: Callable[..., Dataset] = Dataset

    def training(self) -> AbstractContextManager[None]:
        """Return the context manager for a call of `fit`, or for other work that all ranks do together."""
        return nullcontext()

    def agreed(self, prepare: Callable[[], T], facts: Callable[[T], Mapping[str, Any]]) -> T:
        """Return what ``prepare`` returns."""
        return prepare()

    def on_first(self, where: str, function: Callable[[], T]) -> T:
        """Call a function."""
        return function()

    def own(self, where: str, function: Callable[[], T]) -> T:
        """Call a function."""
        return function()

    def fail(self, error: BaseException) -> None:
        """Handle an error that ends `fit`."""

    def threads(self, asked: int | None) -> int | None:
        """Return the bound on the number of threads."""
        return asked

    def builder(self, build: BackendBuilder) -> BackendBuilder:
        """Return the function that builds backends."""
        return build

    def joined(self, callbacks: list[Callback]) -> list[Callback]:
        """Return the callbacks."""
        return callbacks

    def writer(self, path: storage.Path, optimizer: Any) -> Any:
        """Return a `CheckpointWriter`."""
        return CheckpointWriter(path, optimizer)


class Ranks(Alone):
    """The ranks of a communicator, of which this process is one.

    All ranks call the same methods in the same order. In `agree`, an error of one rank becomes an error of all; an
    error anywhere else would leave the others waiting, so it ends all processes (`fail`).

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A communicator of at least two ranks.
    sharded : bool
        Whether each rank has rows of its own.

    Attributes
    ----------
    rank, size : int
    dataset : callable
        Makes a `ShardedDataset`, or a `DividedDataset`.
    """

    def __init__(self, comm: Any, sharded: bool) -> None:
        self._comm, self.rank, self.size = comm, comm.rank, comm.size
        self.dataset = partial(ShardedDataset if sharded else DividedDataset, self)
        self._sharing = 0  # ranks that share CPUs with this one, itself included; 0 before they have been counted
        self.interrupted = False
        self._shared: BaseException | None = None  # an error that all ranks raise

    def __deepcopy__(self, memo: Any) -> Ranks:
        """Return this object: a copy of a Trainer belongs to the same communicator."""
        return self

    # ----------------------------------------------------------------------------------- messages

    def allgather(self, blocks: Array) -> None:
        """See `kernels.engine.distributed_engine.Ranks`."""
        from mpi4py import MPI

        self._wait(self._comm.Iallgather(MPI.IN_PLACE, [blocks.view("u1"), MPI.BYTE]))

    @staticmethod
    def _wait(request: Any) -> None:
        """Wait for a request, but soon give up the core: MPI's own wait would keep it busy."""
        start = time.perf_counter()
        while not request.Test():
            if time.perf_counter() - start > YIELD_S:
                time.sleep(SLEEP_S)
            else:
                _yield_core()

    def gather_rows(self, own: Array, owner: Array) -> Array:
        """Gather rows of all ranks, in the order in which ``owner`` lists their ranks."""
        from mpi4py import MPI

        found = np.empty((len(owner), *own.shape[1:]), own.dtype)
        nbytes = np.bincount(owner, minlength=self.size) * (found.nbytes // len(owner))
        self._comm.Allgatherv([own, MPI.BYTE], [found, nbytes, MPI.BYTE])
        rows = np.empty_like(found)
        rows[np.argsort(owner, kind="stable")] = found
        return rows

    def agree(self, where: str, error: BaseException | None = None, value: Any = None) -> list[Any]:
        """Return every rank's value, or raise on every rank the error of the first rank that has one.

        Parameters
        ----------
        where : str
            The place in the program that the ranks have reached, in words.
        error : BaseException, optional
        value : object, optional

        Raises
        ------
        BaseException
            This rank's error unchanged, or another rank's with its number in the notes.
        RuntimeError
            If the ranks are not at the same place.
        KeyboardInterrupt
            If any rank has received Ctrl-C.
        """
        self._wait(self._comm.Ibarrier())
        everyone = self._comm.allgather((where, self.interrupted, _picklable(error), value))
        places, interrupted, errors, values = map(list, zip(*everyone, strict=True))
        rank = next((i for i, each in enumerate(errors) if each is not None), None)
        if error is not None:
            self._raise(error)
        if rank is not None:
            errors[rank].add_note(f"(raised on rank {rank} of {self.size})")
            self._raise(errors[rank])
        for i, place in enumerate(places):
            if place != places[0]:
                self._raise(RuntimeError(f"the ranks run apart: rank 0 is at {places[0]}, rank {i} at {place}"))
        self.end(any(interrupted))
        return values

    def _raise(self, error: BaseException) -> NoReturn:
        """Raise an error that all ranks raise."""
        self._shared = error
        raise error

    def end(self, interrupted: bool) -> None:
        """See `kernels.engine.distributed_engine.Ranks`."""
        if interrupted:
            self.interrupted = False
            self._raise(KeyboardInterrupt())

    def each(self, where: str, function: Callable[[], Any]) -> list[Any]:
        """Call a function and return every rank's result; see `agree`."""
        error = result = None
        try:
            result = function()
        except BaseException as raised:
            if raised is self._shared:
                raise
            error = raised
        return self.agree(where, error, result)

    def own(self, where: str, function: Callable[[], T]) -> T:
        """Call a function and return this rank's result, if it succeeds on all ranks; see `agree`."""
        found: list[T] = []
        self.each(where, lambda: found.append(function()))
        return found[0]

    def on_first(self, where: str, function: Callable[[], T]) -> T:
        """Call a function on rank 0 only; return its result, or raise its error, on every rank."""
        return self.each(where, function if self.rank == 0 else _nothing)[0]

    # ------------------------------------------------------------------------------------- `fit`

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within a block, let Ctrl-C interrupt all ranks at the same place, and an error of one rank end all ranks."""
        self.interrupted, self._shared = False, None

        def interrupt(number: int, frame: Any) -> None:
            self.interrupted = True

        in_main = threading.current_thread() is threading.main_thread()
        heeds = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if heeds:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
            self.agree("the end")  # Ctrl-C may have come after the last place at which the ranks agreed
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            if heeds:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.interrupted:  # it came after the last agreement, when the others had gone on: raise on this rank only
            raise KeyboardInterrupt

    def fail(self, error: BaseException) -> None:
        """End all ranks at once, unless all of them raise this error: the others would wait for this one forever."""
        if error is self._shared:
            return
        text = f"rank {self.rank} of {self.size} failed ({_line(error)}), which ends all ranks; checkpoints are whole"
        print(f"{''.join(traceback.format_exception(error))}fastnet: {text}", file=sys.__stderr__, flush=True)
        time.sleep(FORWARDING_SECONDS)
        self._comm.Abort(1)

    def agreed(self, prepare: Callable[[], T], facts: Callable[[T], Mapping[str, Any]]) -> T:
        """Return what ``prepare`` returns, if it succeeds on all ranks and facts about the result are the same on all.

        Raises
        ------
        ValueError
            On every rank, if a fact differs.
        """
        found: list[T] = []

        def own() -> Mapping[str, Any]:
            found.append(prepare())
            return facts(found[0])

        first, *others = self.each("the arguments of fit", own)
        for rank, other in enumerate(others, 1):
            for name, value in first.items():
                if other[name] != value:
                    what = f"{name}: {value} on rank 0, {other[name]} on rank {rank}"
                    advice = "run the same program with the same arguments on every rank"
                    self._raise(ValueError(f"the ranks differ in {what}; {advice}"))
        return found[0]

    def threads(self, asked: int | None) -> int | None:
        """Return the bound on threads, by default this rank's part of the CPUs that the machine's ranks share."""
        from mpi4py import MPI

        mine = usable()
        if not self._sharing:
            machine = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
            self._sharing = sum(not set(mine.cpus).isdisjoint(cpus) for cpus in machine.allgather(mine.cpus))
            machine.Free()
        return max(1, mine.threads // self._sharing) if asked is None else asked

    def builder(self, build: BackendBuilder) -> BackendBuilder:
        """Return a function that builds backends that compute on all ranks."""

        def of_ranks(batch_rows: int, train: bool) -> Backend:
            engine = build(batch_rows, train)
            assert isinstance(engine, CpuEngine)
            return DistributedEngine(engine, self)

        return of_ranks

    def joined(self, callbacks: list[Callback]) -> list[Callback]:
        """Return a callback that calls all callbacks on every rank; a stop or an error on one rank applies to all."""

        def call_all(row: dict[str, float]) -> bool:
            def own() -> bool:
                answers = [callback(dict(row)) for callback in callbacks]
                return any(answers)

            return any(self.each("the callbacks", own))

        return [call_all]

    def writer(self, path: storage.Path, optimizer: Any) -> Any:
        """Return a writer of checkpoints that writes on rank 0 only."""
        return _FirstWrites(self, path, optimizer)


class _FirstWrites:
    """Wraps a `CheckpointWriter` on rank 0; all ranks raise its errors."""

    def __init__(self, ranks: Ranks, path: storage.Path, optimizer: Any) -> None:
        self._ranks = ranks
        self._writer: Any = CheckpointWriter(path, optimizer) if ranks.rank == 0 else None

    def is_there(self) -> bool:
        """See `CheckpointWriter`."""
        return self._ranks.on_first("a checkpoint", lambda: self._writer.is_there())

    def write_if_due(self, contents: Callable[[], tuple[Mapping[str, Array], Mapping[str, str]]]) -> None:
        """See `CheckpointWriter`."""
        self._ranks.on_first("a checkpoint", lambda: self._writer.write_if_due(contents))

    def write(self, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
        """See `CheckpointWriter`."""
        self._ranks.on_first("a checkpoint", lambda: self._writer.write(arrays, metadata))


def ranks_of(comm: Any, backend: str, sharded: bool) -> Alone:
    """Return the ranks of a communicator, or `Alone` for None and for one rank.

    Raises
    ------
    ImportError
        If mpi4py is not installed.
    TypeError, ValueError
        If ``comm`` is not an intracommunicator of mpi4py, or the backend is not cpu.
    """
    if not isinstance(sharded, bool):
        raise TypeError(f"sharded is {sharded!r}; expected True or False")
    if comm is None:
        if sharded:
            raise ValueError("sharded is True, but comm is None; expected a communicator whose ranks have rows each")
        return Alone()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py, or an MPI for it, is missing
        reason = str(error).partition("\n")[0]
        raise ImportError(f"comm needs mpi4py and an MPI ({reason}): pip install mpi4py mpich") from None
    if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
        raise TypeError(f"comm is {comm!r}; expected an intracommunicator of mpi4py, such as MPI.COMM_WORLD")
    if comm.size == 1:
        return Alone()
    if backend != "cpu" or not COMPILES:
        what = f'backend="{backend}"' if COMPILES else "NUMBA_DISABLE_JIT"
        raise ValueError(f'comm has {comm.size} ranks, which train by compiled kernels, not with {what}; use "cpu"')
    return Ranks(comm, sharded)


def facts_of(
    trainer: Any, state: TrainingState, data: Dataset, held: Dataset | None, options: FitOptions, writer: Any
) -> dict[str, Any]:
    """Return, by name, the values that must be equal on all ranks for them to train one network."""
    network, sets = trainer.network, {"": data, "validation ": held}
    settings = ("loss", "optimizer", "batch_size", "shuffle", "seed", "l2", "clip_norm", "dropout")
    facts = {
        "fastnet's version": metadata.version("fastnet-jit"),
        "Numba's version": numba.__version__,
        "the bits of a vector, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES can make equal": 8 * VECTOR,
        **{name: getattr(network, name) for name in ("layer_sizes", "activations", "dtype")},
        **{name: getattr(trainer, name) for name in settings},
        "epochs trained so far": trainer.history.epochs,
        "the network's parameters (CRC-32)": _checksum(network.parameters),
        "the optimizer's state (CRC-32)": _checksum(*state.vectors, state.progress),
        "epochs": options.epochs,
        "patience": options.patience,
        "whether a checkpoint is written": writer is not None,
    }
    for name, each in sets.items():
        facts[f"the number of {name}rows"] = None if each is None else each.rows
    for name, each in sets.items():
        facts[f"the {name}data (CRC-32 of some rows)"] = None if each is None else _checksum(*each.sample())
    return facts


def _checksum(*arrays: Array | None) -> str:
    """Return a CRC-32 of arrays."""
    found = 0
    for array in arrays:
        found = zlib.crc32(b"-" if array is None else array.tobytes(), found)
    return f"{found:08x}"


def _nothing() -> Any:
    """Do nothing."""


def _line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).splitlines()[0]


def _picklable(error: BaseException | None) -> BaseException | None:
    """Return an error in a form that can be sent to other ranks."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(_line(error) if error is not None else "")
    return error
