"""Timing: interleaves batches of calls and takes their medians.

A shared machine slows down for seconds at a time. Candidates are therefore interleaved: every round runs one batch of
each candidate, in a random order, since a fixed order falls in step with the scheduler's time slices
(docs/performance-notes/profiling.md). A batch is long enough for the clock, and short enough that most batches, and
so the median, are undisturbed.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

K = TypeVar("K")

BATCH_S = 0.0002
"""Seconds of a batch."""

MIN_ROUNDS = 15


class Spread(NamedTuple):
    """A median and the quartiles below and above it, in seconds."""

    median: float
    low: float
    high: float

    @property
    def relative_iqr(self) -> float:
        """Interquartile range divided by the median."""
        return (self.high - self.low) / self.median if self.median else math.nan


def spread(samples: list[float]) -> Spread:
    """Return median and quartiles of at least two samples."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def aligned(argument: Any) -> Any:
    """Copy an array without gaps to a 64-byte-aligned address; return anything else unchanged.

    NumPy aligns arrays to 16 bytes only. On Zen 3 alignment decides a third of the time of a kernel that keeps its
    sums in memory (docs/performance-notes/profiling.md), so two runs would differ by the placement of their arrays.
    """
    if not isinstance(argument, np.ndarray) or not argument.flags.forc:
        return argument
    if not argument.flags.c_contiguous:
        return aligned(argument.T).T
    buffer = np.empty(argument.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    copy = buffer[start : start + argument.nbytes].view(argument.dtype).reshape(argument.shape)
    copy[...] = argument
    return copy


def batches(call: Callable[[], object], batch_s: float = BATCH_S, rest_s: float = 0.0) -> Callable[[], float]:
    """Make a function that times a batch of calls.

    Each batch begins with an untimed call, which brings the arrays back into the caches and wakes threads.

    Parameters
    ----------
    call : callable
        It is called a few times here, to determine how many calls make a batch.
    batch_s : float, default BATCH_S
        Seconds that a batch should take.
    rest_s : float, default 0
        Seconds to sleep after a batch, so that spinning threads go to sleep.

    Returns
    -------
    callable
        Runs a batch and returns the seconds per call.
    """

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - start

    call()
    times, took = 1, run(1)
    while took < batch_s / 4:  # long enough to extrapolate from
        times *= 2
        took = run(times)
    count = max(1, round(batch_s / took * times))

    def batch() -> float:
        call()
        took = run(count)
        time.sleep(rest_s)
        return took / count

    return batch


def interleave(
    candidates: Mapping[K, Callable[[], float]], seconds: float, min_rounds: int = MIN_ROUNDS
) -> dict[K, list[float]]:
    """Run every candidate once per round, in an order that changes from round to round.

    Parameters
    ----------
    candidates : mapping of key to callable
        Each returns one sample.
    seconds : float
        No round begins after this time, except for the first ``min_rounds``.
    min_rounds : int, default MIN_ROUNDS
        Rounds to run even if they take longer.

    Returns
    -------
    dict of key to list of float
        The samples of each candidate, round by round.
    """
    rng, order = random.Random(0), list(candidates)
    samples: dict[K, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while len(samples[order[0]]) < min_rounds or time.perf_counter() < end:
        rng.shuffle(order)
        for name in order:
            samples[name].append(candidates[name]())
    return samples
