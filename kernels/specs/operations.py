"""What each operation promises: its inputs for a case, its error bound, its operations and bytes.

Imports `cases`, `objectives`, `promises` and `reference`. Layers and activations are here, losses and updates in
`objectives`; `OP_SPECS` holds them all.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..reference import activations, layers
from . import objectives
from .base import Array, C, OpSpec, SampleInput, as_out_kernel, nan, normal, rounding
from .cases import EDGES, VECTORS, Case, with_options

# ------------------------------------------------------------------------------------------- layers


def _matrix(rng: np.random.Generator, shape: tuple[int, int], dtype: Any, layout: str) -> Array:
    """A matrix of this shape: "n" row-major, "t" the transpose of a row-major one, "s" every other element."""
    rows, columns = shape
    if layout == "t":
        return normal(rng, (columns, rows), dtype).T
    if layout == "s":
        return normal(rng, (2 * rows, 2 * columns), dtype)[::2, ::2]
    return normal(rng, shape, dtype)


def _matmul_input(case: Case, dtype: Any, rng: np.random.Generator) -> SampleInput:
    M, K, N = case.dims
    A = _matrix(rng, (M, K), dtype, case.option[0])
    B = _matrix(rng, (K, N), dtype, case.option[1])
    return SampleInput((A, B, nan((M, N), dtype)), (2,))


def _matmul_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    A, B, _ = arguments
    return (C * eps * np.sqrt(A.shape[1]) * (np.abs(A) @ np.abs(B)),)


def _forward_problem(case: Case, dtype: Any, rng: np.random.Generator) -> SampleInput:
    B, n, k = case.dims
    X, W, b = normal(rng, (B, n), dtype), normal(rng, (k, n), dtype), normal(rng, (k,), dtype)
    return SampleInput((X, W, b, _code(case.option), nan((B, k), dtype), nan((B, k), dtype)), (4, 5))


MAX_SLOPE = 1.13  # of all activations: gelu' reaches 1.129, silu' 1.0998, the others 1


def _forward_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    X, W, b, *_ = arguments
    Z = C * eps * np.sqrt(X.shape[1] + 1) * (np.abs(X) @ np.abs(W).T + np.abs(b))
    return MAX_SLOPE * Z + rounding(results[0], eps=eps), Z


def _backward_problem(case: Case, dtype: Any, rng: np.random.Generator) -> SampleInput:
    B, n, k = case.dims
    X, Z, dL_dA = normal(rng, (B, n), dtype), normal(rng, (B, k), dtype), normal(rng, (B, k), dtype)
    W = normal(rng, (k, n), dtype)
    name, _, first_layer = case.option.partition("-")
    wanted = 0 if first_layer else B  # the first layer's dX goes to nobody: no rows, and it must be left alone
    outputs = nan((k, n), dtype), nan((k,), dtype), nan((wanted, n), dtype)
    return SampleInput((X, Z, dL_dA, W, _code(name), *outputs), (5, 6, 7))


def _backward_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    X, Z, dL_dA, W, activation, *_ = arguments
    # Every derivative here is right to a few eps of 1, near which the largest are, so dZ to a few eps of |dL_dA|.
    dZ = np.abs(dL_dA * activations.ACTIVATIONS[activation].derivative(Z)) + np.abs(dL_dA) / 4
    rows = C * eps * np.sqrt(len(X) + 1)
    return rows * (dZ.T @ np.abs(X)), rows * dZ.sum(axis=0), C * eps * np.sqrt(len(W) + 1) * (dZ @ np.abs(W))


def _code(name: str) -> int:
    return [activation.name for activation in activations.ACTIVATIONS].index(name)


def _forward_oracle(X: Array, W: Array, b: Array, activation: int, A: Array, Z: Array) -> None:
    A[...], Z[...] = layers.dense_forward(X, W, b, activations.ACTIVATIONS[activation].function)


def _backward_oracle(
    X: Array, Z: Array, dL_dA: Array, W: Array, activation: int, dW: Array, db: Array, dX: Array
) -> None:
    derivative = activations.ACTIVATIONS[activation].derivative
    dW[...], db[...], full = layers.dense_backward_batch(X, Z, dL_dA, W, derivative)
    if dX.size > 0:  # a dX of no elements is not wanted: the first layer has nobody to hand it to
        dX[...] = full


_NAMES = tuple(activation.name for activation in activations.ACTIVATIONS)

_LAYERS = (
    OpSpec(
        "matmul",
        "M,K,N",
        as_out_kernel(layers.matmul),
        _matmul_input,
        _matmul_bound,
        lambda M, K, N: 2 * M * K * N,
        lambda M, K, N: M * K + K * N + M * N,
        with_options(EDGES, ("nn", "tn", "nt", "tt", "ss")),
        (
            Case((32, 64, 64), "a layer of a small network", "nn"),
            Case((100, 30, 7), "smaller than any tile", "nn"),
            Case((37, 93, 41), "odd everywhere", "nn"),
            Case((64, 64, 64), "fits L1", "nn"),
            Case((128, 128, 128), "fits L2", "nn"),
            Case((256, 256, 256), "one block of B", "nn"),
            Case((512, 512, 512), "several blocks of B", "nn"),
            Case((1024, 1024, 1024), "fits L3; rows a power of two apart", "nn"),
            Case((128, 128, 128), "the forward product X W^T", "nt"),
            Case((128, 784, 256), "the first layer of an MNIST network", "nn"),
        ),
    ),
    OpSpec(
        "dense_forward",
        "B,n,k",
        _forward_oracle,
        _forward_problem,
        _forward_bound,
        lambda B, n, k: 2 * B * n * k + 2 * B * k,
        lambda B, n, k: B * n + k * n + k + 2 * B * k,
        with_options(EDGES, _NAMES),
        (
            Case((32, 64, 128), "the digits' first layer", "relu"),
            Case((32, 128, 10), "the digits' last layer", "identity"),
            Case((64, 128, 128), "a layer that needs exponentials", "tanh"),
            Case((128, 784, 256), "the first layer of an MNIST network", "relu"),
        ),
    ),
    OpSpec(
        "dense_backward_batch",
        "B,n,k",
        _backward_oracle,
        _backward_problem,
        _backward_bound,
        lambda B, n, k: 4 * B * n * k + 2 * B * k,
        lambda B, n, k: 2 * B * n + 2 * k * n + k + 2 * B * k,
        with_options(EDGES, (*_NAMES, "relu-first")),
        (
            Case((32, 64, 128), "the digits' first layer", "relu"),
            Case((32, 128, 10), "the digits' last layer", "identity"),
            Case((128, 784, 256), "the first layer of an MNIST network", "relu"),
        ),
    ),
)

# -------------------------------------------------------------------------------------- activations


_ABSOLUTE = {"tanh_derivative": 0.5, "gelu": 0.25, "gelu_derivative": 0.5, "silu_derivative": 0.5}
"""What is right to a few eps of a number this large where it is smaller itself.

