"""Draws docs/explanation/diagnosis.svg: six trainings, and the diagnosis of each.

python docs/make_diagnosis.py
"""

import textwrap
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import fastnet.data
from fastnet import SGD, Adam, Network, Trainer


def runs() -> dict[str, Any]:
    """Train, and return the histories."""
    X, y = fastnet.data.digits()
    rng = np.random.default_rng(0)
    inputs, noise = rng.normal(size=(1000, 8)), rng.normal(size=(1000, 1))  # which have nothing to do with each other

    def fit(sizes: list[int], loss: str, optimizer: Any, data: Any, epochs: int) -> Any:
        net = Network(sizes)
        net.weights[-1][...] *= len(sizes) > 2  # a straight line starts from zero
        return Trainer(net, loss, optimizer).fit(*data, epochs=epochs, validation_split=0.2)

    return {
        "converged": fit([64, 32, 10], "cross_entropy", Adam(0.003), (X, y), 60),
        "still falling": fit([64, 32, 10], "cross_entropy", SGD(0.01), (X, y), 30),
        "overfitting": fit([8, 128, 1], "mse", Adam(0.003), (inputs[:200], inputs[:200, :1] + noise[:200]), 80),
        "underfitting": fit([8, 1], "mse", SGD(0.01), (inputs, noise), 40),
        "diverged": fit([64, 32, 10], "mse", SGD(1.2), (X, np.eye(10)[y]), 20),
        "too few epochs": fit([64, 32, 10], "cross_entropy", SGD(0.1), (X, y), 6),
    }


def main() -> None:
    """Draw the picture."""
    matplotlib.rcParams.update({"svg.hashsalt": "fastnet", "svg.fonttype": "path", "font.size": 9})
    warnings.simplefilter("ignore")
    figure = Figure(figsize=(10, 10.5), layout="constrained")
    for ax, (name, history) in zip(figure.subplots(3, 2).flat, runs().items(), strict=True):
        history.plot(ax)
        ax.set_title("\n".join(textwrap.wrap(history.diagnosis(), 62)), fontsize=8.5, loc="left")
        print(f"{name}: {history.diagnosis()}")
    figure.savefig(Path(__file__).parent / "explanation" / "diagnosis.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
