"""What each operation promises: its inputs for a case, its error bound, its operations and bytes.

Imports `reference` and `cases`. A contract knows nothing of the variants; `variants` holds them against it.

The bounds. A sum of k products in floating point is off by a random walk of roundings, so an element may
miss the truth by ``C eps sqrt(k) (|A| |B|)``: tight enough that zeros, a dropped last k, a missing bias or
half-precision weights fail, loose enough that right kernels use under a third of it (both are tested). A
bound linear in k would let half precision through.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import reference
from .cases import BATCH_BENCHES, BATCHES, EDGES, VECTORS, Case, with_options

Array = NDArray[Any]

C = 8.0
"""Constant of the error bounds."""


@dataclass(frozen=True)
class Problem:
    """Arguments of one call.

    Attributes
    ----------
    arguments : tuple
        What a variant is called with. An output that is not also an input is full of NaN.
    results : tuple of int
        Which of the arguments the variant must have filled.
    """

    arguments: tuple[Any, ...]
    results: tuple[int, ...]


@dataclass(frozen=True)
class Contract:
    """What every variant of an operation must keep.

    Attributes
    ----------
    operation : str
        The public function's name.
    dims : str
        Names of a case's sizes.
    oracle : callable
        The reference, under the variants' calling convention.
    problem : callable
        ``(case, dtype, rng) -> Problem``.
    bound : callable
        ``(arguments, results, eps) -> tuple of arrays``: largest error allowed, element by element, given
        the arguments and the true results in the wide dtype.
    flops : callable
        ``(*dims) -> int``, floating-point operations that the equation needs.
    moved : callable
        ``(*dims) -> int``, array elements that must be read or written at least once.
    cases : tuple of Case
        Held against the oracle in the tests.
    benches : tuple of Case
        Timed.
    """

    operation: str
    dims: str
    oracle: Callable[..., None]
    problem: Callable[[Case, Any, np.random.Generator], Problem]
    bound: Callable[[tuple[Any, ...], tuple[Array, ...], float], tuple[Array, ...]]
    flops: Callable[..., int]
    moved: Callable[..., int]
    cases: tuple[Case, ...]
    benches: tuple[Case, ...]


def into(function: Callable[..., Any], outputs: int = 1) -> Callable[..., None]:
    """Adapt a function that returns its results to the variants' convention: trailing arguments are filled."""

    def kernel(*arguments: Any) -> None:
        results = function(*arguments[:-outputs])
        for out, result in zip(arguments[-outputs:], results if outputs > 1 else (results,), strict=True):
            out[...] = result

    kernel.__name__ = kernel.__qualname__ = function.__name__
    kernel.__doc__ = function.__doc__
    return kernel


