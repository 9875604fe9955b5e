"""One training step, fastnet against NumPy, scikit-learn, PyTorch and JAX.  Prints a table; writes JSON with --json.

    python bench/peers.py [--rounds 5] [--json results.json] [--readme README.md] [--only 64-128-128-10]

Needs the extra ``peers`` (those that are missing are left out). Each library runs in a process of its own, all of its
threads on as many CPUs as the column says, and each in its fastest fair form: NumPy as the article writes it;
scikit-learn's partial_fit; PyTorch eager and compiled; JAX with the whole epoch in one
lax.scan; fastnet's Trainer with ten epochs a call of fit. The processes wait for each other: one measures at a time,
in turns, and a figure is the median over the rounds. Same data, float32, no shuffling. fastnet is first held against
NumPy.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np

from fastnet.kernels._jit import target_cpu

NETWORKS: dict[str, tuple[tuple[int, ...], int, int]] = {  # layer sizes, batch size, rows
    "1-16-1": ((1, 16, 1), 16, 2048),
    "13-64-64-1": ((13, 64, 64, 1), 32, 4096),
    "64-128-128-10": ((64, 128, 128, 10), 64, 8192),
    "784-256-128-10": ((784, 256, 128, 10), 128, 8192),
    "512-1024-1024-10": ((512, 1024, 1024, 10), 256, 4096),
}
TASKS = ("sgd, mse", "adam, cross-entropy")
LIBRARIES = ("fastnet", "numpy", "sklearn", "torch", "torch.compile", "jax")
RATE = 1e-3
EPOCHS = 10
"""Epochs of a call of `fit`, whose checks at the door read all the data."""

Epoch = Callable[[], Any]

# ------------------------------------------------------------------------------------------- the sides


def problem(name: str, task: str) -> tuple[tuple[int, ...], int, Any, Any, list[Any], list[Any]]:
    """Sizes, batch size, X, y (labels for cross-entropy), weights and biases."""
    sizes, batch, rows = NETWORKS[name]
    if "entropy" in task and sizes[-1] == 1:
        sizes = (*sizes[:-1], 2)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, sizes[0]), np.float32)
    y: Any = rng.standard_normal((rows, sizes[-1]), np.float32)
    if "entropy" in task:
        y = rng.integers(0, sizes[-1], rows)
    Ws = [(rng.standard_normal((k, n)) * np.sqrt(2 / n)).astype("f4") for n, k in pairwise(sizes)]
    return sizes, batch, X, y, Ws, [np.zeros(k, "f4") for k in sizes[1:]]


def fastnet_epoch(name: str, task: str, threads: int) -> Epoch:
    from fastnet import SGD, Adam, Network, Trainer

    sizes, batch, X, y, Ws, bs = problem(name, task)
    net = Network(sizes)
    for W, b, W0, b0 in zip(net.weights, net.biases, Ws, bs, strict=True):
        W[...], b[...] = W0, b0
    entropy = "entropy" in task
    backend = "serial" if threads == 1 else "parallel"
    optimizer = Adam(RATE) if entropy else SGD(RATE)
    loss = "cross_entropy" if entropy else "mse"
    trainer = Trainer(net, loss, optimizer, batch, shuffle=False, backend=backend, threads=threads)
    reference = numpy_epoch(name, task, threads)
    expected = reference()
    found = trainer.fit(X, y, epochs=1, progress=False)["loss"][0]
    if not abs(found - expected) <= 1e-3 * abs(expected):
        raise SystemExit(f"fastnet is wrong: loss {found}, NumPy's {expected}")
    return lambda: trainer.fit(X, y, epochs=EPOCHS, progress=False)


def numpy_epoch(name: str, task: str, threads: int) -> Epoch:
    _, batch, X, y, Ws, bs = problem(name, task)
    entropy, last, rate = "entropy" in task, len(Ws) - 1, np.float32(RATE)
    parameters = [*Ws, *bs]
    means, squares = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    steps = [0]

    def epoch() -> float:
        total = 0.0
        for start in range(0, len(X), batch):
            A, Z = [X[start : start + batch]], []
            for i, (W, b) in enumerate(zip(Ws, bs, strict=True)):
                z = A[-1] @ W.T + b
                Z.append(z)
                A.append(np.maximum(0, z) if i < last else z)
            target = y[start : start + batch]
            if entropy:
                shifted = A[-1] - A[-1].max(1, keepdims=True)
                e = np.exp(shifted)
                sums = e.sum(1)
                total += float((np.log(sums) - shifted[np.arange(len(target)), target]).sum())
                d = e / sums[:, None]
                d[np.arange(len(target)), target] -= 1
                d /= np.float32(len(target))
            else:
                d = A[-1] - target
                total += float((d * d).mean()) * len(target)
                d *= np.float32(2 / len(target))
            gradients: list[Any] = [None] * (2 * last + 2)
            for i in reversed(range(last + 1)):
                if i < last:
                    d = d * (Z[i] > 0)
                gradients[i], gradients[last + 1 + i] = d.T @ A[i], d.sum(0)
                if i:
                    d = d @ Ws[i]
            if not entropy:
                for p, g in zip(parameters, gradients, strict=True):
                    p -= rate * g
                continue
            steps[0] += 1
            scale = np.float32(RATE * np.sqrt(1 - 0.999 ** steps[0]) / (1 - 0.9 ** steps[0]))
            for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
                m += np.float32(0.1) * (g - m)
                v += np.float32(0.001) * (g * g - v)
                p -= scale * m / (np.sqrt(v) + np.float32(1e-8))
        return total / len(X)

    return epoch


def sklearn_epoch(name: str, task: str, threads: int) -> Epoch:
    import warnings

    from sklearn.neural_network import MLPClassifier, MLPRegressor

    warnings.simplefilter("ignore")
    sizes, batch, X, y, _, _ = problem(name, task)
    shared = {"hidden_layer_sizes": sizes[1:-1], "batch_size": batch, "learning_rate_init": RATE, "alpha": 0}
    if "entropy" in task:
        model: Any = MLPClassifier(solver="adam", shuffle=False, **shared)
        return lambda: model.partial_fit(X, y, classes=np.arange(sizes[-1]))
    model = MLPRegressor(solver="sgd", momentum=0, shuffle=False, **shared)
    target = y if y.shape[1] > 1 else y[:, 0]
    return lambda: model.partial_fit(X, target)


def torch_epoch(name: str, task: str, threads: int, compiled: bool = False) -> Epoch:
    import torch

    torch.set_num_threads(threads)
    sizes, batch, X, y, _, _ = problem(name, task)
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    layers: list[Any] = []
    for n, k in pairwise(sizes):
        layers += [torch.nn.Linear(n, k), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    entropy = "entropy" in task
    loss = torch.nn.CrossEntropyLoss() if entropy else torch.nn.MSELoss()
    optimizer = torch.optim.Adam(net.parameters(), RATE) if entropy else torch.optim.SGD(net.parameters(), RATE)

    def forward(x: Any, target: Any) -> Any:
        return loss(net(x), target)

    if compiled:
        forward = torch.compile(forward)

    def epoch() -> None:
        for start in range(0, len(X), batch):
            optimizer.zero_grad(set_to_none=True)
            forward(X[start : start + batch], y[start : start + batch]).backward()
            optimizer.step()

    return epoch


def compiled_torch_epoch(name: str, task: str, threads: int) -> Epoch:
    return torch_epoch(name, task, threads, compiled=True)


def jax_epoch(name: str, task: str, threads: int) -> Epoch:
    import jax
    import jax.numpy as jnp

    sizes, batch, X, y, Ws, bs = problem(name, task)
    entropy = "entropy" in task
    batches = (jnp.array(X.reshape(-1, batch, sizes[0])), jnp.array(y.reshape(-1, batch, *y.shape[1:])))
    parameters = [(jnp.array(W), jnp.array(b)) for W, b in zip(Ws, bs, strict=True)]

    def loss(parameters: Any, x: Any, target: Any) -> Any:
        for W, b in parameters[:-1]:
            x = jax.nn.relu(x @ W.T + b)
        W, b = parameters[-1]
        z = x @ W.T + b
        if entropy:
            chosen = jnp.take_along_axis(z, target[:, None], 1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(z, axis=1) - chosen)
        return jnp.mean((z - target) ** 2)

    def sgd(state: Any, xy: Any) -> Any:
        gradient = jax.grad(loss)(state, *xy)
        return jax.tree.map(lambda p, g: p - RATE * g, state, gradient), None

    def adam(state: Any, xy: Any) -> Any:
        parameters, means, squares, step = state
        gradient = jax.grad(loss)(parameters, *xy)
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, gradient)
        squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, squares, gradient)
        scale = RATE * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        parameters = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8), parameters, means, squares)
        return (parameters, means, squares, step + 1), None

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = [(parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.float32(1)) if entropy else parameters]
    scan = jax.jit(lambda s: jax.lax.scan(adam if entropy else sgd, s, batches)[0], donate_argnums=0)

    def epoch() -> None:
        state[0] = jax.block_until_ready(scan(state[0]))

    return epoch


MAKERS: dict[str, Callable[[str, str, int], Epoch]] = {
    "fastnet": fastnet_epoch,
    "numpy": numpy_epoch,
    "sklearn": sklearn_epoch,
    "torch": torch_epoch,
    "torch.compile": compiled_torch_epoch,
    "jax": jax_epoch,
}

# ---------------------------------------------------------------------------------------------- workers


def work(library: str, threads: int) -> None:
    """Answer each line "network<TAB>task" with the seconds of a step."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    epochs: dict[str, Epoch] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        name, task = line.rstrip("\n").split("\t")
        if line not in epochs:
            epochs[line] = MAKERS[library](name, task, threads)
            for _ in range(2):
                epochs[line]()
        _, batch, rows = NETWORKS[name]
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begin < 0.3:
            start = time.perf_counter()
            epochs[line]()
            times.append(time.perf_counter() - start)
        epochs_a_call = EPOCHS if library == "fastnet" else 1
        print(statistics.median(times) / (rows / batch) / epochs_a_call, flush=True)


