"""The activations in NumPy: the oracle that every kernel is checked against.

Deliberately simple, and correct for any float dtype: in float64 (or longdouble) these functions give the true values
that a float32 kernel is compared with; in the kernel's own dtype they are the variant `reference`, which the Trainer
also runs with ``backend="numpy"``. They state the equations of `specs.activations` independently of the formulas given
there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..specs import activations as specs

Array = NDArray[Any]


def identity(Z: Array) -> Array:
    """Z."""
    return Z


def identity_derivative(Z: Array) -> Array:
    """1."""
    return np.ones_like(Z)


def relu(Z: Array) -> Array:
    """max(0, Z)."""
    return np.maximum(Z, 0)


def relu_derivative(Z: Array) -> Array:
    """1 where Z > 0, else 0 (at 0 too: the usual subgradient)."""
    return (Z > 0).astype(Z.dtype)


def tanh(Z: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(Z)


def tanh_derivative(Z: Array) -> Array:
    """1 - tanh(Z)^2."""
    return 1 - np.tanh(Z) ** 2


def sigmoid(Z: Array) -> Array:
    """1 / (1 + exp(-Z)), from the exponential that cannot overflow."""
    e = np.exp(-np.abs(Z))
    return np.where(Z < 0, e, 1) / (1 + e)


def sigmoid_derivative(Z: Array) -> Array:
    """S (1 - S), where S = sigmoid(Z)."""
    return sigmoid(Z) * sigmoid(-Z)  # 1 - S cancels for large Z; sigmoid(-Z) is equal and does not


def leaky_relu(Z: Array) -> Array:
    """Z where Z > 0, else Z / 100."""
    return np.where(Z > 0, Z, Z * Z.dtype.type(0.01))


def leaky_relu_derivative(Z: Array) -> Array:
    """1 where Z > 0, else 1 / 100 (at 0 too)."""
    return np.where(Z > 0, Z.dtype.type(1), Z.dtype.type(0.01))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_cdf(Z: Array) -> Array:
    """Phi(Z) = (1 + erf(Z / sqrt 2)) / 2, the share of the normal distribution below Z.

    Computed with erfc, so that the tails keep their digits, and in float64 for every dtype, since NumPy has no erf: for
    a longdouble Z the result is accurate to a few roundings of float64, in the lower tail to (1 + Z^2) of them.
    """
    result: Array = 0.5 * _erfc(Z * -math.sqrt(0.5))
    return result.astype(Z.dtype)


def gelu(Z: Array) -> Array:
    """Z Phi(Z) = Z/2 (1 + erf(Z / sqrt 2)); Phi is the normal distribution (Hendrycks and Gimpel 2016, exact form)."""
    return np.maximum(Z, -40) * _normal_cdf(Z)  # Phi(-40) is 0 already, and 0 times infinity would be NaN


def gelu_derivative(Z: Array) -> Array:
    """Phi(Z) + Z phi(Z), where phi is the normal density."""
    near = np.clip(Z, -150, 150)  # phi is 0 beyond, and infinity times 0 would be NaN
    return _normal_cdf(Z) + near * np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi)


def silu(Z: Array) -> Array:
    """Z sigmoid(Z) (Hendrycks and Gimpel 2016).

    Below 0 it is computed as Z e^(Z/2) e^(Z/2) / (1 + e^Z), where only the last product may underflow: sigmoid(-100)
    has two digits in float32. Z is clipped where that is 0, since 0 times infinity would be NaN.
    """
    half = np.exp(-np.abs(Z) / 2)
    return np.where(Z < 0, np.clip(Z, -800, 0) * half * half, Z) / (1 + half * half)


def silu_derivative(Z: Array) -> Array:
    """S (1 + Z (1 - S)), where S = sigmoid(Z)."""
    S = sigmoid(Z)
    return S + np.clip(Z, -800, 800) * S * sigmoid(-Z)  # clipped where S (1 - S) is 0: 0 times infinity would be NaN


def elu(Z: Array) -> Array:
    """Z where Z > 0, else exp(Z) - 1 (Clevert, Unterthiner and Hochreiter 2015, with alpha 1)."""
    return np.where(Z > 0, Z, np.expm1(np.minimum(Z, 0)))


def elu_derivative(Z: Array) -> Array:
    """1 where Z > 0, else exp(Z)."""
    return np.exp(np.minimum(Z, 0))


def softplus(Z: Array) -> Array:
    """log(1 + exp(Z)), from the exponential that cannot overflow (Dugas et al. 2001)."""
    return np.maximum(Z, 0) + np.log1p(np.exp(-np.abs(Z)))


def softplus_derivative(Z: Array) -> Array:
    """1 / (1 + exp(-Z))."""
    return sigmoid(Z)


def mish(Z: Array) -> Array:
    """Z tanh(softplus(Z)) (Misra 2019), where tanh(softplus(Z)) = E (E + 2) / (E (E + 2) + 2) with E = e^Z.

    Below 0 with Z E = Z e^(Z/2) e^(Z/2), as in `silu`; above 0 both terms are divided by E^2, which may overflow.
    """
    half = np.exp(-np.abs(Z) / 2)
    E = half * half
    below = np.clip(Z, -800, 0) * half * half * ((E + 2) / (E * (E + 2) + 2))
    return np.where(Z < 0, below, Z * ((1 + 2 * E) / (1 + 2 * E * (1 + E))))


def mish_derivative(Z: Array) -> Array:
    """t + Z S (1 - t^2), where t = tanh(softplus(Z)) and S = sigmoid(Z)."""
    t, E = np.tanh(softplus(Z)), np.exp(-np.abs(Z))
    rest = np.where(Z < 0, 2 / (E * (E + 2) + 2), 2 * E * E / (1 + 2 * E * (1 + E)))  # 1 - t, which would cancel
    return t + np.clip(Z, -800, 800) * sigmoid(Z) * rest * (1 + t)


class Activation(NamedTuple):
    """An activation, elementwise, and its derivative with respect to Z."""

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


ACTIVATIONS = tuple(Activation(name, globals()[name], globals()[f"{name}_derivative"]) for name in specs.ACTIVATIONS)
"""The functions above by the integer codes of the specs."""
