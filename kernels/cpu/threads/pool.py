"""The pool of worker threads: how many threads a call may use, and the start and end of the workers.

`num_threads` returns how many threads a call may use now, and starts the workers at its first call; `limit_threads`
bounds that number for a block of Python. `parallel_for` uses the workers. When an affinity or a quota changes the CPUs
that the process may use, the number and the workers' affinity follow within CHECK_S (`usable`).

Workers are Python daemon threads that run one compiled function, `worker_loop`, without the GIL, until the process
ends. A child forked after they have started computes serially, since threads are not forked. Numba's own threads and
their number are not affected.
"""

import atexit
import contextlib
import ctypes
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numba import types

from ...jit.target import COMPILES
from .atomics import MASK_BYTES
from .parallel_for import POOL_RECORD, wake, worker_loop
from .usable import Usable, usable

state = np.zeros((), POOL_RECORD)
"""The record that the threads share; public for the tests."""

POOL = int(state.ctypes.data)
"""Address of the shared record, an argument of `parallel_for`: compiled code would treat a global as a constant."""

_cpu_masks: dict[tuple[tuple[int, ...], int], Any] = {}
"""Masks by the CPUs that this process may use and the number of rows. Row c holds those CPUs except c, as Linux's
system calls take them. Old masks are kept, since a worker may still read them."""

CHECK_S = 1.0
"""Seconds between two checks of the CPUs that this process may use."""

START_AGAIN_AFTER_S = (0.001, 0.01, 0.1)
"""Waits before retrying to start a worker that the system refused: a thread that is about to end, such as the
announcer's timer after a compilation, still counts against a limit of processes."""

_limit: ContextVar[int | None] = ContextVar("fastnet_threads", default=None)

_thread_count = 0
"""Threads that may be used, the caller's own included; 0 before the workers have been started."""

_usable: Usable | None = None
"""The bounds on their number, as of the last check."""

_next_look = 0.0
"""When to check again, by time.monotonic(); infinity once the number is final."""

_workers: list[threading.Thread] = []
_starting = threading.Lock()


# ------------------------------------------------------------------------------------- how many threads


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Bound the number of threads that kernels use within a block, for this Python thread.

    Parameters
    ----------
    threads : int or None
        Upper bound, which may be larger than `num_threads`; None for no bound.

    Raises
    ------
    TypeError
        If ``threads`` is not an integer.
    ValueError
        If ``threads`` is below 1.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int | np.integer)):
        raise TypeError(f"threads is {threads!r}; expected a whole number from 1 on, or None for all")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; expected 1 or more, or None for all")
    token = _limit.set(None if threads is None else int(threads))
    try:
        yield
    finally:
        _limit.reset(token)


def num_threads() -> int:
    """Return how many threads a call may use now, the caller's own included.

    That is the number that `usable` finds worth using, at most the bound of `limit_threads`. The first call without a
    bound of 1 starts the workers; later calls check the usable CPUs again, at most once in CHECK_S.

    Warns
    -----
    RuntimeWarning
        Once, if the system refuses to start that many threads; those that have started are used.
    """
    limit = _limit.get()
    if limit == 1:
        return 1
    count = _thread_count
    if not count or time.monotonic() >= _next_look:
        count = _start_workers()
    return count if limit is None or limit > count else limit


# ------------------------------------------------------------------------------------------ the workers


def _start_workers() -> int:
    """Start the workers that are still missing, and return the number of threads that may be used."""
    global _thread_count, _usable, _next_look
    refused, wanted = None, 1
    with _starting:
        if _thread_count and time.monotonic() < _next_look:
            return _thread_count
        found = usable()
        wanted = found.threads if COMPILES else 1
        if wanted > 1 and not _workers:
            kernels: tuple[Any, ...] = (worker_loop, wake)  # `wake` runs at exit, when it is too late to compile it
            for kernel in kernels:
                kernel.compile((types.intp, types.intp))  # the types of their compiled callers: one cache entry
            atexit.register(_stop_workers)
        if _usable is None or found.cpus != _usable.cpus:
            _write_cpu_masks(found.cpus)
        if _usable is None or found != _usable:  # do not retry for ever if the system refuses threads
            refused = _start_until_refused(wanted)
        _usable, _next_look = found, time.monotonic() + CHECK_S
        _thread_count = min(wanted, 1 + len(_workers))
    if refused is not None:
        warnings.warn(
            f"fastnet uses {_thread_count} of {wanted} threads, since the system starts no more ({refused}); "
            "see its limits of processes and of memory",
            RuntimeWarning,
            stacklevel=3,
        )
    return _thread_count


def _start_until_refused(threads: int) -> RuntimeError | None:
    """Start workers up to ``threads`` threads in all; return the error of the first that the system refuses."""
    for me in range(len(_workers) + 1, threads):
        state["workers"]["lock"][me] = _acquired_lock()
        for wait_s in (*START_AGAIN_AFTER_S, None):
            worker = threading.Thread(target=worker_loop, args=(POOL, me), name=f"fastnet-{me}", daemon=True)
            try:
                worker.start()
                break
            except RuntimeError as error:
                if wait_s is None:
                    return error
                time.sleep(wait_s)
        _workers.append(worker)
    return None


def _write_cpu_masks(cpus: tuple[int, ...]) -> None:
    """Prepare the CPU masks with which workers leave the caller's CPU; restrict workers to the allowed CPUs."""
    if sys.platform != "linux" or cpus[-1] >= MASK_BYTES * 8:
        return
    rows = max(int(state["mask_rows"]), cpus[-1] + 1)  # never fewer: a worker checks this number before it reads a row
    if (cpus, rows) not in _cpu_masks:
        bits = np.zeros((rows, MASK_BYTES * 8), np.uint8)
        bits[:, list(cpus)] = 1
        if len(cpus) > 1:
            np.fill_diagonal(bits, 0)
        _cpu_masks[cpus, rows] = np.packbits(bits, axis=1, bitorder="little")
    state["masks"], state["mask_rows"] = _cpu_masks[cpus, rows].ctypes.data, rows
    for worker in _workers:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(worker.native_id or 0, cpus)


def _acquired_lock() -> int:
    """Return an acquired CPython lock; compiled code can wait for it and release it without the GIL."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    lock = allocate()
    if not lock:
        raise MemoryError("no memory for the lock of a worker thread")
    acquire = ctypes.pythonapi.PyThread_acquire_lock
    acquire.argtypes = (ctypes.c_void_p, ctypes.c_int)
    acquire(lock, 1)
    return int(lock)


def _stop_workers() -> None:
    """Stop the workers before the interpreter exits; otherwise they would outlive it."""
    global _thread_count, _next_look
    _thread_count, _next_look = 1, math.inf
    state["stop"] = 1
    for me in range(1, len(_workers) + 1):
        wake(POOL, me)
    for worker in _workers:
        worker.join(1.0)
    _workers.clear()


def _in_forked_child() -> None:
    """Compute serially if the parent had started workers: they were not forked."""
    global _thread_count, _next_look, _starting
    if _workers:
        _thread_count, _next_look = 1, math.inf
        state.fill(0)  # forget jobs that were running in the parent
    _workers.clear()
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
