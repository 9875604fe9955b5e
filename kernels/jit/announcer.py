"""Measures the time spent on compiling kernels; announces the first long compilation and shows its progress."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from numba.core import event

from .cache import cache_folder
from .target import target_cpu

ANNOUNCE_AFTER_S = 1.0
"""Compilation is announced after this many seconds of it in a process."""

LATER_RUNS_S = 5.0
"""The same if the cache already holds kernels: then only a few that no run has used yet are compiled."""

PROGRESS_S = 0.5
"""Seconds between two updates of the number of kernels."""


class _Announcer(event.Listener):  # type: ignore[misc]
    """Adds up the seconds spent on compiling kernels, and announces them once on standard error.

    Numba compiles under one lock for the whole process, so two threads never run these methods at once.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.said = False
        self._is_first_run = cache_folder is None or next(cache_folder.rglob("*.nbi"), None) is None
        self._depth = 0
        self._start = 0.0
        self._timer: threading.Timer | None = None

    @staticmethod
    def _is_kernel(occurrence: Any) -> bool:
        function = getattr(occurrence.data.get("dispatcher"), "py_func", None)
        return str(getattr(function, "__module__", "")).startswith(__package__.rpartition(".")[0])

    def on_start(self, occurrence: Any) -> None:
        if not self._is_kernel(occurrence):
            return
        self._depth += 1
        if self._depth == 1:  # the outermost kernel; those it calls are compiled meanwhile
            self._start = time.perf_counter()
            if not self.said:
                after = ANNOUNCE_AFTER_S if self._is_first_run else LATER_RUNS_S
                timer = threading.Timer(max(0.0, after - self.spent_s), self._say)
                timer.daemon = True
                with contextlib.suppress(RuntimeError):  # no more threads may be started: compile without announcing
                    timer.start()
                    self._timer = timer

    def on_end(self, occurrence: Any) -> None:
        if not self._is_kernel(occurrence):
            return
        self._depth -= 1
        if self._depth == 0:
            self.spent_s += time.perf_counter() - self._start
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _say(self) -> None:
        if not self.said:
            self.said = True
            kept = "kept for later runs" if cache_folder is not None else "not kept: no cache folder can be written"
            usual = "; a first training took 5 s on two cores of a Zen 4" if self._is_first_run else ""
            print(f"fastnet: compiling kernels for {target_cpu()} ({kept}{usual}) ...", file=sys.stderr, flush=True)


_announcer = _Announcer()


def listen() -> None:
    """Measure and announce compilations from now on."""
    event.register("numba:compile", _announcer)


@contextlib.contextmanager
def waiting_counts() -> Iterator[None]:
    """Count the time of a block as compilation: other processes compile meanwhile."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _announcer.spent_s += time.perf_counter() - start


@contextlib.contextmanager
def progress(count: Callable[[], int], total: int) -> Iterator[None]:
    """Show on a terminal, while a block compiles ``total`` kernels, how many are ready; ``count`` returns that number.

    It shows nothing before the compilation has been announced, and nothing in a log, where the announcement suffices.
    """
    ended, shown = threading.Event(), False

    def show() -> None:
        nonlocal shown
        while not ended.wait(PROGRESS_S):
            if _announcer.said:
                shown = True
                print(f"\rfastnet: {count()} of {total} kernels ", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    if sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(RuntimeError):  # no more threads may be started
            thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()
        if shown:
            print(file=sys.stderr, flush=True)


def compile_seconds() -> float:
    """Return the seconds that this process has spent on compiling kernels; 0 if all came from the cache."""
    return _announcer.spent_s
