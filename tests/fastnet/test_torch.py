"""Ten steps against PyTorch, where it is installed: every loss, activation and optimizer, in float64."""

from typing import Any

import numpy as np
import pytest

from fastnet import SGD, Adam, AdamW, Network, RMSprop, Trainer

torch: Any = pytest.importorskip("torch")

X, Y = np.random.default_rng(0).standard_normal((2, 50, 3))
LABELS = np.random.default_rng(0).integers(0, 3, 50)

LOSSES = {
    "mse": (Y, lambda z, y: ((z - y) ** 2).sum(1).mean()),
    "mae": (Y, lambda z, y: (z - y).abs().sum(1).mean()),
    "log_cosh": (Y, lambda z, y: torch.log(torch.cosh(z - y)).sum(1).mean()),
    "huber": (Y, lambda z, y: torch.nn.functional.huber_loss(z, y, reduction="none").sum(1).mean()),
    "cross_entropy": (LABELS, torch.nn.functional.cross_entropy),
    "binary_cross_entropy": (
        (Y > 0).astype(float),
        lambda z, y: torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1).mean(),
    ),
}
ACTIVATIONS = {
    "identity": torch.nn.Identity,
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "leaky_relu": torch.nn.LeakyReLU,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
    "elu": torch.nn.ELU,
    "softplus": torch.nn.Softplus,
    "mish": torch.nn.Mish,
}
OPTIMIZERS = {
    "sgd": (SGD(0.02), lambda p: torch.optim.SGD(p, 0.02)),
    "momentum": (SGD(0.02, 0.9), lambda p: torch.optim.SGD(p, 0.02, momentum=0.9)),
    "nesterov": (SGD(0.02, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True)),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adamw": (AdamW(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    "rmsprop": (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
}


def difference(loss: str, hidden: str, optimizer: str, clip: float | None = None) -> float:
    """Largest difference of a parameter after ten steps of five rows, relative to the largest parameter."""
    targets, objective = LOSSES[loss]
    ours, make = OPTIMIZERS[optimizer]
    net = Network([3, 8, 5, 3], hidden=hidden, dtype="float64", seed=1)
    layers: list[Any] = []
    for W, b in zip(net.weights, net.biases, strict=True):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(W), torch.tensor(b)
        layers += [linear, ACTIVATIONS[hidden]()]
    model = torch.nn.Sequential(*layers[:-1])
    theirs = make(model.parameters())
    for start in range(0, 50, 5):
        theirs.zero_grad()
        objective(model(torch.tensor(X[start : start + 5])), torch.tensor(targets[start : start + 5])).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        theirs.step()
    Trainer(net, loss, ours, batch_size=5, shuffle=False, clip_norm=clip).fit(X, targets, epochs=1)
    expected = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    return float(np.abs(net.parameters - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hidden", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_ten_steps_equal_those_of_pytorch(loss: str, hidden: str, optimizer: str) -> None:
    assert difference(loss, hidden, optimizer) < 1e-10


def test_clipping_equals_that_of_pytorch() -> None:
    assert difference("mse", "tanh", "momentum", clip=0.5) < 1e-6  # PyTorch adds 1e-6 to the norm
