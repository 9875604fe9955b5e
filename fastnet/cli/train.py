"""What `fastnet train` and `fastnet predict` do, once their arguments are parsed.

Imports the library's public rooms, and `storage` and `textplot`. Results go to standard output.
"""

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import data, tables
from ..history import History
from ..io import storage
from ..kernels.jit.announcer import compile_seconds
from ..kernels.specs.base import Array
from ..network import Network
from ..optimizers import SGD, Adam
from ..preparation import Preparation
from ..trainer import DivergenceWarning, Trainer
from . import textplot
from .predict import CLASSIFIES, predictions, to_json

HELD_OUT, VALIDATED = 0.2, 0.1
RATES = {"adam": 0.001, "sgd": 0.1}
DIGITS_EPOCHS, FILE_EPOCHS = 30, 100
LOSSES = {"regress": "mse", "classify": "cross_entropy"}
"""The loss of each task, where none is named."""


class _Job(NamedTuple):
    """What to train on, and how to speak of it."""

    task: str
    X: Array
    y: Array  # labels, or numbers in the units of the file
    X_held_out: Array
    y_held_out: Array
    preparation: Preparation | None
    classes: Sequence[Any] | None
    said: list[str]
    rows: str


# ------------------------------------------------------------------------------------------------ train


def train(options: argparse.Namespace) -> int:
    """Train on a file, or on the digits; print what came of it; return the exit status."""
    _check_targets(options)
    job = _digits(options) if options.file is None else _table(options)
    loss = options.loss or LOSSES[job.task]
    if job.task == "regress" and loss in CLASSIFIES:
        raise ValueError(f"{loss} is a loss for classes, but this is regression; --task classify takes it for classes")
    y, outputs = _targets(job, loss)
    net = Network([job.X.shape[1], *options.hidden, outputs], seed=options.seed)
    net.preparation = job.preparation
    rate = getattr(options, "lr", RATES[options.optimizer])
    optimizer = Adam(rate) if options.optimizer == "adam" else SGD(rate)
    run = {"seed": options.seed, "backend": options.backend, "threads": options.threads}
    trainer = Trainer(net, loss, optimizer, options.batch_size, **run)
    how = f"{loss}, {optimizer}, batch size {options.batch_size or 'full'}, seed {options.seed}"
    if not options.json:
        _say(options, "\n".join([*job.said, f"training  {how}\n\n{net.summary()}\n"]))

    X = job.preparation.inputs(job.X) if job.preparation else job.X
    start, compiled = time.perf_counter(), compile_seconds()
    status = _fit(trainer, X, y, options)
    seconds, compiling = time.perf_counter() - start, compile_seconds() - compiled
    history = trainer.history
    if history.epochs == 0:
        return status

    # Files first: whoever reads standard output may have gone.
    written = _write(options, net, history, status)
    diagnosis = history.diagnosis(_baseline(job, y, loss))
    score, said = _score(net, job)
    if options.json:
        found = {"file": options.file, "task": job.task, "rows": len(job.X), "held_out_rows": len(job.X_held_out)}
        found |= {"target": job.preparation.target if job.preparation else "digit", "classes": job.classes}
        found |= {"layer_sizes": net.layer_sizes, "loss": loss, "optimizer": str(optimizer), "seed": options.seed}
        found |= {"epochs": history.epochs, "best_epoch": history.best_epoch, "diagnosis": diagnosis}
        found |= {"held_out": score, "seconds": seconds, "backend": trainer.backend, "history": dict(history)}
        print(to_json(found))
        return status
    best, share = history.best_epoch, f", {compiling:.2f} s of it compiling" if compiling else ""
    print(textplot.curves({name: history[name] for name in ("loss", "val_loss")}), end="\n\n")
    print(said)
    kept = options.patience is not None or best == history.epochs - 1 or status != 0
    hint = "" if kept else f"; the model is that of epoch {history.epochs - 1} (--patience keeps the best)"
    said = "none" if best is None else f"val_loss {history['val_loss'][best]:.4g} in epoch {best}{hint}"
    print(f"best      {said}")
    print(f"diagnosis {diagnosis}")
    print(f"time      {seconds:.2f} s for {history.epochs} epochs{share}; backend {trainer.backend}")
    for line in written:
        print(line)
    return status


