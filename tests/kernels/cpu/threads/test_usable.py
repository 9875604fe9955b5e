"""How many threads are worth using: on made-up systems, and on this one where the affinity or a quota changes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastnet.kernels.cpu.threads import usable
from fastnet.kernels.cpu.threads.usable import Usable
from fastnet.kernels.jit.quota import cpu_quota, memory_available, memory_total

ENDLESS = {"cpu.max": "max 100000"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")


def version_1(quota: int, period: int = 100_000) -> dict[str, str]:
    return {"cpu.cfs_quota_us": str(quota), "cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("cgroup", "folders", "expected"),
    [
        ("0::/", {"": ENDLESS}, math.inf),
        ("0::/", {"": {"cpu.max": "50000 100000"}}, 0.5),
        ("0::/a/b", {"": ENDLESS, "a": {"cpu.max": "150000 100000"}, "a/b": {"cpu.max": "200000 100000"}}, 1.5),
        ("0::/a/b", {"a/b": {"cpu.max": "300000 200000"}}, 1.5),
        ("0::/hidden/of/the/host", {"": {"cpu.max": "100000 100000"}}, 1),  # in a container
        ("0::/../other", {"": {"cpu.max": "100000 100000"}}, 1),
        ("4:memory:/\n3:cpu,cpuacct:/a", {"cpu,cpuacct/a": version_1(250_000)}, 2.5),
        ("4:memory:/\n3:cpu,cpuacct:/a", {"cpu/a": version_1(250_000), "cpu": version_1(200_000)}, 2),
        ("3:cpu:/a", {"cpu/a": version_1(-1)}, math.inf),
        ("3:cpu:/a\n0::/", {"cpu/a": version_1(50_000, 25_000), "unified": ENDLESS}, 2),
        ("3:cpuset:/a", {"cpuset/a": version_1(50_000)}, math.inf),
        ("nonsense\n::\n", {"": {"cpu.max": "1 2"}}, math.inf),
        ("0::/", {"": {"cpu.max": "nonsense"}}, math.inf),
        ("0::/", {"": {"cpu.max": "100 0"}}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_quota(tmp_path: Path, cgroup: str, folders: dict[str, dict[str, str]], expected: float) -> None:
    write(tmp_path / "proc/self", {"cgroup": cgroup})
    for name, files in folders.items():
        write(tmp_path / "sys/fs/cgroup" / name, files)
    assert cpu_quota(tmp_path) == expected


def test_a_system_without_these_files_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("cgroup", "folders", "available", "total"),
    [
        ("", {}, 2048.0, 12288.0),
        ("0::/a/b", {"a": {"memory.max": "1500"}, "a/b": {"memory.max": "max"}}, 1500.0, 4572.0),
        ("0::/a", {"a": {"memory.max": "1500", "memory.swap.max": "0"}}, 1500.0, 1500.0),
        (
            "4:memory:/a",
            {"memory": {"memory.limit_in_bytes": "99"}, "memory/a": {"memory.limit_in_bytes": "7"}},
            7,
            3079,
        ),
        ("4:memory:/", {"memory": {"memory.limit_in_bytes": "7", "memory.memsw.limit_in_bytes": "9"}}, 7, 9),
        ("4:cpu:/a", {"memory/a": {"memory.limit_in_bytes": "7"}}, 2048.0, 12288.0),
    ],
)
def test_memory(
    tmp_path: Path, cgroup: str, folders: dict[str, dict[str, str]], available: float, total: float
) -> None:
    assert memory_available(tmp_path) == memory_total(tmp_path) == math.inf
    write(tmp_path / "proc", {"meminfo": "MemTotal: 9 kB\nMemAvailable:  2 kB\nSwapTotal: 3 kB\n"})
    write(tmp_path / "proc/self", {"cgroup": cgroup})
    for name, files in folders.items():
        write(tmp_path / "sys/fs/cgroup" / name, files)
    assert memory_available(tmp_path) == available
    assert memory_total(tmp_path) == total


def test_hardware_threads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(8):
        siblings = {"topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}"}
        write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}", siblings)
    monkeypatch.setattr(usable.numba.config, "NUMBA_NUM_THREADS", 16)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    for cpus, cores in (({0, 1, 2, 3, 4, 5, 6, 7}, 4), ({0, 4}, 1), ({1, 2, 6}, 2), ({0, 20, 21}, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cpus=cpus: cpus, raising=False)
        found = usable.usable(tmp_path)
        assert (found.cpus, found.cores, found.threads) == (tuple(sorted(cpus)), cores, cores)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "16")  # what somebody asks for is given
    assert usable.usable(tmp_path).threads == 3


@pytest.mark.parametrize(
    ("given", "threads", "text"),
    [
        (Usable(tuple(range(8)), 4, math.inf, 8, False), 4, "8 CPUs allowed, 4 physical cores, no CPU quota"),
        (Usable(tuple(range(8)), 4, math.inf, 6, True), 6, "8 CPUs allowed, 4 physical cores, no CPU quota, NUMBA_NUM"),
        (Usable((3,), 1, 0.3, 8, False), 1, "1 CPU allowed, 1 physical core, a quota of 0.3 CPUs"),
        (Usable(tuple(range(8)), 8, 1.4, 8, False), 1, "a quota of 1.4 CPUs"),
        (Usable(tuple(range(8)), 8, 1.5, 8, False), 2, "a quota of 1.5 CPUs"),
        (Usable(tuple(range(999)), 999, math.inf, 999, False), usable.MAX_THREADS, "999 physical cores"),
        (Usable(tuple(range(8)), 8, math.inf, 3, False), 3, "8 physical cores"),
    ],
)
def test_threads_and_why(given: Usable, threads: int, text: str) -> None:
    assert given.threads == threads
    assert text in str(given)


CHANGES = """
import os, time
import numpy as np
from fastnet.kernels import matmul
from fastnet.kernels.cpu.threads import pool
from fastnet.kernels.cpu.threads.pool import num_threads
pool.CHECK_S = 0.01
A = np.random.default_rng(0).standard_normal((300, 300))
truth = matmul(A, A)
def work():
    for _ in range(30):
        assert (matmul(A, A, variant="parallel") == truth).all()
