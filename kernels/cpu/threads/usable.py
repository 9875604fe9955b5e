"""How many threads are worth using in this process, and why.

The fewest of: the CPUs that its main thread may run on, the physical cores among them, what a cgroup's quota of CPU
time pays for, and ``NUMBA_NUM_THREADS``. Hardware threads of one core share its FMA units, which a product keeps busy
alone; so they count as one, unless the environment asks for more by NUMBA_NUM_THREADS.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

import numba

from ...jit.quota import cpu_quota, read_text
from .parallel_for import MAX_THREADS

_SYSTEM = Path("/")


class Usable(NamedTuple):
    """What bounds the number of threads.

    Attributes
    ----------
    cpus : tuple of int
        The CPUs that the main thread may run on, sorted; numbers are made up where the system has no affinity.
    cores : int
        Physical cores among them.
    quota : float
        CPUs whose time a cgroup grants; infinity without a quota.
    numba : int
        Numba's limit, NUMBA_NUM_THREADS.
    asked : bool
        Whether the environment sets NUMBA_NUM_THREADS.
    """

    cpus: tuple[int, ...]
    cores: int
    quota: float
    numba: int
    asked: bool

    @property
    def threads(self) -> int:
        """Number of threads worth using, at least 1: a quota of 1.5 CPUs pays for two, one of 1.4 for one."""
        cores = len(self.cpus) if self.asked else self.cores
        paid = MAX_THREADS if self.quota == math.inf else math.floor(self.quota + 0.5)
        return max(1, min(cores, paid, self.numba, MAX_THREADS))

    def __str__(self) -> str:
        """Why it is that many, in a line."""
        facts = [f"{len(self.cpus)} CPUs allowed", f"{self.cores} physical cores"]
        facts.append("no CPU quota" if self.quota == math.inf else f"a quota of {self.quota:g} CPUs")
        facts += [f"NUMBA_NUM_THREADS={self.numba}"] * self.asked
        return ", ".join(facts).replace("1 CPUs a", "1 CPU a").replace("1 physical cores", "1 physical core")


def usable(system: Path = _SYSTEM) -> Usable:
    """Look at the affinity, the cores, the quota and Numba's limit as they are now; reads a small file for each CPU.

    Parameters
    ----------
    system : Path
        Where ``proc`` and ``sys`` are: another folder in tests.
    """
    cpus = range(os.cpu_count() or 1)
    allowed = tuple(sorted(os.sched_getaffinity(os.getpid()))) if hasattr(os, "sched_getaffinity") else tuple(cpus)
    asked = "NUMBA_NUM_THREADS" in os.environ
    return Usable(allowed, _cores(allowed, system), cpu_quota(system), numba.config.NUMBA_NUM_THREADS, asked)


def _cores(cpus: tuple[int, ...], system: Path) -> int:
    """Count the physical cores of some CPUs: each CPU is one where the system does not tell."""
    siblings = (system / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in cpus)
    return len({read_text(path).strip() or str(path) for path in siblings})
