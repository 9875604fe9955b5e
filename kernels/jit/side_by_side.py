"""Compiles several kernels at once, in other processes: Numba compiles under one lock, which rules threads out.

At a first run nothing is in the compile cache, and a training step needs some 20 s of compilation by one process. Its
kernels are called by address, so each is compiled by itself: helper processes compile some of them into the cache while
this process compiles the others and then loads theirs. Where a helper fails, or none can be started, this process
compiles what is missing, as it would alone; helpers never decide what runs, only how soon. Of several processes that
begin at once, one has helpers.
"""

import contextlib
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

from .announcer import waiting_counts
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

START_S = 1.2
"""Seconds until a helper has started and imported what it needs."""

SECONDS = {"gemm": 5.5, "weights_task": 3.7, "run": 2.2, "rows_task": 2.0, "loss_kernel": 1.9}
"""Seconds that kernels take to compile, about, by name: for an even division. Others take OTHER_S."""

OTHER_S = 0.5

PATIENCE_S = 60
"""Seconds to wait for a helper at most; then this process compiles what is missing."""

_compiling = threading.Lock()

_COMMAND = "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); task = json.loads(sys.argv[1]); "
_COMMAND += "sys.path[:] = task['path']; from fastnet.kernels.jit import side_by_side; side_by_side.help_out(task)"


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

    def address(self, dtype: Any) -> int:
        """Compile the kernel for a dtype, or load it, and return its address, as `kernel_address` does."""
        return kernel_address(self.function(), dtype)


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


def compile_side_by_side(kernels: Sequence[Kernel], dtype: Any) -> None:
    """Compile kernels that are not in the cache, some of them in other processes.

    Parameters
    ----------
    kernels : sequence of Kernel
    dtype : dtype
        float32 or float64.
    """
    with _compiling:  # threads that wait find the kernels in the cache
        _compile_missing(kernels, dtype)


def _compile_missing(kernels: Sequence[Kernel], dtype: Any) -> None:
    # The first two speak for all, since a start with a full cache must not look for each: prediction takes one of them.
    if all(is_cached(kernel.function(), dtype) for kernel in kernels[:2]):
        return
    missing = [kernel for kernel in kernels if not is_cached(kernel.function(), dtype)]
    with _right_to_helpers(kernels[0]) as granted:
        _compile(*_divided(missing, processes() if granted else 1), dtype=dtype)


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


def _compile(mine: Sequence[Kernel], *others: Sequence[Kernel], dtype: Any) -> None:
    """Compile kernels here, and the others in a helper each."""
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        helpers.extend(helper for share in others if share and (helper := _start(share, dtype)) is not None)
        for kernel in mine:
            kernel.address(dtype)
        with waiting_counts(), contextlib.suppress(subprocess.TimeoutExpired):
            for helper in helpers:
                helper.wait(PATIENCE_S)
    finally:
        for helper in helpers:
            with contextlib.suppress(OSError):
                helper.kill()
        for helper in helpers:
            helper.wait()


def _in_forked_child() -> None:
    """Forget a lock that another thread of the parent held."""
    global _compiling
    _compiling = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def _divided(kernels: Sequence[Kernel], count: int) -> list[list[Kernel]]:
    """Divide kernels among this process and ``count - 1`` helpers: the longest first, each to who is free first."""
    shares: list[list[Kernel]] = [[] for _ in range(count)]
    ends = [0.0] + [START_S] * (count - 1)
    for kernel in sorted(kernels, key=lambda kernel: -SECONDS.get(kernel.name, OTHER_S)):
        first = min(range(count), key=lambda i: ends[i])
        shares[first].append(kernel)
        ends[first] += SECONDS.get(kernel.name, OTHER_S)
    return shares


def _start(kernels: Sequence[Kernel], dtype: Any) -> "subprocess.Popen[bytes] | None":
    """Start a process that compiles kernels into the cache; return None where the system refuses."""
    assert cache_folder is not None
    task = {"path": list(map(str, sys.path)), "dtype": np.dtype(dtype).name, "kernels": kernels, "parent": os.getpid()}
    names = {"NUMBA_CPU_NAME": numba.config.CPU_NAME, "NUMBA_CPU_FEATURES": numba.config.CPU_FEATURES}
    target = {name: value for name, value in names.items() if value is not None}
    environment = {**os.environ, **target, "NUMBA_CACHE_DIR": str(cache_folder.parent)}
    silent = subprocess.DEVNULL
    command = [sys.executable, "-P", "-c", _COMMAND, json.dumps(task)]
    try:
        return subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent, env=environment)
    except (OSError, ValueError, TypeError):  # limits of processes or memory; a path that is no text
        return None


def help_out(task: dict[str, Any]) -> None:
    """Compile the kernels of a task, in a helper process, as long as the process that started it lives."""
    gc.disable()  # a tenth of the time
    for fields in task["kernels"]:
        # In a virtual environment of Windows, the parent is what starts the interpreter.
        if os.name == "posix" and os.getppid() != task["parent"]:
            return
        Kernel(*fields).address(np.dtype(task["dtype"]))