def workers():
    return [os.sched_getaffinity(worker.native_id) for worker in pool._workers]
all_cpus = os.sched_getaffinity(0)
work()
first = num_threads()
time.sleep(0.02)
os.sched_setaffinity(0, {min(all_cpus)})
work()
assert num_threads() == 1, num_threads()
assert all(cpus == {min(all_cpus)} for cpus in workers()), workers()
time.sleep(0.02)
os.sched_setaffinity(0, all_cpus)
work()
assert num_threads() == first, num_threads()
assert all(len(cpus) > 1 for cpus in workers()) or len(all_cpus) < 3, workers()
print("done")
"""


@pytest.mark.compiled
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_threads_follow_the_affinity() -> None:
    result = subprocess.run([sys.executable, "-c", CHANGES], capture_output=True, text=True, timeout=120)
    assert result.stdout == "done\n", result.stderr


ONE_CPU = [("cpu", "cpu.cfs_quota_us"), ("cpu,cpuacct", "cpu.cfs_quota_us"), ("", "cpu.max")]


@pytest.mark.compiled
def test_a_real_quota_of_one_cpu() -> None:
    """In a cgroup of version 1 or 2, where this process may make one."""
    code = "from fastnet.kernels.cpu.threads.pool import num_threads; print(num_threads())"
    for parent, limit in ONE_CPU:
        folder = Path("/sys/fs/cgroup", parent, f"fastnet-test-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text("100000")
            enter = f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')\n"
            result = subprocess.run([sys.executable, "-c", enter + code], capture_output=True, text=True, timeout=120)
        except OSError:
            continue
        finally:
            folder.rmdir()
        assert result.stdout == "1\n", result.stderr
        return
    pytest.skip("no cgroup can be made here")
