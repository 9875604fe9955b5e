"""The only place that knows Numba's flags, the compile cache and the CPU that is compiled for.

Imports nothing of the package. Every kernel is decorated with `jit`; nothing is compiled before the
first call.

Flags, and why:

- ``nogil``: a kernel touches no Python object, so other threads may run.
- ``error_model="numpy"``: division by zero gives inf, as in NumPy, and costs no branch.
- ``fastmath={"contract"}``: a multiplication and an addition may become one FMA. Nothing more:
  ``nnan`` or ``ninf`` would hide the NaN that tells a user of a diverged network, and ``reassoc``
  gives contiguous and strided arrays different bits.

The cache. Numba stamps a cached function with its own file only: after an edit of a helper in
another file, or an upgrade of the package, a cached caller goes on running the old code. Here the
cache lies in a folder named after a hash of all kernel sources, so that any change starts a new one.
"""

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, event
from numba.core.caching import FunctionCache
from numba.core.registry import CPUDispatcher, cpu_target
from numba.extending import intrinsic as _intrinsic

__all__ = [
    "COMPILES",
    "address",
    "by_address",
    "cache_folder",
    "call",
    "compile_seconds",
    "jit",
    "registers",
    "target_cpu",
    "target_features",
    "vector_bytes",
]

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_STALE_DAYS = 30
_ANNOUNCE_AFTER_S = 1.0


# ---------------------------------------------------------------------------------- the cache folder


def _source_hash(folder: Path) -> str:
    """Hash of the names and contents of every kernel source."""
    digest = hashlib.sha256()
    sources = sorted(folder.glob("*.py"))
    if not sources:  # in a zip file, say
        raise OSError(f"the kernels' sources cannot be read in {folder}")
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _user_cache_root() -> Path:
    """Where this platform keeps a user's caches, or ``NUMBA_CACHE_DIR`` where that is set."""
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastnet"


def _open_cache() -> Path | None:
    """Make the cache folder and prove that it can be written; None, with one warning, where it cannot."""
    folder = None
    try:
        folder = _user_cache_root() / f"fastnet-{_source_hash(Path(__file__).parent)}"
        new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        # Also the sign of life that _prune looks at.
        probe = folder / f"probe.{uuid.uuid4().hex[:8]}"
        probe.touch()
        probe.unlink()
        if new:
            _prune(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        warnings.warn(
            f"fastnet cannot write its compile cache ({error}); each process will compile its kernels anew. "
            "Set NUMBA_CACHE_DIR to a folder that can be written.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


def _prune(current: Path) -> None:
    """Delete the caches of other versions that no process has opened for a month.

    Not the younger ones: another environment may hold another version, and a process that is running
    must still be able to save what it compiles.
    """
    oldest = time.time() - _STALE_DAYS * 86400
    with contextlib.suppress(OSError):  # somebody else's folder, or another process is pruning too: no matter
        for folder in current.parent.glob("fastnet-" + "[0-9a-f]" * 16):
            if folder != current and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


COMPILES = not numba.config.DISABLE_JIT
"""False where ``NUMBA_DISABLE_JIT`` asks for plain Python, as coverage and debuggers do."""

cache_folder: Path | None = _open_cache()
"""Folder of this version's compiled kernels; None where nothing can be written."""


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    """Warn once for all kernels of whatever the first of them met."""
    kind = message.partition(":")[0]
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, safe for several processes, full disks and torn files.

    Numba numbers data files within a function: two processes that compile different signatures at the
    same time both take number 1, and the index of the one can end up beside the data of the other,
    which would later run float32 code on float64 arrays. A name drawn anew for every file rules that out;
    at worst an index entry is lost and compiled again.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        if cache_folder is None or cache_folder not in Path(self.cache_path).parents:
            # Numba's next choice is beside the source, where nothing tells versions apart.
            raise OSError(f"Numba would cache in {self.cache_path}")
        # Drawn when a file is saved, not here: children of a fork would share it.
        stem = self._impl.filename_base
        self._cache_file._data_name = lambda number: f"{stem}.{uuid.uuid4().hex}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a file cut short by a crash unpickles to anything; the kernel is compiled again
            with contextlib.suppress(OSError):
                self.flush()  # an index cut short would refuse every later save
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_once(f"fastnet could not save a compiled kernel: {error}")


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
            dispatcher._cache = _KernelCache(function)
        except Exception as error:  # a later Numba may keep its cache otherwise: slower starts, but right
            _warn_once(f"fastnet does not cache its compiled kernels: {error}")
        finally:
            numba.config.CACHE_DIR = users
    return dispatcher


# ------------------------------------------------------------------------- calls without linking
# Numba links whoever is called into the caller, optimizes all of it once more and emits it once more, at every level:
# the training loop compiled for 16 s. By address each kernel is compiled once, and only where it is needed.

_signatures: dict[Any, Callable[[Any], tuple[Any, ...]]] = {}


def by_address(signature: Callable[[Any], tuple[Any, ...]]) -> Callable[[F], F]:
    """Let a kernel that returns nothing be called by address.

    Parameters
    ----------
    signature : callable
        From Numba's float32 or float64 to the types of the arguments.
    """

    def note(function: F) -> F:
        _signatures[getattr(function, "py_func", function)] = signature
        return function

    return note


@functools.cache
def address(function: Callable[..., Any], dtype: Any) -> int:
    """Compile a kernel for a dtype, or take it from the cache; where its machine code is, for `call`.

    Good for as long as the process lives.
    """
    dispatcher: Any = function
    expected = _signatures[dispatcher.py_func](numba.from_dtype(dtype))
    dispatcher.compile(expected)
    result = dispatcher.overloads[expected]
    place: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return place


@_intrinsic  # type: ignore[untyped-decorator]
def call(typing_context: Any, function: Any, place: Any, dtype: Any, arguments: Any) -> Any:
    """``function(*arguments)`` by the address that `address` gave for that dtype."""
    expected = _signatures[function.dispatcher.py_func](dtype.dtype)

    def codegen(context: Any, builder: ir.IRBuilder, own: Any, values: Any) -> Any:
        given = cgutils.unpack_tuple(builder, values[3])
        given = [
            context.cast(builder, value, old, new)
            for value, old, new in zip(given, arguments.types, expected, strict=True)
        ]
        kind = context.call_conv.get_function_type(types.none, expected)
        code = builder.inttoptr(values[1], ir.PointerType(kind))
        status, _ = context.call_conv.call_function(builder, code, types.none, expected, given)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(function, types.intp, dtype, arguments), codegen


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
        return str(getattr(function, "__module__", "")).startswith(__package__)

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


# ------------------------------------------------------------------------------- the CPU compiled for


def _target() -> tuple[str, str, str]:
    """Numba's own answer (triple, CPU, features): the host, or what NUMBA_CPU_NAME and its like ask for."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return str(triple), str(cpu), str(features)


def target_cpu() -> str:
    """Name of the CPU that Numba compiles for."""
    return _target()[1]


def target_features() -> frozenset[str]:
    """Features of the CPU that Numba compiles for, such as "avx2"."""
    return frozenset(flag[1:] for flag in _target()[2].split(",") if flag.startswith("+"))


def vector_bytes() -> int:
    """Width in bytes of the widest vector register of the CPU compiled for: 64, 32 or 16."""
    features = target_features()
    if "avx512f" in features:
        return 64
    return 32 if "avx" in features else 16


def registers() -> int:
    """Count of vector registers of the CPU compiled for: 32 with AVX-512 and on ARM, else 16."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return 32 if arm or "avx512f" in target_features() else 16
