"""The variant `parallel` against `simd`: how many times faster on several threads.  Prints a table.

    python bench/limit_parallel.py [--threads 2] [--seconds 2] [--pause 0] [--dtypes float32] [--shapes 512,512,512 ...]

Each line is one product, A or A.T or B.T as named. The two variants run one after the other, repeatedly, calls
from Python included. ``best`` is the ratio of the shortest times: what the machine can do when nothing else uses
its cores; ``median`` the median of the ratios of neighbouring runs: what it did. With ``--pause`` the
threads have gone to sleep before each run, which is then a single call.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnet.kernels.cpu.gemm import gemm as simd
from fastnet.kernels.cpu.gemm import parallel
from fastnet.kernels.cpu.threads.pool import limit_threads, num_threads

SHAPES = [*((n, n, n) for n in (64, 96, 128, 192, 256, 384, 512, 1024, 2048)), (128, 784, 256), (64, 128, 128)]


def operands(shape: tuple[int, ...], kind: str, dtype: str) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    m, k, n = shape
    A = rng.standard_normal((k, m) if kind[0] == "t" else (m, k)).astype(dtype)
    B = rng.standard_normal((n, k) if kind[1] == "t" else (k, n)).astype(dtype)
    return A.T if kind[0] == "t" else A, B.T if kind[1] == "t" else B, np.empty((m, n), dtype)


def seconds(call: Callable[[], Any], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def compare(shape: tuple[int, ...], kind: str, dtype: str, duration: float, pause: float) -> tuple[float, ...]:
    """Best of simd in seconds, ratio of the bests, median ratio."""
    A, B, C = operands(shape, kind, dtype)
    D = np.empty_like(C)
    simd.matmul(A, B, C)
    parallel.matmul(A, B, D)
    assert C.tobytes() == D.tobytes(), "the variants differ"
    times = 1 if pause else max(1, int(0.0005 / seconds(lambda: simd.matmul(A, B, C), 3)))
    runs = []
    end = time.perf_counter() + duration
    while time.perf_counter() < end:
        pair = []
        for function in (simd.matmul, parallel.matmul):
            if pause:
                time.sleep(pause)
            else:
                function(A, B, C)  # wakes the threads
            pair.append(seconds(lambda function=function: function(A, B, C), times))  # type: ignore[misc]
        runs.append(pair)
    serial, threaded = np.array(runs).T
    return serial.min(), serial.min() / threaded.min(), float(np.median(serial / threaded))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of sleep before each call")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--kinds", default="nn,tn,nt")
    parser.add_argument("--serial-max-flops", type=int, default=parallel.SERIAL_MAX_FLOPS)
    parser.add_argument("--tasks-per-thread", type=int, default=parallel.TASKS_PER_THREAD)
    parser.add_argument("--shapes", nargs="*", default=[",".join(map(str, shape)) for shape in SHAPES])
    options = parser.parse_args()
    parallel.SERIAL_MAX_FLOPS = options.serial_max_flops
    parallel.TASKS_PER_THREAD = options.tasks_per_thread
    with limit_threads(options.threads):
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        print(f"{num_threads()} threads; load {load:.1f}; serial below {parallel.SERIAL_MAX_FLOPS / 1e6:g} MFLOP")
        print(f"{'':8} {'M,K,N':14} kind {'simd, us':>10} {'best':>6} {'median':>7}")
        for dtype in options.dtypes.split(","):
            for text in options.shapes:
                shape = tuple(int(size) for size in text.split(","))
                for kind in options.kinds.split(","):
                    serial, best, median = compare(shape, kind, dtype, options.seconds, options.pause)
                    print(f"{dtype:8} {text:14} {kind:4} {serial * 1e6:10.1f} {best:6.2f} {median:7.2f}", flush=True)


if __name__ == "__main__":
    main()
