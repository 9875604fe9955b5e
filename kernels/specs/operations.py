"""The contract of every operation: sample inputs, error bound, and counts of FLOPs and of elements moved.

Layers and activations are specified here, losses and updates in `objectives`; `OP_SPECS` holds them all.
"""

from typing import Any

import numpy as np

from . import objectives
from .activations import ACTIVATION_BY_CODE, ACTIVATIONS, ActivationSpec
from .base import Array, C, Case, OpSpec, nan, normal, rounding
from .cases import EDGES, VECTORS, with_options

# ------------------------------------------------------------------------------------------- layers


def _matrix(rng: np.random.Generator, shape: tuple[int, int], dtype: Any, layout: str) -> Array:
    """Draw a matrix of this shape: "n" is row-major, "t" a transposed row-major matrix, "s" every other element."""
    rows, columns = shape
    if layout == "t":
        return normal(rng, (columns, rows), dtype).T
    if layout == "s":
        return normal(rng, (2 * rows, 2 * columns), dtype)[::2, ::2]
    return normal(rng, shape, dtype)


def _matmul_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    M, K, N = case.dims
    A = _matrix(rng, (M, K), dtype, case.option[0])
    B = _matrix(rng, (K, N), dtype, case.option[1])
    return A, B, nan((M, N), dtype)


def _matmul_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    A, B, _ = arguments
    return (C * eps * np.sqrt(A.shape[1]) * (np.abs(A) @ np.abs(B)),)


def _forward_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    B, n, k = case.dims
    X, W, b = normal(rng, (B, n), dtype), normal(rng, (k, n), dtype), normal(rng, (k,), dtype)
    return X, W, b, ACTIVATIONS[case.option].code, nan((B, k), dtype), nan((B, k), dtype)


def _forward_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    X, W, b, activation, *_ = arguments
    spec = ACTIVATION_BY_CODE[activation]
    Z = C * eps * np.sqrt(X.shape[1] + 1) * (np.abs(X) @ np.abs(W).T + np.abs(b))
    return spec.max_slope * Z + _activation_bound(spec, results[0], eps), Z


def _backward_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    B, n, k = case.dims
    X, Z, dL_dA = normal(rng, (B, n), dtype), normal(rng, (B, k), dtype), normal(rng, (B, k), dtype)
    W = normal(rng, (k, n), dtype)
    name, _, first_layer = case.option.partition("-")
    rows = 0 if first_layer else B  # the first layer's input gradient is never computed: dX has no rows
    outputs = nan((k, n), dtype), nan((k,), dtype), nan((rows, n), dtype)
    return X, Z, dL_dA, W, ACTIVATIONS[name].code, *outputs


def _backward_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    X, _, dL_dA, W, activation, *_ = arguments
    # Derivatives are at most about 1 and accurate to a few eps of 1, so dZ is accurate to a few eps of |dL_dA|.
    dZ = max(1.0, ACTIVATION_BY_CODE[activation].max_slope) * np.abs(dL_dA)
    rows = C * eps * np.sqrt(len(X) + 1)
    return rows * (dZ.T @ np.abs(X)), rows * dZ.sum(axis=0), C * eps * np.sqrt(len(W) + 1) * (dZ @ np.abs(W))


_LAYER_BENCHES = (
    Case((32, 64, 128), "the digits' first layer", "relu"),
    Case((32, 128, 10), "the digits' last layer", "identity"),
    Case((128, 784, 256), "the first layer of an MNIST network", "relu"),
)

_LAYERS = (
    OpSpec(
        "matmul",
        "M,K,N",
        _matmul_sample,
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
        results=(2,),
    ),
    OpSpec(
        "dense_forward",
        "B,n,k",
        _forward_sample,
        _forward_bound,
        lambda B, n, k: 2 * B * n * k + 2 * B * k,
        lambda B, n, k: B * n + k * n + k + 2 * B * k,
        with_options(EDGES, tuple(ACTIVATIONS)),
        (*_LAYER_BENCHES, Case((64, 128, 128), "a layer that needs exponentials", "tanh")),
        results=(4, 5),
    ),
    OpSpec(
        "dense_backward_batch",
        "B,n,k",
        _backward_sample,
        _backward_bound,
        lambda B, n, k: 4 * B * n * k + 2 * B * k,
        lambda B, n, k: 2 * B * n + 2 * k * n + k + 2 * B * k,
        with_options(EDGES, (*ACTIVATIONS, "relu-first")),
        _LAYER_BENCHES,
        results=(5, 6, 7),
    ),
)

# -------------------------------------------------------------------------------------- activations


def _activation_bound(spec: ActivationSpec, A: Array, eps: float) -> Array:
    return rounding(spec.relative_error * A, spec.absolute_error, eps=eps)


def _elementwise(operation: str, relative_error: float, absolute_error: float) -> OpSpec:
    """Specify an elementwise function, accurate to a few roundings of its value or of an absolute magnitude."""

    def sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
        Z = rng.standard_normal(case.dims[0]) * np.repeat([1, 10, 60], -(-case.dims[0] // 3))[: case.dims[0]]
        return Z.astype(dtype), nan(case.dims, dtype)

    def bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
        return (rounding(relative_error * results[0], absolute_error, eps=eps),)

    benches = (Case((16384,), "fits L2"),)
    return OpSpec(operation, "size", sample, bound, lambda n: n, lambda n: 2 * n, VECTORS, benches, results=(1,))


_ACTIVATIONS = (
    operation
    for spec in ACTIVATION_BY_CODE
    for operation in (
        _elementwise(spec.name, spec.relative_error, spec.absolute_error),
        _elementwise(f"{spec.name}_derivative", 1.0, spec.derivative_absolute_error),
    )
)

OP_SPECS: dict[str, OpSpec] = {
    spec.operation: spec for spec in (*_LAYERS, *_ACTIVATIONS, *objectives.LOSSES, *objectives.UPDATES)
}
"""The spec of every operation, by name."""
