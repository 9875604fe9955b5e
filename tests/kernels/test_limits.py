"""The measured limits of the machine: plausible numbers, and errors for wrong arguments."""

import math
import threading
import time
from functools import partial

import numpy as np
import pytest

from fastnet.kernels import limits
from fastnet.kernels.jit.machine import MACHINE
from fastnet.kernels.limits import bandwidth, cache_sizes, fma_peak

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_peak_is_plausible(dtype: type) -> None:
    peak = fma_peak(dtype, seconds=0.02)
    assert math.isfinite(peak)
    assert 0.1 < peak < 10_000  # GFLOP/s of one core: an emulator's, and more than any has


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("level", [*cache_sizes(), "memory"])
def test_bandwidth_is_plausible(level: str, threads: int) -> None:
    rate = bandwidth(level, threads, seconds=0.01)
    assert math.isfinite(rate)
    assert 0.01 < rate < 100_000  # GB/s


def test_cache_sizes_are_those_of_the_machine() -> None:
    assert list(cache_sizes()) in (["L1", "L2"], ["L1", "L2", "L3"])
    assert list(cache_sizes().values()) == [cache.nbytes for cache in MACHINE.caches if cache.nbytes]


def test_wrong_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"level is 'L9'; expected one of L1, .*memory"):
        bandwidth("L9")
    for measure in (partial(bandwidth, "L1"), fma_peak):
        with pytest.raises(ValueError, match="threads is 0; expected at least 1"):
            measure(threads=0)


@pytest.mark.parametrize("started", [0, 1])
def test_failed_thread_start_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    start, before, count = threading.Thread.start, threading.active_count(), iter(range(9))

    def refuse(thread: threading.Thread) -> None:
        if next(count) == started:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        bandwidth("L1", threads=3)
    for _ in range(100):
        if threading.active_count() == before:
            return
        time.sleep(0.01)
    pytest.fail("a thread is still waiting")


def test_error_of_a_thread_reaches_the_caller() -> None:
    """Instead of leaving all others waiting at a barrier for ever."""

    def work(thread: int) -> None:
        if thread == 2:
            raise ZeroDivisionError("in a worker")

    for threads in (3, 5):
        with pytest.raises(ZeroDivisionError, match="in a worker"):
            limits._best_round(work, threads, 0.01)
