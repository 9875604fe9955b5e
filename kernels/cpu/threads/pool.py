"""The pool of worker threads: how many threads a call may use, and the start and end of the workers.

`num_threads` returns how many threads a call may use now, and starts the workers at its first call; `limit_threads`
bounds that number for a block of Python. `parallel_for` makes use of the workers.

Workers are daemon threads of Python that run one compiled function, `worker_loop`, without the GIL, until the process
ends. A child forked after they have started computes serially, since threads are not forked. Numba's own threads and
their number stay untouched.
"""

import atexit
import ctypes
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numba
import numpy as np
from numba import types

from .atomics import MASK_BYTES
from .parallel_for import MAX_THREADS, POOL_RECORD, wake, worker_loop

state = np.zeros((), POOL_RECORD)
"""What the threads share; of interest to tests."""

POOL = int(state.ctypes.data)
"""Address of the shared record, an argument of `parallel_for`: compiled code would treat a global as a constant."""

_cpu_masks = np.zeros((0, MASK_BYTES), np.uint8)
"""Row c: the CPUs that this process may use, without CPU c, as Linux's system calls take them."""

START_AGAIN_AFTER_S = (0.001, 0.01, 0.1)
"""Waits before a refused worker is tried again: a thread that is about to end, such as the announcer's timer after a
compilation, still counts against a limit of processes."""

_limit: ContextVar[int | None] = ContextVar("fastnet_threads", default=None)

_thread_count = 0
"""Threads that may be used, the caller's own included; 0 before the workers have been started."""

_workers: list[threading.Thread] = []
_starting = threading.Lock()


# ------------------------------------------------------------------------------------- how many threads


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Bound the number of threads that kernels use within a block, for this Python thread.

    Parameters
    ----------
    threads : int or None
        Upper bound; a larger one than `num_threads` is no error. None: no bound.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is below 1.
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

    That is the number of CPUs that this process may use, at most ``NUMBA_NUM_THREADS`` and the bound of
    `limit_threads`. The first call without a bound of 1 starts the workers.

    Warns
    -----
    RuntimeWarning
        Once, if the system starts fewer threads than that; those that have started are used.
    """
    limit = _limit.get()
    if limit == 1:
        return 1
    count = _thread_count or _start_workers()
    return count if limit is None or limit > count else limit


def _usable_threads() -> int:
    """Count the threads worth starting: more than CPUs are slower than fewer (docs/performance-notes/threads.md)."""
    if numba.config.DISABLE_JIT:
        return 1
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(numba.config.NUMBA_NUM_THREADS, cpus, MAX_THREADS))


# ------------------------------------------------------------------------------------------ the workers


def _start_workers() -> int:
    """Start the workers, unless another thread has done so, and return the number of threads that may be used."""
    global _thread_count
    wanted, refused = _usable_threads(), None
    with _starting:
        if _thread_count:
            return _thread_count
        if wanted > 1:
            kernels: tuple[Any, ...] = (worker_loop, wake)  # `wake` for the end of the process, too late to compile it
            for kernel in kernels:
                kernel.compile(types.void(types.intp, types.intp))
            _write_cpu_masks()
            atexit.register(_stop_workers)
            refused = _start_until_refused(wanted)
        _thread_count = 1 + len(_workers)
    if refused is not None:
        warnings.warn(
            f"fastnet uses {_thread_count} of {wanted} threads, since the system starts no more ({refused}); "
            "see its limits of processes and of memory",
            RuntimeWarning,
            stacklevel=3,
        )
    return _thread_count


def _start_until_refused(threads: int) -> RuntimeError | None:
    """Start workers for a total of ``threads`` threads; stop at the first that the system refuses, return its error."""
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


def _write_cpu_masks() -> None:
    """Prepare the CPU masks by which workers leave the caller's CPU."""
    global _cpu_masks
    if sys.platform != "linux":
        return
    allowed = sorted(os.sched_getaffinity(0))
    if allowed[-1] >= MASK_BYTES * 8:
        return
    bits = np.zeros((allowed[-1] + 1, MASK_BYTES * 8), np.uint8)
    bits[:, allowed] = 1
    np.fill_diagonal(bits, 0)
    _cpu_masks = np.packbits(bits, axis=1, bitorder="little")
    state["masks"], state["mask_rows"] = _cpu_masks.ctypes.data, len(_cpu_masks)


def _acquired_lock() -> int:
    """Return a lock of CPython's, acquired; compiled code can wait for it and release it without the GIL."""
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
    """End the workers before the interpreter ends, which they would outlive."""
    global _thread_count
    _thread_count = 1
    state["stop"] = 1
    for me in range(1, len(_workers) + 1):
        wake(POOL, me)
    for worker in _workers:
        worker.join(1.0)
    _workers.clear()


def _in_forked_child() -> None:
    """Compute serially if workers had been started: they were not forked."""
    global _thread_count, _starting
    if _thread_count:
        _thread_count = 1
        state.fill(0)  # jobs that were running in the parent
    _workers.clear()
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
