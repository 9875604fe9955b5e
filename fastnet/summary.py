"""A network's summary: its layers, parameters and memory, as text."""

from itertools import pairwise
from typing import Any

from .kernels.engine.forward import scratch_bytes
from .kernels.engine.plan import parameter_count
from .kernels.specs.batches import MICRO_BATCH_ROWS


def summary(network: Any, batch_size: int | None, workspace_bytes: int) -> str:
    """Return a table of a `Network`'s layers, and the memory that training and prediction take."""
    lines = [f"{'layer':<8}{'inputs':>8}{'outputs':>9}  {'activation':<12}{'parameters':>12}"]
    for i, ((n, k), activation) in enumerate(zip(pairwise(network.layer_sizes), network.activations, strict=True)):
        lines.append(f"{f'dense {i + 1}':<8}{n:>8}{k:>9}  {activation:<12}{(n + 1) * k:>12,}")
    count = parameter_count(network.layer_sizes)
    lines.append(f"total {count:,} parameters, {network.dtype}, {_amount(count * network.dtype.itemsize)}")
    batches = f"batches of {batch_size:,}" if batch_size else "full batches"
    lines.append(f"training in {batches} takes {_amount(workspace_bytes)} of workspace, gradient included")
    row, many = (_amount(scratch_bytes(network.layer_sizes, network.dtype, rows)) for rows in (1, MICRO_BATCH_ROWS))
    lines.append(f"predicting takes {row} of scratch for a row, {many} a thread for many, until it returns")
    return "\n".join(lines)


def _amount(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 1024:.1f} KiB"
