"""Names compiled kernels for Linux perf: with ``FASTNET_PERF_MAP=1`` it writes /tmp/perf-PID.map.

Each line holds the address and the size of a function in hexadecimal, and its name. perf reads a process's file when it
meets an address that belongs to no file on disk. A line is written as soon as the function can be called.
"""

import os
import sys
from typing import Any

from .numba_internals import jit_engine, wrap_object_cache
from .symbols import demangle, function_sizes

WANTED = os.environ.get("FASTNET_PERF_MAP", "") not in ("", "0") and sys.platform == "linux"

_pending: dict[str, int] = {}
_lines: list[str] = []
_written = 0


def path() -> str:
    """Return the path at which perf expects this process's file."""
    return f"/tmp/perf-{os.getpid()}.map"


def listen() -> None:
    """Record from now on which functions Numba passes to LLVM's linker; `write` writes their names."""
    wrap_object_cache(lambda code: _pending.update(function_sizes(code)))
    os.register_at_fork(after_in_child=_begin_anew)


def write() -> None:
    """Write the functions that have been compiled, or loaded from the cache, since the last call."""
    global _written
    engine: Any = jit_engine()
    for symbol, size in list(_pending.items()):
        if address := engine.get_function_address(symbol):
            line = f"{address:x} {size:x} {demangle(symbol)}\n"
            if line not in _lines:  # a function that several modules contain is linked only once
                _lines.append(line)
            del _pending[symbol]
    if _written == len(_lines):
        return
    # Follow no link that somebody else has put there, and truncate the file of an earlier process with this PID; but
    # append to what Python itself writes there with -X perf.
    keep = _written or getattr(sys, "is_stack_trampoline_active", bool)()
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if keep else os.O_TRUNC)
    with open(os.open(path(), flags, 0o600), "w") as file:
        file.writelines(_lines[_written:])
    _written = len(_lines)


def _begin_anew() -> None:
    """Write all kernels again in a forked child, which has the same kernels but a file of its own."""
    global _written
    _written = 0
    write()
