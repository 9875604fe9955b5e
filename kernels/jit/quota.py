"""How much CPU time and memory this process may use, for example in a container."""

import math
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = Path("/")


def read_text(path: Path) -> str:
    """Return a file's text, or "" if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def cpu_quota(system: Path = _SYSTEM) -> float:
    """Return the CPUs that the process's cgroups, of version 1 or 2, grant it, or infinity.

    This is the smallest quota of its own cgroup and all parents. In a container the parents may be hidden, and its own
    cgroup appears as the root of the cgroup file system, so the root is always read.
    """
    return min((quota for folder in _cgroups(system, "cpu") for quota in _quotas(folder)), default=math.inf)


def memory_available(system: Path = _SYSTEM) -> float:
    """Return the bytes of available memory, at most those that the cgroups grant; infinity if unknown."""
    return min([*_meminfo(system, "MemAvailable:"), *_memory_limits(system)], default=math.inf)


def memory_total(system: Path = _SYSTEM) -> float:
    """Return the bytes of memory, at most those that the cgroups grant, and of swap; infinity where unknown."""
    memory = min([*_meminfo(system, "MemTotal:"), *_memory_limits(system)], default=math.inf)
    swap = min([*_meminfo(system, "SwapTotal:"), *_memory_limits(system, "memory.swap.max")], default=0)
    return min([memory + swap, *_memory_limits(system, "memory.memsw.limit_in_bytes")])


def _meminfo(system: Path, name: str) -> list[float]:
    """Return the bytes that the system states under a name, if it does."""
    facts = [line.split() for line in read_text(system / "proc/meminfo").splitlines()]
    return [1024.0 * int(words[1]) for words in facts if words[:1] == [name]]


def _memory_limits(system: Path, *names: str) -> Iterator[float]:
    """Yield the bytes that each cgroup grants, of memory or as files of other names say."""
    for folder in _cgroups(system, "memory"):
        texts = (read_text(folder / name).strip() for name in names or ("memory.max", "memory.limit_in_bytes"))
        yield from (float(text) for text in texts if text.isdecimal())


def _cgroups(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the cgroups that may limit this process's use of a controller's resource."""
    root = system / "sys/fs/cgroup"
    for line in read_text(system / "proc/self/cgroup").splitlines():
        number, controllers, name = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        names = controllers.split(",")
        if number == "0" and not controllers:
            bases = [root, root / "unified"]
        elif controller in names:
            bases = [root / controllers, root / controller]
        else:
            continue
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for base in bases:
            yield from (base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _quotas(folder: Path) -> Iterator[float]:
    """Yield the quota of one cgroup, if it has one."""
    texts = read_text(folder / "cpu.max").split() or [
        read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    try:
        quota, period = (float(text) for text in texts)
    except ValueError:  # "max", or no such file
        return
    if quota > 0 and period > 0:
        yield quota / period
