"""Every variant in the table against its contract; wrong kernels must fail it; training uses the table's kernels."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnet.kernels
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import layers, losses, optimizers
from fastnet.kernels.registry import (
    OP_SPECS,
    PARALLEL_MIN_WORK,
    TABLE,
    VARIANT_ORDER,
    Variant,
    find,
    prepare,
    variants,
)
from fastnet.kernels.specs.base import C, Case
from fastnet.kernels.verify import WrongKernelError, check

CHECKS = [(variant, case) for variant in TABLE for case in OP_SPECS[variant.operation].cases]


@pytest.mark.sampled(19)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("variant", "case"), CHECKS, ids=lambda p: f"{p.operation}-{p.name}" if isinstance(p, Variant) else str(p)
)
def test_variant_meets_its_contract(variant: Variant, case: Case, dtype: str) -> None:
    share = check(variant, case, dtype)
    assert share <= 1 / 3, f"{variant.operation}, {variant.name}: correct kernels use under a third of the bound"


def test_every_case_states_its_reason() -> None:
    assert all(case.why for contract in OP_SPECS.values() for case in (*contract.cases, *contract.bench_cases))
    assert all(contract.bench_cases for contract in OP_SPECS.values())


# ------------------------------------------------------------------------------------------ mutants
# Each breaks a correct kernel in one way that has happened.


def _matmul(wrong: Callable[..., Any]) -> Callable[..., None]:
    def kernel(A: Any, B: Any, out: Any) -> None:
        out[...] = wrong(A, B)

    return kernel


def _untouched(*arguments: Any) -> None:
    pass


def _scribble(A: Any, B: Any, out: Any) -> None:
    out[...] = A @ B
    A *= 2


def _half(a: Any) -> Any:
    return a.astype(np.float16).astype(a.dtype)


def _forward(wrong: Callable[..., Any]) -> Callable[..., None]:
    def kernel(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
        Z[...] = wrong(X, W, b)
        A[...] = reference.ACTIVATIONS[activation].function(Z)

    return kernel


def _no_activation(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    A[...], Z[...] = layers.dense_forward(X, W, b, reference.identity)


def _backward(wrong_derivative: Any = None, rows: int | None = None, transpose_db: bool = False) -> Callable[..., None]:
    def kernel(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
        derivative = wrong_derivative or reference.ACTIVATIONS[activation].derivative
        dW[...], db[...], dX[...] = layers.dense_backward_batch(X, Z, dL_dA, W, derivative)
        if rows is not None:
            dZ = dL_dA[:rows] * derivative(Z[:rows])
            dW[...] = dZ.T @ X[:rows]
        if transpose_db:
            db[...] /= len(X)

    return kernel


def _fill(function: Callable[..., Any]) -> Callable[..., None]:
    def kernel(*arguments: Any) -> None:
        arguments[-1][...] = function(*arguments[:-1])

    return kernel


def _nan_in_one_place(A: Any, B: Any, out: Any) -> None:
    out[...] = A @ B
    out[-1, -1] = np.nan


def _no_correction(
    p: Any, g: Any, m: Any, v: Any, rate: Any, b1: Any, b2: Any, epsilon: Any, decay: float, step: int
) -> None:
    optimizers.adam_update(p, g, m, v, rate, b1, b2, epsilon, decay, 10**6)


def _decay_in_the_gradient(
    p: Any, g: Any, m: Any, v: Any, rate: Any, b1: Any, b2: Any, epsilon: Any, decay: float, step: int
) -> None:
    optimizers.adam_update(p, g + decay * p, m, v, rate, b1, b2, epsilon, 0.0, step)


def _epsilon_inside(p: Any, g: Any, v: Any, rate: float, alpha: float, epsilon: float) -> None:
    v[:] = alpha * v + (1 - alpha) * g**2
    p -= rate * g / np.sqrt(v + epsilon)


def _momentum_forgotten(p: Any, g: Any, v: Any, rate: float, momentum: float, nesterov: bool) -> None:
    optimizers.sgd_update(p, g, v, rate, 0.0, nesterov)


def _no_look_ahead(p: Any, g: Any, v: Any, rate: float, momentum: float, nesterov: bool) -> None:
    optimizers.sgd_update(p, g, v, rate, momentum, False)


LAYER = Case((37, 93, 41), "odd everywhere", "relu")
PRODUCT = Case((37, 93, 41), "odd everywhere", "nn")
BATCH = Case((33, 17), "odd")
MUTANTS: list[tuple[str, str, Case, Callable[..., None]]] = [
    ("zeros", "matmul", PRODUCT, _matmul(lambda A, B: 0)),
    ("untouched", "matmul", PRODUCT, _untouched),
    ("last k dropped", "matmul", PRODUCT, _matmul(lambda A, B: A[:, :-1] @ B[:-1])),
    ("half precision", "matmul", PRODUCT, _matmul(lambda A, B: A @ _half(B))),
    ("one NaN", "matmul", PRODUCT, _nan_in_one_place),
    ("input changed", "matmul", PRODUCT, _scribble),
    ("empty sum not zero", "matmul", Case((3, 0, 2), "empty", "nn"), _untouched),
    ("bias missing", "dense_forward", LAYER, _forward(lambda X, W, b: X @ W.T)),
    (
        "weights not transposed back",
        "dense_forward",
        Case((4, 5, 5), "square", "relu"),
        _forward(lambda X, W, b: X @ W + b),
    ),
    ("activation missing", "dense_forward", LAYER, _no_activation),
    ("half-precision weights", "dense_forward", LAYER, _forward(lambda X, W, b: X @ _half(W).T + b)),
    ("derivative missing", "dense_backward_batch", LAYER, _backward(reference.identity_derivative)),
    ("last row dropped", "dense_backward_batch", LAYER, _backward(rows=36)),
    ("db averaged", "dense_backward_batch", LAYER, _backward(transpose_db=True)),
    ("relu passes all", "relu", Case((17,), "odd"), _fill(lambda Z: Z)),
    ("tanh by its series", "tanh", Case((17,), "odd"), _fill(lambda Z: Z - Z**3 / 3)),
    ("derivative from A", "sigmoid_derivative", Case((17,), "odd"), _fill(lambda Z: Z * (1 - Z))),
    ("slope of relu", "leaky_relu", Case((17,), "odd"), _fill(reference.relu)),
    ("0 below", "leaky_relu_derivative", Case((17,), "odd"), _fill(reference.relu_derivative)),
    ("by tanh", "gelu", Case((17,), "odd"), _fill(lambda Z: Z / 2 * (1 + np.tanh(0.79788456 * (Z + 0.044715 * Z**3))))),
    ("by sigmoid", "gelu", Case((17,), "odd"), _fill(lambda Z: Z * reference.sigmoid(1.702 * Z))),
    ("density forgotten", "gelu_derivative", Case((17,), "odd"), _fill(lambda Z: reference.gelu(Z) / Z)),
    ("of gelu", "silu", Case((17,), "odd"), _fill(reference.gelu)),
    ("tail flushed", "silu", Case((17,), "odd"), _fill(lambda Z: np.where(Z < -15, 0, reference.silu(Z)))),
    ("of sigmoid", "silu_derivative", Case((17,), "odd"), _fill(reference.sigmoid_derivative)),
    ("of leaky_relu", "elu", Case((17,), "odd"), _fill(reference.leaky_relu)),
    ("alpha 2", "elu", Case((17,), "odd"), _fill(lambda Z: np.where(Z > 0, Z, 2 * np.expm1(np.minimum(Z, 0))))),
    ("of relu", "elu_derivative", Case((17,), "odd"), _fill(reference.relu_derivative)),
    ("of relu", "softplus", Case((17,), "odd"), _fill(reference.relu)),
    ("small results lost", "softplus", Case((17,), "odd"), _fill(lambda Z: np.log(1 + np.exp(np.minimum(Z, 80))))),
    ("of relu", "softplus_derivative", Case((17,), "odd"), _fill(reference.relu_derivative)),
    ("of silu", "mish", Case((17,), "odd"), _fill(reference.silu)),
    ("tail flushed", "mish", Case((17,), "odd"), _fill(lambda Z: np.where(Z < -15, 0, reference.mish(Z)))),
    ("of silu", "mish_derivative", Case((17,), "odd"), _fill(reference.silu_derivative)),
    ("mean over rows", "mse", BATCH, _fill(lambda t, p: np.sum((p - t) ** 2) / len(t))),
    ("one element lost", "mse", BATCH, _fill(lambda t, p: np.sum((p - t).ravel()[1:] ** 2) / t.size)),
    ("mean over elements", "mse_derivative", BATCH, _fill(lambda t, p: 2 * (p - t) / t.size)),
    ("sign", "mse_derivative", BATCH, _fill(lambda t, p: 2 * (t - p) / len(t))),
    ("squared", "mae", BATCH, _fill(lambda t, p: np.mean((p - t) ** 2))),
    ("sum over outputs", "mae", BATCH, _fill(lambda t, p: 17 * losses.mae(t, p))),
    ("1 where met exactly", "mae_derivative", BATCH, _fill(lambda t, p: np.where(p >= t, 1, -1) / len(t))),
    ("all quadratic", "huber", BATCH, _fill(lambda t, p: np.mean((p - t) ** 2) / 2)),
    ("halved twice", "huber", BATCH, _fill(lambda t, p: np.mean(np.minimum((p - t) ** 2 / 2, abs(p - t) / 2)))),
    ("not clipped", "huber_derivative", BATCH, _fill(lambda t, p: (p - t) / len(t))),
    ("mean over elements", "huber_derivative", BATCH, _fill(lambda t, p: losses.huber_derivative(t, p) / 17)),
    (
        "mean over elements",
        "binary_cross_entropy",
        BATCH,
        _fill(lambda t, z: losses.binary_cross_entropy(t, z) / 17),
    ),
    (
        "yes for no",
        "binary_cross_entropy",
        BATCH,
        _fill(lambda t, z: losses.binary_cross_entropy(1 - t, z)),
    ),
    ("targets forgotten", "binary_cross_entropy_derivative", BATCH, _fill(lambda t, z: reference.sigmoid(z) / len(z))),
    (
        "by the sigmoid's slope too",
        "binary_cross_entropy_derivative",
        BATCH,
        _fill(lambda t, z: (reference.sigmoid(z) - t) * reference.sigmoid_derivative(z) / len(z)),
    ),
    ("huber's", "log_cosh", BATCH, _fill(lambda t, p: losses.huber(t, p))),
    ("1 less", "log_cosh", BATCH, _fill(lambda t, p: np.mean(np.logaddexp(p - t, t - p) - 1))),
    ("clipped", "log_cosh_derivative", BATCH, _fill(lambda t, p: np.clip(p - t, -1, 1) / len(t))),
    ("over columns", "softmax", BATCH, _fill(lambda Z: losses.softmax(Z.T).T)),
    ("next label", "cross_entropy", BATCH, _fill(lambda t, Z: losses.cross_entropy((t + 1) % 17, Z))),
    (
        "not averaged",
        "cross_entropy_derivative",
        BATCH,
        _fill(lambda t, Z: losses.cross_entropy_derivative(t, Z) * 33),
    ),
    ("one more right", "accuracy", BATCH, _fill(lambda t, Z: losses.accuracy(t, Z) + 1 / 33)),
    ("momentum forgotten", "sgd_update", Case((17,), "odd", "momentum"), _momentum_forgotten),
    ("no look ahead", "sgd_update", Case((17,), "odd", "nesterov"), _no_look_ahead),
    ("decay in the gradient", "adam_update", Case((17,), "odd", "decay"), _decay_in_the_gradient),
    ("epsilon in the root", "rmsprop_update", Case((17,), "odd", "coarse"), _epsilon_inside),
    ("no bias correction", "adam_update", Case((17,), "odd", "first"), _no_correction),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "operation", "case", "kernel"), MUTANTS, ids=[f"{m[1]}: {m[0]}" for m in MUTANTS])
def test_wrong_kernels_are_rejected(
    name: str, operation: str, case: Case, kernel: Callable[..., None], dtype: str
) -> None:
    check(Variant(operation, "right", find(operation, "reference")), case, dtype)
    with pytest.raises(WrongKernelError, match=operation):
        check(Variant(operation, name, kernel), case, dtype)


def test_every_operation_has_a_mutant() -> None:
    plain = {"identity", "identity_derivative", "relu_derivative", "tanh_derivative", "sigmoid"}  # one shared contract
    assert {operation for _, operation, _, _ in MUTANTS} == set(OP_SPECS) - plain


def test_bound_linear_in_k_would_accept_half_precision() -> None:
    """Why the bound grows with sqrt(k)."""
    A, B, _ = prepare("matmul", Case((37, 1024, 41), "long sums", "nn"), "float32").arguments
    error = np.abs(A.astype(float) @ _half(B).astype(float) - A.astype(float) @ B.astype(float))
    linear = C * np.finfo(np.float32).eps * 1024 * (np.abs(A) @ np.abs(B))
    assert (error <= linear).all()
    assert not (error <= linear / np.sqrt(1024)).all()


# -------------------------------------------------------------------------------------------- table


def test_every_operation_begins_with_the_reference() -> None:
    for operation in OP_SPECS:
        assert variants(operation)[0] == "reference"
        assert len(set(variants(operation))) == len(variants(operation)) > 1


def test_operations_are_the_public_functions() -> None:
    assert set(OP_SPECS) == set(fastnet.kernels.__all__) - {"variants"}


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"unknown operation 'matmull'; there are: matmul"):
        variants("matmull")
    with pytest.raises(ValueError, match=r"unknown variant 'fast' of matmul; there are: auto, reference, loops"):
        fastnet.kernels.matmul([[1]], [[1]], variant="fast")


def test_rows_follow_the_order_of_the_variants() -> None:
    for operation in OP_SPECS:
        assert list(variants(operation)) == [name for name in VARIANT_ORDER if name in variants(operation)]
    assert {variant.name for variant in TABLE} <= set(VARIANT_ORDER)


def test_auto_is_the_last_variant_whose_min_work_is_reached() -> None:
    assert find("matmul", "auto") is find("matmul", "simd")
    assert find("matmul", "auto", PARALLEL_MIN_WORK - 1) is find("matmul", "simd")
    assert find("matmul", "auto", PARALLEL_MIN_WORK) is find("matmul", "parallel")
    assert find("mse", "auto", 10) is find("mse", "loops")
    assert find("mse", "auto", 10**6) is find("mse", "simd")
    assert find("mse_derivative", "auto", 10**9) is find("mse_derivative", "loops"), "the simd variant is slower"
    for operation in OP_SPECS:
        there = [variant for variant in TABLE if variant.operation == operation]
        steps = {variant.min_work for variant in there if variant.min_work < math.inf}
        for work in {0, *(step - 1 for step in steps if step), *steps, 10**12}:
            expected = [variant.name for variant in there if variant.min_work <= work][-1]
            assert find(operation, "auto", int(work)) is find(operation, expected)
    with pytest.raises(ValueError, match="unknown operation"):
        find("no such operation", "auto")
