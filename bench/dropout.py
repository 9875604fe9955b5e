"""A training step with and without dropout, beside PyTorch's, on one thread in turns, with dropout of 0.5 in both.

    python bench/dropout.py [--rounds 15] [--hidden relu]

784-256-128-10, batches of 256 rows, SGD, cross-entropy, float32. PyTorch is eager, with ``nn.Dropout`` after each
hidden layer. Prints for each side the median over the rounds, in microseconds a step.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from fastnet import SGD, Network, Trainer

SIZES, BATCH, ROWS, RATE = (784, 256, 128, 10), 256, 8192, 0.5
Epoch = Callable[[], object]


def fastnet_epoch(rate: float, hidden: str, X: np.ndarray, y: np.ndarray) -> Epoch:
    """Return what trains an epoch here."""
    network = Network(SIZES, hidden=hidden)
    trainer = Trainer(network, "cross_entropy", SGD(1e-3), BATCH, shuffle=False, dropout=rate, threads=1)
    return lambda: trainer.fit(X, y, 1, progress=False)


def torch_epoch(rate: float, hidden: str, X: np.ndarray, y: np.ndarray) -> Epoch:
    """Return what trains an epoch in PyTorch."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    layers: list[nn.Module] = []
    for n, k in pairwise(SIZES):
        layers += [nn.Linear(n, k), {"relu": nn.ReLU, "tanh": nn.Tanh, "mish": nn.Mish}[hidden]()]
        layers += [nn.Dropout(rate)] * (rate > 0)
    model = nn.Sequential(*layers[: -2 if rate > 0 else -1]).train()
    optimizer, loss = torch.optim.SGD(model.parameters(), 1e-3), nn.CrossEntropyLoss()
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)

    def epoch() -> None:
        for start in range(0, ROWS, BATCH):
            optimizer.zero_grad()
            loss(model(inputs[start : start + BATCH]), labels[start : start + BATCH]).backward()
            optimizer.step()

    return epoch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--hidden", choices=("relu", "tanh", "mish"), default="relu")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((ROWS, SIZES[0]), np.float32), rng.integers(0, SIZES[-1], ROWS)
    makers = {"fastnet": fastnet_epoch}
    if importlib.util.find_spec("torch"):
        makers["torch"] = torch_epoch
    sides = {(name, rate): make(rate, options.hidden, X, y) for name, make in makers.items() for rate in (0.0, RATE)}
    times: dict[tuple[str, float], list[float]] = {side: [] for side in sides}
    for i in range(options.rounds + 1):
        for side, epoch in sides.items():
            start = time.perf_counter()
            epoch()
            if i > 0:  # the first compiles
                times[side].append((time.perf_counter() - start) / (ROWS // BATCH) * 1e6)
    for name in makers:
        plain, dropping = (statistics.median(times[name, rate]) for rate in (0.0, RATE))
        change = statistics.median(d / p - 1 for p, d in zip(times[name, 0.0], times[name, RATE], strict=True))
        print(f"{name:8} {options.hidden}: {plain:7.0f} us a step, with dropout {dropping:7.0f} ({change:+.1%})")


if __name__ == "__main__":
    main()
