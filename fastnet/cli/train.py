"""The command ``fastnet train``: train a network on a table, or on the bundled digits."""

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
from ..kernels.specs.activations import ACTIVATIONS
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from ..network import Network
from ..optimizers import OPTIMIZER_CLASSES
from ..preparation import Preparation
from ..trainer import BACKENDS, DivergenceWarning, Trainer
from . import arguments, figure, textplot
from .predict import gives_probabilities, predictions, to_json

HELD_OUT, VALIDATED = 0.2, 0.1
DIGITS_EPOCHS, FILE_EPOCHS = 30, 100
OPTIMIZERS: dict[str, Any] = {name.lower(): made for name, made in OPTIMIZER_CLASSES.items()}
RATES = {name: 0.1 if name == "sgd" else made().learning_rate for name, made in OPTIMIZERS.items()}
"""Default learning rate of each optimizer."""
DEFAULT_LOSSES = {"regression": "mse", "classification": "cross_entropy"}
"""The loss of each task unless --loss names one."""


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "train",
        help="train a network on a CSV or NPZ file, or on the bundled digits",
        usage="%(prog)s [FILE --target COLUMN] [options]",
        description="Train a network and print its summary, its curves, a diagnosis, and how well it predicts rows "
        "that were held out (a fifth; a tenth of the rest is for validation). Without FILE it learns the 1797 bundled "
        "8x8 images of handwritten digits.",
        epilog="A CSV has a header, is UTF-8, and is separated by commas, semicolons or tabs; every column but the "
        "target holds numbers. An NPZ holds an array X (rows, features) and the target, y unless --target names "
        "another. Text is classified, and so are whole numbers with at most "
        f"{tables.MAX_INTEGER_CLASSES} different values, each found twice on average; other numbers are regressed. "
        "Inputs, and the target of a regression, are scaled to mean 0 and standard deviation 1; the model file keeps "
        "the scaling, the columns' names and the classes.",
    )
    add = parser.add_argument
    default = "(default: %(default)s)"
    add("file", nargs="?", metavar="FILE", help="a .csv or .npz file")
    add("--target", metavar="COLUMN", help="the column to predict")
    add("--task", choices=tables.TASKS, help="(default: recognised from the target's values)")
    sizes = "sizes of the hidden layers, or none (default: 128)"
    add("--hidden", type=arguments.hidden_sizes, default=[128], metavar="K,K,...", help=sizes)
    add("--activation", choices=list(ACTIVATIONS), default="relu", help=f"of the hidden layers {default}")
    epochs = f"passes over the data (default: {FILE_EPOCHS}, or {DIGITS_EPOCHS} for the digits)"
    add("--epochs", type=arguments.integer, metavar="N", help=epochs)
    patience = "stop after N epochs without a better val_loss, and keep the best (default: off)"
    add("--patience", type=arguments.integer, metavar="N", help=patience)
    add("--batch-size", type=arguments.batch_size, default=32, metavar="N", help=f"rows per step, or full {default}")
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in RATES.items())
    add("--lr", type=arguments.positive, metavar="RATE", help=f"learning rate (default: {rates})")
    losses = ", ".join(f"{loss} for {task}" for task, loss in DEFAULT_LOSSES.items())
    add("--loss", choices=list(LOSSES), help=f"what is minimised (default: {losses})")
    add("--optimizer", choices=list(OPTIMIZERS), default="adam", help=f"how it is minimised {default}")
    add(
        "--seed", type=arguments.seed, default=0, metavar="N", help=f"of weights, shuffling and held-out rows {default}"
    )
    add("--backend", choices=list(dict.fromkeys(["auto", *BACKENDS])), default="auto", help=f"what computes {default}")
    add("--threads", type=arguments.integer, metavar="N", help="the most threads to use (default: all)")
    add("--out", metavar="MODEL", help="write the model to this safetensors file")
    add("--plot", metavar="IMAGE", help="draw the curves to this .png, .svg or .pdf")
    add("--json", action="store_true", help="print the results, curves included, as JSON")
    parser.set_defaults(run=train, parser=parser)


class _Problem(NamedTuple):
    """The data to train on, and how the output describes them."""

    task: str
    X: Array
    y: Array  # labels, or numbers in the units of the file
    X_held_out: Array
    y_held_out: Array
    preparation: Preparation | None
    classes: Sequence[Any] | None
    description: list[str]
    rows: str  # what a row is called


