"""Variant `parallel`: the bits of `simd` for any number of threads, and the thread pool in every kind of process.

Whatever could kill or hang a process runs in a process of its own, with a time limit.
"""

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from fastnet.kernels import matmul
from fastnet.kernels.cpu.gemm import dense, parallel
from fastnet.kernels.cpu.gemm import gemm as simd
from fastnet.kernels.cpu.threads import pool
from fastnet.kernels.cpu.threads.atomics import atomic_add, atomic_load, pause
from fastnet.kernels.cpu.threads.parallel_for import WAKE_FLOPS, parallel_for
from fastnet.kernels.cpu.threads.pool import POOL, limit_threads, num_threads
from fastnet.kernels.jit.decorator import jit
from fastnet.kernels.llvm.memory import address_and_strides
from fastnet.kernels.registry import Variant, find, prepare
from fastnet.kernels.specs.base import Case
from fastnet.kernels.specs.operations import OP_SPECS
from fastnet.kernels.verify import WrongKernelError, check

pytestmark = pytest.mark.compiled

COUNTS = (2, 3, 7, 64)
"""Threads that work is divided for: few, odd, more than CPUs, more than tiles."""

SIZES = (
    (1, 1, 1),  # less than any task
    (7, 8, 17),  # a vector and one
    (37, 93, 41),  # odd everywhere
    (129, 70, 66),  # a row and two columns beyond whole tiles
    (5, 1100, 300),  # two blocks of k, fewer rows than a tile
    (300, 2050, 130),  # three blocks of k
    (513, 257, 65),  # one more than whole tiles on every side
)


@pytest.fixture
def no_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SERIAL_MAX_FLOPS", 0)


@pytest.fixture(params=COUNTS)
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, no_threshold: None) -> int:
    """Work is divided for this many threads, however many there are."""
    num_threads()
    monkeypatch.setattr(parallel, "num_threads", lambda: request.param)
    return int(request.param)


# --------------------------------------------------------------------------------------------- bits


def outputs(operation: str, variant: str, case: Case, dtype: str) -> list[bytes]:
    problem = prepare(operation, case, dtype)
    find(operation, variant)(*problem.arguments)
    results = [problem.arguments[i] for i in problem.results]
    assert not any(np.isnan(result).any() for result in results)
    return [result.tobytes() for result in results]


