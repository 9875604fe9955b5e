"""The compile cache: one folder of compiled kernels for each version of the kernels' sources.

Numba invalidates a cached function by the time stamp of its own file only: after an edit of a helper in another file,
or an upgrade of the package, a cached caller would still run the old code. Here the cache folder is named after a hash
of all kernel sources, including sub-packages, so that any change starts a new folder.

Within the folder the key is Numba's (signature, CPU and features) plus the CPU's cache sizes, since compiled code
contains block sizes derived from them: machines that share a folder but have different caches compile their own.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import time
import uuid
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from .machine import MACHINE
from .numba_internals import LoadingCache, NullCache, cpu_target

_STALE_DAYS = 30


# ------------------------------------------------------------------------------------ the cache folder


def _source_hash(folder: Path) -> str:
    """Hash the relative path and the contents of every source file in a folder and its sub-folders."""
    digest = hashlib.sha256()
    sources = sorted(folder.rglob("*.py"))
    if not sources:  # in a zip file, say
        raise OSError(f"the kernels' sources cannot be read in {folder}")
    for path in sources:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _user_cache_root() -> Path:
    """Return ``NUMBA_CACHE_DIR`` if that is set, otherwise fastnet's folder in the platform's user cache directory."""
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastnet"


def _refuse_shared(folder: Path) -> None:
    """Raise PermissionError if another user could put files into a folder: Numba's are pickles, which run code."""
    if os.name != "posix":
        return
    found, above = folder.stat(), folder.parent.stat()
    reason = ""
    if found.st_uid != os.getuid():
        reason = f"belongs to user {found.st_uid}, not to user {os.getuid()}, whose process this is"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"can be written by others (its mode is {stat.S_IMODE(found.st_mode):o})"
    elif above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        reason = f"can be replaced by others (the mode of {folder.parent} is {stat.S_IMODE(above.st_mode):o})"
    if reason:
        raise PermissionError(f"{folder} {reason}, and a compiled kernel put there would run as this user")


