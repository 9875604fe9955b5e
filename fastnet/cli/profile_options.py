"""Options and descriptions of the hardware that the commands of ``fastnet profile`` share."""

import argparse
import datetime
import platform
from importlib import metadata
from typing import Any

from .. import __version__
from ..kernels.cpu.threads.pool import num_threads
from ..kernels.cpu.threads.usable import usable
from ..kernels.jit import target
from ..kernels.limits import cache_sizes
from . import arguments


def add_common_options(parser: arguments.Parser, seconds: float = 0.5) -> None:
    """Add the options that every command has."""
    parser.option("--dtype", "of the arrays", choices=["float32", "float64"], default="float32")
    counts = "numbers of threads, such as 1,2; each is timed"
    parser.option("--threads", counts, type=arguments.integers, default="1", metavar="N,...")
    parser.option("--seconds", "about how long to time each", type=arguments.positive, default=seconds, metavar="S")
    parser.option("--json", "print JSON", action="store_true")


def check_threads(options: argparse.Namespace) -> None:
    """Reject more threads than can be used."""
    if max(options.threads) > num_threads():
        options.parser.error(f"--threads {max(options.threads)}: at most {num_threads()} can be used here")


def hardware() -> dict[str, Any]:
    """Describe the CPU of the measurements, for JSON."""
    return {"cpu": target.target_cpu(), "vector_bytes": target.vector_bytes(), "threads": num_threads()}


def machine() -> dict[str, str]:
    """Describe the machine and the versions, for people."""
    versions = [f"{name} {metadata.version(name)}" for name in ("numpy", "numba", "llvmlite")]
    return {
        "CPU": f"{target.target_cpu()}, vectors of {target.vector_bytes()} bytes",
        "threads": f"{num_threads()}: {usable()}",
        "caches": ", ".join(f"{level} {size >> 10} KiB" for level, size in cache_sizes().items()),
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "versions": ", ".join([f"fastnet {__version__}", *versions]),
        "date": str(datetime.date.today()),
    }
