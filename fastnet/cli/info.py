"""The command ``fastnet info``: the CPU that kernels are compiled for, the compile cache, versions, peak figures."""

import argparse
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from .. import __version__
from ..kernels.cpu.threads.pool import num_threads
from ..kernels.cpu.threads.usable import usable
from ..kernels.engine.engine import COMPANIONS, LATER, training_kernels
from ..kernels.engine.evaluation import MEASURE
from ..kernels.engine.forward import PREDICTION_KERNELS
from ..kernels.jit import cache, target
from ..kernels.jit.machine import MACHINE
from ..kernels.jit.side_by_side import compile_side_by_side
from ..kernels.specs.activations import ACTIVATIONS
from ..kernels.specs.losses import LOSSES
from ..kernels.specs.optimizers import OPTIMIZERS
from ..network import Network
from ..trainer import Trainer
from .arguments import names_of
from .profile import measure

COMPILE_HELP = (
    "compile what training and predicting take into the compile cache, before it is needed: for a container's image, "
    "or for another CPU than this one, by NUMBA_CPU_NAME and NUMBA_CPU_FEATURES"
)

_CHOICES: list[tuple[str, Sequence[str], list[str]]] = [
    ("dtypes", ("float32", "float64"), ["float32"]),
    ("losses", list(LOSSES), ["mse", "cross_entropy"]),
    ("optimizers", [name for name in OPTIMIZERS if name != "none"], ["sgd", "adam"]),
    ("activations", list(ACTIVATIONS), ["identity", "relu"]),
]


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "info",
        help="show the CPU, the compile cache and the versions",
        description="Show what fastnet compiles for, where compiled kernels are kept, and the versions in use.",
    )
    peak = "also measure what this machine can do at most: FMAs on registers, bytes read from each cache; takes seconds"
    parser.option("--peak", peak, action="store_true")
    parser.option("--compile", COMPILE_HELP, action="store_true")
    for name, known, chosen in _CHOICES:
        text = f"{name} for --compile, separated by commas, of {', '.join(known)}"
        parser.option(f"--{name}", text, type=names_of(known), default=",".join(chosen), metavar="NAMES")
    parser.set_defaults(run=info)


def info(options: argparse.Namespace) -> int:
    """Print names and values; return the exit status."""
    if options.compile:
        _compile(options)
    facts = _facts()
    if options.peak:
        facts += measure(sorted({1, num_threads()}))
    for name, value in facts:
        print(f"{name:<15}{value}")
    return 0


def _compile(options: argparse.Namespace) -> None:
    """Compile the kernels of every combination that the options name, and their callers if they can run here."""
    codes = [ACTIVATIONS[name].code for name in options.activations]
    steps = [(LOSSES[loss], OPTIMIZERS[optimizer].code) for loss in options.losses for optimizer in options.optimizers]
    found = [kernel for step in steps for kernel in training_kernels(*step, codes, drops=True, measures=True).values()]
    kernels = dict.fromkeys([*found, *COMPANIONS, *LATER, *PREDICTION_KERNELS, MEASURE])
    for dtype in map(np.dtype, options.dtypes):
        compile_side_by_side(list(kernels), dtype)
        for kernel in kernels:
            kernel.address(dtype)
        for loss in options.losses if target.is_host() else ():
            _train_and_predict(loss, dtype)


def _train_and_predict(loss: str, dtype: Any) -> None:
    """Run, and so compile, the code that Python calls: shuffling, the loops, the start of the workers."""
    rows = 5000
    net = Network([64, 64, 2], dtype=dtype)
    X, y = np.zeros((rows, 64), dtype), np.zeros((rows, 2), dtype)
    labels = LOSSES[loss].takes_labels
    trainer = Trainer(net, loss=loss, batch_size=rows)
    target = y[:, 0].astype(int) if labels else y
    trainer.fit(X, target, epochs=1, progress=False)
    trainer.evaluate(X, target)
    (net.predict_proba if labels else net.predict)(X)
    net.predictor()(X)


def _facts() -> list[tuple[str, str]]:
    features = sorted(target.target_features() & {"sse2", "avx", "avx2", "fma", "avx512f", "neon", "sve"})
    folder, width = cache.cache_folder, target.vector_bytes()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder else 0
    return [
        ("fastnet", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}), {platform.platform()}"),
        *((name, metadata.version(name)) for name in ("numpy", "numba", "llvmlite")),
        ("cpu", f"{target.target_cpu()} ({platform.machine()})"),
        ("threads", f"{num_threads()}: {usable()}"),
        ("features", " ".join(features) or "none that the kernels make use of"),
        ("vector width", f"{width} bytes: {width // 4} float32, {width // 8} float64"),
        ("caches", str(MACHINE)),
        ("compile cache", f"{folder} ({size / 2**20:.1f} MiB)" if folder else "none: no folder is writable"),
    ]