@pytest.mark.sampled(9)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["nn", "tn", "nt", "tt", "ss"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matmul_has_bits_of_simd(size: tuple[int, ...], layout: str, dtype: str, count: int) -> None:
    case = Case(size, "", layout)
    assert outputs("matmul", "parallel", case, dtype) == outputs("matmul", "simd", case, dtype)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("operation", ["dense_forward", "dense_backward_batch"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layers_have_bits_of_simd(
    operation: str, size: tuple[int, ...], activation: str, dtype: str, count: int
) -> None:
    case = Case(size, "", activation)
    assert outputs(operation, "parallel", case, dtype) == outputs(operation, "simd", case, dtype)


def test_backward_pass_without_dx(count: int) -> None:
    """A dX of no elements is not computed; dW and db are the same."""
    problem = prepare("dense_backward_batch", Case((37, 93, 41), "", "relu"), "float32")
    X, Z, dL_dA, W, activation, dW, db, _ = problem.arguments
    nothing = np.empty((0, 93), np.float32)
    parallel.dense_backward_batch(X, Z, dL_dA, W, activation, dW, db, nothing)
    truth = [np.empty_like(dW), np.empty_like(db)]
    dense.dense_backward_batch(X, Z, dL_dA, W, activation, *truth, nothing)
    assert [dW.tobytes(), db.tobytes()] == [array.tobytes() for array in truth]


@pytest.mark.parametrize("make", [lambda m, n: np.empty((n, m)).T, lambda m, n: np.empty((2 * m, 2 * n))[::2, ::2]])
def test_outputs_of_any_strides(make: Callable[[int, int], Any], count: int) -> None:
    A, B, C = prepare("matmul", Case((129, 70, 66), "", "nn"), "float64").arguments
    simd.matmul(A, B, C)
    D = make(129, 66)
    D[...] = np.nan
    parallel.matmul(A, B, D)
    assert (C == D).all()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("operation", ["matmul", "dense_forward", "dense_backward_batch"])
def test_contract_holds_for_any_number_of_threads(operation: str, count: int) -> None:
    for case in OP_SPECS[operation].cases:
        assert check(Variant(operation, "parallel", getattr(parallel, operation)), case, "float32") <= 1 / 3


# ------------------------------------------------------------------------------------------ mutants


def _lost_rows(A: Any, B: Any, C: Any) -> None:
    """Thirds of the rows, rounded down."""
    third = len(A) // 3
    for i in range(3):
        simd.matmul(A[i * third : (i + 1) * third], B, C[i * third : (i + 1) * third])


def _lost_columns(A: Any, B: Any, C: Any) -> None:
    simd.matmul(A, B[:, : B.shape[1] // 16 * 16], C[:, : B.shape[1] // 16 * 16])


def _overlapping_sum(A: Any, B: Any, C: Any) -> None:
    """K in halves, the middle in both."""
    half = A.shape[1] // 2
    simd.matmul(A[:, : half + 1], B[: half + 1], C)
    C += A[:, half:] @ B[half:]


@pytest.mark.parametrize("wrong", [_lost_rows, _lost_columns, _overlapping_sum])
def test_wrong_divisions_are_rejected(wrong: Callable[..., None]) -> None:
    with pytest.raises(WrongKernelError, match="matmul"):
        check(Variant("matmul", "wrong", wrong), Case((37, 93, 41), "", "nn"), "float32")


def test_dividing_k_would_change_bits() -> None:
    A, B, C = prepare("matmul", Case((37, 93, 41), "", "nn"), "float32").arguments
    parallel.matmul(A, B, C)
    D, E = np.empty_like(C), np.empty_like(C)
    simd.matmul(A[:, :50], B[:50], D)
    simd.matmul(A[:, 50:], B[50:], E)
    assert C.tobytes() != (D + E).tobytes()


# ---------------------------------------------------------------------------------------- threshold


def test_small_products_run_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class AskedError(Exception):
        pass

    def refuse() -> int:
        raise AskedError

    monkeypatch.setattr(parallel, "num_threads", refuse)
    for operation in ("matmul", "dense_forward", "dense_backward_batch"):
        option = "nn" if operation == "matmul" else "relu"
        function = getattr(parallel, operation)
        function(*prepare(operation, Case((8, 8, 8), "", option), "float32").arguments)
        with pytest.raises(AskedError):
            function(*prepare(operation, Case((128, 128, 128), "", option), "float32").arguments)


# -------------------------------------------------------------------------------- numbers of threads


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


def test_numba_threads_are_left_alone() -> None:
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        matmul(np.ones((256, 256)), np.ones((256, 256)), variant="parallel")
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


# ------------------------------------------------------------------------------------ parallel_for


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


@pytest.mark.skipif(num_threads() == 1, reason="one CPU")
def test_workers_share_the_tasks() -> None:
    """A worker runs some of many slow tasks: otherwise the variant would be right, and as slow as `simd`."""
    A, B = np.ones((1024, 1024), np.float32), np.ones((1024, 1024), np.float32)
    C = np.empty_like(A)
    parallel.matmul(A, B, C)
    for _ in range(20):  # another process may use the other core for a while
        before = time.thread_time(), time.process_time()
        parallel.matmul(A, B, C)
        mine, all_of_us = time.thread_time() - before[0], time.process_time() - before[1]
        if all_of_us > 1.2 * mine:
            return
    pytest.fail("no worker ran a task")


# ------------------------------------------------------------------------------- processes and threads

PRELUDE = """
import os, sys, time, threading
import numpy as np
from fastnet.kernels import matmul
from fastnet.kernels.cpu.gemm import parallel, gemm as simd
from fastnet.kernels.cpu.threads import pool
from fastnet.kernels.cpu.threads.pool import num_threads
A = np.random.default_rng(0).standard_normal((192, 192)).astype(np.float32)
TRUTH = np.empty_like(A)
simd.matmul(A, A, TRUTH)
def work(times=1):
    for _ in range(times):
        assert matmul(A, A, variant="parallel").tobytes() == TRUTH.tobytes()
    return os.getpid()
"""


def run(code: str, **env: str) -> str:
    """Run in a process of its own and return what it prints; it must end by itself and write no error."""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    errors = [line for line in result.stderr.splitlines() if "compiling kernels" not in line]
    assert (result.returncode, errors) == (0, []), result.stderr
    return result.stdout.strip()


FORK = """
work(20)
child = os.fork()
if child == 0:
    work(20)
    os._exit(7 if num_threads() == 1 else 8)
work(20)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""

FORK_WHILE_OTHERS_WORK = """
work()
end = time.time() + 1
busy = [threading.Thread(target=lambda: [work() for _ in iter(lambda: time.time() < end, False)]) for _ in range(2)]
for thread in busy:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        C = np.empty_like(A)  # no allocation in here that another thread's lock could stop
        parallel.matmul(A, A, C)
        os._exit(7 if C.tobytes() == TRUTH.tobytes() else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
for thread in busy:
    thread.join()
"""

MP_POOL = """
import multiprocessing
if __name__ == "__main__":
    work(20)
    with multiprocessing.get_context("{method}").Pool(2) as processes:
        assert os.getpid() not in processes.map(work, [5] * 8)
    work(20)
"""

FORK_BEFORE_USE = """
child = os.fork()
if child == 0:
    work(20)
    os._exit(7 if len(pool._workers) == num_threads() - 1 else 8)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
work(20)
"""

FORK_WHILE_ANOTHER_COMPILES = """
import signal
from fastnet.kernels import relu
from fastnet.kernels.jit import numba_internals
here = threading.Event()
def compile():
    for lock in numba_internals._LOCKS:
        lock.acquire()
    here.set()
    time.sleep(0.5)
    for lock in numba_internals._LOCKS[::-1]:
        lock.release()
thread = threading.Thread(target=compile)
thread.start()
here.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    relu(np.ones(3), variant="loops")
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
thread.join()
relu(np.ones(3), variant="loops")
"""


@pytest.mark.sampled(2)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "code",
    [FORK, FORK_WHILE_OTHERS_WORK, MP_POOL.format(method="fork"), FORK_BEFORE_USE, FORK_WHILE_ANOTHER_COMPILES],
    ids=["after use", "while others work", "pool", "before use", "while another compiles"],
)
def test_fork(code: str) -> None:
    run("import warnings; warnings.simplefilter('ignore')\n" + code)


@pytest.mark.exhaustive
def test_fork_after_a_numba_parallel_function() -> None:
    """Numba's omp layer kills a child in its next region; the pool's workers are not Numba's."""
    run(
        "import numba\n"
        "@numba.njit(parallel=True)\n"
        "def users(x):\n"
        "    for i in numba.prange(x.size):\n"
        "        x[i] = i\n"
        "users(np.zeros(9))\n" + FORK_BEFORE_USE
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_processes_work_in_parallel(tmp_path: Any, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + MP_POOL.format(method=method))
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(backend: str) -> None:
    pytest.importorskip("joblib")
    run(
        "import warnings; warnings.simplefilter('ignore')\nimport joblib\n"
        "def task(A, TRUTH):\n"
        "    from fastnet.kernels import matmul\n"
        "    return all(matmul(A, A, variant='parallel').tobytes() == TRUTH.tobytes() for _ in range(20))\n"
        "work(20)\n"
        f"tasks = (joblib.delayed(task)(A, TRUTH) for _ in range(8))\n"
        f"assert all(joblib.Parallel(n_jobs=2, backend={backend!r})(tasks))\n"
        "work(20)"
    )


PYTHON_THREADS = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as executor:
    list(executor.map(work, [200] * 8))
assert pool.state['busy'] == 0
assert not pool.state['active']
work()
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", ["default", "omp", "workqueue"])
def test_python_threads_at_once(layer: str) -> None:
    run(PYTHON_THREADS, NUMBA_THREADING_LAYER=layer)


@pytest.mark.exhaustive
def test_numba_parallel_function_beside_the_pool() -> None:
    """Two Python threads in workqueue's regions at once abort the process; the pool uses none."""
    run(
        "import numba\n"
        "@numba.njit(parallel=True, nogil=True)\n"
        "def users(x):\n"
        "    for i in numba.prange(x.size):\n"
        "        x[i] += i\n"
        "users(np.zeros(9)); work()\n"
        "other = threading.Thread(target=work, args=(500,))\n"
        "other.start()\n"
        "while other.is_alive(): users(np.zeros(1000))\n"
        "assert numba.threading_layer() == 'workqueue'",
        NUMBA_THREADING_LAYER="workqueue",
    )


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


@pytest.mark.exhaustive
def test_interrupts_leave_no_lock_held() -> None:
    run(
        "import signal\n"
        "work()\n"
        "B = np.ones((700, 700), np.float32)\n"
        "interrupts = 0\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "for delay in np.linspace(1e-4, 2e-2, 60):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, delay)\n"
        "        while True:\n"
        "            matmul(B, B, variant='parallel')\n"
        "    except KeyboardInterrupt:\n"
        "        interrupts += 1\n"
        "    assert pool.state['busy'] == 0\n"
        "    work()\n"
        "assert interrupts == 60"
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("last", ["", "work()", "time.sleep(0.05)", "sys.exit(0)"])
def test_process_exits_with_workers_alive(last: str) -> None:
    """While workers look for jobs, while they sleep, and while a daemon thread is in a call."""
    run("work()\n" + last)
    run("work()\nthreading.Thread(target=lambda: [work() for _ in iter(int, 1)], daemon=True).start()\n" + last)


@pytest.mark.exhaustive
def test_calls_at_interpreter_exit() -> None:
    run("import atexit\natexit.register(work, 5)\nwork()")


@pytest.fixture(autouse=True)
def _nothing_stays_locked() -> Iterator[None]:
    yield
    assert pool.state["busy"] == 0
    assert threading.active_count() < 20
