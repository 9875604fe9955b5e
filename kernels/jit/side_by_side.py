"""Compiles several kernels at once, in other processes: Numba compiles under one lock, which rules threads out.

At a first run nothing is in the compile cache, and a training step needs some 20 s of compilation by one process. Its
kernels are called by address, so each is compiled by itself: helper processes compile some of them into the cache while
this process compiles the others and then loads theirs. Where a helper fails, or none can be started, this process
compiles what is missing, as it would alone; helpers never decide what runs, only how soon. Of several processes that
begin at once, one has helpers.

One helper goes on with kernels that are not needed yet, while this process trains already, and after it has ended.
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
"""Processes that compile at once, this one included: no more than four kernels take long."""

PROCESS_BYTES = 300 << 20
"""Memory that a process takes while it compiles, about."""

LONGEST = (
    *("gemm.gemm", "training_step.run", "weights_task.weights_task", "losses.loss_kernel", "training_step.rows_task"),
    *("epochs.run_epochs", "inference.run", "inference.predict_rows", "losses.correct_kernel"),
)
"""Kernels that take longest to compile: they are begun first, so that no process is left with a long one."""

PATIENCE_S = 60
"""Seconds to wait for a helper at most; then this process compiles what is missing."""

POLL_S = 0.005
"""Seconds between two looks at what a helper has compiled."""

_compiling = threading.Lock()

_looked_for: set[tuple[tuple["Kernel", ...], Any]] = set()
"""Kernels that have been compiled or found, with their dtype: each engine asks again."""

# Without SciPy, which Numba imports for linear algebra that no kernel contains: 0.2 s.
_COMMAND = "import json, os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.modules['scipy'] = None; "
_COMMAND += "task = json.loads(sys.argv[1]); "
_COMMAND += "sys.path[:] = task['path']; from fastnet.kernels.jit import side_by_side; side_by_side.help_out(task); "
_COMMAND += "os._exit(0)"  # all is saved; to take the interpreter down takes longer than to compile a small kernel


class Kernel(NamedTuple):
    """A kernel that `by_address` has registered, named so that another process finds it.

    Attributes
    ----------
    module, name : str
        Of the kernel, or of the function that makes it from ``code``.
    code : int
        From 0 on; -1 where there is none.
    """

    module: str
    name: str
    code: int = -1

    def function(self) -> Any:
        """Return the kernel."""
        found: Any = getattr(importlib.import_module(self.module), self.name)
        return found if self.code < 0 else found(self.code)

    @functools.cache  # noqa: B019 - of few kernels, which live as long as the process
    def address(self, dtype: Any) -> int:
        """Compile the kernel for a dtype, or load it, and return its address, as `kernel_address` does."""
        return kernel_address(self.function(), dtype)


_ahead: "tuple[subprocess.Popen[bytes] | None, list[Kernel], Any]" = (None, [], None)
"""The helper that goes on, with which kernels in which order, and their dtype."""


def processes() -> int:
    """Return how many processes may compile at once: FASTNET_COMPILE_PROCESSES, or one a CPU.

    At most MAX_PROCESSES, and as many as a cgroup's quota pays for and the available memory holds.
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
    """Compile kernels that are not in the cache, some of them in other processes.

    Parameters
    ----------
    kernels : sequence of Kernel
    dtype : dtype
        float32 or float64.
    later : sequence of Kernel
        What is not needed yet. A helper that was started for the others compiles these too, and is not waited for.
    """
    wanted = tuple(kernels), np.dtype(dtype)
    if wanted in _looked_for:
        return
    with _compiling:  # threads that wait find the kernels in the cache
        _compile_missing(kernels, dtype, later)
    _looked_for.add(wanted)


def is_coming(kernel: Kernel, dtype: Any) -> bool:
    """Return whether a helper that goes on will have compiled a kernel soon."""
    helper, kernels, kind = _ahead
    works = helper is not None and helper.poll() is None and kernel in kernels and dtype == kind
    return works and not is_cached(kernel.function(), dtype)


def _compile_missing(kernels: Sequence[Kernel], dtype: Any, later: Sequence[Kernel] = ()) -> None:
    # The first two speak for all, since a start with a full cache must not look for each.
    if all(is_cached(kernel.function(), dtype) for kernel in kernels[:2]):
        return
    coming = [kernel for kernel in _ahead[1] if kernel in kernels and is_coming(kernel, dtype)]
    missing = [kernel for kernel in kernels if kernel not in coming and not is_cached(kernel.function(), dtype)]
    missing, helper = _longest_first(missing), _ahead[0]
    if missing:
        with _right_to_helpers(kernels[0]) as granted, progress(lambda: _count_cached(missing, dtype), len(missing)):
            _compile(missing, min(processes(), len(missing)) if granted else 1, dtype, later)
    for kernel in coming[:0:-1]:  # the helper takes them from the first one on
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
    """Yield whether this process may start helpers meanwhile: where kernels are kept, and no other process has any."""
    if cache_folder is None or not keeps(kernel.function()):
        yield False
    elif fcntl is None:
        yield True
    else:
        with contextlib.ExitStack() as stack:  # which closes the file, and gives the lock back
            try:
                file = stack.enter_context(open(cache_folder / "helpers.lock", "ab"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                granted = True
            except OSError:  # held by another process; or the file system is full, or knows no locks
                granted = False
            yield granted


def _compile(kernels: Sequence[Kernel], count: int, dtype: Any, later: Sequence[Kernel] = ()) -> None:
    """Compile kernels in ``count`` processes, of which this is one; another one goes on with ``later``."""
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
            # Whoever waits for any child of this process had better not meet it; and it may outlive the process.
            threading.Thread(target=helpers[0].wait, daemon=True, name="fastnet-helper").start()
    finally:
        os.close(waiting)
        for helper in helpers[goes_on:]:
            with contextlib.suppress(OSError):
                helper.kill()
        for helper in helpers[goes_on:]:
            helper.wait()


def _wait(kernels: Sequence[Kernel], helpers: "Sequence[subprocess.Popen[bytes]]", dtype: Any) -> bool:
    """Wait until kernels are in the cache, or no helper works any more; return False where that takes too long."""
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
    """Collect no garbage: a tenth of the time. What is left behind meanwhile takes some 80 MiB."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # all objects count as old now: the next collection need not look at them, 0.2 s
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
    """Start a process that compiles into the cache the kernels whose numbers it reads from a pipe, then those of later.

    Return None where the system refuses.
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
    except (OSError, ValueError, TypeError):  # limits of processes or memory; a path that is no text
        return None


def help_out(task: dict[str, Any]) -> None:
    """Compile kernels of a task, in a helper process, while the process that started it lives; then the later ones.

    Those also after its end, which a short training reaches first: else it would begin with them time and again.
    """
    gc.disable()
    dtype = np.dtype(task["dtype"])
    # In a virtual environment of Windows, the parent is what starts the interpreter.
    while (os.name != "posix" or os.getppid() == task["parent"]) and (number := os.read(0, 1)):
        Kernel(*task["kernels"][number[0]]).address(dtype)
    for kernel in task["later"]:
        if cache_folder is None or not cache_folder.exists():  # whoever has deleted it meanwhile wants it gone
            break
        Kernel(*kernel).address(dtype)
