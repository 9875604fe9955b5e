"""What tests/fastnet/test_distributed.py runs on several ranks: mpiexec -n 3 python ranks.py NAME FOLDER ...

Each rank leaves what it has found in the folder, as NAME-RANK.npz.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastnet import SGD, Adam, CosineDecay, Network, Trainer, dataset, distributed, fit_many
from fastnet.cli import train as command
from fastnet.cli.main import main as command_line
from fastnet.fit_session import FitSession
from fastnet.io import checkpoint, storage
from fastnet.kernels.engine import training_step

RNG = np.random.default_rng(0)
X = RNG.standard_normal((203, 20)).astype("float32")
Y = np.tanh(X @ RNG.standard_normal((20, 5)).astype("float32"))
LABELS = np.argmax(Y, axis=1)
WEIGHTS = RNG.uniform(0, 2, 203) * (np.arange(203) % 7 > 0)
SOFT = {k: np.where(np.arange(203)[:, None] < 110, np.eye(k)[LABELS % k], RNG.dirichlet([1] * k, 203)) for k in (2, 3)}
"""Soft labels of k classes: one-hot on the first rank of several, on the last none."""
LONG = RNG.standard_normal((2600, 20)).astype("float32")

CASES: dict[str, dict[str, Any]] = {
    "sgd in one with dW, a short last batch": {},
    "momentum, l2, clipping": {"optimizer": SGD(0.1, momentum=0.9), "l2": 0.01, "clip_norm": 0.05, "batch_size": 50},
    "adam, weights, validation, patience": {
        "loss": "cross_entropy",
        "optimizer": Adam(CosineDecay(0.05, 4)),
        "batch_size": None,
        "fit": {"sample_weight": WEIGHTS, "validation_split": 0.2, "patience": 2},
    },
    "a last batch of one row": {"batch_size": 101, "clip_norm": 0.1, "hidden": "tanh"},
    "micro-batches": {"batch_size": 2500, "optimizer": Adam(0.01), "rows": (LONG, LONG[:, :5])},
    "dropout": {"hidden": "tanh", "dropout": (0.5, 0.2), "batch_size": 2500, "rows": (LONG, LONG[:, :5])},
    "a memory map in its order": {"shuffle": False, "mapped": True, "fit": {"validation_data": (X[:40], Y[:40])}},
    "a memory map, split": {"mapped": True, "batch_size": 64, "fit": {"validation_split": 0.3, "patience": 3}},
    "a memory map with soft labels": {
        "mapped": True,
        "loss": "cross_entropy",
        "sizes": (20, 8, 3),
        "rows": (X, SOFT[3]),
        "shuffle": False,
        "fit": {"sample_weight": WEIGHTS},
    },
    "a memory map on the last rank": {"mapped": "last", "batch_size": 100, "rows": (LONG, LONG[:, :5])},
    "shards": {
        "sharded": True,
        "loss": "cross_entropy",
        "fit": {"sample_weight": WEIGHTS, "validation_data": (X[:40], LABELS[:40])},
    },
    **{
        f"shards with soft labels of {k} classes{', mapped' * mapped}": {
            "sharded": True,
            "mapped": mapped,
            "loss": "cross_entropy",
            "sizes": (20, 8, k),
            "rows": (X, SOFT[k]),
            "fit": {"sample_weight": WEIGHTS * (np.arange(203) > 105)},  # all 0 on the first rank of several
        }
        for k, mapped in ((2, False), (3, False), (3, True))
    },
    "a split of shards": {"sharded": True, "batch_size": 64, "fit": {"validation_split": 0.3}},
}


def make(
    comm: Any = None, sizes: Any = (20, 37, 24, 5), hidden: str = "relu", dtype: str = "float32", **options: Any
) -> Trainer:
    options = {"optimizer": SGD(0.1), "seed": 3, **options}
    return Trainer(Network(sizes, hidden=hidden, dtype=dtype), **options, comm=comm)


def train(case: dict[str, Any], comm: Any, folder: Path) -> dict[str, Any]:
    """Train a case, and return every number that must not depend on the ranks."""
    options = dict(case)
    (x, y), mapped, fit = (
        options.pop(name, default) for name, default in (("rows", (X, Y)), ("mapped", 0), ("fit", {}))
    )
    y = LABELS if options.get("loss") == "cross_entropy" and "rows" not in case else y
    if mapped == "last" and (comm is None or comm.rank == comm.size - 1):
        np.save(folder / "long.npy", x)
        x = np.load(folder / "long.npy", mmap_mode="r")
    elif mapped and mapped != "last":
        x = np.load(folder / "X.npy", mmap_mode="r")
    own: Callable[[Any], Any] = lambda array: array  # noqa: E731
    if options.pop("sharded", False) and comm is not None:
        options["sharded"] = True
        own = lambda array: np.array_split(array, comm.size)[comm.rank]  # noqa: E731
    parts = {
        name: tuple(map(own, value)) if isinstance(value, tuple) else own(value) if name == "sample_weight" else value
        for name, value in fit.items()
    }
    trainer = make(comm, **options)
    for epochs in (3, 1):
        trainer.fit(own(x), own(y), epochs, **parts)
    state = trainer._state
    found = {"parameters": trainer.network.parameters, "state": state.vectors, "step": state.step}
    found |= {f"history {name}": curve for name, curve in trainer.history.items()}
    return found | {f"evaluated {name}": value for name, value in trainer.evaluate(X[:50], y[:50]).items()}


def bits(comm: Any, folder: Path) -> dict[str, Any]:
    """Return the results of all cases, memory maps read in small parts."""
    dataset.PART_BYTES = 1
    found = {name: train(case, comm, folder) for name, case in CASES.items()}
    return {f"{name}: {key}": value for name, results in found.items() for key, value in results.items()}


def errors(comm: Any, folder: Path) -> dict[str, Any]:
    """Return the error of each of several calls that must fail on every rank, as text."""
    from mpi4py import MPI

    odd = comm.rank == 1
    half = comm.Split(comm.rank % 2)
    between = half.Create_intercomm(0, comm, 0 if odd else 1)
    spoilt = X.copy()
    spoilt[7, 3] = np.nan
    spoilt_map = np.memmap(folder / f"spoilt-{comm.rank}", X.dtype, "w+", shape=X.shape)
    spoilt_map[...] = spoilt if odd else X

    cut_map = np.memmap(folder / f"cut-{comm.rank}", X.dtype, "w+", shape=X.shape)
    cut_map[...] = X

    other_map = np.memmap(folder / f"other-{comm.rank}", X.dtype, "w+", shape=X.shape)
    other_map[...] = X[::-1] if odd else X

    def fit(x: Any = X, y: Any = Y, *, fits: Any = None, **options: Any) -> None:
        make(comm, **options).fit(x, y, 2, **(fits or {}))

    def raising(row: Any) -> None:
        if odd and row["epoch"] == 1:
            raise LookupError("a callback's")

    def cut(row: Any) -> None:
        if odd:
            os.truncate(folder / "cut-1", 100)

    def of_version() -> None:
        installed = distributed.metadata.version
        distributed.metadata.version = lambda name: "0.0" if odd else installed(name)  # type: ignore[assignment]
        try:
            fit()
        finally:
            distributed.metadata.version = installed

    path, missing = folder / "errors.safetensors", folder / "missing" / "run.safetensors"
    calls: dict[str, Callable[[], Any]] = {
        "no communicator": lambda: make("world"),
        "no ranks": lambda: make(MPI.COMM_NULL),
        "an intercommunicator": lambda: make(between),
        "numpy": lambda: fit(backend="numpy"),
        "fit_many": lambda: fit_many([make(comm)], X, Y),
        "rows": lambda: fit(X[: 200 if odd else 203], Y[: 200 if odd else 203]),
        "columns": lambda: fit(X[:, :19] if odd else X),
        "other data": lambda: fit(X[::-1].copy() if odd else X),
        "NaN": lambda: fit(spoilt if odd else X),
        "another memory map": lambda: fit(other_map),
        "NaN in a memory map": lambda: fit(spoilt_map),
        "no weight": lambda: fit(sharded=True, fits={"sample_weight": np.zeros(203)}),
        "a rank's weights": lambda: fit(sharded=True, fits={"sample_weight": np.full(203, -1.0 if odd else 0.0)}),
        "dtypes of shards": lambda: fit(sharded=True, dtype="float64" if odd else "float32"),
        "sizes": lambda: fit(sizes=(20, 9, 5) if odd else (20, 8, 5)),
        "a split of shards": lambda: fit(sharded=True, fits={"validation_split": 0.4 if odd else 0.2}),
        "seeds of shards": lambda: fit(sharded=True, seed=comm.rank, fits={"validation_split": 0.2}),
        "a shorter file": lambda: fit(cut_map, sharded=True, fits={"callbacks": [cut]}),
        "seed": lambda: fit(seed=comm.rank),
        "optimizer": lambda: fit(optimizer=Adam(0.1 if odd else 0.2)),
        "epochs": lambda: make(comm).fit(X, Y, 1 + comm.rank),
        "an argument": lambda: fit(fits={"patience": "many" if odd else 2}),
        "version": of_version,
        "shards": lambda: fit(sharded=odd),
        "places": lambda: Trainer.resume(path, comm=comm) if odd else fit(),
        "a callback": lambda: fit(fits={"callbacks": [raising], "checkpoint": path}),
        "no folder": lambda: fit(fits={"checkpoint": missing}),
        "no file": lambda: Trainer.resume(missing, comm=comm),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "no error"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    fit()  # nothing has been left behind
    return found


def resumed(comm: Any, folder: Path) -> dict[str, Any]:
    """Train on all ranks, go on with two of them, then with one; return the parameters."""
    path = folder / "resumed.safetensors"
    make(comm, optimizer=Adam(0.01)).fit(X, Y, 2, checkpoint=path)
    two = comm.Split(comm.rank < 2)
    if comm.rank < 2:
        Trainer.resume(path, comm=two).fit(X, Y, 2, checkpoint=path)
    all_there = comm.Ibarrier()
    while not all_there.Test():  # a rank that waits in Barrier would take a core from those that train
        time.sleep(0.01)
    one = Trainer.resume(path)
    one.fit(X, Y, 2)
    return {"parameters": one.network.parameters}


INTERRUPTED_EPOCHS = 400
"""Epochs that `interrupted` trains: more than a fast machine ends before Ctrl-C comes."""


def interrupted(comm: Any, folder: Path) -> dict[str, Any]:
    """Train, while Ctrl-C comes to one rank or another at random; return where each one ended training, and the end."""
    trainer, rng, steps = make(comm, optimizer=Adam(0.01), batch_size=16), random.Random(1), []
    while (left := INTERRUPTED_EPOCHS - trainer.history.epochs) > 0:
        rank, after = rng.randrange(comm.size), rng.uniform(0.01, 0.1)
        timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
        if comm.rank == rank and len(steps) < 3:
            timer.start()
        try:
            trainer.fit(X, Y, left)
        except KeyboardInterrupt:
            steps.append(int(trainer._state.step[0]))
    return {"steps": steps, "parameters": trainer.network.parameters}


def stopped(comm: Any, folder: Path) -> dict[str, Any]:
    """Return how each of several calls ends, as Ctrl-C comes to rank 1 where it waits for rank 0, or at the end."""
    path, pids = folder / "stopped.safetensors", comm.allgather(os.getpid())

    def slow(function: Callable[..., Any]) -> Callable[..., Any]:
        def interrupt_first(*arguments: Any) -> Any:
            time.sleep(0.2)
            os.kill(pids[1], signal.SIGINT)
            time.sleep(0.2)
            return function(*arguments)

        return interrupt_first if comm.rank == 0 else function

    def agree_late(self: Any, where: str, *arguments: Any, **options: Any) -> list[Any]:
        values = agree(self, where, *arguments, **options)
        if where == "the end" and comm.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return values

    def late(*arguments: Any) -> str:
        warning = run(*arguments)
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return warning

    make(comm).fit(X, Y, 1, checkpoint=path)
    found, agree = dict[str, Any](), distributed.Ranks.agree
    distributed.Ranks.agree = agree_late  # type: ignore[method-assign]
    try:
        make(comm).fit(X, Y, 1)
        found["after the end of fit"] = "trained"
    except KeyboardInterrupt:
        found["after the end of fit"] = "interrupted"
    distributed.Ranks.agree = agree  # type: ignore[method-assign]
    run, FitSession.run = FitSession.run, late  # type: ignore[method-assign]
    storage.read, command._digits = slow(storage.read), slow(command._digits)  # type: ignore[assignment]
    calls: dict[str, Callable[[], Any]] = {
        "the end of fit": lambda: make(comm).fit(X, Y, 1),
        "resume": lambda: Trainer.resume(path, comm=comm),
        "the command line": lambda: command_line(["train", "--epochs", "1"]),
    }
    for name, call in calls.items():
        comm.Barrier()
        try:
            found[name] = f"{call()}"
        except KeyboardInterrupt:
            found[name] = "interrupted"
    return found


class Counted(np.memmap):
    """A memory map that counts the rows read, but for the first, which shows dtype and shape."""

    read = 0

    def __getitem__(self, key: Any) -> Any:
        Counted.read += len(key) if isinstance(key, np.ndarray) and len(key) > 1 else 0
        return super().__getitem__(key)


def rows_read(comm: Any, folder: Path) -> dict[str, Any]:
    """Return how many rows of a memory map training reads."""
    Counted.read = 0
    x = np.load(folder / "X.npy", mmap_mode="r").view(Counted)
    make(comm).fit(x, Y, 3)
    return {"rows": Counted.read}


def doomed(comm: Any, folder: Path) -> dict[str, Any]:
    """Train until the named rank is killed, so long after a checkpoint, or fails between two stages of a step."""
    how, rank, after = sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
    checkpoint.SHARE = 1.0
    run, calls = training_step.run, [0]

    def failing(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 10:
            raise MemoryError("made up")
        run(*arguments)

    def doom(row: Any) -> None:
        if comm.rank == rank and row["epoch"] == 1:  # a checkpoint has been written
            if how == "killed":
                threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                training_step.run = failing

    make(comm, optimizer=Adam(0.01)).fit(X, Y, 10**6, callbacks=[doom], checkpoint=folder / "doomed.safetensors")
    return {}


def main() -> None:
    from mpi4py import MPI

    name, folder = sys.argv[1], Path(sys.argv[2])
    found = {each.__name__: each for each in (bits, errors, resumed, interrupted, stopped, doomed, rows_read)}[name](
        MPI.COMM_WORLD, folder
    )
    np.savez(folder / f"{name}-{MPI.COMM_WORLD.rank}.npz", **found)


if __name__ == "__main__":
    main()
