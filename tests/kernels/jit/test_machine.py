"""The model of the machine, on made-up systems, and what follows from it."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from fastnet.kernels.cpu.gemm.blocking import KC_BYTES, CacheBlocks, cache_blocks
from fastnet.kernels.cpu.gemm.microkernel import MR
from fastnet.kernels.jit import cache, machine
from fastnet.kernels.jit.machine import MACHINE, Cache, Machine, look

KIB, MIB = 1 << 10, 1 << 20

Described = tuple[str, str, str, str, int, int]
"""Level, type, size, the CPUs that share it, bytes of a line, ways: as Linux writes them."""


def of_x86(l1: str, l2: str, l3: str, siblings: str, sharing: str) -> list[Described]:
    return [
        ("1", "Data", l1, siblings, 64, 12 if l1 == "48K" else 8),
        ("1", "Instruction", "32K", siblings, 64, 8),
        ("2", "Unified", l2, siblings, 64, 8),
        ("3", "Unified", l3, sharing, 64, 16),
    ]


ZEN_3 = of_x86("32K", "512K", "32768K", "0,8", "0-15")
LINUX: dict[str, tuple[list[Described], tuple[int, int, int], int, int]] = {
    "Zen 3": (ZEN_3, (32 * KIB, 512 * KIB, 4 * MIB), 64, 4096),
    "Zen 4": (of_x86("32K", "1024K", "32768K", "0,8", "0-7,8-15"), (32 * KIB, MIB, 4 * MIB), 64, 4096),
    "Skylake": (of_x86("32K", "256K", "8192K", "0,4", "0-7"), (32 * KIB, 256 * KIB, 2 * MIB), 64, 4096),
    "Emerald Rapids": (of_x86("48K", "2M", "320M", "0,64", "0-127"), (48 * KIB, 2 * MIB, 5 * MIB), 64, 4096),
    "Graviton 3": (
        [
            ("1", "Data", "64K", "0", 64, 4),
            ("1", "Instruction", "64K", "0", 64, 4),
            ("2", "Unified", "1024K", "0", 64, 8),
            ("3", "Unified", "32768K", "0-63", 64, 16),
        ],
        (64 * KIB, MIB, 512 * KIB),
        64,
        16384,
    ),
    "M1 under Linux": (
        [("1", "Data", "128K", "4", 128, 8), ("2", "Unified", "12288K", "4-7", 128, 12)],
        (128 * KIB, 3 * MIB, 0),
        128,
        16384,
    ),
}
"""Caches; a core's shares of L1, L2 and L3; bytes of a line; distance of addresses that share a set of L1."""


def write_cpu(system: Path, cpu: int, caches: list[Described]) -> None:
    names = "level", "type", "size", "shared_cpu_list", "coherency_line_size", "ways_of_associativity"
    for i, values in enumerate(caches):
        folder = system / f"sys/devices/system/cpu/cpu{cpu}/cache/index{i}"
        folder.mkdir(parents=True)
        for name, value in zip(names, values, strict=True):
            (folder / name).write_text(f"{value}\n")


def nothing(name: str) -> int:
    """Numbers of a system that tells none."""
    return 0


@pytest.mark.parametrize("name", LINUX)
def test_caches_of_linux(tmp_path: Path, name: str) -> None:
    caches, shares, line, way = LINUX[name]
    write_cpu(tmp_path, 0, caches)
    found = look(tmp_path, "linux", nothing, nothing)
    assert tuple(map(found.share, (1, 2, 3))) == shares
    assert (found.line, found.way, found.source) == (line, way, "read from /sys")


@pytest.mark.parametrize("present", ["0-7", "0-3,5,7"])
def test_a_fast_core_counts_wherever_it_is(tmp_path: Path, present: str) -> None:
    """Of slow and fast cores in one CPU, Apple's begins with the slow ones, Intel's with the fast."""
    slow = [("1", "Data", "64K", "0", 128, 8), ("2", "Unified", "4096K", "0-3", 128, 16)]
    for folder, first, last in (("a", slow, LINUX["M1 under Linux"][0]), ("b", LINUX["M1 under Linux"][0], slow)):
        write_cpu(tmp_path / folder, 0, first)
        write_cpu(tmp_path / folder, 7, last)
        (tmp_path / folder / "sys/devices/system/cpu/present").write_text(present + "\n")
        assert look(tmp_path / folder, "linux", nothing, nothing).share(1) == 128 * KIB


