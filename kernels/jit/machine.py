"""A model of the machine: vector registers, caches and how cores share them, cache lines and pages.

Block sizes derive from it (cpu/gemm/blocking.py). If the system reveals nothing, typical sizes are assumed: kernels are
then possibly slower, but just as correct.
"""

import contextlib
import ctypes
import mmap
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numba

from .quota import read_text
from .target import IS_ARM, registers, target_features, vector_bytes

VARIABLE = "FASTNET_CACHES"
"""Environment variable that states the caches, for a machine that reports none or wrong ones."""

MOST_L3_BYTES = 4 << 20
"""Most of a core's share of L3 that blocks use: more gains nothing, and the reported number of sharers is often wrong.
"""

LEAST_L1 = 4 << 10
"""The smallest L1 that can be stated."""

_SYSTEM = Path("/")


class Cache(NamedTuple):
    """A data cache.

    Attributes
    ----------
    nbytes : int
        Its size; 0 if there is no such cache.
    cpus : int
        Number of logical CPUs that share it.
    line : int
        Bytes of a cache line.
    ways : int
        Lines in a set; 0 if unknown.
    """

    nbytes: int
    cpus: int = 1
    line: int = 64
    ways: int = 0

    def __str__(self) -> str:
        kib = self.nbytes / 1024
        size = f"{kib:g} KiB" if kib < 1024 else f"{kib / 1024:g} MiB"
        return size if self.cpus == 1 else f"{size} of {self.cpus} CPUs"


NO_CACHE = Cache(0)


class Machine(NamedTuple):
    """The properties from which block sizes derive.

    Attributes
    ----------
    isa : str
        The vector instruction set of the target.
    vector_bytes, registers : int
        Width and number of the vector registers.
    caches : tuple of Cache
        L1 (data), L2 and L3 of a fast core.
    page : int
        Bytes of a memory page.
    source : str
        The source of the cache sizes.
    """

    isa: str
    vector_bytes: int
    registers: int
    caches: tuple[Cache, Cache, Cache]
    page: int
    source: str

    def cores(self, level: int) -> int:
        """Return how many cores share the cache of a level, 1 to 3; the CPUs that share an L1 count as one core."""
        return max(1, self.caches[level - 1].cpus // self.caches[0].cpus)

    def share(self, level: int) -> int:
        """Return a core's share, in bytes, of the cache of a level."""
        return self.caches[level - 1].nbytes // self.cores(level)

    @property
    def line(self) -> int:
        """Bytes of a cache line."""
        return self.caches[0].line

    @property
    def way(self) -> int:
        """Addresses that differ by a multiple of this many bytes share a set of L1.

        A page, or a quarter of a small L1, if the system does not report the ways; always a power of two.
        """
        l1 = self.caches[0]
        way = l1.nbytes // l1.ways if l1.ways else min(self.page, l1.nbytes // 4)
        return 1 << (max(way, self.line).bit_length() - 1)

    @property
    def cache_key(self) -> tuple[int, ...]:
        """What compiled code depends on besides the CPU's name and features.

        Empty if the environment names the CPU, but not its caches: who compiles for other machines thereby declares
        that they are alike.
        """
        if numba.config.CPU_NAME and VARIABLE not in self.source:
            return ()
        return self.share(1), self.share(2), min(self.share(3), MOST_L3_BYTES), self.line, self.way

    def __str__(self) -> str:
        """The caches, in one line."""
        levels = [f"L{level} {cache}" for level, cache in enumerate(self.caches, 1) if cache.nbytes]
        return f"{', '.join(levels)}; lines of {self.line} bytes; {self.source}"


# --------------------------------------------------------------------------------------------- the readers


def linux_caches(system: Path = _SYSTEM) -> tuple[Cache, ...]:
    """Return the caches that Linux reports, L1 first, of the first or last CPU: one of these may be a slow core.

    Parameters
    ----------
    system : Path
        The folder that contains ``sys``; tests pass another one.
    """
    cpus = system / "sys/devices/system/cpu"
    last = read_text(cpus / "present").strip().replace("-", ",").rpartition(",")[2]
    found = [_caches_of(cpus / f"cpu{cpu}/cache") for cpu in dict.fromkeys(("0", last or "0"))]
    return max(found, key=lambda caches: [cache.nbytes for cache in caches])


def _caches_of(folder: Path) -> tuple[Cache, ...]:
    """Return the caches of a CPU; empty if its L1 is not described."""
    found = {}
    for index in range(8):  # including instruction caches
        kind = read_text(folder / f"index{index}/type").strip()
        if kind in ("Data", "Unified"):
            names = "level", "size", "shared_cpu_list", "coherency_line_size", "ways_of_associativity"
            level, size, shared, line, ways = (read_text(folder / f"index{index}/{name}").strip() for name in names)
            with contextlib.suppress(ValueError):  # unknown format: skip this cache
                found[int(level)] = Cache(_bytes(size), _count(shared), _line(int(line or 0)), int(ways or 0))
    return tuple(found.get(level, NO_CACHE) for level in (1, 2, 3)) if 1 in found else ()


def _line(nbytes: int) -> int:
    """Return the bytes of a cache line, or 64 if that is not a power of two from 64 on: masks find a line's start."""
    return nbytes if nbytes >= 64 and nbytes & (nbytes - 1) == 0 else 64


def _bytes(text: str) -> int:
    """Return the bytes of a size such as "512K"."""
    units = {"K": 10, "M": 20}
    return int(text[:-1]) << units[text[-1]] if text[-1:] in units else int(text)


def _count(cpus: str) -> int:
    """Count the CPUs of a list such as "0-3,8-11", at least 1."""
    ranges = [part.split("-") for part in cpus.split(",") if part]
    return max(1, sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges))


