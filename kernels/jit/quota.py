"""How much CPU time a cgroup grants this process: containers have such quotas."""

import math
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = Path("/")


def read_text(path: Path) -> str:
    """Return a file's text, empty where there is none."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def cpu_quota(system: Path = _SYSTEM) -> float:
    """Return the CPUs that the process's cgroups, of version 1 or 2, grant it, or infinity.

    The least of its own cgroup's and of all above it. In a container these may be hidden, and its own appears as the
    root of the file system of cgroups, which is therefore always looked at.
    """
    return min((quota for folder in _cgroups(system) for quota in _quotas(folder)), default=math.inf)


def _cgroups(system: Path) -> Iterator[Path]:
    """Yield the folders of the cgroups that may limit the CPU time of this process."""
    root = system / "sys/fs/cgroup"
    for line in read_text(system / "proc/self/cgroup").splitlines():
        number, controllers, name = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        names = controllers.split(",")
        if number == "0" and not controllers:
            bases = [root, root / "unified"]
        elif "cpu" in names:
            bases = [root / controllers, root / "cpu"]
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
