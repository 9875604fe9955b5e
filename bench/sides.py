"""The same training step as each library writes it: the one place that knows how the peers train.

Imports fastnet, and each peer when it is asked for. Each in its fastest fair form: NumPy as the article writes it;
scikit-learn's partial_fit; PyTorch eager and compiled; JAX with the whole epoch in one lax.scan; fastnet's Trainer with
several epochs a call of fit. Same data, float32, no shuffling. fastnet is held against NumPy before it is timed.
"""

import importlib.util
from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np

NETWORKS: dict[str, tuple[tuple[int, ...], int, int]] = {  # layer sizes, batch size, rows
    "1-16-1": ((1, 16, 1), 16, 2048),
    "13-64-64-1": ((13, 64, 64, 1), 32, 4096),
    "64-128-128-10": ((64, 128, 128, 10), 64, 8192),
    "784-256-128-10": ((784, 256, 128, 10), 128, 8192),
    "512-1024-1024-10": ((512, 1024, 1024, 10), 256, 4096),
    "4-10-3": ((4, 10, 3), 32, 2048),
    "30-100-50-2": ((30, 100, 50, 2), 64, 4096),
    "100-300-100-1": ((100, 300, 100, 1), 100, 4000),
    "54-256-256-256-7": ((54, 256, 256, 256, 7), 128, 8192),
    "1000-500-100": ((1000, 500, 100), 256, 4096),
}
SHOWN_NETWORKS = tuple(NETWORKS)[:5]
"""In README and the plots. The kernels were tuned with these; the others were chosen before any was measured."""

TASKS = ("sgd, mse", "adam, cross-entropy")
LIBRARIES = ("fastnet", "numpy", "sklearn", "torch", "torch.compile", "jax")
RATE = 1e-3
Epoch = Callable[[], Any]


def epochs_of_a_call(name: str) -> int:
    """Epochs of one call of `fit`, whose validation reads all the data: 10, fewer where they take seconds."""
    sizes, _, rows = NETWORKS[name]
    return max(1, min(10, int(1e11 / (6 * rows * sum(n * k for n, k in pairwise(sizes))))))


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
    optimizer = Adam(RATE) if entropy else SGD(RATE)
    loss = "cross_entropy" if entropy else "mse"
    trainer = Trainer(net, loss, optimizer, batch, shuffle=False, threads=threads)
    reference = numpy_epoch(name, task, threads)
    expected = reference()
    found = trainer.fit(X, y, epochs=1, progress=False)["loss"][0]
    if not abs(found - expected) <= 1e-3 * abs(expected):
        raise ArithmeticError(f"fastnet is wrong: loss {found}, NumPy's {expected}")
    epochs = epochs_of_a_call(name)
    return lambda: trainer.fit(X, y, epochs=epochs, progress=False)


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

PACKAGES = {
    "fastnet": "fastnet-jit",
    "numpy": "numpy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "torch.compile": "torch",
    "jax": "jax",
}


def installed() -> tuple[str, ...]:
    """The libraries that can be measured here."""
    return tuple(name for name in LIBRARIES if importlib.util.find_spec(name.partition(".")[0]) is not None)


def versions(libraries: tuple[str, ...]) -> str:
    """The libraries with their versions."""
    packages = dict.fromkeys(PACKAGES[name] for name in libraries)
    return ", ".join(f"{package} {metadata.version(package)}" for package in packages)
