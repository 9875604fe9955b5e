"""Profiles of kernel variants: the limits they are held against, what is measured, wrong kernels never."""

from typing import Any

import numpy as np
import pytest

from fastnet.kernels.registry import Variant, find, variants
from fastnet.kernels.specs.base import Case
from fastnet.kernels.specs.operations import OP_SPECS
from fastnet.kernels.verify import WrongKernelError
from fastnet.profiling import variants as profiling
from fastnet.profiling.variants import Limits


def test_roofline_uses_the_lower_limit() -> None:
    limits = Limits(gflops=100.0, gbps=50.0, level="L2", threads=1)
    assert limits.seconds(flops=200e9, bytes_moved=50e9) == pytest.approx(2.0)
    assert limits.binds(200e9, 50e9) == "compute"
    assert limits.seconds(flops=100e9, bytes_moved=200e9) == pytest.approx(4.0)
    assert limits.binds(100e9, 200e9) == "L2 bandwidth"


def test_roofline_level_is_the_smallest_sufficient_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "cache_sizes", lambda: {"L1": 100, "L2": 1000})
    assert [profiling.level_of(size) for size in (1, 100, 101, 1000, 1001)] == ["L1", "L1", "L2", "L2", "memory"]


@pytest.mark.compiled
def test_profile_holds_the_measurements() -> None:
    case = profiling.case_of("matmul", [24, 40, 33], "nt")
    found = profiling.profile("matmul", case, profiling.chosen("matmul", None, "float64"), "float64", 1, 0.01, False)
    assert [m.variant for m in found.measurements] == list(variants("matmul"))
    assert found.flops == 2 * 24 * 40 * 33
    assert found.bytes_moved == 8 * (24 * 40 + 40 * 33 + 24 * 33)
    assert found.intensity == found.flops / found.bytes_moved
    for m in found.measurements:
        assert 0 < m.seconds.low <= m.seconds.median <= m.seconds.high
        assert m.gflops == pytest.approx(found.flops / m.seconds.median / 1e9)
        assert m.gbps == pytest.approx(found.bytes_moved / m.seconds.median / 1e9)
        limit = max(found.flops / found.limits.gflops, found.bytes_moved / found.limits.gbps) / 1e9
        assert m.fraction_of_limit == pytest.approx(limit / m.seconds.median)
        assert 0 <= m.error_ratio < 1
        assert m.code is None


def test_profile_rejects_wrong_kernels_before_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(A: Any, B: Any, C: Any) -> None:
        np.matmul(A[:, :-1], B[:-1], out=C)

    monkeypatch.setattr(profiling, "interleave", lambda *arguments: pytest.fail("timed"))
    monkeypatch.setattr(profiling, "batches", lambda *arguments: pytest.fail("timed"))
    candidates = (Variant("matmul", "reference", find("matmul", "reference")), Variant("matmul", "wrong", wrong))
    with pytest.raises(WrongKernelError, match="matmul, variant wrong, float32, case 8x9x10-nn"):
        profiling.profile("matmul", Case((8, 9, 10), "profiled", "nn"), candidates)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("operation", OP_SPECS)
def test_profile_every_operation_at_its_default_case(operation: str) -> None:
    case = profiling.case_of(operation)
    assert case.dims == OP_SPECS[operation].bench_cases[-1].dims
    assert [variant.name for variant in profiling.chosen(operation, None, "float32")] == list(variants(operation))
