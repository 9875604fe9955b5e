"""Each task of `parallel_for` is run once, by one thread at a time, whoever is held up or fails."""

import time
from typing import Any

import numpy as np
import pytest

from fastnet.kernels.cpu.threads import pool
from fastnet.kernels.cpu.threads.atomics import atomic_add, atomic_load, pause
from fastnet.kernels.cpu.threads.parallel_for import WAKE_FLOPS, parallel_for
from fastnet.kernels.cpu.threads.pool import POOL, num_threads
from fastnet.kernels.jit.decorator import jit
from fastnet.kernels.llvm.memory import address_and_strides

pytestmark = pytest.mark.compiled


@jit
def _count_task(task: int, thread: int, counts: Any) -> None:
    counts[task] += 1


@jit
def _count(counts: Any, threads: int, flops: int, shared: int) -> bool:
    return parallel_for(_count_task, counts.size, threads, flops, shared, (counts,))


@jit
def _failing_task(task: int, thread: int, counts: Any) -> None:
    if task == 3:
        raise MemoryError
    counts[task] += 1


@jit
def _fail(counts: Any, threads: int, shared: int) -> bool:
    return parallel_for(_failing_task, counts.size, threads, 0, shared, (counts,))


@jit
def _waiting_task(task: int, thread: int, runners: Any, left: Any) -> None:
    """Note who ran a task; the first one ends after all others, or after some seconds, and notes how many were left."""
    runners[task] = thread
    word = address_and_strides(left)[0]
    atomic_add(word, -1)
    waited = 0
    while task == 0 and atomic_load(word) > 0 and waited < 100_000_000:
        waited += 1
        pause()
    if task == 0:
        left[1] = atomic_load(word)


@jit
def _wait(runners: Any, left: Any, threads: int, shared: int) -> bool:
    return parallel_for(_waiting_task, runners.size, threads, WAKE_FLOPS, shared, (runners, left))


def test_tasks_of_a_thread_that_is_held_up_are_taken_by_others() -> None:
    """Whoever runs the first task waits there for all others, its own included: the caller does, if its core is free.

    A caller that loses its core before its first task has it taken by another thread, which may have run some before.
    """
    num_threads()
    for threads in (2, 3, 7):
        runners = np.full(50, -1)
        for _ in range(20):
            left = np.array([50, -1])
            assert _wait(runners, left, threads, POOL)
            assert left.tolist() == [0, 0], "none was left when the first task ended"
            assert ((runners >= 0) & (runners < threads)).all()
            if runners[0] == 0:
                break
        assert runners[0] == 0
        assert (runners[1:] > 0).all()


@jit
def _busy_task(task: int, thread: int, users: Any, found: Any) -> None:
    """Count how many tasks have the thread's number at once."""
    word = address_and_strides(users)[0] + thread * 8
    if atomic_add(word, 1) != 0:
        found[0] = 1
    for _ in range(50):
        pause()
    atomic_add(word, -1)


@jit
def _use(users: Any, found: Any, tasks: int, shared: int) -> bool:
    return parallel_for(_busy_task, tasks, users.size, WAKE_FLOPS, shared, (users, found))


def test_no_two_tasks_have_one_threads_number_at_once() -> None:
    num_threads()
    users, found = np.zeros(7, np.int64), np.zeros(1)
    assert all(_use(users, found, 100, POOL) for _ in range(100))
    assert not users.any()
    assert not found.any()


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_each_task_is_run_once(workers: int) -> None:
    num_threads()
    for tasks in (0, 1, 2, 5, 1000):
        counts = np.zeros(tasks)
        for i in range(300):  # with sleepers woken now and then, and left asleep
            _count(counts, workers, WAKE_FLOPS if i % 7 == 0 else 0, POOL)
            if i % 100 == 0:
                time.sleep(0.001)
        assert (counts == 300).all()
    assert pool.state["busy"] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_task_is_told(workers: int) -> None:
    num_threads()
    counts = np.zeros(9)
    assert not _fail(counts, workers, POOL)
    assert (counts == [1, 1, 1, 0, 1, 1, 1, 1, 1]).all()
    assert _count(counts, workers, 0, POOL)
    assert pool.state["busy"] == 0


def test_concurrent_call_runs_without_workers() -> None:
    num_threads()
    pool.state["busy"] = 1
    try:
        counts = np.zeros(100)
        _count(counts, 2, WAKE_FLOPS, POOL)
        assert (counts == 1).all()
    finally:
        pool.state["busy"] = 0
