"""Compiles several kernels at once in helper processes; threads cannot, since Numba compiles under one lock.

In a first run the compile cache is empty, and a training step needs some 20 s of compilation by one process. Its
kernels are called by address, so each is compiled separately: helper processes compile some of them into the cache
while this process compiles the others and then loads theirs. If a helper fails, or none can be started, this process
compiles the missing kernels itself; helpers never affect what runs, only how soon. If several processes start at once,
one of them has helpers.

One helper then compiles kernels that are not needed yet, while this process already trains, and even after it has
ended.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

from .announcer import progress, waiting_counts
from .cache import cache_folder, keeps
from .call_by_address import is_cached, kernel_address
from .quota import cpu_quota, memory_available
from .target import COMPILES

fcntl: Any = None  # Windows has none
with contextlib.suppress(ImportError):
    import fcntl

MAX_PROCESSES = 4
"""Most processes that compile at once, this one included: no more than four kernels take long."""

PROCESS_BYTES = 300 << 20
"""Approximate memory of a process that compiles."""

LONGEST = (
    *("gemm.gemm", "training_step.run", "weights_task.weights_task", "losses.loss_kernel", "training_step.rows_task"),
    *("epochs.run_epochs", "inference.run", "inference.predict_rows", "losses.correct_kernel"),
)
"""Kernels that take longest to compile, longest first: starting with them balances the processes."""

PATIENCE_S = 60
"""Most seconds to wait for a helper; then this process compiles the missing kernels."""

POLL_S = 0.005
"""Seconds between two checks of what a helper has compiled."""

_compiling = threading.Lock()

_looked_for: set[tuple[tuple["Kernel", ...], Any]] = set()
"""Kernels that have been compiled or found, with their dtype; spares every new engine the search."""

# Hide SciPy, which Numba imports for linear algebra that no kernel contains: that takes 0.2 s.
_COMMAND = "import json, os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.modules['scipy'] = None; "
_COMMAND += "task = json.loads(sys.argv[1]); "
_COMMAND += "sys.path[:] = task['path']; from fastnet.kernels.jit import side_by_side; side_by_side.help_out(task); "
_COMMAND += "os._exit(0)"  # all is saved; shutting down the interpreter takes longer than compiling a small kernel


class Kernel(NamedTuple):
    """A kernel that `by_address` has registered, named so that another process finds it.

    Attributes
    ----------
    module, name : str
        Module and name of the kernel, or of the function that makes it from ``code``.
    code : int
        0 or more; -1 for a kernel that takes no code.
    """

    module: str
    name: str
    code: int = -1

    def function(self) -> Any:
        """Return the kernel."""
        found: Any = getattr(importlib.import_module(self.module), self.name)
        return found if self.code < 0 else found(self.code)

    @functools.cache  # noqa: B019 - there are few kernels, which live as long as the process
    def address(self, dtype: Any) -> int:
        """Compile or load the kernel for a dtype and return its address, as `kernel_address` does."""
        return kernel_address(self.function(), dtype)


_ahead: "tuple[subprocess.Popen[bytes] | None, list[Kernel], Any]" = (None, [], None)
"""The helper that compiles kernels for later, these kernels in its order, and their dtype."""


def processes() -> int:
    """Return how many processes may compile at once: FASTNET_COMPILE_PROCESSES, or one per CPU.

    The latter is bounded by MAX_PROCESSES, a cgroup's CPU quota and the available memory.
    """
    # In a frozen application, or one that embeds Python, sys.executable is the application.
    is_python = Path(sys.executable or "").stem.lower().startswith("python") and not getattr(sys, "frozen", False)
    if not COMPILES or cache_folder is None or not is_python:
        return 1
    asked = os.environ.get("FASTNET_COMPILE_PROCESSES", "")
    cpus = len(os.sched_getaffinity(os.getpid())) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    worthwhile = int(max(1, min(cpus, MAX_PROCESSES, cpu_quota(), memory_available() / PROCESS_BYTES)))
    return max(1, int(asked)) if asked.isdecimal() and int(asked) > 0 else worthwhile


def compile_side_by_side(kernels: Sequence[Kernel], dtype: Any, later: Sequence[Kernel] = ()) -> None:
    """Compile the kernels that are not in the cache, some of them in helper processes.

    Parameters
    ----------
    kernels : sequence of Kernel
    dtype : dtype
        float32 or float64.
    later : sequence of Kernel
        Kernels that are not needed yet. If helpers are started, one of them compiles these too; nothing waits for it.
    """
    wanted = tuple(kernels), np.dtype(dtype)
    if wanted in _looked_for:
        return
    with _compiling:  # threads that wait here then find the kernels in the cache
        _compile_missing(kernels, dtype, later)
    _looked_for.add(wanted)


def is_coming(kernel: Kernel, dtype: Any) -> bool:
    """Return whether the helper that compiles kernels for later is about to compile this one."""
    helper, kernels, kind = _ahead
    works = helper is not None and helper.poll() is None and kernel in kernels and dtype == kind
    return works and not is_cached(kernel.function(), dtype)


def _compile_missing(kernels: Sequence[Kernel], dtype: Any, later: Sequence[Kernel] = ()) -> None:
    # The first two stand for all: a start with a full cache should not spend time on searching for each.
    if all(is_cached(kernel.function(), dtype) for kernel in kernels[:2]):
        return
    coming = [kernel for kernel in _ahead[1] if kernel in kernels and is_coming(kernel, dtype)]
    missing = [kernel for kernel in kernels if kernel not in coming and not is_cached(kernel.function(), dtype)]
    missing, helper = _longest_first(missing), _ahead[0]
    if missing:
        with _right_to_helpers(kernels[0]) as granted, progress(lambda: _count_cached(missing, dtype), len(missing)):
            _compile(missing, min(processes(), len(missing)) if granted else 1, dtype, later)
    for kernel in coming[:0:-1]:  # backwards, since the helper begins with the first
        if not is_cached(kernel.function(), dtype):
            kernel.address(dtype)
    _wait(coming[:1], [] if helper is None else [helper], dtype)


def _longest_first(kernels: Sequence[Kernel]) -> list[Kernel]:
    order = {name: i for i, name in enumerate(LONGEST)}
    names = (f"{kernel.module.rpartition('.')[2]}.{kernel.name}" for kernel in kernels)
    return [kernel for _, kernel in sorted(zip(names, kernels, strict=True), key=lambda x: order.get(x[0], len(order)))]


def _count_cached(kernels: Sequence[Kernel], dtype: Any) -> int:
    return sum(is_cached(kernel.function(), dtype) for kernel in kernels)


@contextlib.contextmanager
def _right_to_helpers(kernel: Kernel) -> Iterator[bool]:
    """Yield whether this process may start helpers: if kernels can be cached, and no other process has helpers."""
    if cache_folder is None or not keeps(kernel.function()):
        yield False
    elif fcntl is None:
        yield True
    else:
        with contextlib.ExitStack() as stack:  # closes the file, which releases the lock
            try:
                file = stack.enter_context(open(cache_folder / "helpers.lock", "ab"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                granted = True
            except OSError:  # another process holds the lock, or the file system is full or has no locks
                granted = False
            yield granted


def _compile(kernels: Sequence[Kernel], count: int, dtype: Any, later: Sequence[Kernel] = ()) -> None:
    """Compile kernels in ``count`` processes, this one included; one of the others then compiles ``later``."""
    global _ahead
    helpers: list[subprocess.Popen[bytes]] = []
    waiting, source = os.pipe()
    goes_on = 0
    try:
        with os.fdopen(source, "wb") as all_numbers:
            all_numbers.write(bytes(range(len(kernels))))
        for i in range(count - 1):
            helper = _start(kernels, waiting, dtype, () if i else later)
            if helper is not None:
                helpers.append(helper)
        with _no_garbage_collection():
            while number := os.read(waiting, 1):
                kernels[number[0]].address(dtype)
        if _wait(kernels, helpers, dtype) and helpers and later:
            _ahead, goes_on = (helpers[0], list(later), dtype), 1
            # Reap it in a thread, so that nobody who waits for any child of this process gets it; it may outlive us.
            threading.Thread(target=helpers[0].wait, daemon=True, name="fastnet-helper").start()
    finally:
        os.close(waiting)
        for helper in helpers[goes_on:]:
            with contextlib.suppress(OSError):
                helper.kill()
        for helper in helpers[goes_on:]:
            helper.wait()


def _wait(kernels: Sequence[Kernel], helpers: "Sequence[subprocess.Popen[bytes]]", dtype: Any) -> bool:
    """Wait until all kernels are in the cache or no helper is running; return False if that takes too long."""
    end = time.monotonic() + PATIENCE_S
    with waiting_counts():
        while any(helper.poll() is None for helper in helpers):
            if _count_cached(kernels, dtype) == len(kernels):
                break
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
    return True


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection within a block, which saves a tenth of the time and leaves some 80 MiB of garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # make all objects old, which saves the next collection 0.2 s
            gc.freeze()
            gc.unfreeze()
        if enabled:
            gc.enable()


def _in_forked_child() -> None:
    """Forget a lock that another thread of the parent held, and the parent's helper."""
    global _compiling, _ahead
    _compiling, _ahead = threading.Lock(), (None, [], None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def _start(
    kernels: Sequence[Kernel], waiting: int, dtype: Any, later: Sequence[Kernel]
) -> "subprocess.Popen[bytes] | None":
    """Start a process that compiles the kernels whose indices it reads from a pipe, then ``later``, into the cache.

    Return None if the system refuses.
    """
    assert cache_folder is not None
    task = {"path": list(map(str, sys.path)), "dtype": np.dtype(dtype).name, "parent": os.getpid()}
    task |= {"kernels": kernels, "later": later}
    names = {"NUMBA_CPU_NAME": numba.config.CPU_NAME, "NUMBA_CPU_FEATURES": numba.config.CPU_FEATURES}
    target = {name: value for name, value in names.items() if value is not None}
    environment = {**os.environ, **target, "NUMBA_CACHE_DIR": str(cache_folder.parent)}
    silent = subprocess.DEVNULL
    command = [sys.executable, "-P", "-c", _COMMAND, json.dumps(task)]
    try:
        return subprocess.Popen(command, stdin=waiting, stdout=silent, stderr=silent, env=environment)
    except (OSError, ValueError, TypeError):  # a limit on processes or memory, or a path that is not text
        return None


def help_out(task: dict[str, Any]) -> None:
    """Compile a task's kernels in a helper process while the process that started it lives; then the later ones.

    It finishes the later ones even if that process has ended: short trainings would otherwise never get them compiled.
    """
    gc.disable()
    dtype = np.dtype(task["dtype"])
    # In a virtual environment on Windows, the parent is a launcher of the interpreter.
    while (os.name != "posix" or os.getppid() == task["parent"]) and (number := os.read(0, 1)):
        Kernel(*task["kernels"][number[0]]).address(dtype)
    for kernel in task["later"]:
        if cache_folder is None or not cache_folder.exists():  # somebody has deleted it: do not create it again
            break
        Kernel(*kernel).address(dtype)
