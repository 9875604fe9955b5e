"""The measured limits are numbers that a kernel can be set against."""

import math
from pathlib import Path

import numpy as np
import pytest

from fastnet.kernels.limits import bandwidth, cache_sizes, fma_peak

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rate_of_fmas_is_that_of_a_processor(dtype: type) -> None:
    peak = fma_peak(dtype, seconds=0.02)
    assert math.isfinite(peak)
    assert 0.1 < peak < 10_000  # GFLOP/s of one core: what an emulator manages, and what nothing reaches


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("level", [*cache_sizes(), "memory"])
def test_bytes_are_read_as_fast_as_by_a_processor(level: str, threads: int) -> None:
    rate = bandwidth(level, threads, seconds=0.01)
    assert math.isfinite(rate)
    assert 0.01 < rate < 100_000  # GB/s


def test_near_is_faster_than_far() -> None:
    assert bandwidth("L1", seconds=0.05) > bandwidth("memory", seconds=0.05)


def test_cache_sizes_of_linux(tmp_path: Path) -> None:
    for i, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]
    ):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()  # one that says nothing
    assert cache_sizes(str(tmp_path)) == {"L1": 48 << 10, "L2": 2 << 20}


def test_cache_sizes_are_assumed_where_nobody_tells(tmp_path: Path) -> None:
    assert list(cache_sizes(str(tmp_path))) == ["L1", "L2", "L3"]


def test_bandwidth_refuses() -> None:
    with pytest.raises(ValueError, match=r"level is 'L9'; expected one of L1, .*memory"):
        bandwidth("L9")
    with pytest.raises(ValueError, match="threads is 0; expected at least 1"):
        bandwidth("L1", threads=0)
