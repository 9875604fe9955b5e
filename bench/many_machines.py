"""Predicts, by a model, how much faster training gets on many machines; writes the tables of docs/many-machines.md.

Nothing here is measured on several machines. The constants are stated on the page; computing is `many_cores`' model.
Run: python bench/many_machines.py [--write]
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import many_cores
from limit_epoch import NETWORKS

from fastnet.kernels.engine.plan import parameter_count, rank_share
from fastnet.kernels.engine.training_step import PACK_COST_ROWS
from fastnet.kernels.specs.batches import MICRO_BATCH_ROWS

PAGE = Path(__file__).parents[1] / "docs/many-machines.md"
MACHINES, CORES = (4, 16, 64), 8

ITEM = 4  # bytes of a float32
COPY_BYTES = 10e9  # a second: what is sent is copied into a message, what arrives out of it
PYTHON_S = 40e-6  # Python around a message and a compiled stage
UNIT = 16  # neurons: a rank has a multiple of these


class Network(NamedTuple):
    """A network between machines.

    Attributes
    ----------
    bytes_per_s : float
        In each direction, of each machine.
    latency : float
        Seconds from one machine to another, MPI included.
    """

    bytes_per_s: float
    latency: float


LINKS = {"10 Gb/s": Network(1.1e9, 25e-6), "100 Gb/s": Network(11e9, 3e-6)}
MEMORY = Network(12e9, 5e-6)
"""Between ranks of one machine: MPICH 5 on two cores of an Emerald Rapids."""


def blocks(sizes: tuple[int, ...], batch: int, machines: int) -> list[int]:
    """Return the bytes of a machine's part of each message of a step: A and dZ of each micro-batch; W and b."""
    micro = [min(MICRO_BATCH_ROWS, batch - start) for start in range(0, batch, MICRO_BATCH_ROWS)]
    columns = 2 * sum(sizes[1:-1]) + sizes[-1]
    weights = sum((n + 1) * rank_share(k, machines, UNIT) for n, k in pairwise(sizes))
    return [rank_share(rows, machines) * (ITEM * columns + 8) for rows in micro] + [ITEM * weights]


def seconds(sizes: tuple[int, ...], batch: int, machines: int, link: Network, cores: int = CORES) -> float:
    """Return the seconds of a step of plain SGD, on machines of that number of cores."""
    if machines == 1:
        return many_cores.step(sizes, batch, cores)[0]
    # Forward and backward of the machine's rows, its part of dW over all rows, and the packing of all of W^T.
    share, packed_rows = rank_share(batch, machines), PACK_COST_ROWS * 6 / many_cores.FLOPS / cores
    total = packed_rows * parameter_count(sizes) + min(
        many_cores.rows_region(sizes, share, threads) + many_cores.weights_region(sizes, batch, threads, machines)
        for threads in (1, 2, 4, 8)
        if threads <= cores
    )
    for block in blocks(sizes, batch, machines):
        total += PYTHON_S + link.latency * math.ceil(math.log2(machines))
        total += (machines - 1) * block / link.bytes_per_s + (machines + 1) * block / COPY_BYTES
    return total


def table() -> str:
    """Return the predictions as a table of Markdown."""
    heads = [f"{machines} x {name}" for name in LINKS for machines in MACHINES]
    lines = [f"| training step | batch | one machine | {' | '.join(heads)} |", "|---|---|---|" + "---|" * len(heads)]
    for name, (sizes, batch, _) in NETWORKS.items():
        for rows in (batch, 1024, 8192):
            alone = seconds(sizes, rows, 1, next(iter(LINKS.values())))
            gains = [alone / seconds(sizes, rows, machines, link) for link in LINKS.values() for machines in MACHINES]
            cells = [f"{gain:.1f}" if gain >= 0.1 else "<0.1" for gain in gains]
            lines.append(f"| {name} | {rows} | {alone * 1e6:,.{int(alone < 1e-5)}f} us | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    many_cores.print_or_write(table(), PAGE, "many_machines.py", __doc__)
