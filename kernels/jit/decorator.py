"""The `jit` decorator and the only place that sets Numba's flags.

Every kernel is decorated with `jit`; nothing is compiled before the first call.

Flags, and why:

- ``nogil``: a kernel touches no Python object, so other threads may run.
- ``error_model="numpy"``: division by zero gives inf, as in NumPy, and costs no branch.
- ``fastmath={"contract"}``: a multiplication and an addition may become one FMA. Nothing more:
  ``nnan`` or ``ninf`` would hide the NaN that tells a user of a diverged network, and ``reassoc``
  gives contiguous and strided arrays different bits.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, overload

import numba
from numba.core import event
from numba.core.registry import CPUDispatcher

from .cache import KernelCache, cache_folder, warn_once
from .target import COMPILES, target_cpu

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_ANNOUNCE_AFTER_S = 1.0


# -------------------------------------------------------------------------------------- the decorator


@overload
def jit(function: F, /) -> F: ...
@overload
def jit(*, inline: bool = False, internal: bool = False, scalar: bool = False) -> Callable[[F], F]: ...
def jit(
    function: F | None = None, /, *, inline: bool = False, internal: bool = False, scalar: bool = False
) -> F | Callable[[F], F]:
    """Compile a kernel at its first call, with the house's flags, and cache it on disk.

    Parameters
    ----------
    function : callable
        Python function over arrays and scalars.
    inline : bool, default False
        Paste the function into its callers before types are inferred.
    internal : bool, default False
        Only compiled code calls it: no entry from Python is compiled, and a call from there is a TypeError.
    scalar : bool, default False
        A few instructions on numbers, which LLVM pastes into the loops that call it, so that it can vectorise them.
        Internal, and compiled once for all callers, where ``inline`` takes Numba 0.1 s in each.

    Returns
    -------
    callable
        Numba's dispatcher; with ``NUMBA_DISABLE_JIT=1`` the function itself.
    """
    if function is None:
        return lambda f: _compile_lazily(f, inline, internal, scalar)
    return _compile_lazily(function, False, False, False)


class _Internal(CPUDispatcher):  # type: ignore[misc]
    """What compiled code alone may call: without an entry from Python, a call from there would end the process."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} has no entry from Python; only compiled code can call it")


def _compile_lazily(function: F, inline: bool, internal: bool, scalar: bool) -> F:
    entries = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True} if internal or scalar else {}
    flags = {"inline": "always" if inline else "never", "forceinline": scalar, **entries, **_FLAGS}
    dispatcher: Any = numba.njit(**flags)(function)
    if entries and COMPILES:
        dispatcher.__class__ = _Internal
    if cache_folder is not None and COMPILES:
        # CACHE_DIR is one setting for the whole process: lent for this line, then given back, so that
        # the user's own cache=True functions stay where the user put them.
        users, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(cache_folder)
        try:
            dispatcher._cache = KernelCache(function)
        except Exception as error:  # a later Numba may keep its cache otherwise: slower starts, but right
            warn_once(f"fastnet does not cache its compiled kernels: {error}")
        finally:
            numba.config.CACHE_DIR = users
    return dispatcher


class _Announcer(event.Listener):  # type: ignore[misc]
    """Counts the seconds spent on compiling kernels, and says so on standard error, once, after the first of them."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._said = False
        self._depth = 0
        self._start = 0.0
        self._timer: threading.Timer | None = None

    @staticmethod
    def _is_ours(occurrence: Any) -> bool:
        function = getattr(occurrence.data.get("dispatcher"), "py_func", None)
        return str(getattr(function, "__module__", "")).startswith(__package__.rpartition(".")[0])

    # Numba compiles under one lock for the whole process, so these never run in two threads at once.

    def on_start(self, occurrence: Any) -> None:
        if not self._is_ours(occurrence):
            return
        self._depth += 1
        if self._depth == 1:  # the outermost; what it calls is compiled inside it
            self._start = time.perf_counter()
            if not self._said:
                self._timer = threading.Timer(max(0.0, _ANNOUNCE_AFTER_S - self.spent_s), self._say)
                self._timer.daemon = True
                self._timer.start()

    def on_end(self, occurrence: Any) -> None:
        if not self._is_ours(occurrence):
            return
        self._depth -= 1
        if self._depth == 0:
            self.spent_s += time.perf_counter() - self._start
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _say(self) -> None:
        if not self._said:
            self._said = True
            kept = "kept for later runs" if cache_folder is not None else "not kept: no cache folder can be written"
            print(f"fastnet: compiling kernels for {target_cpu()} ({kept}) ...", file=sys.stderr, flush=True)


_announcer = _Announcer()
event.register("numba:compile", _announcer)


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling kernels; 0 where all came from the cache."""
    return _announcer.spent_s
