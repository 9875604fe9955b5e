"""A model of the machine: vector registers, caches and who shares them, cache lines and pages.

The sizes of blocks follow from it (cpu/gemm/blocking.py). Where the system tells nothing, typical sizes are assumed:
kernels then are as correct, and at most slower.
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
"""Environment variable that states the caches, for a machine that says nothing or something wrong."""

MOST_L3_BYTES = 4 << 20
"""A core's share of L3 that blocks make use of: larger ones gain nothing, and how many share it is often wrong."""

LEAST_L1 = 4 << 10
"""The smallest L1 that can be stated."""

_SYSTEM = Path("/")


class Cache(NamedTuple):
    """A cache of data.

    Attributes
    ----------
    nbytes : int
        Its size; 0: there is no such cache.
    cpus : int
        Logical CPUs that share it.
    line : int
        Bytes of a cache line.
    ways : int
        Lines in a set; 0: unknown.
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
    """What the sizes of blocks follow from.

    Attributes
    ----------
    isa : str
        The vector instructions compiled for.
    vector_bytes, registers : int
        Width and number of the vector registers.
    caches : tuple of Cache
        L1 (of data), L2 and L3 of a fast core.
    page : int
        Bytes of a page of memory.
    source : str
        Where the caches' sizes come from.
    """

    isa: str
    vector_bytes: int
    registers: int
    caches: tuple[Cache, Cache, Cache]
    page: int
    source: str

    def cores(self, level: int) -> int:
        """Return how many cores share the cache of a level from 1 to 3: those of L1 are one core's hardware threads."""
        return max(1, self.caches[level - 1].cpus // self.caches[0].cpus)

    def share(self, level: int) -> int:
        """Return a core's share in bytes of the cache of a level."""
        return self.caches[level - 1].nbytes // self.cores(level)

    @property
    def line(self) -> int:
        """Bytes of a cache line."""
        return self.caches[0].line

    @property
    def way(self) -> int:
        """Addresses a multiple of this many bytes apart share a set of L1.

        A page, or a quarter of a small L1, unless the system tells the ways; always a power of two.
        """
        l1 = self.caches[0]
        way = l1.nbytes // l1.ways if l1.ways else min(self.page, l1.nbytes // 4)
        return 1 << (max(way, self.line).bit_length() - 1)

    @property
    def cache_key(self) -> tuple[int, ...]:
        """What compiled code takes from this model beside the CPU's name and features.

        Nothing where the environment names the CPU: who compiles for others says that they are alike.
        """
        if numba.config.CPU_NAME and VARIABLE not in self.source:
            return ()
        return self.share(1), self.share(2), min(self.share(3), MOST_L3_BYTES), self.line, self.way

    def __str__(self) -> str:
        """The caches, in a line."""
        levels = [f"L{level} {cache}" for level, cache in enumerate(self.caches, 1) if cache.nbytes]
        return f"{', '.join(levels)}; lines of {self.line} bytes; {self.source}"


# --------------------------------------------------------------------------------------------- the readers


def linux_caches(system: Path = _SYSTEM) -> tuple[Cache, ...]:
    """Return the caches that Linux describes, L1 first, of the first or the last CPU: one of them may be a slow core.

    Parameters
    ----------
    system : Path
        Where ``sys`` is: another folder in tests.
    """
    cpus = system / "sys/devices/system/cpu"
    last = read_text(cpus / "present").strip().replace("-", ",").rpartition(",")[2]
    found = [_caches_of(cpus / f"cpu{cpu}/cache") for cpu in dict.fromkeys(("0", last or "0"))]
    return max(found, key=lambda caches: [cache.nbytes for cache in caches])


def _caches_of(folder: Path) -> tuple[Cache, ...]:
    """Return the caches of a CPU; none where its L1 is not described."""
    found = {}
    for index in range(8):  # those of instructions among them
        kind = read_text(folder / f"index{index}/type").strip()
        if kind in ("Data", "Unified"):
            names = "level", "size", "shared_cpu_list", "coherency_line_size", "ways_of_associativity"
            level, size, shared, line, ways = (read_text(folder / f"index{index}/{name}").strip() for name in names)
            with contextlib.suppress(ValueError):  # in another format: left out
                found[int(level)] = Cache(_bytes(size), _count(shared), _line(int(line or 0)), int(ways or 0))
    return tuple(found.get(level, NO_CACHE) for level in (1, 2, 3)) if 1 in found else ()


def _line(nbytes: int) -> int:
    """Return the bytes of a cache line, or 64 where kernels know no such: masks find where a line begins."""
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
    """Return the caches that macOS describes, of Apple's fast cores where there are two kinds.

    Parameters
    ----------
    sysctl : callable
        Gives the number of a name, 0 where there is none.
    """
    l1, l2 = (sysctl(f"hw.perflevel0.{name}") or sysctl(f"hw.{name}") for name in ("l1dcachesize", "l2cachesize"))
    line = _line(sysctl("hw.cachelinesize"))
    shared = Cache(sysctl("hw.l3cachesize"), sysctl("hw.physicalcpu") or 1, line)
    return (Cache(l1, 1, line), Cache(l2, sysctl("hw.perflevel0.cpusperl2") or 1, line), shared) if l1 else ()


def sysctl_number(name: str) -> int:
    """Return a number by which macOS describes the machine, 0 where there is none of this name."""
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
"""glibc's numbers of what it knows of caches (its bits/confname.h): Python has no names for them."""


def c_library_caches(sysconf: Callable[[str], int]) -> tuple[Cache, ...]:
    """Return the caches that glibc tells, which asks the CPU itself: for containers and sandboxes without ``/sys``.

    It does not tell who shares them: L2 is taken for one core's, L3 for all CPUs'. ``sysconf`` is as `macos_caches`
    takes it.
    """
    names = "1_DCACHE_LINESIZE", "1_DCACHE_ASSOC", "1_DCACHE_SIZE", "2_CACHE_SIZE", "3_CACHE_SIZE"
    line, ways, l1, l2, l3 = map(sysconf, names)
    line = _line(line)
    return (Cache(l1, 1, line, ways), Cache(l2, 1, line), Cache(l3, os.cpu_count() or 1, line)) if l1 else ()


def sysconf_number(name: str) -> int:
    """Return a number that glibc knows, one of GLIBC_NUMBERS; 0 where it does not, and of another C library."""
    if platform.libc_ver()[0] != "glibc":
        return 0
    try:
        return max(0, os.sysconf(GLIBC_NUMBERS[name]))
    except (AttributeError, ValueError, OSError):
        return 0


def stated_caches(text: str) -> tuple[Cache, ...]:
    """Return the caches that FASTNET_CACHES states, such as "128K,3M,0,128"; none where it is empty.

    Raises
    ------
    ValueError
        If that is in another format, or L1 or L2 is missing.
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
    """Return the caches of a machine that tells nothing: the common sizes of CPUs with the same vectors."""
    l1, l2 = (64, 1024) if IS_ARM else (32, 1024 if registers() == 32 else 512)
    return Cache(l1 << 10), Cache(l2 << 10), Cache(16 << 20, 4)


def _isa() -> str:
    """Name the vector instructions compiled for."""
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
    """Look at a machine: the first that tells of its caches is believed. Tests give another system's parameters."""
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
"""This machine, as it was at import."""
