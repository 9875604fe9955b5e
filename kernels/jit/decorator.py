"""The `jit` decorator and the only place that sets Numba's flags.

Every kernel is decorated with `jit`; none is compiled before its first call.

Flags, and why:

- ``nogil``: a kernel touches no Python object, so other threads may run.
- ``error_model="numpy"``: division by zero gives inf, as in NumPy, and costs no branch.
- ``fastmath={"contract"}``: a multiplication and an addition may become one FMA. No other flag is set:
  ``nnan`` or ``ninf`` would hide the NaN that reveals a diverged network, and ``reassoc`` gives
  contiguous and strided arrays different bits.
- ``no_cfunc_wrapper``: no kernel is called through Numba's C wrapper, so none is compiled.
- ``pipeline_class``: fewer passes, and no machine code for functions that are only linked into callers.
"""

from collections.abc import Callable
from typing import Any, TypeVar, overload

import numba

from . import perf_map
from .announcer import listen
from .cache import new_cache
from .numba_internals import CPUDispatcher, KernelCompiler, NullCache, addressed
from .target import COMPILES

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract"},
    "no_cfunc_wrapper": True,
    "pipeline_class": KernelCompiler,
}

listen()
if perf_map.WANTED and COMPILES:
    perf_map.listen()


@overload
def jit(function: F, /) -> F: ...
@overload
def jit(*, inline: bool = False, internal: bool = False, scalar: bool = False) -> Callable[[F], F]: ...
def jit(
    function: F | None = None, /, *, inline: bool = False, internal: bool = False, scalar: bool = False
) -> F | Callable[[F], F]:
    """Compile a kernel at its first call, with the flags of this module, and cache it on disk.

    Parameters
    ----------
    function : callable
        Python function over arrays and scalars.
    inline : bool, default False
        Inline the function into its callers before type inference.
    internal : bool, default False
        Only compiled code calls the function: no entry from Python is compiled, and a call from Python raises
        TypeError.
    scalar : bool, default False
        The function is a few instructions on numbers, which LLVM inlines into loops so that it can vectorise them. It
        is internal and compiled once for all callers, whereas ``inline`` costs Numba 0.1 s in each.

    Returns
    -------
    callable
        Numba's dispatcher; with ``NUMBA_DISABLE_JIT=1`` the function itself.
    """
    if function is None:
        return lambda f: _compile_lazily(f, inline, internal, scalar)
    return _compile_lazily(function, False, False, False)


class _KernelDispatcher(CPUDispatcher):  # type: ignore[misc]
    """Dispatcher that opens its cache when it first compiles: opening those of all kernels at import takes 0.1 s."""

    @property
    def _cache(self) -> Any:
        if "_kernel_cache" not in self.__dict__:
            self.__dict__["_kernel_cache"] = new_cache(self.py_func)
        return self.__dict__["_kernel_cache"]

    @_cache.setter
    def _cache(self, cache: Any) -> None:
        """Ignore the cache that Numba makes."""

    def add_overload(self, compiled: Any) -> None:
        """Add a function that was compiled or loaded, and name it for perf if that is wanted."""
        super().add_overload(compiled)
        if perf_map.WANTED:
            perf_map.write()


class _InternalDispatcher(_KernelDispatcher):
    """Dispatcher of a kernel without an entry from Python: unchecked, a call from Python would crash the process.

    Kernels that are only linked into callers are not cached: their callers are, together with all that they link.
    """

    @property
    def _cache(self) -> Any:
        return super()._cache if self.py_func in addressed else NullCache()

    @_cache.setter
    def _cache(self, cache: Any) -> None:
        """Ignore the cache that Numba makes."""

    def add_overload(self, compiled: Any) -> None:
        """Add a function that was compiled or loaded; one that is only linked has no entry for Numba to register."""
        if self.py_func in addressed:
            super().add_overload(compiled)
        else:
            self.overloads[tuple(compiled.signature.args)] = compiled

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} has no entry from Python; only compiled code can call it")


def _compile_lazily(function: F, inline: bool, internal: bool, scalar: bool) -> F:
    entries = {"no_cpython_wrapper": True} if internal or scalar else {}
    flags = {"inline": "always" if inline else "never", "forceinline": scalar, **entries, **_FLAGS}
    dispatcher: Any = numba.njit(**flags)(function)
    if COMPILES:
        dispatcher.__class__ = _InternalDispatcher if entries else _KernelDispatcher
    return dispatcher
