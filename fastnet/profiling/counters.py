"""Hardware counters of the calling thread, read with Linux' perf_event_open, where the system permits them.

Virtual machines often have none, containers may forbid the call, and other systems do not have it; `measure` then says
why there are none. Only events outside the kernel are counted.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Mapping

_SYSCALLS = {"x86_64": 298, "aarch64": 241}
_HARDWARE, _CACHE = 0, 3
_L1_READ_MISSES = 0 | 0 << 8 | 1 << 16

EVENTS = {
    "cycles": (_HARDWARE, 0),
    "instructions": (_HARDWARE, 1),
    "L1 misses": (_CACHE, _L1_READ_MISSES),
    "cache misses": (_HARDWARE, 3),
}
"""Type and number of each event. "cache misses" are L2 misses on AMD Zen, last-level misses on Intel CPUs."""

_ATTRIBUTE = struct.Struct("<IIQQQQQ16x")
_ATTRIBUTE_BYTES = 64  # size of the structure's first version, which every kernel accepts
_EXCLUDE_KERNEL_AND_HYPERVISOR = 1 << 5 | 1 << 6
_TIMES = 1 | 2  # also read how long an event was enabled, and how long it was counted
_RESULT = struct.Struct("<QQQ")


class NotPermittedError(OSError):
    """The system does not permit counting; the message says why."""


def measure(call: Callable[[], object], times: int = 10) -> dict[str, float]:
    """Count events while a function is called, and return the mean per call.

    Parameters
    ----------
    call : callable
        Called once before counting starts.
    times : int, default 10

    Returns
    -------
    dict of str to float
        Counts by key of `EVENTS`, for the events that this CPU counts.

    Raises
    ------
    NotPermittedError
        If the system does not permit counting.
    """
    call()
    files = _open()
    try:
        before = {name: os.read(file, _RESULT.size) for name, file in files.items()}
        for _ in range(times):
            call()
        after = {name: os.read(file, _RESULT.size) for name, file in files.items()}
    finally:
        for file in files.values():
            os.close(file)
    return {name: count / times for name in files if (count := difference(before[name], after[name])) is not None}


def difference(before: bytes, after: bytes) -> float | None:
    """Return the count between two readings, scaled if the event shared a counter; None if it never had one."""
    counted, wanted, had = (b - a for a, b in zip(_RESULT.unpack(before), _RESULT.unpack(after), strict=True))
    return counted * wanted / had if had else None


def describe(counts: Mapping[str, float]) -> str:
    """Describe the counts of a call in a phrase."""
    parts = [f"{counts[name]:.3g} {name}" for name in EVENTS if name in counts]
    if counts.get("cycles") and "instructions" in counts:
        parts.append(f"{counts['instructions'] / counts['cycles']:.2f} instructions a cycle")
    return ", ".join(parts)


def _open() -> dict[str, int]:
    """Open a file for each event that can be counted."""
    number = _SYSCALLS.get(platform.machine())
    if sys.platform != "linux" or number is None:
        raise NotPermittedError(
            f"no hardware counters on {platform.platform()}: they are read on Linux (x86-64, ARM64)"
        )
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    files, error = {}, 0
    for name, (kind, event) in EVENTS.items():
        attribute = _ATTRIBUTE.pack(kind, _ATTRIBUTE_BYTES, event, 0, 0, _TIMES, _EXCLUDE_KERNEL_AND_HYPERVISOR)
        # Counts this thread on any CPU, without a group; child processes close the file.
        file = syscall(ctypes.c_long(number), ctypes.c_char_p(attribute), 0, -1, -1, ctypes.c_ulong(8))
        if file >= 0:
            files[name] = file
        else:
            error = ctypes.get_errno()
    if not files:
        hint = "virtual machines often have none"
        if error in (errno.EACCES, errno.EPERM):
            hint = "containers, or a value above 2 in /proc/sys/kernel/perf_event_paranoid, forbid them"
        raise NotPermittedError(f"no hardware counters here: {os.strerror(error).lower()}; {hint}")
    return files
