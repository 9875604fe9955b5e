"""Predicts, by a model, how much faster a training step gets on many cores; writes the table of docs/many-cores.md.

Nothing here is measured on such a machine. The model's constants are measured on two cores of a Zen 3, or stated as
assumptions on the page. Run: python bench/many_cores.py [--write]
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

from limit_epoch import NETWORKS

from fastnet.kernels.cpu.gemm.microkernel import MR
from fastnet.kernels.engine.engine import THREAD_FLOPS
from fastnet.kernels.engine.partition import (
    MAX_TASK_ROWS,
    MAX_TASK_ROWS_LARGE_W,
    MIN_TASK_ROWS,
    TASKS_PER_THREAD,
    WEIGHT_TASKS_PER_THREAD,
)

PAGE = Path(__file__).parents[1] / "docs/many-cores.md"
CORES = (2, 8, 32, 64)

FLOPS = 80e9  # a second, of one core in a product, float32 (AVX2 at 3.2 GHz; the limit is 100)
REGION_S = 1e-6  # a parallel region's start and end while the workers are awake
LINE_S = 50e-9  # a cache line that another core has written, one after the other
L3_BYTES = 20e9  # a second, read by one core from L3
DRAM_BYTES, SOCKET_BYTES = 15e9, 150e9  # a second, of one core and of a socket
L3_SIZE = 256 << 20  # of the socket
L2_SIZE = 512 << 10  # of a core


def region(threads: int) -> float:
    """Return what a region costs beside its tasks: the caller clears every thread's counter, a thread looks at all."""
    return REGION_S + 2 * threads * LINE_S if threads > 1 else 0


def regions(sizes: tuple[int, ...], batch: int, threads: int) -> float:
    """Return the seconds of a step of plain SGD."""
    return rows_region(sizes, batch, threads) + weights_region(sizes, batch, threads)


def rows_region(sizes: tuple[int, ...], batch: int, threads: int) -> float:
    """Return the seconds of the region over rows of the batch."""
    weights = sum((n + 1) * k for n, k in pairwise(sizes))
    flops = 2 * weights * batch
    first = sizes[0] * sizes[1]
    large = max(n * k for n, k in pairwise(sizes)) * 4 > L2_SIZE  # then each task packs W
    shares = threads * (1 if large else TASKS_PER_THREAD) if threads > 1 else 1
    rows = min(MAX_TASK_ROWS_LARGE_W if large else MAX_TASK_ROWS, max(MIN_TASK_ROWS, -(-batch // shares)))
    tasks = -(-batch // rows)
    rounds = math.ceil(tasks / threads)  # the longest thread's tasks
    # Forward and dX of a task: its FMAs, or every W read twice from L3.
    task = max((2 * flops - 2 * first * batch) / tasks / FLOPS, 2 * weights * 4 / L3_BYTES)
    return rounds * task + region(threads)


def weights_region(sizes: tuple[int, ...], batch: int, threads: int, machines: int = 1) -> float:
    """Return the seconds of the region over weights, of which each of several machines has its part."""
    weights = sum((n + 1) * k for n, k in pairwise(sizes)) / machines
    flops = 2 * weights * batch
    # dW of a range of weights: its FMAs, or dZ, A and the weights moved.
    parts = max(1, min(threads * WEIGHT_TASKS_PER_THREAD, sum(-(-k // 16) for k in sizes[1:])))
    rounds = math.ceil(parts / threads)
    per_core = L3_BYTES if weights * 12 < L3_SIZE else min(DRAM_BYTES, SOCKET_BYTES / threads)
    part = max(flops / parts / FLOPS, (weights * 12 / parts + batch * max(sizes) * 4) / per_core)
    return rounds * part + region(threads)


def step(sizes: tuple[int, ...], batch: int, cores: int) -> tuple[float, int]:
    """Return the seconds of a step on the best number of threads that the tuner tries, and that number."""
    counts = [1 << i for i in range(cores.bit_length()) if 1 << i <= cores]
    if 6 * sum((n + 1) * k for n, k in pairwise(sizes)) * batch < THREAD_FLOPS:
        counts = [1]
    return min((regions(sizes, batch, threads), threads) for threads in counts)


def product(size: int, threads: int) -> float:
    """Return the seconds of a product of matrices of ``size`` rows and columns, divided by rows and columns."""
    tasks = threads * TASKS_PER_THREAD if threads > 1 else 1
    rows = 2 ** math.ceil(math.log2(tasks) / 2)
    tall, wide = -(-size // rows), -(-size // max(1, tasks // rows))
    tall = -(-tall // MR) * MR
    copies = 7 * size * wide * 2 + 8 * size * tall * 2  # packing a column of B costs as much as 7 rows of the product
    return math.ceil(tasks / threads) * (2 * tall * wide * size + copies) / FLOPS + region(threads)


def table() -> str:
    """Return the predictions as a table of Markdown."""
    lines = [
        f"| training step | batch | {' | '.join(f'{cores} cores' for cores in CORES)} |",
        "|---|---|" + "---|" * len(CORES),
    ]
    for name, (sizes, batch, _) in NETWORKS.items():
        for rows in (batch, 1024):
            alone, cells = regions(sizes, rows, 1), []
            for cores in CORES:
                seconds, threads = step(sizes, rows, cores)
                cells.append(f"{alone / seconds:.1f} ({threads} threads)" if threads > 1 else "1 (1 thread)")
            lines.append(f"| {name} | {rows} | {' | '.join(cells)} |")
    cells = [f"{product(4096, 1) / product(4096, cores):.0f}" for cores in CORES]
    return "\n".join([*lines, f"| product of 4096 cubed | | {' | '.join(cells)} |"])


def print_or_write(text: str, page: Path, script: str, description: str | None) -> None:
    """Print a script's table, or with --write put it between the script's markers in its page."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write", action="store_true", help=f"put the table into {page.name}")
    if not parser.parse_args().write:
        print(text)
        return
    begin, end = f"<!-- bench/{script} begins -->", f"<!-- bench/{script} ends -->"
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    print_or_write(table(), PAGE, "many_cores.py", __doc__)
