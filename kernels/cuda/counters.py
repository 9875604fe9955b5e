"""Counters: an epoch's position and sums, sent to the device before its first step and fetched after its last."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import Array
from ..jit.decorator import jit
from .arguments import DEVICE_PROGRESS
from .data import send_to


@jit
def _settle(kept: tuple[Array, Array, Array], new: tuple[Array, Array, Array]) -> None:
    """Write all fetched values in one compiled call, which a KeyboardInterrupt cannot interrupt.

    Parameters
    ----------
    kept, new : tuple of ndarray
        PROGRESS (1,), TOTALS (1,), OBJECTIVE (1,): the host's records, and their new values.
    """
    kept[0][:] = new[0]
    kept[1][:] = new[1]
    kept[2][:] = new[2]


class Counters(NamedTuple):
    """The host's records of an epoch, each of shape ()."""

    progress: Array  # PROGRESS
    totals: Array  # TOTALS
    objective: Array  # OBJECTIVE

    def send(self, on_device: Mapping[str, Any], rows: int, batch: int) -> None:
        """Write ``progress`` and ``totals`` of `StepArrays`, for an epoch of ``rows`` rows in steps of ``batch``."""
        stands = np.array([(*self.progress.item(), min(batch, rows - int(self.progress["row"])))], DEVICE_PROGRESS)
        stands["rows"] = rows
        send_to(stands, on_device["progress"])
        sums = self.totals["loss"], self.objective["mean_loss"], self.objective["penalty"]
        send_to(np.array(sums), on_device["totals"])  # the steps add to these

    def fetch(self, on_device: Mapping[str, Any], batch_weights: Array, batch: int) -> None:
        """Update the host's records; a second call, after Ctrl-C, changes nothing more.

        ``batch_weights``: sum of the sample weights of each of the epoch's batches.
        """
        progress, totals, objective = (record.copy() for record in self)
        ends = on_device["progress"].copy_to_host()[0]
        done = slice(*(-(-int(record["row"]) // batch) for record in (progress, ends)))  # batches
        for name in ("row", "step", "done", "correct"):
            progress[name] = ends[name]
        totals["loss"], objective["mean_loss"], objective["penalty"] = on_device["totals"].copy_to_host()
        totals["weight"] += batch_weights[done].sum()
        kept = self.progress[None], self.totals[None], self.objective[None]
        _settle(kept, (progress[None], totals[None], objective[None]))
