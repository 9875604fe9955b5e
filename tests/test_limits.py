"""The measured limit is a number that a kernel can be set against."""

import math

import numpy as np
import pytest

from fastnet.kernels.limits import fma_peak

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rate_of_fmas_is_that_of_a_processor(dtype: type) -> None:
    peak = fma_peak(dtype, seconds=0.02)
    assert math.isfinite(peak)
    assert 0.1 < peak < 10_000  # GFLOP/s of one core: what an emulator manages, and what nothing reaches
