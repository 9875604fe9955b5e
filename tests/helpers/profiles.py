"""Profiles made up for tests: of given times, without timing anything."""

from collections.abc import Mapping

from fastnet.kernels.specs.base import Case
from fastnet.profiling.machine_code import Code, Loop
from fastnet.profiling.timing import Spread
from fastnet.profiling.variants import Limits, Measurement, Profile

LOOP = Loop("fastnet.<tile>", 32, 1, 1, 3, 1, ".LBB0_1:\n    vfmadd231ps (%rax), %ymm1, %ymm0\n    jne .LBB0_1")


def made_up(
    gflops: Mapping[str, float], size: int = 64, level: str = "L1", peak: float = 100.0, dtype: str = "float32"
) -> Profile:
    """A profile of a square matmul whose variants reach these GFLOP/s; its quartiles are 1% off."""
    flops = 2 * size**3
    measurements = []
    for variant, rate in gflops.items():
        seconds = flops / rate / 1e9
        spread = Spread(seconds, 0.99 * seconds, 1.01 * seconds)
        sets = (seconds, 1.01 * seconds, seconds, 0.99 * seconds)
        code = None if variant == "reference" else Code(0.5, LOOP)
        measured = (0.1, spread, rate, rate / 10, rate / peak, 1e-7, f"why {variant} & co", sets, None, code)
        measurements.append(Measurement(variant, *measured))
    limits = Limits(peak, 100.0, level, 1)
    case = Case((size, size, size), "made up", "nn")
    return Profile("matmul", case, dtype, flops, 12 * size * size, limits, tuple(measurements), (peak,) * 4, "none")
