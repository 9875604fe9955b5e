"""The kernels of fastnet: arrays in, arrays out.

`api` defines the public functions; `registry.TABLE` lists the variants of each. Nothing here knows about networks or
trainers, and nothing is compiled before its first call.
"""

from .api.activations import (
    gelu,
    gelu_derivative,
    identity,
    identity_derivative,
    leaky_relu,
    leaky_relu_derivative,
    relu,
    relu_derivative,
    sigmoid,
    sigmoid_derivative,
    silu,
    silu_derivative,
    tanh,
    tanh_derivative,
)
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
    "gelu",
    "gelu_derivative",
    "huber",
    "huber_derivative",
    "identity",
    "identity_derivative",
    "leaky_relu",
    "leaky_relu_derivative",
    "mae",
    "mae_derivative",
    "matmul",
    "mse",
    "mse_derivative",
    "relu",
    "relu_derivative",
    "sgd_update",
    "sigmoid",
    "sigmoid_derivative",
    "silu",
    "silu_derivative",
    "softmax",
    "tanh",
    "tanh_derivative",
    "variants",
]