def _say(options: argparse.Namespace, text: str) -> None:
    """Print; a reader who has gone does not keep files from being written."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        if options.out is None and options.plot is None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_targets(options: argparse.Namespace) -> None:
    """Refuse, before any work, what could not be written at its end."""
    for name in (options.out, options.plot):
        if name is not None:
            storage.check_target(name)
            if options.file is not None and os.path.realpath(name) == os.path.realpath(options.file):
                raise ValueError(f"{storage.display_path(name)} is the data; write to another file")
    if options.plot is not None:
        if options.out is not None and os.path.realpath(options.plot) == os.path.realpath(options.out):
            raise ValueError("--out and --plot name the same file")
        _figure(options.plot)


def _digits(options: argparse.Namespace) -> _Job:
    X, labels = data.digits()
    X, X_held_out, y, y_held_out = data.split(X, labels, HELD_OUT, options.seed)
    said = f"data      {len(labels)} bundled 8x8 images of handwritten digits, {len(X_held_out)} held out"
    return _Job("classify", X, y, X_held_out, y_held_out, None, range(10), [said], "images")


def _table(options: argparse.Namespace) -> _Job:
    table = tables.read(options.file, options.target, options.task)
    X, X_held_out, y, y_held_out = data.split(table.X, table.y, HELD_OUT, options.seed)
    regression = table.task == "regress"
    names: dict[str, Any] = {"features": table.features, "target": table.target, "classes": table.classes}
    preparation = Preparation.of(X, y if regression else None, **names)
    separated = "" if table.separator in ("", "comma") else f", separated by {table.separator}s"
    said = [
        f"data      {storage.display_path(options.file)}: {len(table.X):,} rows, {len(X_held_out):,} of them held out, "
        f"{X.shape[1]:,} features{separated}"
    ]
    if regression:
        said.append(f"task      regression of {table.target!r}: {table.task_reason}")
    else:
        classes = table.classes or ()
        listed = ", ".join(str(name)[:20] for name in classes[:6]) + (", ..." if len(classes) > 6 else "")
        said.append(f"task      classification of {table.target!r}: {table.task_reason}: {listed}")
    said.append("scaling   inputs" + (" and target" if regression else "") + " to mean 0 and standard deviation 1")
    constant = [name for name, wide in zip(table.features or (), np.ptp(X, axis=0) > 0, strict=False) if not wide]
    if constant:
        said.append(f"note      the same in every row, so of no use: {', '.join(constant[:6])}")
    return _Job(table.task, X, y, X_held_out, y_held_out, preparation, table.classes, said, "rows")


def _targets(job: _Job, loss: str) -> tuple[Array, int]:
    """Targets as the loss takes them, and how many outputs."""
    if job.task == "regress" and job.preparation is not None:
        return job.preparation.targets(job.y), 1
    count = len(job.classes or ())
    if loss == "cross_entropy":
        return job.y, count
    if loss == "binary_cross_entropy" and count == 2:
        return job.y.astype(np.float32), 1
    return np.eye(count, dtype=np.float32)[job.y], count


def _fit(trainer: Trainer, X: Array, y: Array, options: argparse.Namespace) -> int:
    """Train; say what went wrong in one line, and return the exit status."""
    epochs = options.epochs or (DIGITS_EPOCHS if options.file is None else FILE_EPOCHS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(X, y, epochs=epochs, validation_split=VALIDATED, patience=options.patience)
            status = 0
        except KeyboardInterrupt:
            print(f"fastnet train: interrupted after {trainer.history.epochs} whole epochs", file=sys.stderr)
            status = 130
    for warning in caught:
        print(f"fastnet train: {warning.message}", file=sys.stderr)
        if issubclass(warning.category, DivergenceWarning):
            status = 1
    return status


def _baseline(job: _Job, y: Array, loss: str) -> float | None:
    """The loss of always predicting the same."""
    if loss == "mse":
        return float(np.mean(np.var(y, axis=0)))
    if loss == "cross_entropy":
        row_weights = np.bincount(job.y) / len(job.y)
        return float(-sum(share * math.log(share) for share in row_weights if share > 0))
    return None


def _score(net: Network, job: _Job) -> tuple[dict[str, Any], str]:
    """How well the rows that were held out are predicted, as numbers and as a line."""
    count = f"{len(job.X_held_out):,} held-out {job.rows}"
    if job.task == "regress":
        found = predictions(net, job.X_held_out).values[:, 0]
        errors, spread = found - job.y_held_out, job.y_held_out - job.y_held_out.mean()
        rmse = math.sqrt(np.mean(errors**2))
        explained = 1 - float(np.sum(errors**2) / np.sum(spread**2)) if spread.any() else math.nan
        score = {"rmse": rmse, "mae": float(np.mean(np.abs(errors))), "r2": explained}
        return score, f"error     RMSE {rmse:.4g}, R^2 {explained:.4f} on the {count}, in the target's own units"
    right = float(np.mean(predictions(net, job.X_held_out).labels == job.y_held_out))
    common = float(np.mean(job.y_held_out == np.bincount(job.y).argmax()))
    said = f"accuracy  {right:.2%} of the {count}"
    if job.preparation is not None:
        said += f"; always saying the most frequent class, {common:.2%}"
    return {"accuracy": right, "most_frequent": common}, said


def _write(options: argparse.Namespace, net: Network, history: History, status: int) -> list[str]:
    """Write the files asked for; returns lines that say so."""
    written = []
    if status == 1:
        for name in (options.out, options.plot):
            if name is not None:
                print(
                    f"fastnet train: {storage.display_path(name)} is not written, since training diverged",
                    file=sys.stderr,
                )
        return []
    if options.out is not None:
        net.save(options.out)
        written.append(f"model     {storage.display_path(options.out)}")
    if options.plot is not None:
        figure = _figure(options.plot)
        history.plot(figure.add_subplot())
        with storage.replacing(options.plot) as file:
            figure.savefig(file, format=_suffix(options.plot), dpi=150)
        written.append(f"plot      {storage.display_path(options.plot)}")
    return written


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower() or "png"


def _figure(path: str) -> Any:
    """A figure of no window, for a file of a type that matplotlib can write."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('--plot needs the package matplotlib: pip install "fastnet-jit[plot]"') from None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    types = figure.canvas.get_supported_filetypes()
    if _suffix(path) not in types:
        raise ValueError(
            f"--plot {storage.display_path(path)}: unknown type of picture; there are: {', '.join(sorted(types))}"
        )
    return figure
