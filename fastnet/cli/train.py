"""The command ``fastnet train``: train a network on a table, or on the bundled digits."""

import argparse
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
from .predict import check_output, gives_probabilities, predictions, to_json

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
    parser.set_defaults(run=train)
    add = parser.option
    add("file", "a .csv or .npz file", nargs="?", metavar="FILE")
    add("--target", "the column to predict", metavar="COLUMN")
    add("--task", "(default: recognised from the target's values)", choices=tables.TASKS)
    hidden = "sizes of the hidden layers, or none"
    add("--hidden", hidden, type=arguments.hidden_sizes, default="128", metavar="K,K,...")
    add("--activation", "of the hidden layers", choices=list(ACTIVATIONS), default="relu")
    epochs = f"passes over the data (default: {FILE_EPOCHS}, or {DIGITS_EPOCHS} for the digits)"
    add("--epochs", epochs, type=arguments.integer, metavar="N")
    patience = "stop after N epochs without a better val_loss, and keep the best (default: off)"
    add("--patience", patience, type=arguments.integer, metavar="N")
    add("--batch-size", "rows per step, or full", type=arguments.batch_size, default=32, metavar="N")
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in RATES.items())
    add("--lr", f"learning rate (default: {rates})", type=arguments.positive, metavar="RATE")
    losses = ", ".join(f"{loss} for {task}" for task, loss in DEFAULT_LOSSES.items())
    add("--loss", f"what is minimised (default: {losses})", choices=list(LOSSES))
    add("--optimizer", "how it is minimised", choices=list(OPTIMIZERS), default="adam")
    add("--seed", "of weights, shuffling and held-out rows", type=arguments.seed, default=0, metavar="N")
    add("--backend", "what computes", choices=list(dict.fromkeys(["auto", *BACKENDS])), default="auto")
    add("--threads", "the most threads to use (default: all)", type=arguments.integer, metavar="N")
    add("--out", "write the model to this safetensors file", metavar="MODEL")
    add("--plot", "draw the curves to this .png, .svg or .pdf", metavar="IMAGE")
    add("--json", "print the results, curves included, as JSON", action="store_true")


# ------------------------------------------------------------------------------------------------ train


def train(options: argparse.Namespace) -> int:
    """Train on a file, or on the digits, print the results, and return the exit status."""
    if options.file is None and (options.target is not None or options.task is not None):
        options.parser.error("--target and --task need a FILE to train on")
    _check_targets(options)
    if options.file is None:
        table = tables.Table(*data.digits(), None, "digit", tuple(range(10)), "", "")
    else:
        table = tables.read(options.file, options.target, options.task)
    X, X_held_out, y, y_held_out = data.split(table.X, table.y, HELD_OUT, options.seed)
    loss = options.loss or DEFAULT_LOSSES[table.task]
    if table.task == "regression" and gives_probabilities(loss):
        raise ValueError(
            f"{loss} is a loss for classes, but this is regression; --task classification takes the target for classes"
        )
    preparation = None if options.file is None else _preparation(table, X, y)
    targets, outputs = _targets(table, y, preparation, loss)
    net = Network([X.shape[1], *options.hidden, outputs], hidden=options.activation, seed=options.seed)
    net.preparation = preparation
    optimizer = OPTIMIZERS[options.optimizer](options.lr or RATES[options.optimizer])
    run = {"seed": options.seed, "backend": options.backend, "threads": options.threads}
    trainer = Trainer(net, loss, optimizer, options.batch_size, **run)
    if not options.json:
        how = f"{loss}, {optimizer}, batch size {options.batch_size or 'full'}, seed {options.seed}"
        described = _describe(options.file, table, X, len(X_held_out))
        _print(options, "\n".join([*described, f"training  {how}\n\n{net.summary()}\n"]))

    start, compiled = time.perf_counter(), compile_seconds()
    status = _fit(trainer, preparation.inputs(X) if preparation else X, targets, options)
    seconds, compiling = time.perf_counter() - start, compile_seconds() - compiled
    history = trainer.history
    if history.epochs == 0:
        return status

    # Files first: the reader of standard output may have closed it.
    written = _write(options, net, history, status)
    best, diagnosis = history.best_epoch, history.diagnosis(_baseline(targets, loss))
    score, score_line = _score(net, table, y, X_held_out, y_held_out)
    if options.json:
        result = {"file": options.file, "task": table.task, "rows": len(X), "held_out_rows": len(X_held_out)}
        result |= {"target": table.target, "classes": table.classes, "layer_sizes": net.layer_sizes, "loss": loss}
        result |= {"optimizer": str(optimizer), "seed": options.seed, "epochs": history.epochs, "best_epoch": best}
        result |= {"diagnosis": diagnosis, "held_out": score, "seconds": seconds, "backend": trainer.backend}
        print(to_json({**result, "history": dict(history)}))
        return status
    print(textplot.curves({name: history[name] for name in ("loss", "val_loss")}), score_line, sep="\n\n")
    kept = options.patience is not None or best == history.epochs - 1 or status != 0
    hint = "" if kept else f"; the model is that of epoch {history.epochs - 1} (--patience keeps the best)"
    found = "none" if best is None else f"val_loss {history['val_loss'][best]:.4g} in epoch {best}{hint}"
    print(f"best      {found}\ndiagnosis {diagnosis}")
    share = f", {compiling:.2f} s of it compiling" if compiling else ""
    took = f"{seconds:.2f} s for {history.epochs} epochs{share}; backend {trainer.backend}"
    print(f"time      {took}", *written, sep="\n")
    return status


