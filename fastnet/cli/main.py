"""The command line: fastnet train | predict | profile | info.

Imports `commands` and `profile_command`, which do the work. Results go to standard output, the progress bar
and errors to standard error. Exit status: 0, 1 when the work failed, 2 for wrong usage, 130 after Ctrl-C.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NoReturn

from .. import __version__, checks, tables
from ..kernels.cpu.threads.pool import num_threads
from ..kernels.engine.plan import LOSSES
from ..kernels.jit import cache, target
from ..kernels.specs.operations import OP_SPECS
from ..kernels.verify import WrongKernelError
from ..profiling import step_breakdown, variants
from ..trainer import BACKENDS
from . import predict as predict_command
from . import profile as profile_command
from . import train as train_command


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which guesses no option from its beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_args(self, arguments: Any = None, namespace: Any = None) -> Any:
        """Parse, and let the command that was named refuse what it does not know."""
        found, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            found.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found


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
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError, WrongKernelError) as error:
        print(f"fastnet {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> _Parser:
    parser = _Parser(prog="fastnet", description="Train dense networks with compiled kernels.")
    parser.add_argument("--version", action="version", version=f"fastnet {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)

    train = subparsers.add_parser(
        "train",
        help="train a network on a CSV or NPZ file, or on the bundled digits",
        usage="%(prog)s [FILE --target COLUMN] [options]",
        description="Train a network and print its summary, its curves, a diagnosis, and how well it predicts rows "
        "that were held out (a fifth; a tenth of the rest is for validation). Without FILE it learns the 1797 bundled "
        "8x8 images of handwritten digits.",
        epilog="A CSV has a header, is UTF-8, and is separated by commas, semicolons or tabs; every column but the "
        "target holds numbers. An NPZ holds an array X (rows, features) and the target, y unless --target names "
        f"another. Text is classified, and so are whole numbers with at most {tables.FEW} different values, each found "
        "twice on average; other numbers are regressed. Inputs, and the target of a regression, are scaled to mean 0 "
        "and standard deviation 1; the model file keeps that, and the columns' names and the classes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    hidden = argparse.SUPPRESS  # the default's place in the help is taken by words
    train.add_argument("file", nargs="?", metavar="FILE", help="a .csv or .npz file", default=hidden)
    train.add_argument("--target", metavar="COLUMN", help="the column to predict", default=hidden)
    train.add_argument("--task", choices=tables.TASKS, default=hidden, help="by default as it is recognised")
    train.add_argument("--hidden", type=_hidden, default="128", metavar="K,K,...", help="hidden sizes, or none")
    epochs = (
        f"passes over the data (default: {train_command.FILE_EPOCHS}, or {train_command.DIGITS_EPOCHS} for the digits)"
    )
    train.add_argument("--epochs", type=_count, default=hidden, metavar="N", help=epochs)
    patience = "stop after so many epochs without a better val_loss, and keep the best (default: off)"
    train.add_argument("--patience", type=_count, default=hidden, metavar="N", help=patience)
    train.add_argument("--batch-size", type=_batch, default=32, metavar="N", help="rows a step, or full")
    train.add_argument("--lr", type=_rate, metavar="RATE", help=f"learning rate (default: {_rates()})", default=hidden)
    loss = "what is minimised (default: cross_entropy to classify, mse to regress)"
    train.add_argument("--loss", choices=sorted(LOSSES), default=hidden, help=loss)
    train.add_argument("--optimizer", choices=sorted(train_command.RATES), default="adam", help="how it is minimised")
    train.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights, shuffling and held-out rows")
    train.add_argument("--backend", choices=["auto", *BACKENDS], default="auto", help="what computes")
    threads = "at most so many, for parallel (default: all)"
    train.add_argument("--threads", type=_count, metavar="N", help=threads, default=hidden)
    train.add_argument("--out", metavar="MODEL", help="write the model to this safetensors file", default=hidden)
    train.add_argument("--plot", metavar="PICTURE", help="draw the curves to this .png, .svg or .pdf", default=hidden)
    train.add_argument("--json", action="store_true", default=hidden, help="results, curves included, as JSON")
    train.set_defaults(run=_train, parser=train)

    predict = subparsers.add_parser(
        "predict",
        help="apply a model to a new file",
        description="Predict every row of a CSV or NPZ file. Columns are found by name; the target may be among them "
        "and is not looked at, other columns that the model was not trained on are refused. The result is a CSV: for "
        "regression the target, for classification the class and the probability of each.",
    )
    predict.add_argument("model", metavar="MODEL", help="a file that fastnet train --out, or Network.save, wrote")
    predict.add_argument("file", metavar="FILE", help="a .csv or .npz file")
    predict.add_argument("--out", metavar="PREDICTIONS", help="write to this file, not to standard output")
    predict.add_argument("--json", action="store_true", help="as JSON")
    predict.set_defaults(run=predict_command.predict, parser=predict)

    _add_profile(subparsers)

    info = subparsers.add_parser(
        "info",
        help="show the CPU, the compile cache and the versions",
        description="Show what fastnet compiles for, where compiled kernels are kept, and the versions in use.",
    )
    limits = "also what this machine can do at most: FMAs on registers, bytes read from each cache; some seconds"
    info.add_argument("--measure", action="store_true", help=limits)
    info.set_defaults(run=_info, parser=info)
    return parser


def _add_profile(subparsers: Any) -> None:
    profile = subparsers.add_parser(
        "profile",
        help="time kernel variants, or the parts of a training step, against this machine's limits",
        usage="%(prog)s OPERATION [--shape M,K,N] [options]\n       %(prog)s train --layers N,...,K [options]",
        description="Verify each variant of an operation against the float64 oracle, then time them in turns: time and "
        "its interquartile range, GFLOP/s, GB/s, share of the limit that binds (FMAs on registers, or bytes read from "
        "the cache that holds the arrays; both measured here and now), the error as a share of what is allowed, the "
        "compile time and the inner loop. A wrong kernel is refused before it is timed. With `train`, break a "
        "training step down by kernel.",
        epilog=f"Operations: {', '.join(OP_SPECS)}. A time is that of a call from Python with arrays in the cache. "
        "The compile time is that of the first call in a new process with an empty cache, less that of the second.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    hidden = argparse.SUPPRESS
    operation = "a public kernel, or train"
    profile.add_argument("operation", metavar="OPERATION", choices=[*OP_SPECS, "train"], help=operation)
    shape = "its sizes, such as M,K,N of a product (default: the largest that is benchmarked)"
    profile.add_argument("--shape", type=_sizes, metavar="N,...", default=hidden, help=shape)
    option = "layout, activation or kind of update, such as nt for a transposed B (default: as benchmarked)"
    profile.add_argument("--option", metavar="NAME", default=hidden, help=option)
    names = "which to time, such as reference,simd (default: all)"
    profile.add_argument("--variants", type=lambda text: text.split(","), metavar="A,B", default=hidden, help=names)
    profile.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="of the arrays")
    profile.add_argument("--threads", type=_counts, default="1", metavar="N,...", help="one table for each")
    profile.add_argument("--seconds", type=_rate, default=0.5, metavar="S", help="about how long to time a variant")
    code = "leave out compile times and inner loops, which take a process for each variant"
    profile.add_argument("--no-code", dest="code", action="store_false", default=hidden, help=code)
    profile.add_argument("--asm", action="store_true", help="show the inner loops")
    profile.add_argument("--plot", metavar="PICTURE", default=hidden, help="draw the roofline to this .png or .svg")
    profile.add_argument("--json", action="store_true", help="as JSON")
    train = profile.add_argument_group("of a training step")
    train.add_argument("--layers", type=_sizes, metavar="N,...,K", default=hidden, help="inputs, hidden, outputs")
    train.add_argument("--batch-size", type=_count, metavar="N", default=hidden, help="rows (default: 128)")
    train.add_argument("--loss", choices=sorted(LOSSES), default=hidden, help="(default: mse)")
    train.add_argument("--optimizer", choices=sorted(step_breakdown.OPTIMIZERS), default=hidden, help="(default: sgd)")
    profile.set_defaults(run=_profile, parser=profile)


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
        return checks.seed(int(text))
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


def _sizes(text: str, example: str = "64,64") -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers of at least 1, such as {example}")
    return sizes


def _counts(text: str) -> list[int]:
    return _sizes(text, "1,2")


def _rate(text: str) -> float:
    try:
        return checks.number("number", float(text), above=0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0") from None


def _rates() -> str:
    return ", ".join(f"{rate:g} for {name}" for name, rate in train_command.RATES.items())


# ------------------------------------------------------------------------------------------ commands


_UNSET = ("file", "target", "task", "epochs", "patience", "loss", "threads", "out", "plot", "json")


def _train(options: argparse.Namespace) -> int:
    for name in _UNSET:
        setattr(options, name, getattr(options, name, None))
    if options.file is None and (options.target is not None or options.task is not None):
        options.parser.error("--target and --task need a FILE to train on")
    return train_command.train(options)


_OF_A_STEP = {"layers": None, "batch_size": 128, "loss": "mse", "optimizer": "sgd"}
_OF_KERNELS = {"shape": None, "option": None, "variants": None, "plot": None, "code": True}


def _profile(options: argparse.Namespace) -> int:
    trains = options.operation == "train"
    for name in _OF_KERNELS if trains else _OF_A_STEP:
        if hasattr(options, name):
            word = "--no-code" if name == "code" else "--" + name.replace("_", "-")
            options.parser.error(f"{word} is {'not for train' if trains else 'for train only'}")
    for name, default in (_OF_A_STEP | _OF_KERNELS).items():
        setattr(options, name, getattr(options, name, default))
    if max(options.threads) > num_threads():
        options.parser.error(f"--threads {max(options.threads)}: at most {num_threads()} can be used here")
    if trains:
        if options.asm:
            options.parser.error("--asm is not for train")
        if options.layers is None or len(options.layers) < 2:
            options.parser.error("train needs --layers, at least inputs and outputs, such as 784,256,128,10")
        return profile_command.step(options)
    if options.asm and not options.code:
        options.parser.error("--asm shows what --no-code leaves out")
    try:
        variants.chosen(options.operation, options.variants, options.dtype)
        variants.case_of(options.operation, options.shape, options.option)
    except ValueError as error:
        options.parser.error(str(error))
    return profile_command.kernels(options)


def _info(options: argparse.Namespace) -> int:
    facts = _facts()
    if options.measure:
        facts += profile_command.measure(sorted({1, num_threads()}))
    for name, value in facts:
        print(f"{name:<15}{value}")
    return 0


def _facts() -> list[tuple[str, str]]:
    packages = ("numpy", "numba", "llvmlite")
    features = sorted(target.target_features() & {"sse2", "avx", "avx2", "fma", "avx512f", "neon", "sve"})
    folder, width = cache.cache_folder, target.vector_bytes()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder else 0
    return [
        ("fastnet", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}), {platform.platform()}"),
        *((name, metadata.version(name)) for name in packages),
        ("cpu", f"{target.target_cpu()} ({platform.machine()}), {_cores()} usable cores"),
        ("features", " ".join(features) or "none of those that matter here"),
        (
            "vector width",
            f"{width} bytes: {width // 4} float32, {width // 8} float64",
        ),
        ("compile cache", f"{folder} ({size / 2**20:.1f} MiB)" if folder else "none: no folder can be written"),
    ]


def _cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