class Worker:
    """A process that measures one library on one number of threads."""

    def __init__(self, library: str, threads: int) -> None:
        count = str(threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        command = [sys.executable, __file__, "--worker", library, count]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **dict.fromkeys(names, count)},
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def seconds(self, name: str, task: str) -> float | None:
        """One measurement; None where the library cannot."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name}\t{task}\n")
            self._process.stdin.flush()
            answer = self._answer()
        except BrokenPipeError:
            return None
        return float(answer) if answer else None

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()


def versions(libraries: list[str]) -> str:
    """The libraries with their versions."""
    packages = {"fastnet": "fastnet-jit", "numpy": "numpy", "sklearn": "scikit-learn", "torch": "torch", "jax": "jax"}
    return ", ".join(f"{packages[name]} {metadata.version(packages[name])}" for name in libraries if name in packages)


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def table(results: list[dict[str, Any]], libraries: list[str], rounds: int) -> str:
    """The results as Markdown: microseconds a step, and how many times fastnet's that is."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        f"One training step in microseconds, and in brackets how many times fastnet's that is; float32, measured "
        f"{datetime.date.today()} on {cpus} cores of a shared {target_cpu()} ({platform.system()}, Python "
        f"{platform.python_version()}, {versions(libraries)}) by `python bench/peers.py --rounds {rounds}`: medians, "
        "each library in a process of its own, in its fastest fair form, on that many CPUs.",
    ]
    for task in TASKS:
        lines += ["", f"| {task}: network, batch | threads | " + " | ".join(libraries) + " |"]
        lines += ["|---|---|" + "---|" * len(libraries)]
        for result in results:
            if result["task"] == task:
                us = result["us"]
                cells = [
                    "-"
                    if library not in us
                    else _short(us[library])
                    if library == "fastnet"
                    else f"{_short(us[library])} ({_short(us[library] / us['fastnet'])})"
                    for library in libraries
                ]
                batch = NETWORKS[result["network"]][1]
                lines.append(f"| {result['network']}, {batch} | {result['threads']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_between_markers(path: str, text: str) -> None:
    """Replace what stands between this script's markers in a file."""
    with open(path) as file:
        whole = file.read()
    begin, end = "<!-- bench/peers.py begins -->\n", "<!-- bench/peers.py ends -->"
    before, rest = whole.split(begin)
    after = rest.split(end, 1)[1]
    with open(path, "w") as file:
        file.write(f"{before}{begin}\n{text}\n\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--readme", metavar="FILE", help="write the table between the markers in this file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], int(options.worker[1]))
        return
    libraries = options.libraries.split(",")
    results: list[dict[str, Any]] = []
    for threads in map(int, options.threads.split(",")):
        workers = {library: Worker(library, threads) for library in libraries}
        for task in TASKS:
            print(f"\n{threads} thread{'s' * (threads > 1)}, {task}: microseconds a step (fastnet's advantage)")
            print(f"{'':18}" + "".join(f"{library:>22}" for library in libraries), flush=True)
            for name in options.only:
                times: dict[str, list[float]] = {library: [] for library in libraries}
                for _ in range(options.rounds):
                    for library, worker in workers.items():
                        found = worker.seconds(name, task)
                        if found is not None:
                            times[library].append(found)
                medians = {library: statistics.median(found) * 1e6 for library, found in times.items() if found}
                line = f"{name:18}"
                for library in libraries:
                    value = medians.get(library)
                    ratio = (value or 0) / medians.get("fastnet", np.nan)
                    line += f"{'-':>22}" if value is None else f"{value:13.1f} ({ratio:6.2f})"
                print(line, flush=True)
                results.append({"network": name, "task": task, "threads": threads, "us": medians})
        for worker in workers.values():
            worker.end()
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"cpu": target_cpu(), "versions": versions(libraries), "results": results}, file, indent=1)
    if options.readme:
        write_between_markers(options.readme, table(results, libraries, options.rounds))


if __name__ == "__main__":
    main()
