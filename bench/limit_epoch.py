"""Training steps of the compiled epoch against this machine's FMA limit.  Prints a table.

    taskset -c 1 python bench/limit_epoch.py [--repeats 9] [--threads 1]

Each figure is a median over repeats; in a repeat the limit and every epoch run one after the other, because rates
drift. Plain SGD, mse, ReLU, float32, no shuffling; the engine itself, without the Trainer around it. Operations are
those of the products; the first layer's dX is not computed. With threads, ``gain`` is one thread's time over
theirs. ``error`` is the largest difference of a parameter from the NumPy backend's after an epoch, relative to the
largest parameter.
"""

import argparse
import statistics
import time
from itertools import pairwise
from typing import Any

import numpy as np

from fastnet import SGD, Network
from fastnet.kernels.cpu.threads.pool import limit_threads
from fastnet.kernels.engine.engine import Engine, OptimizerState, start_epoch
from fastnet.kernels.limits import fma_peak

NETWORKS = {  # layer sizes, batch size, rows
    "1-16-1": ((1, 16, 1), 16, 2048),
    "13-64-64-1": ((13, 64, 64, 1), 32, 4096),
    "64-128-128-10": ((64, 128, 128, 10), 64, 8192),
    "784-256-128-10": ((784, 256, 128, 10), 128, 8192),
    "512-1024-1024-10": ((512, 1024, 1024, 10), 256, 4096),
}
RATE = np.array([1e-3])


def engine(sizes: tuple[int, ...], batch: int, variant: str) -> Engine:
    net = Network(sizes)
    return net._engine(
        "mse", batch, variant, OptimizerState(SGD().code, np.zeros((0, net.parameters.size), np.float32))
    )


def epoch(ours: Engine, X: Any, y: Any) -> None:
    start_epoch(ours.plan.progress, ours.plan.totals, 0)
    ours.train(X, y, rates=RATE)


def seconds(ours: Engine, X: Any, y: Any, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        epoch(ours, X, y)
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    options = parser.parse_args()
    print(f"float32, limit of one thread {fma_peak():.0f} GFLOP/s")
    print(f"{'network':18}{'us a step':>12}{'of the limit':>14}{'threads':>9}{'us a step':>12}{'gain':>7}{'error':>10}")
    for name in options.only:
        sizes, batch, rows = NETWORKS[name]
        rng = np.random.default_rng(0)
        X, y = (rng.standard_normal((rows, size), np.float32) for size in (sizes[0], sizes[-1]))
        products = sum(n * k for n, k in pairwise(sizes))
        flops = 2 * rows * (3 * products - sizes[0] * sizes[1])
        serial, reference = engine(sizes, batch, "simd"), engine(sizes, batch, "reference")
        with limit_threads(options.threads):
            parallel = engine(sizes, batch, "parallel")
        for side in (serial, parallel, reference):
            epoch(side, X, y)
        truth = reference.plan.parameters
        error = float(np.abs(serial.plan.parameters - truth).max() / np.abs(truth).max())
        assert serial.plan.parameters.tobytes() == parallel.plan.parameters.tobytes()
        times = max(1, int(2e9 / flops))
        row_weights, ones, manys = [], [], []
        for _ in range(options.repeats):
            limit = fma_peak()
            ones.append(seconds(serial, X, y, times))
            row_weights.append(flops / ones[-1] / 1e9 / limit)
            manys.append(seconds(parallel, X, y, times))
        one, many, steps = statistics.median(ones), statistics.median(manys), -(-rows // batch)
        gain = statistics.median(a / b for a, b in zip(ones, manys, strict=True))
        print(
            f"{name:18}{one / steps * 1e6:12.2f}{statistics.median(row_weights):14.3f}{options.threads:9}"
            f"{many / steps * 1e6:12.2f}{gain:7.2f}{error:10.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