def _print(options: argparse.Namespace, text: str) -> None:
    """Print; if files are to be written, a reader that closed the pipe does not prevent that."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        if not _outputs(options):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _outputs(options: argparse.Namespace) -> list[str]:
    return [name for name in (options.out, options.plot) if name is not None]


def _check_targets(options: argparse.Namespace) -> None:
    """Check before any work that its results can be written."""
    outputs = _outputs(options)
    for name in outputs:
        check_output(name, *([] if options.file is None else [options.file]))
    if len({os.path.realpath(name) for name in outputs}) < len(outputs):
        raise ValueError("--out and --plot name the same file")
    if options.plot is not None:
        figure.new_figure(options.plot)


def _preparation(table: tables.Table, X: Array, y: Array) -> Preparation:
    names: dict[str, Any] = {"features": table.features, "target": table.target, "classes": table.classes}
    return Preparation.of(X, y if table.task == "regression" else None, **names)


def _describe(path: str | None, table: tables.Table, X: Array, held_out: int) -> list[str]:
    """Describe the data, and what is made of them, in lines."""
    if path is None:
        return [f"data      {len(table.X)} bundled 8x8 images of handwritten digits, {held_out} held out"]
    separated = "" if table.separator in ("", "comma") else f", separated by {table.separator}s"
    rows = f"{len(table.X):,} rows, {held_out:,} of them held out, {X.shape[1]:,} features{separated}"
    task = f"{table.task} of {table.target!r}: {table.task_reason}"
    if table.classes:
        task += f": {', '.join(str(name)[:20] for name in table.classes[:6])}{', ...' * (len(table.classes) > 6)}"
    scaled = "inputs" + " and target" * (table.task == "regression")
    lines = [f"data      {storage.display_path(path)}: {rows}", f"task      {task}"]
    lines.append(f"scaling   {scaled} to mean 0 and standard deviation 1")
    constant = [name for name, wide in zip(table.features or (), np.ptp(X, axis=0) > 0, strict=False) if not wide]
    if constant:
        lines.append(f"note      constant, so without effect: {', '.join(constant[:6])}")
    return lines


def _targets(table: tables.Table, y: Array, preparation: Preparation | None, loss: str) -> tuple[Array, int]:
    """Return the targets in the form that the loss takes, and the number of outputs."""
    if table.classes is None:
        return preparation.targets(y) if preparation else y, 1
    count = len(table.classes)
    if LOSSES[loss].takes_labels:
        return y, count
    if gives_probabilities(loss) and count == 2:
        return y.astype(np.float32), 1
    return np.eye(count, dtype=np.float32)[y], count


def _fit(trainer: Trainer, X: Array, y: Array, options: argparse.Namespace) -> int:
    """Train; report what went wrong in one line, and return the exit status."""
    epochs = options.epochs or (DIGITS_EPOCHS if options.file is None else FILE_EPOCHS)
    status = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with _heeded_interrupt() as stop:
                trainer.fit(
                    X, y, epochs=epochs, validation_split=VALIDATED, patience=options.patience, callbacks=[stop]
                )
        except KeyboardInterrupt:
            print(f"fastnet train: interrupted after {trainer.history.epochs} whole epochs", file=sys.stderr)
            status = 130
    for warning in caught:
        print(f"fastnet train: {warning.message}", file=sys.stderr)
        if issubclass(warning.category, DivergenceWarning):
            status = 1
    return status


@contextmanager
def _heeded_interrupt() -> Iterator[Callable[[Any], None]]:
    """Give a callback that raises KeyboardInterrupt where an earlier one was lost.

    Python prints and drops exceptions that are raised in destructors and callbacks from C, of which compilation has
    many; Ctrl-C there would do nothing.
    """
    came = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    def stop(row: Any) -> None:
        if came:
            raise KeyboardInterrupt

    # A background job's SIGINT is ignored, and only the main thread may set a handler.
    replaces = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    replaces = replaces and threading.current_thread() is threading.main_thread()
    if replaces:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        if replaces:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _baseline(y: Array, loss: str) -> float | None:
    """Return the loss of always predicting the same, if it is known."""
    if loss == "mse":
        return float(np.mean(np.var(y, axis=0)))
    if loss == "cross_entropy":
        shares = np.unique(y, return_counts=True)[1] / len(y)
        return float(-np.sum(shares * np.log(shares)))
    return None


def _score(
    net: Network, table: tables.Table, y: Array, X_held_out: Array, y_held_out: Array
) -> tuple[dict[str, float], str]:
    """Measure how well the held-out rows are predicted: as numbers and as a line of text; y was trained on."""
    values, labels = predictions(net, X_held_out)
    count = f"{len(X_held_out):,} held-out {'rows' if net.preparation else 'images'}"
    if table.classes is None:
        errors, spread = values[:, 0] - y_held_out, y_held_out - y_held_out.mean()
        rmse = math.sqrt(np.mean(errors**2))
        explained = 1 - float(np.sum(errors**2) / np.sum(spread**2)) if spread.any() else math.nan
        score = {"rmse": rmse, "mae": float(np.mean(np.abs(errors))), "r2": explained}
        return score, f"error     RMSE {rmse:.4g}, R^2 {explained:.4f} on the {count}, in the target's own units"
    accuracy = float(np.mean(labels == y_held_out))
    most_frequent = float(np.mean(y_held_out == np.bincount(y).argmax()))
    frequent = f"; always predicting the most frequent class, {most_frequent:.2%}" if net.preparation else ""
    score = {"accuracy": accuracy, "most_frequent": most_frequent}
    return score, f"accuracy  {accuracy:.2%} of the {count}{frequent}"


def _write(options: argparse.Namespace, net: Network, history: History, status: int) -> list[str]:
    """Write the files that the options name; return a line of output for each."""
    shown = {name: storage.display_path(name) for name in _outputs(options)}
    if status == 1:
        for path in shown.values():
            print(f"fastnet train: {path} is not written, since training diverged", file=sys.stderr)
        return []
    if options.out is not None:
        net.save(options.out)
    if options.plot is not None:
        curves = figure.new_figure(options.plot)
        history.plot(curves.add_subplot())
        figure.save_figure(curves, options.plot)
    return [f"{'model' if name == options.out else 'plot':<10}{path}" for name, path in shown.items()]
