"""The command ``fastnet info``: the CPU that kernels are compiled for, the compile cache, versions, peak figures."""

import argparse
import platform
from importlib import metadata
from typing import Any

from .. import __version__
from ..kernels.cpu.threads.pool import num_threads
from ..kernels.cpu.threads.usable import usable
from ..kernels.jit import cache, target
from .profile import measure


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "info",
        help="show the CPU, the compile cache and the versions",
        description="Show what fastnet compiles for, where compiled kernels are kept, and the versions in use.",
    )
    peak = "also measure what this machine can do at most: FMAs on registers, bytes read from each cache; takes seconds"
    parser.option("--peak", peak, action="store_true")
    parser.set_defaults(run=info)


def info(options: argparse.Namespace) -> int:
    """Print names and values; return the exit status."""
    facts = _facts()
    if options.peak:
        facts += measure(sorted({1, num_threads()}))
    for name, value in facts:
        print(f"{name:<15}{value}")
    return 0


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
        ("compile cache", f"{folder} ({size / 2**20:.1f} MiB)" if folder else "none: no folder is writable"),
    ]
