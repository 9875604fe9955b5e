"""How many threads are worth using in this process, and why.

The smallest of these numbers: CPUs that its main thread may run on, physical cores among them, CPUs that a cgroup's
quota pays for, and ``NUMBA_NUM_THREADS``. Hardware threads of one core share its FMA units, which a single product
keeps busy; so they count as one, unless the environment sets NUMBA_NUM_THREADS.
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
    """The facts that bound the number of threads.

    Attributes
    ----------
    cpus : tuple of int
        The CPUs that the main thread may run on, sorted; 0, 1, 2, ... if the system has no affinity.
    cores : int
        Physical cores among them.
    quota : float
        CPUs that a cgroup's quota grants; infinity without a quota.
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
        """The facts in one line, to explain the number."""
        facts = [f"{len(self.cpus)} CPUs allowed", f"{self.cores} physical cores"]
        facts.append("no CPU quota" if self.quota == math.inf else f"a quota of {self.quota:g} CPUs")
        facts += [f"NUMBA_NUM_THREADS={self.numba}"] * self.asked
        return ", ".join(facts).replace("1 CPUs a", "1 CPU a").replace("1 physical cores", "1 physical core")


def usable(system: Path = _SYSTEM) -> Usable:
    """Read the current affinity, cores, quota and Numba's limit; this reads a small file for each CPU.

    Parameters
    ----------
    system : Path
        The folder that contains ``proc`` and ``sys``; tests pass another one.
    """
    cpus = range(os.cpu_count() or 1)
    allowed = tuple(sorted(os.sched_getaffinity(os.getpid()))) if hasattr(os, "sched_getaffinity") else tuple(cpus)
    asked = "NUMBA_NUM_THREADS" in os.environ
    return Usable(allowed, _cores(allowed, system), cpu_quota(system), numba.config.NUMBA_NUM_THREADS, asked)


def _cores(cpus: tuple[int, ...], system: Path) -> int:
    """Count the physical cores of some CPUs; if the system does not describe them, each CPU counts as one."""
    siblings = (system / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in cpus)
    return len({read_text(path).strip() or str(path) for path in siblings})
