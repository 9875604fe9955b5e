"""The command line: fastnet train | info.

Imports the library's public rooms. Results go to standard output, the progress bar and errors to standard
error. Exit status: 0, 1 when the work failed, 2 for wrong usage, 130 after Ctrl-C.
"""

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NoReturn

import numpy as np

from . import __version__, _checks, data, textplot
from .kernels import _jit, accuracy
from .kernels.plan import LOSSES
from .network import Network
from .optimizers import SGD, Adam
from .trainer import BACKENDS, DivergenceWarning, Trainer

_HELD_OUT, _VALIDATED = 0.2, 0.1
_RATES = {"adam": 0.001, "sgd": 0.1}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which guesses no option from its beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; by default those of the process.

    Returns
    -------
    int
        The exit status.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        if sys.stdout is not None:  # None where the shell closed it
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("fastnet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, OSError, ValueError) as error:
        print(f"fastnet {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> _Parser:
    parser = _Parser(prog="fastnet", description="Train dense networks with compiled kernels.")
    parser.add_argument("--version", action="version", version=f"fastnet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)

    train = commands.add_parser(
        "train",
        help="train a network on the bundled digits",
        description="Train a network on the 1797 bundled 8x8 images of handwritten digits, and print its summary, "
        "its curves, and its accuracy on images that were held out.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("--hidden", type=_hidden, default="128", metavar="K,K,...", help="hidden sizes, or none")
    train.add_argument("--epochs", type=_count, default=30, metavar="N", help="passes over the data")
    train.add_argument("--batch-size", type=_batch, default=32, metavar="N", help="rows a step, or full")
    train.add_argument(
        "--lr", type=_rate, metavar="RATE", help=f"learning rate (default: {_rates()})", default=argparse.SUPPRESS
    )
    train.add_argument("--loss", choices=sorted(LOSSES), default="cross_entropy", help="what is minimised")
    train.add_argument("--optimizer", choices=sorted(_RATES), default="adam", help="how it is minimised")
    train.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights, shuffling and held-out rows")
    train.add_argument("--backend", choices=["auto", *BACKENDS], default="auto", help="what computes")
    train.add_argument("--threads", type=_count, metavar="N", help="at most so many, for parallel (default: all)")
    train.set_defaults(run=_train)

    info = commands.add_parser(
        "info",
        help="show the CPU, the compile cache and the versions",
        description="Show what fastnet compiles for, where compiled kernels are kept, and the versions in use.",
    )
    info.set_defaults(run=_info)
    return parser


# ------------------------------------------------------------------------------------ argument types


def _whole(text: str, least: int, what: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _count(text: str) -> int:
    return _whole(text, 1, "a whole number of at least 1")


def _seed(text: str) -> int:
    try:
        return _checks.seed(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**64 - 1") from None


def _batch(text: str) -> int | None:
    return None if text == "full" else _whole(text, 1, "a whole number of at least 1, or full")


def _hidden(text: str) -> list[int]:
    if text == "none":
        return []
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sizes such as 64,64, or none")
    return sizes


def _rate(text: str) -> float:
    try:
        return SGD(float(text)).learning_rate
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0") from None


def _rates() -> str:
    return ", ".join(f"{rate:g} for {name}" for name, rate in _RATES.items())


# ------------------------------------------------------------------------------------------ commands


def _train(options: argparse.Namespace) -> int:
    X, labels = data.digits()
    classes = int(labels.max()) + 1
    X, X_held_out, labels, labels_held_out = data.split(X, labels, _HELD_OUT, options.seed)
    y: Any = labels if options.loss == "cross_entropy" else np.eye(classes)[labels]

    net = Network([X.shape[1], *options.hidden, classes], seed=options.seed)
    rate = getattr(options, "lr", _RATES[options.optimizer])
    optimizer = Adam(rate) if options.optimizer == "adam" else SGD(rate)
    trainer = Trainer(net, options.loss, optimizer, options.batch_size, seed=options.seed, backend=options.backend)
    print(f"data      {len(X) + len(X_held_out)} bundled 8x8 images of handwritten digits, {len(X_held_out)} held out")
    print(f"training  {trainer.loss}, {optimizer}, batch size {options.batch_size or 'full'}, seed {options.seed}\n")
    print(net.summary(), end="\n\n", flush=True)

    start, compiled = time.perf_counter(), _jit.compile_seconds()
    status = _fit(trainer, X, y, options.epochs)
    seconds, compiling = time.perf_counter() - start, _jit.compile_seconds() - compiled
    history = trainer.history
    if history.epochs == 0:
        return status

    print(textplot.curves({name: history[name] for name in ("loss", "val_loss")}), end="\n\n")
    right = accuracy(labels_held_out, net.predict(X_held_out), variant="reference")
    print(f"accuracy  {right:.2%} of the {len(X_held_out)} held-out images")
    best = history.best_epoch
    print("best      none" if best is None else f"best      val_loss {history['val_loss'][best]:.4g} in epoch {best}")
    share = f", {compiling:.2f} s of it compiling" if compiling else ""
    print(f"time      {seconds:.2f} s for {history.epochs} epochs{share}; backend {trainer.backend}")
    return status


def _fit(trainer: Trainer, X: Any, y: Any, epochs: int) -> int:
    """Train; say what went wrong in one line, and return the exit status."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(X, y, epochs=epochs, validation_split=_VALIDATED)
            status = 0
        except KeyboardInterrupt:
            print(f"fastnet train: interrupted after {trainer.history.epochs} whole epochs", file=sys.stderr)
            status = 130
    for warning in caught:
        print(f"fastnet train: {warning.message}", file=sys.stderr)
        if issubclass(warning.category, DivergenceWarning):
            status = 1
    return status


def _info(options: argparse.Namespace) -> int:
    for name, value in _facts():
        print(f"{name:<15}{value}")
    return 0


def _facts() -> list[tuple[str, str]]:
    packages = ("numpy", "numba", "llvmlite")
    features = sorted(_jit.target_features() & {"sse2", "avx", "avx2", "fma", "avx512f", "neon", "sve"})
    folder = _jit.cache_folder
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder else 0
    return [
        ("fastnet", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}), {platform.platform()}"),
        *((name, metadata.version(name)) for name in packages),
        ("cpu", f"{_jit.target_cpu()} ({platform.machine()}), {_cores()} usable cores"),
        ("features", " ".join(features) or "none of those that matter here"),
        (
            "vector width",
            f"{_jit.vector_bytes()} bytes: {_jit.vector_bytes() // 4} float32, {_jit.vector_bytes() // 8} float64",
        ),
        ("compile cache", f"{folder} ({size / 2**20:.1f} MiB)" if folder else "none: no folder can be written"),
    ]


def _cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
