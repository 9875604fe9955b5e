"""Prediction as each library writes it: the one place that knows how the peers predict.

Imports fastnet, and each peer when it is asked for: NumPy by hand, PyTorch in inference mode, ONNX Runtime on the model
that fastnet exports. Same weights, ReLU, float32, NumPy arrays in and out; NumPy's outputs are held against those of
each library before it is timed.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = {name: tuple(map(int, name.split("-"))) for name in ("64-128-10", "784-256-128-10", "512-1024-1024-10")}
TASKS = {f"predict {rows}": rows for rows in (1, 16, 200, 5000)}
LIBRARIES = ("fastnet", "predictor", "numpy", "torch", "onnxruntime")
"""predictor is fastnet's snapshot of the network."""

Predict = Callable[[Any], Any]


def installed() -> tuple[str, ...]:
    """The libraries that can be measured here."""
    return tuple(x for x in LIBRARIES if x == "predictor" or importlib.util.find_spec(x) is not None)


def _network(name: str) -> Any:
    from fastnet import Network

    net = Network(NETWORKS[name], seed=0)
    for b in net.biases:
        b[:] = np.random.default_rng(0).standard_normal(len(b)) / 10
    return net


def _fastnet(net: Any, threads: int) -> Predict:
    found: Predict = net.predict
    return found


def _predictor(net: Any, threads: int) -> Predict:
    found: Predict = net.predictor()
    return found


def _numpy(net: Any, threads: int) -> Predict:
    layers = list(zip(net.weights, net.biases, strict=True))

    def predict(X: Any) -> Any:
        for W, b in layers[:-1]:
            X = X @ W.T
            X += b
            np.maximum(X, 0, out=X)
        return X @ layers[-1][0].T + layers[-1][1]

    return predict


def _torch(net: Any, threads: int) -> Predict:
    import torch

    torch.set_num_threads(threads)
    layers: list[Any] = []
    for (n, k), W, b in zip(pairwise(net.layer_sizes), net.weights, net.biases, strict=True):
        linear = torch.nn.Linear(n, k)
        linear.weight.data, linear.bias.data = torch.tensor(W), torch.tensor(b)
        layers += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])

    def predict(X: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(X)).numpy()

    return predict


def _onnxruntime(net: Any, threads: int) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        net.to_onnx(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda X: session.run(None, {"X": X})[0]


_MAKERS = {
    "fastnet": _fastnet,
    "predictor": _predictor,
    "numpy": _numpy,
    "torch": _torch,
    "onnxruntime": _onnxruntime,
}


def calls_of_a_measurement(name: str, task: str) -> int:
    """Predictions between two looks at the clock: some 10 ms of them, one at least."""
    flops = 2 * TASKS[task] * sum(n * k for n, k in pairwise(NETWORKS[name]))
    return max(1, int(0.01 / (5e-6 + flops / 4e10)))


def maker(library: str, name: str, task: str, threads: int) -> Callable[[], None]:
    """Return what predicts `calls_of_a_measurement` times."""
    net = _network(name)
    X = np.random.default_rng(1).standard_normal((TASKS[task], net.layer_sizes[0]), np.float32)
    predict, expected = _MAKERS[library](net, threads), _numpy(net, threads)(X)
    if not np.allclose(predict(X), expected, rtol=1e-3, atol=1e-3):
        raise ArithmeticError(f"{library} is wrong: it predicts {predict(X)[0]}, NumPy {expected[0]}")
    count = calls_of_a_measurement(name, task)

    def measured() -> None:
        for _ in range(count):
            predict(X)

    return measured