def _nan(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.full(shape, np.nan, dtype)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def _rounding(*magnitudes: Array | float, eps: float) -> Array:
    """Bound of a few roundings of numbers this large; a denormal may be off by its whole spacing."""
    total: Any = sum(np.abs(magnitude) for magnitude in magnitudes)
    return C * (eps * total + np.finfo(np.float32 if eps > 1e-10 else np.float64).smallest_subnormal)


# ------------------------------------------------------------------------------------------- layers


def _matrix(rng: np.random.Generator, shape: tuple[int, int], dtype: Any, layout: str) -> Array:
    """A matrix of this shape: "n" row-major, "t" the transpose of a row-major one, "s" every other element."""
    rows, columns = shape
    if layout == "t":
        return _normal(rng, (columns, rows), dtype).T
    if layout == "s":
        return _normal(rng, (2 * rows, 2 * columns), dtype)[::2, ::2]
    return _normal(rng, shape, dtype)


def _matmul_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    M, K, N = case.dims
    A = _matrix(rng, (M, K), dtype, case.option[0])
    B = _matrix(rng, (K, N), dtype, case.option[1])
    return Problem((A, B, _nan((M, N), dtype)), (2,))


def _matmul_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    A, B, _ = arguments
    return (C * eps * np.sqrt(A.shape[1]) * (np.abs(A) @ np.abs(B)),)


def _forward_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    B, n, k = case.dims
    X, W, b = _normal(rng, (B, n), dtype), _normal(rng, (k, n), dtype), _normal(rng, (k,), dtype)
    return Problem((X, W, b, _code(case.option), _nan((B, k), dtype), _nan((B, k), dtype)), (4, 5))


def _forward_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    X, W, b, *_ = arguments
    Z = C * eps * np.sqrt(X.shape[1] + 1) * (np.abs(X) @ np.abs(W).T + np.abs(b))
    return Z + _rounding(results[0], eps=eps), Z  # no activation here is steeper than 1


def _backward_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    B, n, k = case.dims
    X, Z, dL_dA = _normal(rng, (B, n), dtype), _normal(rng, (B, k), dtype), _normal(rng, (B, k), dtype)
    W = _normal(rng, (k, n), dtype)
    name, _, first_layer = case.option.partition("-")
    wanted = 0 if first_layer else B  # the first layer's dX goes to nobody: no rows, and it must be left alone
    outputs = _nan((k, n), dtype), _nan((k,), dtype), _nan((wanted, n), dtype)
    return Problem((X, Z, dL_dA, W, _code(name), *outputs), (5, 6, 7))


def _backward_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    X, Z, dL_dA, W, activation, *_ = arguments
    # Every derivative here is at most 1 and right to a few eps of 1, so dZ to a few eps of |dL_dA|.
    dZ = np.abs(dL_dA * reference.ACTIVATIONS[activation].derivative(Z)) + np.abs(dL_dA) / 4
    rows = C * eps * np.sqrt(len(X) + 1)
    return rows * (dZ.T @ np.abs(X)), rows * dZ.sum(axis=0), C * eps * np.sqrt(len(W) + 1) * (dZ @ np.abs(W))


def _code(name: str) -> int:
    return [activation.name for activation in reference.ACTIVATIONS].index(name)


def _forward_oracle(X: Array, W: Array, b: Array, activation: int, A: Array, Z: Array) -> None:
    A[...], Z[...] = reference.dense_forward(X, W, b, reference.ACTIVATIONS[activation].function)


def _backward_oracle(
    X: Array, Z: Array, dL_dA: Array, W: Array, activation: int, dW: Array, db: Array, dX: Array
) -> None:
    derivative = reference.ACTIVATIONS[activation].derivative
    dW[...], db[...], full = reference.dense_backward_batch(X, Z, dL_dA, W, derivative)
    if dX.size > 0:  # a dX of no elements is not wanted: the first layer has nobody to hand it to
        dX[...] = full


_NAMES = tuple(activation.name for activation in reference.ACTIVATIONS)

_LAYERS = (
    Contract(
        "matmul",
        "M,K,N",
        into(reference.matmul),
        _matmul_problem,
        _matmul_bound,
        lambda M, K, N: 2 * M * K * N,
        lambda M, K, N: M * K + K * N + M * N,
        with_options(EDGES, ("nn", "tn", "nt", "tt", "ss")),
        (
            Case((32, 64, 64), "a layer of a small network", "nn"),
            Case((100, 30, 7), "smaller than any tile", "nn"),
            Case((37, 93, 41), "odd everywhere", "nn"),
            Case((128, 128, 128), "fits L2", "nn"),
            Case((128, 128, 128), "the forward product X W^T", "nt"),
            Case((128, 784, 256), "the first layer of an MNIST network", "nn"),
        ),
    ),
    Contract(
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
    Contract(
        "dense_backward_batch",
        "B,n,k",
        _backward_oracle,
        _backward_problem,
        _backward_bound,
        lambda B, n, k: 4 * B * n * k + 2 * B * k,
        lambda B, n, k: 2 * B * n + 2 * k * n + k + 2 * B * k,
        with_options(EDGES, (*_NAMES, "relu-first")),
        (
            Case((32, 64, 128), "the digits' first layer", "relu-first"),
            Case((32, 128, 10), "the digits' last layer", "identity"),
            Case((128, 784, 256), "the first layer of an MNIST network", "relu-first"),
        ),
    ),
)

# -------------------------------------------------------------------------------------- activations


def _activation_contract(name: str, function: Callable[..., Any]) -> Contract:
    def problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
        Z = rng.standard_normal(case.dims[0]) * np.repeat([1, 10, 60], -(-case.dims[0] // 3))[: case.dims[0]]
        return Problem((Z.astype(dtype), _nan(case.dims, dtype)), (1,))

    def bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
        # tanh' = 1 - tanh^2 is right to eps of 1, not of itself; sigmoid' likewise in the tails.
        scale = 0.5 if name == "tanh_derivative" else 0.0
        return (_rounding(results[0], scale, eps=eps),)

    return Contract(
        name,
        "size",
        into(function),
        problem,
        bound,
        lambda n: n,
        lambda n: 2 * n,
        VECTORS,
        (Case((16384,), "fits L2"),),
    )


_ACTIVATIONS = tuple(
    _activation_contract(function.__name__, function)
    for activation in reference.ACTIVATIONS
    for function in (activation.function, activation.derivative)
)

# ------------------------------------------------------------------------------------------- losses


def _mse_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    return Problem((_normal(rng, case.dims, dtype), _normal(rng, case.dims, dtype), np.full(1, np.nan)), (2,))


def _mse_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    return (_rounding(results[0] * np.sqrt(arguments[0].size), eps=eps),)


def _mse_derivative_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    return Problem((_normal(rng, case.dims, dtype), _normal(rng, case.dims, dtype), _nan(case.dims, dtype)), (2,))


def _mse_derivative_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    return (_rounding(results[0], eps=eps) / 2,)


def _logits(case: Case, dtype: Any, rng: np.random.Generator) -> Array:
    """Outputs of every size that a training run meets, saturated ones (+-1e4) included."""
    scales = np.resize([1.0, 10.0, 1e4, 0.01], case.dims[0])
    return (rng.standard_normal(case.dims) * scales[:, None]).astype(dtype)


def _labels(case: Case, rng: np.random.Generator) -> Array:
    return rng.integers(0, case.dims[1], case.dims[0])


def _softmax_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    return Problem((_logits(case, dtype, rng), _nan(case.dims, dtype)), (1,))


def _spread(Z: Array) -> Array:
    """1 + every element's distance to the top: exp magnifies the rounding of its argument by that, until it is 0."""
    return 1 + np.minimum(np.max(Z, axis=1, keepdims=True) - Z, 750)


def _softmax_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    (softmax,) = results
    k = softmax.shape[1]
    return (_rounding(softmax * (np.sqrt(k) + _spread(arguments[0])) / 2, eps=eps),)


def _cross_entropy_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    return Problem((_labels(case, rng), _logits(case, dtype, rng), np.full(1, np.nan)), (2,))


def _cross_entropy_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    # log sum exp is right to eps of 1 or of itself, whichever is larger, in every row.
    return (_rounding((results[0] + 1) * np.sqrt(len(arguments[0])), eps=eps),)


def _cross_entropy_derivative_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    return Problem((_labels(case, rng), _logits(case, dtype, rng), _nan(case.dims, dtype)), (2,))


def _cross_entropy_derivative_bound(
    arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float
) -> tuple[Array, ...]:
    labels, Z, _ = arguments
    softmax = reference.softmax(Z)
    hot = np.zeros_like(Z)
    hot[np.arange(len(Z)), labels] = 1
    k = Z.shape[1]
    return (_rounding((softmax * (np.sqrt(k) + _spread(Z)) / 2 + hot) / len(Z), eps=eps),)


def _accuracy_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    return (np.full(1, 4 * np.finfo(np.float64).eps),)  # a count divided by a count


def _loss(name: str, problem: Any, bound: Any, flops: int, matrices: int, function: Any) -> Contract:
    return Contract(
        name,
        "B,k",
        into(function),
        problem,
        bound,
        lambda B, k: flops * B * k,
        lambda B, k: matrices * B * k,
        BATCHES,
        BATCH_BENCHES,
    )


_LOSSES = (
    _loss("mse", _mse_problem, _mse_bound, 3, 2, reference.mse),
    _loss("mse_derivative", _mse_derivative_problem, _mse_derivative_bound, 3, 3, reference.mse_derivative),
    _loss("softmax", _softmax_problem, _softmax_bound, 4, 2, reference.softmax),
    _loss("cross_entropy", _cross_entropy_problem, _cross_entropy_bound, 3, 1, reference.cross_entropy),
    _loss(
        "cross_entropy_derivative",
        _cross_entropy_derivative_problem,
        _cross_entropy_derivative_bound,
        5,
        2,
        reference.cross_entropy_derivative,
    ),
    _loss("accuracy", _cross_entropy_problem, _accuracy_bound, 1, 1, reference.accuracy),
)

# ------------------------------------------------------------------------------------------ updates


def _sgd_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    momentum = 0.9 if case.option == "momentum" else 0.0
    return Problem((*(_normal(rng, case.dims, dtype) for _ in range(3)), 0.1, momentum), (0, 2))


def _sgd_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    parameters, gradient, velocity, rate, momentum = arguments
    step = np.abs(gradient) + np.abs(momentum * velocity)
    return _rounding(parameters, rate * step, eps=eps) / 2, _rounding(step, eps=eps) / 2


def _adam_problem(case: Case, dtype: Any, rng: np.random.Generator) -> Problem:
    parameters, gradient, mean = (_normal(rng, case.dims, dtype) for _ in range(3))
    square = _normal(rng, case.dims, dtype) ** 2
    step = 1 if case.option == "first" else 1000
    return Problem((parameters, gradient, mean, square, 0.1, 0.9, 0.999, 1e-8, step), (0, 2, 3))


def _adam_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    parameters, gradient, mean, square, rate, beta1, beta2, epsilon, step = arguments
    new_mean = beta1 * np.abs(mean) + (1 - beta1) * np.abs(gradient)  # of magnitudes: m and g may cancel
    new_square = beta2 * square + (1 - beta2) * gradient**2
    move = rate * new_mean / (1 - beta1**step) / (np.sqrt(new_square / (1 - beta2**step)) + epsilon)
    return tuple(_rounding(*terms, eps=eps) for terms in ((parameters, move), (new_mean,), (new_square,)))


_UPDATE_BENCH = Case((9610,), "the parameters of 64-128-10")

_UPDATES = (
    Contract(
        "sgd_update",
        "size",
        reference.sgd_update,
        _sgd_problem,
        _sgd_bound,
        lambda n: 4 * n,
        lambda n: 5 * n,
        with_options(VECTORS, ("plain", "momentum")),
        with_options((_UPDATE_BENCH,), ("momentum",)),
    ),
    Contract(
        "adam_update",
        "size",
        reference.adam_update,
        _adam_problem,
        _adam_bound,
        lambda n: 12 * n,
        lambda n: 7 * n,
        with_options(VECTORS, ("first", "later")),
        with_options((_UPDATE_BENCH,), ("later",)),
    ),
)

CONTRACTS: dict[str, Contract] = {
    contract.operation: contract for contract in (*_LAYERS, *_ACTIVATIONS, *_LOSSES, *_UPDATES)
}
"""The contract of every operation, by name."""
