"""The thread pool where processes fork, are spawned, use Python threads, are interrupted and end.

Whatever could kill or hang a process runs in a process of its own, with a time limit.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
from pools import PRELUDE, run

pytestmark = pytest.mark.compiled

# ---------------------------------------------------------------------------------------------------- other processes

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


# ------------------------------------------------------------------------------------------------------ other threads

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


# ----------------------------------------------------------------------------------------------- interrupts and exits


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
