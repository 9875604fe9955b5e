"""The public kernel functions: check at the door, allocate the result, call a variant. Layers and activations.

Imports `doors`, `elementwise` for the codes, `promises` and `variants`. Losses are in `scores`, parameter updates in
`updates`. Names and shapes are the article-style ones: one sample a row, X (B, n), W (k, n), b (k,), Z and A (B, k).
Everywhere: float32 and float64 are taken as they are, mixed floats promote, integers become float64, lists and
arrays of any strides are converted; NaN and infinity pass through the arithmetic. ``variant`` names a rung, "auto" the
promoted one for the size at hand; `variants` lists them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..registry import find
from ..specs.base import Array
from . import validation

# -------------------------------------------------------------------------------------- activations


def _elementwise(operation: str, Z: ArrayLike, variant: str) -> Array:
    (Z,) = validation.floats(Z=Z)
    flat = np.ascontiguousarray(Z).reshape(-1)
    out = np.empty_like(flat)
    find(operation, variant, flat.size)(flat, out)
    shaped: Array = out.reshape(Z.shape)[()]  # a number for a number, as NumPy does it
    return shaped


def identity(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z itself, copied; any shape."""
    return _elementwise("identity", Z, variant)


def identity_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 for every element of Z; any shape."""
    return _elementwise("identity_derivative", Z, variant)


def relu(Z: ArrayLike, variant: str = "auto") -> Array:
    """max(0, Z), elementwise; any shape. NaN stays NaN."""
    return _elementwise("relu", Z, variant)


def relu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 where Z > 0, else 0 (at 0 too: the usual subgradient), in Z's dtype; any shape."""
    return _elementwise("relu_derivative", Z, variant)


def tanh(Z: ArrayLike, variant: str = "auto") -> Array:
    """Hyperbolic tangent, elementwise; any shape."""
    return _elementwise("tanh", Z, variant)


def tanh_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 - tanh(Z)^2, elementwise; any shape."""
    return _elementwise("tanh_derivative", Z, variant)


def sigmoid(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 / (1 + exp(-Z)), elementwise, without overflow; any shape."""
    return _elementwise("sigmoid", Z, variant)


def sigmoid_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """S (1 - S) with S = sigmoid(Z), elementwise; any shape."""
    return _elementwise("sigmoid_derivative", Z, variant)


def leaky_relu(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z where Z > 0, else Z / 100, elementwise; any shape."""
    return _elementwise("leaky_relu", Z, variant)


def leaky_relu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 where Z > 0, else 1 / 100 (at 0 too), in Z's dtype; any shape."""
    return _elementwise("leaky_relu_derivative", Z, variant)


def gelu(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z/2 (1 + erf(Z / sqrt 2)), the exact form, elementwise; any shape."""
    return _elementwise("gelu", Z, variant)


def gelu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """Phi(Z) + Z phi(Z), elementwise, where Phi is the normal distribution and phi its density; any shape."""
    return _elementwise("gelu_derivative", Z, variant)


def silu(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z sigmoid(Z), elementwise; any shape."""
    return _elementwise("silu", Z, variant)


def silu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """S (1 + Z (1 - S)) with S = sigmoid(Z), elementwise; any shape."""
    return _elementwise("silu_derivative", Z, variant)