def test_what_linux_does_not_describe_is_assumed(tmp_path: Path) -> None:
    write_cpu(tmp_path, 0, [("1", "Data", "48K", "0", 64, 12), ("2", "Unified", "many", "0", 64, 8)])
    assert look(tmp_path, "linux", nothing, nothing).caches[0].nbytes == 48 * KIB
    assert look(tmp_path, "linux", nothing, nothing).caches[1].nbytes in (512 * KIB, MIB)


def sysctl_of(numbers: dict[str, int]) -> Callable[[str], int]:
    return lambda name: numbers.get(name, 0)


def test_caches_of_an_apple_m1_and_of_an_intel_mac(tmp_path: Path) -> None:
    m1 = {"hw.l1dcachesize": 64 * KIB, "hw.l2cachesize": 4 * MIB, "hw.cachelinesize": 128}
    m1 |= {"hw.perflevel0.l1dcachesize": 128 * KIB, "hw.perflevel0.l2cachesize": 12 * MIB}
    m1 |= {"hw.perflevel0.cpusperl2": 4, "hw.physicalcpu": 8}
    found = look(tmp_path, "darwin", sysctl_of(m1), nothing)._replace(page=16 * KIB)
    assert tuple(map(found.share, (1, 2, 3))) == (128 * KIB, 3 * MIB, 0)
    assert (found.line, found.way, found.source) == (128, 16 * KIB, "read by sysctl")
    intel = {"hw.l1dcachesize": 32 * KIB, "hw.l2cachesize": 256 * KIB, "hw.l3cachesize": 8 * MIB, "hw.physicalcpu": 4}
    found = look(tmp_path, "darwin", sysctl_of(intel), nothing)._replace(page=4 * KIB)
    assert tuple(map(found.share, (1, 2, 3))) == (32 * KIB, 256 * KIB, 2 * MIB)
    assert (found.line, found.way) == (64, 4 * KIB)
    stated = found._replace(page=16 * KIB, caches=(Cache(40 * KIB), *found.caches[1:]))
    assert stated.way == 8 * KIB, "a power of two, whatever is stated"
    assert stated._replace(caches=(Cache(0, ways=8), *found.caches[1:])).way == 64


def test_sysctl_reads_numbers_of_32_and_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {b"hw.cachelinesize": (4, 128), b"hw.l2cachesize": (8, 5 << 30)}

    class Library:
        """The C library of macOS, as far as it is asked."""

        def __init__(self, name: None) -> None: ...

        def sysctlbyname(self, name: bytes, value: Any, size: Any, new: None, new_size: int) -> int:
            if name not in known:
                return -1
            nbytes, number = known[name]
            assert size._obj.value >= nbytes
            ctypes.memmove(value, number.to_bytes(nbytes, "little"), nbytes)
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    names = "hw.cachelinesize", "hw.l2cachesize", "hw.l3cachesize"
    assert [machine.sysctl_number(name) for name in names] == [128, 5 << 30, 0]


def test_a_container_without_sys(tmp_path: Path) -> None:
    """There the C library is asked, and where it does not know either, typical sizes are assumed."""
    told = {"1_DCACHE_SIZE": 48 * KIB, "1_DCACHE_ASSOC": 12, "2_CACHE_SIZE": 2 * MIB}
    found = look(tmp_path, "linux", nothing, sysctl_of(told))
    assert tuple(map(found.share, (1, 2, 3))) == (48 * KIB, 2 * MIB, 0)
    assert (found.line, found.way, found.source) == (64, 4096, "read by sysconf")
    for name in ("linux", "win32"):
        found = look(tmp_path, name, nothing, nothing)
        assert found.source == "assumed, since the system does not tell"
        assert all(found.share(level) for level in (1, 2, 3))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or os.sysconf(188) < 1, reason="the C library knows no caches")
def test_glibc_tells_the_caches_without_sys(tmp_path: Path) -> None:
    assert look(tmp_path, "linux").source == "read by sysconf"
    assert machine.sysconf_number("1_DCACHE_SIZE") == os.sysconf(188)


