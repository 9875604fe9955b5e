"""A training step in NumPy: the equations that the compiled step is checked against, in readable form.

Networks are lists of layers (W (k, n), b (k,)) with one activation each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import layers
from .activations import Activation

Array = NDArray[Any]
Layers = Sequence[tuple[Array, Array]]

Drops = Sequence[Callable[[Array], Array]]
"""Functions that apply a hidden layer's dropout mask to its outputs or, in the backward pass, to their gradient."""


def forward(
    network: Layers, activations: Sequence[Activation], X: Array, drops: Drops = ()
) -> tuple[list[Array], list[Array], Array]:
    """Return the input X of every layer, its Z, and the outputs."""
    inputs, Zs = [X], []
    for i, ((W, b), activation) in enumerate(zip(network, activations, strict=True)):
        A, Z = layers.dense_forward(inputs[-1], W, b, activation.function)
        inputs.append(drops[i](A) if i < len(drops) else A)
        Zs.append(Z)
    return inputs[:-1], Zs, inputs[-1]


def backward(
    network: Layers,
    activations: Sequence[Activation],
    inputs: list[Array],
    Zs: list[Array],
    dL_dA: Array,
    drops: Drops = (),
) -> list[tuple[Array, Array]]:
    """Return (dW, db) of every layer from the gradient with respect to the outputs."""
    gradients = []
    for i in reversed(range(len(network))):
        if i < len(drops):
            dL_dA = drops[i](dL_dA)
        X, Z, derivative = inputs[i], Zs[i], activations[i].derivative
        dW, db, dL_dA = layers.dense_backward_batch(X, Z, dL_dA, network[i][0], derivative)
        gradients.append((dW, db))
    return gradients[::-1]


def clipped(gradient: Array, clip_norm: float) -> Array:
    """Return the gradient, scaled to Euclidean norm ``clip_norm`` if its own is larger; NaN and infinity give NaN."""
    norm = float(np.linalg.norm(gradient.astype(np.float64)))
    return gradient if norm <= clip_norm else gradient * gradient.dtype.type(clip_norm / norm)
