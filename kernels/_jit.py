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
import hashlib
import os
import platform
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import llvmlite.binding as llvm
import numba
from numba.core import event
from numba.core.caching import FunctionCache

__all__ = [
    "COMPILES",
    "cache_folder",
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
    for path in sorted(folder.glob("*.py")):
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
    for folder in current.parent.glob("fastnet-" + "[0-9a-f]" * 16):
        if folder != current and folder.stat().st_mtime < oldest:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            folder.rmdir()


COMPILES = not numba.config.DISABLE_JIT
"""False where ``NUMBA_DISABLE_JIT`` asks for plain Python, as coverage and debuggers do."""

cache_folder: Path | None = _open_cache()
"""Folder of this version's compiled kernels; None where nothing can be written."""


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, safe for several processes, full disks and torn files.

    Numba numbers data files within a function: two processes that compile different signatures at the
    same time both take number 1, and the index of the one can end up beside the data of the other,
    which would later run float32 code on float64 arrays. Names unique to the process rule that out; at
    worst an index entry is lost and compiled again.
    """

    _failed = False  # said once for all kernels

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        names = self._cache_file
        names._data_name_pattern = names._data_name_pattern.replace("{number", f"{uuid.uuid4().hex[:8]}-{{number")

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
        except OSError as error:
            if not _KernelCache._failed:
                _KernelCache._failed = True
                warnings.warn(f"fastnet could not save a compiled kernel: {error}", RuntimeWarning, stacklevel=2)


# -------------------------------------------------------------------------------------- the decorator


@overload
def jit(function: F, /) -> F: ...
@overload
def jit(*, parallel: bool = False, inline: bool = False, internal: bool = False) -> Callable[[F], F]: ...
def jit(
    function: F | None = None, /, *, parallel: bool = False, inline: bool = False, internal: bool = False
) -> F | Callable[[F], F]:
    """Compile a kernel at its first call, with the house's flags, and cache it on disk.

    Parameters
    ----------
    function : callable
        Python function over arrays and scalars.
    parallel : bool, default False
        Let ``numba.prange`` use threads.
    inline : bool, default False
        Paste the function into its callers before types are inferred.
    internal : bool, default False
        Only compiled code calls it: no entry from Python is compiled.

    Returns
    -------
    callable
        Numba's dispatcher; with ``NUMBA_DISABLE_JIT=1`` the function itself.
    """
    if function is None:
        return lambda f: _compile_lazily(f, parallel, inline, internal)
    return _compile_lazily(function, False, False, False)


def _compile_lazily(function: F, parallel: bool, inline: bool, internal: bool) -> F:
    entries = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True} if internal else {}
    flags = {"parallel": parallel, "inline": "always" if inline else "never", **entries, **_FLAGS}
    dispatcher: Any = numba.njit(**flags)(function)
    if cache_folder is not None and COMPILES:
        # CACHE_DIR is one setting for the whole process: lent for this line, then given back, so that
        # the user's own cache=True functions stay where the user put them.
        users, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(cache_folder)
        try:
            dispatcher._cache = _KernelCache(function)
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


def target_cpu() -> str:
    """Name of the CPU that Numba compiles for: the host's, or ``NUMBA_CPU_NAME``."""
    return str(numba.config.CPU_NAME or llvm.get_host_cpu_name())


def target_features() -> frozenset[str]:
    """Features of the CPU that Numba compiles for: the host's, or ``NUMBA_CPU_FEATURES``."""
    if numba.config.CPU_FEATURES is not None:
        flags = str(numba.config.CPU_FEATURES).split(",")
        return frozenset(flag[1:] for flag in flags if flag.startswith("+"))
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


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
