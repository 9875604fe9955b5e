"""Timing: calls in batches, batches in turns, medians of them.

Imports the standard library only. A shared machine slows down for seconds at a time, so whatever is compared takes
turns: every round runs each side once, in an order of its own, since a fixed one met the scheduler's time slices (with
the core wanted by others, a training step of 15 us had a median of 110). A side's turn is a batch of calls long enough
for the clock, and short enough that most batches pass undisturbed: the median is then of those.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

K = TypeVar("K")

BATCH_S = 0.0002
LEAST_ROUNDS = 15


class Spread(NamedTuple):
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.high - self.low) / self.median if self.median else math.nan


def spread(samples: list[float]) -> Spread:
    """Median and quartiles of at least two samples."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def batches(call: Callable[[], object], batch_s: float = BATCH_S, rest_s: float = 0.0) -> Callable[[], float]:
    """Make a function that runs a batch of calls and gives the seconds of one of them.

    Each batch begins with a call that does not count: it brings the arrays back into the caches, and wakes threads.
    ``rest_s`` is how long to sleep after a batch, until threads that wait for more work have stopped looking for it.
    """
    call()
    times, took = 1, 0.0
    while took < batch_s / 4:  # a batch long enough to trust its length
        start = time.perf_counter()
        for _ in range(times):
            call()
        took = time.perf_counter() - start
        times *= 2
    count = max(1, round(batch_s / took * times / 2))

    def batch() -> float:
        call()
        start = time.perf_counter()
        for _ in range(count):
            call()
        took = time.perf_counter() - start
        time.sleep(rest_s)
        return took / count

    return batch


def interleave(
    sides: Mapping[K, Callable[[], float]], seconds: float, least: int = LEAST_ROUNDS
) -> dict[K, list[float]]:
    """Run every side once a round, for so many seconds and at least so many rounds; what each gave, round by round."""
    rng, order = random.Random(0), list(sides)
    found: dict[K, list[float]] = {name: [] for name in sides}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        rng.shuffle(order)
        for name in order:
            found[name].append(sides[name]())
        rounds += 1
    return found