tanh' = 1 - tanh^2 cancels in its tails; gelu' and silu' where they change sign. gelu is its own size times that of
its argument's rounding, 1 + z^2, in the lower tail.
"""


def _activation_contract(name: str, function: Callable[..., Any]) -> OpSpec:
    def problem(case: Case, dtype: Any, rng: np.random.Generator) -> SampleInput:
        Z = rng.standard_normal(case.dims[0]) * np.repeat([1, 10, 60], -(-case.dims[0] // 3))[: case.dims[0]]
        return SampleInput((Z.astype(dtype), nan(case.dims, dtype)), (1,))

    def bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
        relative = 2 if name == "silu" else 1  # the reference squares an exponential, and with it its error
        return (rounding(relative * results[0], _ABSOLUTE.get(name, 0.0), eps=eps),)

    return OpSpec(
        name,
        "size",
        as_out_kernel(function),
        problem,
        bound,
        lambda n: n,
        lambda n: 2 * n,
        VECTORS,
        (Case((16384,), "fits L2"),),
    )


_ACTIVATIONS = tuple(
    _activation_contract(function.__name__, function)
    for activation in activations.ACTIVATIONS
    for function in (activation.function, activation.derivative)
)

OP_SPECS: dict[str, OpSpec] = {
    contract.operation: contract for contract in (*_LAYERS, *_ACTIVATIONS, *objectives.LOSSES, *objectives.UPDATES)
}
"""The contract of every operation, by name."""