def _open_cache() -> Path | None:
    """Create the cache folder and check that only this user can write it; otherwise warn and return None."""
    folder = None
    try:
        folder = _user_cache_root() / f"fastnet-{_source_hash(Path(__file__).parents[1])}"
        new = not folder.is_dir()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _refuse_shared(folder)
        # This also renews the folder's modification time, which _prune reads.
        probe = folder / f"probe.{uuid.uuid4().hex[:8]}"
        probe.touch()
        probe.unlink()
        if new:
            _prune(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        warnings.warn(
            f"fastnet cannot use its compile cache ({error}); each process will compile its kernels anew. "
            "Set NUMBA_CACHE_DIR to a folder that you, and nobody else, can write.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


def _prune(current: Path) -> None:
    """Delete the caches of other versions that no process has opened for a month.

    Younger ones stay: another environment may have another version installed, and a running process must be able to
    save what it compiles.
    """
    oldest = time.time() - _STALE_DAYS * 86400
    with contextlib.suppress(OSError):  # the folder is another user's, or another process prunes it too
        for folder in current.parent.glob("fastnet-" + "[0-9a-f]" * 16):
            if folder != current and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


cache_folder: Path | None = _open_cache()
"""Folder of this version's compiled kernels; None if it cannot be written."""

# ------------------------------------------------------------------------------------- cached functions


class KernelLocator:
    """Tells Numba where to put a kernel's files.

    Numba's own locators read ``config.CACHE_DIR``. That setting belongs to the user and applies to the whole process,
    so it must not be changed: a function of theirs that is decorated meanwhile would be cached here.
    """

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        assert cache_folder is not None
        self._py_file = path  # Numba names it in warnings
        self._line = function.__code__.co_firstlineno
        source = Path(path).resolve().parent
        self._folder = cache_folder / f"{source.name}_{hashlib.sha256(bytes(source)).hexdigest()[:16]}"

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> "KernelLocator":
        """Return the locator of a function that a file defines."""
        found = cls(function, path)
        found.ensure_cache_path()
        return found

    def ensure_cache_path(self) -> None:
        """Create the folder; Numba calls this before it saves a function."""
        assert cache_folder is not None
        # It may have been deleted since. With the umask's mode others might be able to write it: it would be refused.
        cache_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(exist_ok=True)

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return a hash of the function's file: the folder's name covers only files of this package."""
        return hashlib.sha256(Path(self._py_file).read_bytes()).hexdigest()

    def get_disambiguator(self) -> str:
        """Return a string that distinguishes functions of the same name in one file."""
        return str(self._line)


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Issue a RuntimeWarning, unless one with the same text up to the first colon has already been issued."""
    kind = message.partition(":")[0]
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _sealed(pickled: bytes) -> bytes:
    """Append a CRC-32 to a pickle; unpickling stops before it."""
    return pickled + zlib.crc32(pickled).to_bytes(4, "little")


def _whole(path: str) -> str:
    """Return the path; raise ValueError if its file is damaged, since it holds a pickle and machine code to execute."""
    content = memoryview(Path(path).read_bytes())
    if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
        raise ValueError(f"{path} is damaged")
    return path


class SafeCache:
    """Mixin, put before a Numba cache class, that copes with several processes, full disks and damaged files.

    Numba numbers the data files of a function. Two processes that compile different signatures at the same time both
    take number 1, and the index of one can end up with the data of the other, which would later run float32 code on
    float64 arrays. A random name for every file rules that out; at worst an index entry is lost and its function is
    compiled again. Data files end with a checksum, since damaged machine code would be executed.

    Raises
    ------
    OSError
        If the folder cannot be written, or NUMBA_CACHE_LOCATOR_CLASSES names another.
    """

    _impl: Any
    _impl_class: Any
    _cache_file: Any
    cache_path: Any
    flush: Any

    def __init__(self, function: Callable[..., Any]) -> None:
        self._impl_class = type("KernelCacheFiles", (self._impl_class,), {"_locator_classes": [KernelLocator]})
        super().__init__(function)  # type: ignore[call-arg]
        if cache_folder is None or cache_folder not in Path(self.cache_path).parents:
            raise OSError(f"Numba would cache in {self.cache_path}")
        # Draw the name when a file is saved: forked children would share one that is drawn here.
        stem, file = self._impl.filename_base, self._cache_file
        file._data_name = lambda number: f"{stem}.{uuid.uuid4().hex}.nbc"
        dump, load = file._dump, file._load_data
        file._dump = lambda content: _sealed(dump(content))
        file._load_data = lambda name: load(_whole(file._data_path(name)))

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Identify a compiled function by its signature, its target and the target's cache sizes.

        Numba adds a hash of the function's code and closure. Here the folder's name covers the code; and the functions
        in a closure are pickled with an identity of the process, so every process would compile kernels made by a
        factory again. A factory must give each kernel a unique ``__qualname__``, which names its cache file.
        """
        return sig, codegen.magic_tuple(), MACHINE.cache_key

    def holds(self, sig: Any, target_context: Any = None) -> bool:
        """Return whether the index lists a compiled function of this signature; by default for the target CPU."""
        try:
            context = cpu_target.target_context if target_context is None else target_context
            return self._index_key(sig, context.codegen()) in self._cache_file._load_index()
        except Exception:  # as in `load_overload`
            return False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load a compiled function; return None if there is none that can be read. Raises MemoryError."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[misc]
        except Exception as error:  # a damaged index may unpickle to anything, or request any amount of memory
            if isinstance(error, MemoryError) and self.holds(sig, target_context):
                raise  # the index and the file are sound, so memory is short, and compiling would take more
            with contextlib.suppress(OSError):
                self.flush()  # a damaged index would make every later save fail
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a compiled function; warn once if that fails."""
        try:
            super().save_overload(sig, data)  # type: ignore[misc]
        except Exception as error:
            warn_once(f"fastnet could not save a compiled kernel: {error}")


class KernelCache(SafeCache, LoadingCache):
    """The cache of a CPU kernel."""


def new_cache(function: Callable[..., Any], kind: Callable[[Any], Any] = KernelCache) -> Any:
    """Return the cache of a function in the cache folder, or one that keeps nothing if there is no such folder.

    Parameters
    ----------
    function : callable
        Its ``__qualname__`` names its cache file.
    kind : type, default KernelCache
        A subclass of SafeCache for this kind of dispatcher.
    """
    if cache_folder is None:
        return NullCache()
    try:
        return kind(function)
    except Exception as error:  # a later Numba may organise its cache differently: starts are slower, but correct
        warn_once(f"fastnet does not cache its compiled kernels: {error}")
        return NullCache()


def keeps(dispatcher: Any) -> bool:
    """Return whether a dispatcher saves compiled functions for other processes."""
    return isinstance(getattr(dispatcher, "_cache", None), SafeCache)


def is_compiled(dispatcher: Any, signature: tuple[Any, ...]) -> bool:
    """Return whether a dispatcher has compiled a signature, in this process or in its cache."""
    cache = getattr(dispatcher, "_cache", None)
    return signature in dispatcher.overloads or (isinstance(cache, KernelCache) and cache.holds(signature))