# ------------------------------------------------------------------------------------------------ train


def train(options: argparse.Namespace) -> int:
    """Train on a file, or on the digits, print the results, and return the exit status."""
    if options.file is None and (options.target is not None or options.task is not None):
        options.parser.error("--target and --task need a FILE to train on")
    _check_targets(options)
    problem = _digits(options) if options.file is None else _table(options)
    loss = options.loss or DEFAULT_LOSSES[problem.task]
    if problem.task == "regression" and gives_probabilities(loss):
        raise ValueError(
            f"{loss} is a loss for classes, but this is regression; --task classification takes the target for classes"
        )
    y, outputs = _targets(problem, loss)
    sizes = [problem.X.shape[1], *options.hidden, outputs]
    net = Network(sizes, hidden=options.activation, seed=options.seed)
    net.preparation = problem.preparation
    optimizer = OPTIMIZERS[options.optimizer](options.lr or RATES[options.optimizer])
    run = {"seed": options.seed, "backend": options.backend, "threads": options.threads}
    trainer = Trainer(net, loss, optimizer, options.batch_size, **run)
    how = f"{loss}, {optimizer}, batch size {options.batch_size or 'full'}, seed {options.seed}"
    if not options.json:
        _print(options, "\n".join([*problem.description, f"training  {how}\n\n{net.summary()}\n"]))

    X = problem.preparation.inputs(problem.X) if problem.preparation else problem.X
    start, compiled = time.perf_counter(), compile_seconds()
    status = _fit(trainer, X, y, options)
    seconds, compiling = time.perf_counter() - start, compile_seconds() - compiled
    history = trainer.history
    if history.epochs == 0:
        return status

    # Files first: the reader of standard output may have closed it.
    written = _write(options, net, history, status)
    diagnosis = history.diagnosis(_baseline(problem, y, loss))
    score, score_line = _score(net, problem)
    if options.json:
        result = {
            "file": options.file,
            "task": problem.task,
            "rows": len(problem.X),
            "held_out_rows": len(problem.X_held_out),
        }
        result |= {"target": problem.preparation.target if problem.preparation else "digit", "classes": problem.classes}
        result |= {"layer_sizes": net.layer_sizes, "loss": loss, "optimizer": str(optimizer), "seed": options.seed}
        result |= {"epochs": history.epochs, "best_epoch": history.best_epoch, "diagnosis": diagnosis}
        result |= {"held_out": score, "seconds": seconds, "backend": trainer.backend, "history": dict(history)}
        print(to_json(result))
        return status
    best, share = history.best_epoch, f", {compiling:.2f} s of it compiling" if compiling else ""
    print(textplot.curves({name: history[name] for name in ("loss", "val_loss")}), end="\n\n")
    print(score_line)
    kept = options.patience is not None or best == history.epochs - 1 or status != 0
    hint = "" if kept else f"; the model is that of epoch {history.epochs - 1} (--patience keeps the best)"
    print(
        "best      none"
        if best is None
        else f"best      val_loss {history['val_loss'][best]:.4g} in epoch {best}{hint}"
    )
    print(f"diagnosis {diagnosis}")
    print(f"time      {seconds:.2f} s for {history.epochs} epochs{share}; backend {trainer.backend}")
    for line in written:
        print(line)
    return status


