"""How many threads compute: as many as the caller, Numba's setting, the CPUs allowed and the system's limits permit."""

import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from pools import run

from fastnet.kernels import matmul
from fastnet.kernels.cpu.threads import pool
from fastnet.kernels.cpu.threads.pool import limit_threads, num_threads

pytestmark = pytest.mark.compiled

# ------------------------------------------------------------------------------------------------------ limit_threads


def test_limit_threads_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_thread_count", 4)
    monkeypatch.setattr(pool, "_next_look", math.inf)
    assert num_threads() == 4
    for asked, given in ((1, 1), (2, 2), (3, 3), (7, 4), (None, 4), (np.int64(2), 2)):
        with limit_threads(asked):
            assert num_threads() == given
        assert num_threads() == 4
    with limit_threads(1), limit_threads(None):
        assert num_threads() == 4
    with pytest.raises(ZeroDivisionError), limit_threads(1):
        raise ZeroDivisionError
    assert num_threads() == 4


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_limit_threads_checks_its_argument(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="threads is"), limit_threads(wrong):
        pass


def test_limit_threads_is_per_python_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_thread_count", 4)
    monkeypatch.setattr(pool, "_next_look", math.inf)
    with limit_threads(2), ThreadPoolExecutor(1) as executor:
        assert executor.submit(num_threads).result() == 4


# ------------------------------------------------------------------------------------------ Numba's setting, and CPUs


def test_numba_threads_are_left_alone() -> None:
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        matmul(np.ones((256, 256)), np.ones((256, 256)), variant="parallel")
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


def test_numba_num_threads_is_honoured() -> None:
    code = "work(20); print(num_threads(), len(pool._workers), threading.active_count())"
    assert run(code, NUMBA_NUM_THREADS="1") == "1 0 1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_no_more_threads_than_cpus_allowed() -> None:
    code = (
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "work(20); print(num_threads(), threading.active_count())"
    )
    assert run(code, NUMBA_NUM_THREADS=str(os.cpu_count())) == "1 1"


@pytest.mark.exhaustive
def test_workers_on_a_cpu_taken_away() -> None:
    """Many workers on one CPU: slow at worst, never stuck."""
    code = (
        "pool.os.sched_getaffinity = lambda pid: range(6)\nimport numba\nnumba.config.NUMBA_NUM_THREADS = 6\n"
        "work(50); assert num_threads() == 6 and len(pool._workers) == 5\n"
        "getattr(os, 'sched_setaffinity', print)(0, {0})\nwork(200)"
    )
    run(code)


# ----------------------------------------------------------------------------------------------- limits of the system

THREAD_LIMIT = """
import warnings
pool.os.sched_getaffinity = lambda pid: range(4)
import numba
numba.config.NUMBA_NUM_THREADS = 4
{limit}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    work(20)
    work(20)
assert num_threads() == {threads}, num_threads()
no_cache = ("could not save a compiled kernel", "does not cache its compiled kernels")  # as another user
caught = [warning for warning in caught if not any(text in str(warning.message) for text in no_cache)]
assert [warning.category for warning in caught] == [RuntimeWarning], caught
assert "fastnet uses {threads} of 4 threads" in str(caught[0].message)
assert len(pool._workers) == {threads} - 1
assert threading.active_count() == {threads}
print("done")
"""
REFUSING_START = """
start = threading.Thread.start
def refuse(thread):
    if not thread.name.startswith("fastnet-") or len(pool._workers) == {started}:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
"""
PROCESS_LIMIT = """
import resource
from numba.core.registry import cpu_target
cpu_target.typing_context.refresh()  # imports what compiling needs, which the other user may not be able to read
cpu_target.target_context.refresh()
os.setuid(54321)  # the limit does not bind root
count = len(os.listdir("/proc/self/task")) + 1
resource.setrlimit(resource.RLIMIT_NPROC, (count, count))
"""
THREAD_ABOUT_TO_END = """
def occupy(cpus):
    while len(os.listdir("/proc/self/task")) >= count:  # a thread that announced a compilation
        time.sleep(0.001)
    threading.Timer(0.05, int).start()
pool._write_cpu_masks = occupy  # called just before the workers are started
"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("started", [0, 1, 2])
def test_with_fewer_threads_than_wanted(started: int) -> None:
    """A limit of processes or of memory: computes on the threads that there are, and warns once."""
    limit = REFUSING_START.format(started=started)
    assert run(THREAD_LIMIT.format(limit=limit, threads=started + 1)) == "done"


def _open_to_other_users() -> bool:
    """Whether another user could import what this process imports."""
    folders = [folder for file in (sys.prefix, pool.__file__) for folder in Path(file).resolve().parents]
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in folders)


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0 or not _open_to_other_users(),
    reason="needs a user who has no other processes",
)
@pytest.mark.parametrize("before", ["", THREAD_ABOUT_TO_END])
def test_with_a_limit_of_processes(before: str) -> None:
    """The system itself refuses to start threads; a thread that is about to end takes up the last place meanwhile."""
    assert run(THREAD_LIMIT.format(limit=PROCESS_LIMIT + before, threads=2)) == "done"
