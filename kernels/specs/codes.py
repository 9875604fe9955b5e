"""codes."""

IDENTITY, RELU, TANH, SIGMOID, LEAKY_RELU, GELU, SILU = range(7)

MSE, MAE, HUBER, CROSS_ENTROPY, BINARY_CROSS_ENTROPY = range(5)
"""Losses, by the code under which compiled kernels choose one."""
