"""The kernels of fastnet: arrays in, arrays out.

The public functions are defined in `operations`; the table of their variants is `variants.TABLE`. Nothing
here knows of networks or trainers, and nothing is compiled before its first call.
"""

from .operations import (
    accuracy,
    adam_update,
    cross_entropy,
    cross_entropy_derivative,
    dense_backward_batch,
    dense_forward,
    identity,
    identity_derivative,
    matmul,
    mse,
    mse_derivative,
    relu,
    relu_derivative,
    sgd_update,
    sigmoid,
    sigmoid_derivative,
    softmax,
    tanh,
    tanh_derivative,
)
from .variants import variants

__all__ = [
    "accuracy",
    "adam_update",
    "cross_entropy",
    "cross_entropy_derivative",
    "dense_backward_batch",
    "dense_forward",
    "identity",
    "identity_derivative",
    "matmul",
    "mse",
    "mse_derivative",
    "relu",
    "relu_derivative",
    "sgd_update",
    "sigmoid",
    "sigmoid_derivative",
    "softmax",
    "tanh",
    "tanh_derivative",
    "variants",
]
