"""Codes of the activations and losses by constant names."""

from .activations import ACTIVATIONS
from .losses import LOSSES

IDENTITY, RELU, TANH, SIGMOID, LEAKY_RELU, GELU, SILU = (spec.code for spec in tuple(ACTIVATIONS.values())[:7])
MSE, MAE, HUBER, CROSS_ENTROPY, BINARY_CROSS_ENTROPY = (spec.code for spec in tuple(LOSSES.values())[:5])