def _print(options: argparse.Namespace, text: str) -> None:
    """Print; if files are to be written, a reader that closed the pipe does not prevent that."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        if options.out is None and options.plot is None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_targets(options: argparse.Namespace) -> None:
    """Check before any work that its results can be written."""
    for name in (options.out, options.plot):
        if name is not None:
            storage.check_target(name)
            if options.file is not None and os.path.realpath(name) == os.path.realpath(options.file):
                raise ValueError(f"{storage.display_path(name)} is the data; write to another file")
    if options.plot is not None:
        if options.out is not None and os.path.realpath(options.plot) == os.path.realpath(options.out):
            raise ValueError("--out and --plot name the same file")
        figure.new_figure(options.plot)


def _digits(options: argparse.Namespace) -> _Problem:
    X, labels = data.digits()
    X, X_held_out, y, y_held_out = data.split(X, labels, HELD_OUT, options.seed)
    text = f"data      {len(labels)} bundled 8x8 images of handwritten digits, {len(X_held_out)} held out"
    return _Problem("classification", X, y, X_held_out, y_held_out, None, range(10), [text], "images")


def _table(options: argparse.Namespace) -> _Problem:
    table = tables.read(options.file, options.target, options.task)
    X, X_held_out, y, y_held_out = data.split(table.X, table.y, HELD_OUT, options.seed)
    regression = table.task == "regression"
    names: dict[str, Any] = {"features": table.features, "target": table.target, "classes": table.classes}
    preparation = Preparation.of(X, y if regression else None, **names)
    separated = "" if table.separator in ("", "comma") else f", separated by {table.separator}s"
    lines = [
        f"data      {storage.display_path(options.file)}: {len(table.X):,} rows, {len(X_held_out):,} of them held out, "
        f"{X.shape[1]:,} features{separated}"
    ]
    if regression:
        lines.append(f"task      regression of {table.target!r}: {table.task_reason}")
    else:
        classes = table.classes or ()
        listed = ", ".join(str(name)[:20] for name in classes[:6]) + (", ..." if len(classes) > 6 else "")
        lines.append(f"task      classification of {table.target!r}: {table.task_reason}: {listed}")
    lines.append("scaling   inputs" + (" and target" if regression else "") + " to mean 0 and standard deviation 1")
    constant = [name for name, wide in zip(table.features or (), np.ptp(X, axis=0) > 0, strict=False) if not wide]
    if constant:
        lines.append(f"note      constant, so without effect: {', '.join(constant[:6])}")
    return _Problem(table.task, X, y, X_held_out, y_held_out, preparation, table.classes, lines, "rows")


def _targets(problem: _Problem, loss: str) -> tuple[Array, int]:
    """Return the targets in the form that the loss takes, and the number of outputs."""
    if problem.task == "regression" and problem.preparation is not None:
        return problem.preparation.targets(problem.y), 1
    count = len(problem.classes or ())
    if LOSSES[loss].takes_labels:
        return problem.y, count
    if gives_probabilities(loss) and count == 2:
        return problem.y.astype(np.float32), 1
    return np.eye(count, dtype=np.float32)[problem.y], count


def _fit(trainer: Trainer, X: Array, y: Array, options: argparse.Namespace) -> int:
    """Train; report what went wrong in one line, and return the exit status."""
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


def _baseline(problem: _Problem, y: Array, loss: str) -> float | None:
    """Return the loss of always predicting the same, if it is known."""
    if loss == "mse":
        return float(np.mean(np.var(y, axis=0)))
    if loss == "cross_entropy":
        frequencies = np.bincount(problem.y) / len(problem.y)
        return float(-sum(share * math.log(share) for share in frequencies if share > 0))
    return None


def _score(net: Network, problem: _Problem) -> tuple[dict[str, Any], str]:
    """Measure how well the held-out rows are predicted: as numbers and as a line of text."""
    count = f"{len(problem.X_held_out):,} held-out {problem.rows}"
    if problem.task == "regression":
        found = predictions(net, problem.X_held_out).values[:, 0]
        errors, spread = found - problem.y_held_out, problem.y_held_out - problem.y_held_out.mean()
        rmse = math.sqrt(np.mean(errors**2))
        explained = 1 - float(np.sum(errors**2) / np.sum(spread**2)) if spread.any() else math.nan
        score = {"rmse": rmse, "mae": float(np.mean(np.abs(errors))), "r2": explained}
        return score, f"error     RMSE {rmse:.4g}, R^2 {explained:.4f} on the {count}, in the target's own units"
    accuracy = float(np.mean(predictions(net, problem.X_held_out).labels == problem.y_held_out))
    most_frequent = float(np.mean(problem.y_held_out == np.bincount(problem.y).argmax()))
    line = f"accuracy  {accuracy:.2%} of the {count}"
    if problem.preparation is not None:
        line += f"; always predicting the most frequent class, {most_frequent:.2%}"
    return {"accuracy": accuracy, "most_frequent": most_frequent}, line


def _write(options: argparse.Namespace, net: Network, history: History, status: int) -> list[str]:
    """Write the files that the options name; return a line of output for each."""
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
        curves = figure.new_figure(options.plot)
        history.plot(curves.add_subplot())
        figure.save_figure(curves, options.plot)
        written.append(f"plot      {storage.display_path(options.plot)}")
    return written