def test_caches_can_be_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cpu(tmp_path, 0, ZEN_3)
    for text, shares, line in (
        ("128K,3M,0,128", (128 * KIB, 3 * MIB, 0), 128),
        ("32K,262144,2M", (32 * KIB, 256 * KIB, 2 * MIB), 64),
    ):
        monkeypatch.setenv("FASTNET_CACHES", text)
        found = look(tmp_path, "linux", nothing, nothing)
        assert (tuple(map(found.share, (1, 2, 3))), found.line) == (shares, line)
        assert found.source == "stated by FASTNET_CACHES"
    for text in (
        "32K",
        "32K,512K,4M,64,5",
        "32K,0,4M",
        "32K,-1,4M",
        "32 KiB,1M,4M",
        "small",
        "1,1,0",
        "32K,1M,4M,32",
        "32K,1M,4M,96",
    ):
        monkeypatch.setenv("FASTNET_CACHES", text)
        with pytest.raises(ValueError, match=rf"FASTNET_CACHES is '{text}'; expected a core's shares of L1, L2 and L3"):
            look(tmp_path)


def on(name: str) -> Machine:
    """The machine of this name."""
    caches = [Cache(nbytes) for nbytes in LINUX[name][1]]
    return MACHINE._replace(caches=(caches[0], caches[1], caches[2]))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", LINUX)
def test_blocks_fit_the_caches_that_they_are_meant_for(name: str, wide: bool) -> None:
    model = on(name)
    l1, l2, l3 = map(model.share, (1, 2, 3))
    blocks = cache_blocks(model, wide)
    assert all(nbytes > 0 for nbytes in blocks)
    if wide:
        assert MR * KC_BYTES <= blocks.a <= 3 * l1 // 4  # one micro-panel at least, of the longest k
        assert blocks.b <= blocks.b_tall <= 3 * l2 // 4
    else:
        assert l2 // 4 <= blocks.a <= l2 // 2
        assert blocks.a >= 32 * KC_BYTES
        assert MIB <= blocks.b <= max(l3, l2 // 2, MIB)
        assert blocks.b <= 4 * MIB
        assert blocks.b_in_place <= l1 // 2
    assert blocks.b_few_rows <= l2 // 4
    assert blocks.a_in_place <= l2


def test_blocks_are_those_that_were_measured() -> None:
    """On a Zen 4 with AVX-512 and held to AVX2: docs/performance-notes/gemm.md."""
    wide = CacheBlocks(24576, 256 * KIB, 768 * KIB, 256 * KIB, 4 * MIB, 128 * KIB, 512 * KIB)
    narrow = CacheBlocks(256 * KIB, 4 * MIB, 4 * MIB, 128 * KIB, 4 * MIB, 16 * KIB, 512 * KIB)
    assert (cache_blocks(on("Zen 4"), True), cache_blocks(on("Zen 4"), False)) == (wide, narrow)


def test_the_cache_of_compiled_kernels_tells_machines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {name: on(name).cache_key for name in LINUX}
    assert len(set(keys.values())) == len(LINUX)
    more_cpus = on("Zen 4")._replace(caches=(Cache(32 * KIB), Cache(MIB), Cache(32 * MIB, 2)))
    assert more_cpus.cache_key == keys["Zen 4"]  # only as much of L3 as blocks make use of

    class Codegen:
        def magic_tuple(self) -> tuple[str, str, str]:
            return "triple", "cpu", "features"

    def key() -> Any:
        return cache.SafeCache._index_key(None, "signature", Codegen())  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "MACHINE", on("Zen 4"))
    before = key()
    monkeypatch.setattr(cache, "MACHINE", on("Zen 3"))
    assert key() != before
    monkeypatch.setattr(numba.config, "CPU_NAME", "haswell")  # who compiles for others says that they are alike
    assert on("Zen 3").cache_key == on("Zen 4").cache_key
    assert on("Zen 3")._replace(source="stated by FASTNET_CACHES").cache_key == keys["Zen 3"]


@pytest.mark.compiled
@pytest.mark.exhaustive
@pytest.mark.parametrize("stated", ["32K,256K,2M", "128K,3M,0,128"])
def test_products_are_right_with_the_blocks_of_other_machines(stated: str) -> None:
    """The tests of the product again, with other sizes of blocks, and lines of Apple's."""
    folder = Path(__file__).parents[1] / "cpu/gemm"
    files = [str(folder / name) for name in ("test_gemm.py", "test_transpose.py")]
    environment = {**os.environ, "FASTNET_CACHES": stated, "FASTNET_INNER_TEST": "1"}
    command = [sys.executable, "-m", "pytest", "-q", *files]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
