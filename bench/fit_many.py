"""`fit_many` against `fit` one after the other, and against JAX's vmap where it is installed.  Prints a table.

    python bench/fit_many.py [--networks 16] [--layers 64,128,10] [--rows 2048] [--batch-size 32] [--epochs 20]
                             [--rounds 7] [--threads N]

Each round trains all networks once by each way, on the same data; the ratio is the median over rounds. Before that,
parameters and losses of both ways of fastnet are compared to the bit, and JAX's losses with them. Adam, cross-entropy,
float32. fastnet shuffles the rows, each network by its seed; JAX visits them in order, all networks in one program:
vmap over networks of a lax.scan over batches, compiled once. The last line is what the machine allows: as many
processes as `fit_many` has threads, which share nothing, each of which trains its part of the networks in turn, on one
thread.
"""

import argparse
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnet import Adam, Network, Trainer, fit_many
from fastnet.kernels.cpu.threads.pool import num_threads

RATE = 1e-3
Run = Callable[[], Any]


def jax_run(trainers: list[Trainer], X: Any, y: Any, batch: int, epochs: int) -> Run:
    """Return a function that trains all networks for some epochs, from where they are, and returns the last losses."""
    import jax
    import jax.numpy as jnp

    def loss(parameters: Any, x: Any, labels: Any) -> Any:
        for W, b in parameters[:-1]:
            x = jax.nn.relu(x @ W.T + b)
        z = x @ parameters[-1][0].T + parameters[-1][1]
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, labels[:, None], 1)[:, 0])

    def step(state: Any, xy: Any) -> Any:
        parameters, means, squares, t = state
        value, gradient = jax.value_and_grad(loss)(parameters, *xy)
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, gradient)
        squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, squares, gradient)
        scale = RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        parameters = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8), parameters, means, squares)
        return (parameters, means, squares, t + 1), value

    whole = len(X) // batch * batch
    batches = jnp.array(X[:whole].reshape(-1, batch, X.shape[1])), jnp.array(y[:whole].reshape(-1, batch))
    epoch = jax.jit(jax.vmap(lambda state: jax.lax.scan(step, state, batches)), donate_argnums=0)
    networks = [list(zip(t.network.weights, t.network.biases, strict=True)) for t in trainers]
    parameters = jax.tree.map(lambda *arrays: jnp.array(np.stack(arrays)), *networks)
    zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
    state = [(parameters, *zeros, jnp.ones(len(trainers)))]

    def run() -> Any:
        for _ in range(epochs):
            state[0], losses = epoch(state[0])
        return np.asarray(losses).mean(axis=1)

    return run


def problem(options: argparse.Namespace, threads: int | None = None) -> tuple[Any, Any, list[Trainer]]:
    """Return X, y and untrained trainers."""
    sizes, rng = [int(size) for size in options.layers.split(",")], np.random.default_rng(0)
    X = rng.standard_normal((options.rows, sizes[0])).astype("float32")
    y = np.argmax(X @ rng.standard_normal((sizes[0], sizes[-1])), axis=1)
    networks = [Network(sizes, seed=i) for i in range(options.networks)]
    options_of_all = "cross_entropy", Adam(RATE), options.batch_size
    return X, y, [Trainer(net, *options_of_all, seed=net.seed, threads=threads) for net in networks]


def _process(pipe: Any, options: argparse.Namespace, part: slice) -> None:
    """Train a part of the networks whenever a message comes, until the other end is closed."""
    X, y, trainers = problem(options, threads=1)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send([trainer.fit(X, y, options.epochs, progress=False)["loss"][-1] for trainer in trainers[part]])


def processes_run(options: argparse.Namespace, count: int) -> Run:
    """Return a function that trains all networks in ``count`` processes, and returns the last losses."""
    context, pipes, parts = multiprocessing.get_context("spawn"), [], [slice(i, None, count) for i in range(count)]
    for part in parts:
        ours, theirs = context.Pipe()
        context.Process(target=_process, args=(theirs, options, part), daemon=True).start()
        theirs.close()
        pipes.append(ours)

    def run() -> Any:
        losses = np.empty(options.networks)
        for pipe in pipes:
            pipe.send(None)
        for pipe, part in zip(pipes, parts, strict=True):
            losses[part] = pipe.recv()
        return losses

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("networks", 16), ("rows", 2048), ("batch-size", 32), ("epochs", 20), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--layers", default="64,128,10")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    (X, y, one), (_, _, many), (_, _, of_jax) = (problem(options) for _ in range(3))
    threads = min(options.threads or num_threads(), options.networks)

    def one_after_the_other() -> Any:
        return [trainer.fit(X, y, options.epochs, progress=False)["loss"][-1] for trainer in one]

    def at_once() -> Any:
        histories = fit_many(many, X, y, options.epochs, progress=False, threads=options.threads)
        return [history["loss"][-1] for history in histories]

    ways = {"fit, one after the other": one_after_the_other, "fit_many": at_once}
    if importlib.util.find_spec("jax"):
        ways["jax, vmap"] = jax_run(of_jax, X, y, options.batch_size, options.epochs)
    ways[f"fit in {threads} processes"] = processes_run(options, threads)
    losses = {name: np.array(run()) for name, run in ways.items()}
    for name in ("fit_many", f"fit in {threads} processes"):
        assert losses[name].tobytes() == losses["fit, one after the other"].tobytes(), "losses differ"
    for a, b in zip(one, many, strict=True):
        assert a.network.parameters.tobytes() == b.network.parameters.tobytes(), "parameters differ"
    if "jax, vmap" in losses and not np.allclose(losses["jax, vmap"], losses["fit_many"], rtol=0.3):
        raise ArithmeticError(f"JAX's losses are {losses['jax, vmap']}, fastnet's {losses['fit_many']}")
    rounds = []
    for _ in range(options.rounds):
        seconds = []
        for run in ways.values():
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        rounds.append(seconds)
    print(
        f"{options.networks} networks {options.layers.replace(',', '-')}, {options.rows} rows, batches of "
        f"{options.batch_size}, {options.epochs} epochs, {threads} threads; bits of fit and fit_many are equal"
    )
    first = [seconds[0] for seconds in rounds]
    for name, column in zip(ways, zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(a / b for a, b in zip(first, column, strict=True))
        print(f"{name:<26}{statistics.median(column):>9.4f} s{ratio:>8.2f} x")


if __name__ == "__main__":
    main()
