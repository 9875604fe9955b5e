"""Matrix products of the variant `simd` against the machine's limit and against NumPy.  Prints a table.

    taskset -c 1 python bench/limit_matmul.py [--repeats 9] [--dtypes float32,float64] [--shapes 512,512,512 ...]

Each figure is a median over repeats, of the best of three tries each. In a repeat the FMA limit, the product and
NumPy's product run one after the other, because rates drift. The product runs in a compiled loop: a call from
Python costs 0.2 us and more, and is a matter of its own. NumPy has one thread. ``error`` is the largest error in
units of the bound that the tests hold.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fastnet.kernels.cpu.gemm.gemm import ANY_WORK, gemm_address, multiply
from fastnet.kernels.jit.decorator import jit
from fastnet.kernels.jit.target import target_cpu, vector_bytes
from fastnet.kernels.limits import fma_peak

SHAPES = [
    (32, 64, 64),
    *((n, n, n) for n in (64, 128, 256, 512, 1024, 2048)),
    (1, 512, 512),
    (4, 512, 512),
    (16, 512, 512),
    (37, 93, 41),
    (100, 30, 7),
    (129, 257, 65),
    (128, 784, 256),
]
TRIES = 3
KINDS = ("nn", "tn", "nt")


@jit
def _repeat(A: Any, B: Any, C: Any, address: int, times: int) -> None:
    for _ in range(times):
        multiply(A, B, C, address, ANY_WORK)


def repeat(A: Any, B: Any, C: Any, times: int) -> None:
    _repeat(A, B, C, gemm_address(C.itemsize), times)


def operands(rng: np.random.Generator, dtype: Any, shape: tuple[int, int, int], kind: str) -> tuple[Any, Any, Any]:
    m, k, n = shape
    A = rng.standard_normal((m, k) if kind[0] == "n" else (k, m)).astype(dtype)
    B = rng.standard_normal((k, n) if kind[1] == "n" else (n, k)).astype(dtype)
    return A if kind[0] == "n" else A.T, B if kind[1] == "n" else B.T, np.full((m, n), np.nan, dtype)


def error(A: Any, B: Any, C: Any) -> float:
    """Largest |C - AB| / (8 eps sqrt(k) |A||B|): above 1 is wrong."""
    wide = np.longdouble if C.dtype == np.float64 and max(C.shape) <= 512 else np.float64
    bound = 8 * np.finfo(C.dtype).eps * np.sqrt(A.shape[1]) * (np.abs(A) @ np.abs(B))
    return float((np.abs(C - A.astype(wide) @ B.astype(wide)) / bound).max())


def seconds(call: Callable[[int], Any], times: int, tries: int = 1) -> float:
    """Give the time of one call: the best of some tries, as in `fma_peak`, so that neither pays for neighbours."""
    best = np.inf
    for _ in range(tries):
        start = time.perf_counter()
        call(times)
        best = min(best, time.perf_counter() - start)
    return float(best / times)


def measure(A: Any, B: Any, C: Any, repeats: int) -> tuple[float, float, float]:
    """Medians: microseconds, share of the limit, NumPy's time as a multiple of ours."""
    flops = 2 * A.shape[0] * A.shape[1] * B.shape[1]
    out = np.empty_like(C)

    def ours(times: int) -> None:
        repeat(A, B, C, times)

    def numpys(times: int) -> None:
        for _ in range(times):
            np.matmul(A, B, out=out)

    times = max(1, int(0.002 / max(seconds(ours, 3), 1e-7)))
    rows = []
    for _ in range(repeats):
        before = fma_peak(C.dtype)
        mine = seconds(ours, times, TRIES)
        limit = (before + fma_peak(C.dtype)) / 2
        rows.append((mine * 1e6, flops / mine / 1e9 / limit, seconds(numpys, times, TRIES) / mine))
    return tuple(np.median(rows, axis=0))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtypes", default="float32,float64")
    parser.add_argument("--shapes", nargs="*", default=[",".join(map(str, shape)) for shape in SHAPES])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{target_cpu()}, vectors of {vector_bytes()} bytes; limit {fma_peak():.0f} GFLOP/s float32, ", end="")
    print(f"{fma_peak(np.float64):.0f} float64. us, share of the limit, NumPy's time / ours")
    print(f"{'':22}" + "".join(f"{kind:>28}" for kind in KINDS) + f"{'error':>8}")
    with threadpool_limits(1):
        for dtype in options.dtypes.split(","):
            for text in options.shapes:
                shape = tuple(int(size) for size in text.split(","))
                line, worst = f"{dtype:8} {text:14}", 0.0
                for kind in KINDS:
                    A, B, C = operands(rng, dtype, shape, kind)  # type: ignore[arg-type]
                    repeat(A, B, C, 1)
                    worst = max(worst, error(A, B, C))
                    us, share, faster = measure(A, B, C, options.repeats)
                    line += f"{us:13.1f} {share:6.3f} {faster:6.2f} "
                print(f"{line} {worst:7.3f}", flush=True)


if __name__ == "__main__":
    main()
