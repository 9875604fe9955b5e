"""Compiled training steps against this machine's FMA limit; prints a table.

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
from fastnet.kernels.engine.backend import start_epoch
from fastnet.kernels.engine.engine import CpuEngine
from fastnet.kernels.engine.numpy_engine import NumpyEngine
from fastnet.kernels.engine.optimizer_state import OptimizerState
from fastnet.kernels.limits import fma_peak

NETWORKS = {  # layer sizes, batch size, rows
    "1-16-1": ((1, 16, 1), 16, 2048),
    "13-64-64-1": ((13, 64, 64, 1), 32, 4096),
    "64-128-128-10": ((64, 128, 128, 10), 64, 8192),
    "784-256-128-10": ((784, 256, 128, 10), 128, 8192),
    "512-1024-1024-10": ((512, 1024, 1024, 10), 256, 4096),
}
RATE = np.array([1e-3])


class Side:
    """A network, the state of plain SGD, and a backend over them."""

    def __init__(self, sizes: tuple[int, ...], batch: int, engine: Any) -> None:
        network = Network(sizes)
        self.parameters = network.parameters
        self.state = OptimizerState(SGD().spec.code, np.zeros((0, network.parameters.size), np.float32))
        codes = network.activation_codes
        self.backend = engine(network.parameters, network.layer_sizes, codes, "mse", batch, self.state)


def epoch(ours: Side, X: Any, y: Any) -> None:
    start_epoch(ours.state.progress, ours.state.totals, 0)
    ours.backend.train(X, y, rates=RATE)


def seconds(ours: Side, X: Any, y: Any, times: int) -> float:
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
        with limit_threads(1):
            serial, reference = Side(sizes, batch, CpuEngine), Side(sizes, batch, NumpyEngine)
        with limit_threads(options.threads):
            parallel = Side(sizes, batch, CpuEngine)
        for side in (serial, parallel, reference):
            epoch(side, X, y)
        truth = reference.parameters
        error = float(np.abs(serial.parameters - truth).max() / np.abs(truth).max())
        assert serial.parameters.tobytes() == parallel.parameters.tobytes()
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