def macos_caches(sysctl: Callable[[str], int]) -> tuple[Cache, ...]:
    """Return the caches that macOS reports, those of the fast cores if there are two kinds.

    Parameters
    ----------
    sysctl : callable
        Maps a name to its number, 0 if there is none.
    """
    l1, l2 = (sysctl(f"hw.perflevel0.{name}") or sysctl(f"hw.{name}") for name in ("l1dcachesize", "l2cachesize"))
    line = _line(sysctl("hw.cachelinesize"))
    shared = Cache(sysctl("hw.l3cachesize"), sysctl("hw.physicalcpu") or 1, line)
    return (Cache(l1, 1, line), Cache(l2, sysctl("hw.perflevel0.cpusperl2") or 1, line), shared) if l1 else ()


def sysctl_number(name: str) -> int:
    """Return the number that macOS reports under a name, 0 if there is none."""
    value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value


GLIBC_NUMBERS = {
    "1_DCACHE_SIZE": 188,
    "1_DCACHE_ASSOC": 189,
    "1_DCACHE_LINESIZE": 190,
    "2_CACHE_SIZE": 191,
    "3_CACHE_SIZE": 194,
}
"""glibc's sysconf numbers for caches (bits/confname.h), for which Python has no names."""


def c_library_caches(sysconf: Callable[[str], int]) -> tuple[Cache, ...]:
    """Return the caches that glibc reports, for containers and sandboxes without ``/sys``.

    glibc does not report who shares them: L2 is assumed to belong to one core, L3 to all CPUs. ``sysconf`` maps names
    to numbers, as for `macos_caches`.
    """
    names = "1_DCACHE_LINESIZE", "1_DCACHE_ASSOC", "1_DCACHE_SIZE", "2_CACHE_SIZE", "3_CACHE_SIZE"
    line, ways, l1, l2, l3 = map(sysconf, names)
    line = _line(line)
    return (Cache(l1, 1, line, ways), Cache(l2, 1, line), Cache(l3, os.cpu_count() or 1, line)) if l1 else ()


def sysconf_number(name: str) -> int:
    """Return the value of one of GLIBC_NUMBERS; 0 if glibc does not know it, or with another C library."""
    if platform.libc_ver()[0] != "glibc":
        return 0
    try:
        return max(0, os.sysconf(GLIBC_NUMBERS[name]))
    except (AttributeError, ValueError, OSError):
        return 0


def stated_caches(text: str) -> tuple[Cache, ...]:
    """Return the caches that FASTNET_CACHES states, such as "128K,3M,0,128"; none if it is empty.

    Raises
    ------
    ValueError
        If its format is wrong, or L1 or L2 is missing.
    """
    if not text:
        return ()
    try:
        sizes = [*map(_bytes, text.split(","))]
        l1, l2, l3, line = sizes if len(sizes) == 4 else (*sizes, 64)
        if l1 >= LEAST_L1 and l2 > 0 <= l3 and line == _line(line):
            return tuple(Cache(nbytes, 1, line) for nbytes in (l1, l2, l3))
    except ValueError:
        pass
    raise ValueError(
        f"{VARIABLE} is {text!r}; expected a core's shares of L1, L2 and L3, and optionally the bytes of a cache line, "
        "such as 32K,512K,4M or 128K,3M,0,128; L1 of 4K or more, a line of 64 bytes or a larger power of two"
    )


def assumed_caches() -> tuple[Cache, Cache, Cache]:
    """Return the caches assumed for a machine that reports none: common sizes of CPUs with the same vectors."""
    l1, l2 = (64, 1024) if IS_ARM else (32, 1024 if registers() == 32 else 512)
    return Cache(l1 << 10), Cache(l2 << 10), Cache(16 << 20, 4)


def _isa() -> str:
    """Name the vector instruction set of the target."""
    if IS_ARM:
        return "NEON"
    named = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sse2": "SSE2"}
    return next((name for feature, name in named.items() if feature in target_features()), "none")


def look(
    system: Path = _SYSTEM,
    system_name: str = sys.platform,
    sysctl: Callable[[str], int] = sysctl_number,
    sysconf: Callable[[str], int] = sysconf_number,
) -> Machine:
    """Describe this machine; the first source that reports caches is used. Tests pass another system's parameters."""
    readers: tuple[tuple[str, Callable[[], tuple[Cache, ...]]], ...] = (
        (f"stated by {VARIABLE}", lambda: stated_caches(os.environ.get(VARIABLE, ""))),
        ("read from /sys", lambda: linux_caches(system) if system_name == "linux" else ()),
        ("read by sysctl", lambda: macos_caches(sysctl) if system_name == "darwin" else ()),
        ("read by sysconf", lambda: c_library_caches(sysconf)),
        ("assumed, since the system does not tell", assumed_caches),
    )
    source, (l1, l2, l3) = next((source, caches) for source, reader in readers if (caches := reader()))
    return Machine(
        _isa(), vector_bytes(), registers(), (l1, l2 if l2.nbytes else assumed_caches()[1], l3), mmap.PAGESIZE, source
    )


MACHINE = look()
"""This machine, as seen at import."""
