"""The kernels of fastnet: arrays in, arrays out.

`api` defines the public functions; `registry.TABLE` lists the variants of each. Nothing here knows about networks or
trainers, and nothing is compiled before its first call.
"""

from typing import TYPE_CHECKING, Any

from .api import activations as _activations
from .api.layers import dense_backward_batch, dense_forward, matmul
from .api.losses import (
    accuracy,
    binary_cross_entropy,
    binary_cross_entropy_derivative,
    cross_entropy,
    cross_entropy_derivative,
    huber,
    huber_derivative,
    mae,
    mae_derivative,
    mse,
    mse_derivative,
    softmax,
)
from .api.optimizers import adam_update, sgd_update
from .registry import variants

__all__ = [
    "accuracy",
    "adam_update",
    "binary_cross_entropy",
    "binary_cross_entropy_derivative",
    "cross_entropy",
    "cross_entropy_derivative",
    "dense_backward_batch",
    "dense_forward",
    "huber",
    "huber_derivative",
    "mae",
    "mae_derivative",
    "matmul",
    "mse",
    "mse_derivative",
    "sgd_update",
    "softmax",
    "variants",
    *_activations.PUBLIC,
]

globals().update(_activations.PUBLIC)

if TYPE_CHECKING:  # the activations are generated from their specs

    def __getattr__(name: str) -> Any: ...
