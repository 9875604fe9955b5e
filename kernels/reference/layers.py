"""The dense layer in NumPy: the oracle of products and layers.

Shapes, with one sample per row: X (B, n); W (k, n); b (k,); Z and A (B, k).
"""

from collections.abc import Callable

import numpy as np

from .activations import Array


def matmul(A: Array, B: Array) -> Array:
    """C = A B."""
    return A @ B


def dense_forward(X: Array, W: Array, b: Array, activation: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Z = X W^T + b;  A = activation(Z).  Returns (A, Z)."""
    Z = X @ W.T + b
    return activation(Z), Z


def dense_backward_batch(
    X: Array, Z: Array, dL_dA: Array, W: Array, activation_derivative: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.  Returns (dW, db, dX)."""
    dZ = dL_dA * activation_derivative(Z)
    return dZ.T @ X, np.sum(dZ, axis=0), dZ @ W
