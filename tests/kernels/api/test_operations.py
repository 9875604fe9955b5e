"""The public products, layers, activations and updates: what they accept, convert, refuse; `out`, in every variant."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import python_path

from fastnet.kernels import (
    accuracy,
    adam_update,
    binary_cross_entropy,
    cross_entropy,
    cross_entropy_derivative,
    dense_backward_batch,
    dense_forward,
    gelu,
    gelu_derivative,
    identity,
    leaky_relu,
    leaky_relu_derivative,
    matmul,
    mse,
    mse_derivative,
    relu,
    relu_derivative,
    sgd_update,
    sigmoid,
    silu,
    silu_derivative,
    softmax,
    tanh,
    tanh_derivative,
    variants,
)

A, B, X, W, b = map(np.random.default_rng(0).standard_normal, ((5, 4), (4, 3), (6, 4), (3, 4), 3))

# ------------------------------------------------------------------------------------------------------------- matmul


@pytest.mark.parametrize("variant", ["auto", *variants("matmul")])
def test_matmul_takes_lists_integers_views_and_read_only_arrays(variant: str) -> None:
    assert matmul([[1, 2], [3, 4]], [[1], [10]], variant=variant).tolist() == [[21.0], [43.0]]
    np.testing.assert_allclose(matmul(B.T, A.T, variant=variant), (A @ B).T)
    np.testing.assert_allclose(matmul(A[::-2, ::2], B[::2, ::-1], variant=variant), A[::-2, ::2] @ B[::2, ::-1])
    frozen = A.copy()
    frozen.flags.writeable = False
    np.testing.assert_allclose(matmul(frozen, B, variant=variant), A @ B)


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("float32", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float16", "float32", "float32"),
        ("int8", "float32", "float64"),
        ("bool", "int64", "float64"),
        (">f4", "<f4", "float32"),
        (">f8", "float32", "float64"),
    ],
)
def test_dtypes_promote(left: str, right: str, result: str) -> None:
    C = matmul(np.ones((2, 2), left), np.ones((2, 2), right))
    assert C.dtype == np.dtype(result)
    assert C.dtype.isnative
    assert (C == 2).all()


@pytest.mark.parametrize("dtype", ["complex64", "longdouble", "U3", "object", "datetime64[s]"])
def test_other_dtypes_are_rejected(dtype: str) -> None:
    with pytest.raises(TypeError, match=r"^B has dtype .*; expected numbers"):
        matmul(A, np.zeros((4, 3), dtype))


def test_masked_arrays_are_rejected() -> None:
    with pytest.raises(TypeError, match="A is a masked array, whose masked values would be used"):
        matmul(np.ma.masked_greater([[1.0, 999.0]], 100), B)
    with pytest.raises(TypeError, match="y_true is a masked array"):
        accuracy(np.ma.masked_equal([0, 1], 1), np.ones((2, 2)))


def test_sparse_matrices_are_rejected_with_advice() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"^A is a sparse matrix; these kernels take dense arrays: A.toarray\(\)$"):
        matmul(sparse.csr_matrix(np.eye(3)), B)


def test_ragged_lists_are_rejected() -> None:
    with pytest.raises(ValueError, match="A is not an array: its rows differ in length"):
        matmul([[1, 2], [3]], [[1]])


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((3,), (3, 1)), ((2, 3), (3,)), ((1, 2, 3), (3, 1)), ((), ())])
def test_matmul_checks_shapes(shapes: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"cannot multiply A .* by B .*; expected \(M, K\) and \(K, N\)"):
        matmul(np.ones(shapes[0]), np.ones(shapes[1]))


def test_shapes_are_checked_before_the_result_is_allocated() -> None:
    tall, wide, bias = np.ones((3_000_000, 2), "f4"), np.ones((3, 3_000_000), "f4"), np.ones(3_000_000, "f4")
    with pytest.raises(ValueError, match="cannot multiply A"):
        matmul(tall, wide)
    with pytest.raises(ValueError, match="do not fit"):
        dense_forward(tall, wide.T, bias, relu)


def test_functions_run_where_numba_does_not_compile() -> None:
    code = (
        "import numpy as np; from fastnet.kernels import dense_forward, matmul, relu; x = np.ones((3, 3), 'f4')\n"
        "A, Z = dense_forward(x, -x, x[0], relu); print(matmul(x, x).sum(), matmul(x, x, out=A).sum(), Z.sum())"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": python_path()}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "27.0 27.0 -18.0\n"


@pytest.mark.parametrize("variant", variants("matmul"))
def test_out_is_filled_and_returned(variant: str) -> None:
    for out in (np.full((5, 3), np.nan), np.full((3, 5), np.nan).T, np.full((10, 6), np.nan)[::2, ::2]):
        assert matmul(A, B, out=out, variant=variant) is out
        np.testing.assert_allclose(out, A @ B)


def test_addresses_need_not_be_multiples_of_an_element(rng: np.random.Generator) -> None:
    A, B = rng.standard_normal((2, 20, 20), np.float32)
    odd = np.ndarray((20, 20), np.float32, bytearray(1601), 1)
    assert not odd.flags.aligned
    odd[:] = A
    expected = matmul(A, B)
    assert (matmul(odd, B) == expected).all()
    assert (matmul(B.T, odd.T) == expected.T).all()
    assert (dense_forward(odd, B.T, np.zeros(20, np.float32), relu)[1] == expected).all()
    assert (matmul(A, B, out=odd) == expected).all()


@pytest.mark.parametrize("variant", variants("matmul"))
def test_out_may_overlap_an_input(variant: str, rng: np.random.Generator) -> None:
    square = rng.standard_normal((4, 4))
    for pick in (lambda s: s, lambda s: s.T, lambda s: s[::-1]):
        left, right = square.copy(), square.copy()
        np.testing.assert_allclose(matmul(left, square, out=pick(left), variant=variant), square @ square)
        np.testing.assert_allclose(matmul(square, right, out=pick(right), variant=variant), square @ square)
    both = square.copy()
    np.testing.assert_allclose(matmul(both, both.T, out=both, variant=variant), square @ square.T)


@pytest.mark.parametrize("variant", ["auto", "parallel"])
@pytest.mark.compiled
def test_out_may_overlap_an_input_whose_rows_descend(variant: str, rng: np.random.Generator) -> None:
    square = rng.standard_normal((40, 40))
    memory = rng.standard_normal((80, 40))
    expected = memory[79:39:-1] @ square
    np.testing.assert_allclose(matmul(memory[79:39:-1], square, out=memory[39:79], variant=variant), expected)


@pytest.mark.parametrize("variant", variants("matmul"))
def test_out_may_overlap_an_input_that_is_another_view_of_a_buffer(variant: str, rng: np.random.Generator) -> None:
    """NumPy names as the base of a view's view not the buffer, but the first view."""
    square = rng.standard_normal((4, 4))
    for make in (np.frombuffer, lambda buffer: np.ndarray(16, buffer=buffer)):
        buffer = bytearray(square.tobytes())
        left, out = (make(buffer).reshape(4, 4)[:] for _ in range(2))
        np.testing.assert_allclose(matmul(left, square, out=out, variant=variant), square @ square)
        buffer[:] = square.tobytes()
        np.testing.assert_allclose(matmul(square, left.T, out=out, variant=variant), square @ square.T)


def test_out_may_be_a_memmap_but_not_a_masked_array(tmp_path: Path) -> None:
    out = np.memmap(tmp_path / "out", dtype="float64", mode="w+", shape=(5, 3))
    assert matmul(A, B, out=out) is out
    np.testing.assert_allclose(out, A @ B)
    with pytest.raises(TypeError, match="out is a MaskedArray; expected an array of float64"):
        matmul(A, B, out=np.ma.zeros((5, 3)))


READ_ONLY_CALLS: dict[str, Callable[..., Any]] = {
    "dense_forward": lambda f: dense_forward(f(X), f(W), f(b), relu),
    "dense_backward_batch": lambda f: dense_backward_batch(f(X), f(X @ W.T), f(X @ W.T), f(W), relu_derivative),
    "tanh": lambda f: tanh(f(X)),
    "mse": lambda f: mse(f(X), f(X[::-1])),
    "mse_derivative": lambda f: mse_derivative(f(X), f(X[::-1])),
    "binary_cross_entropy": lambda f: binary_cross_entropy(f(X > 0), f(X)),
    "softmax": lambda f: softmax(f(X)),
    "cross_entropy": lambda f: cross_entropy(f(np.arange(6) % 4), f(X)),
    "cross_entropy_derivative": lambda f: cross_entropy_derivative(f(np.arange(6) % 4), f(X)),
    "accuracy": lambda f: accuracy(f(np.arange(6) % 4), f(X)),
}


@pytest.mark.parametrize("name", READ_ONLY_CALLS)
def test_read_only_inputs_give_the_same(name: str) -> None:
    """As memory maps and arrays over bytes are."""

    def frozen(array: np.ndarray) -> np.ndarray:
        return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)

    def results(f: Callable[..., Any]) -> list[np.ndarray]:
        result = READ_ONLY_CALLS[name](f)
        return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]

    for ours, theirs in zip(results(frozen), results(np.copy), strict=True):
        assert (ours == theirs).all()


def test_out_is_checked_before_anything_is_written() -> None:
    for wrong in (np.zeros((5, 3), "float32"), [[0.0] * 3] * 5):
        with pytest.raises(TypeError, match=r"out is .*; expected an array of float64"):
            matmul(A, B, out=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"out has shape \(3, 5\); expected a writable array of shape \(5, 3\)"):
        matmul(A, B, out=np.zeros((3, 5)))
    frozen = np.zeros((5, 3))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        matmul(A, B, out=frozen)
    assert (frozen == 0).all()


def test_nan_and_infinity_propagate() -> None:
    for variant in variants("matmul"):
        poisoned = A.copy()
        poisoned[2, 1] = np.nan
        C = matmul(poisoned, B, variant=variant)
        assert np.isnan(C[2]).all()
        assert np.isfinite(np.delete(C, 2, axis=0)).all()
        assert matmul([[np.inf]], [[2.0]], variant=variant)[0, 0] == np.inf
    for function in (relu, tanh, sigmoid, identity, leaky_relu, gelu, silu):
        for variant in variants(function.__name__):
            assert np.isnan(function(np.array([1.0, np.nan]), variant=variant)).tolist() == [False, True]
    assert np.isnan(softmax(np.array([[1.0, np.nan], [1.0, 2.0]]))).tolist() == [[True, True], [False, False]]
    assert np.isnan(cross_entropy([0], [[1.0, np.nan]]))


# ------------------------------------------------------------------------------------------------------------- layers


def test_layers_take_any_callable_as_activation(rng: np.random.Generator) -> None:
    fused_A, fused_Z = dense_forward(X, W, b, relu)
    plain_A, plain_Z = dense_forward(X, W, b, lambda z: np.maximum(z, 0))
    assert (fused_A == plain_A).all()
    assert (fused_Z == plain_Z).all()
    dL_dA = rng.standard_normal((6, 3))
    fused = dense_backward_batch(X, fused_Z, dL_dA, W, tanh_derivative)
    plain = dense_backward_batch(X, fused_Z, dL_dA, W, lambda z: 1 - np.tanh(z) ** 2)
    for ours, theirs in zip(fused, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_layers_take_unhashable_callables() -> None:
    class Leaky:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, z: np.ndarray) -> np.ndarray:
            return np.maximum(z, 0.1 * z)

    leaky_A, Z = dense_forward(X, W, b, Leaky())
    assert (leaky_A == np.maximum(Z, 0.1 * Z)).all()


def test_layers_take_float32_lists_and_views() -> None:
    A32, Z32 = dense_forward(X.astype("f4"), W.astype("f4"), b.astype("f4"), tanh)
    assert A32.dtype == Z32.dtype == np.float32
    wide = np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2]
    assert (dense_forward(wide, W, b, tanh)[0] == dense_forward(X.tolist(), W, b, tanh)[0]).all()
    for constant in (1.0, 1, np.float64(1)):
        assert dense_backward_batch(X.astype("f4"), Z32, A32, W.astype("f4"), lambda z, c=constant: c)[0].dtype == "f4"


def test_layers_check_shapes() -> None:
    with pytest.raises(ValueError, match=r"X \(6, 4\) and W \(4, 3\) do not fit"):
        dense_forward(X, W.T, b, relu)
    with pytest.raises(ValueError, match=r"b has shape \(4,\); expected \(3,\)"):
        dense_forward(X, W, np.ones(4), relu)
    with pytest.raises(ValueError, match=r"b has shape \(1, 3\)"):
        dense_forward(X, W, b[None], relu)
    with pytest.raises(ValueError, match=r"b has shape \(\); expected \(1,\)"):
        dense_forward(X, W[:1], 0.5, relu)
    Z = np.ones((6, 3))
    with pytest.raises(ValueError, match=r"dL_dA has shape \(3,\); expected \(6, 3\)"):
        dense_backward_batch(X, Z, np.ones(3), W, relu_derivative)
    with pytest.raises(ValueError, match=r"Z has shape \(6, 4\)"):
        dense_backward_batch(X, X, Z, W, relu_derivative)
    with pytest.raises(ValueError, match=r"activation\(Z\) returned shape \(3,\)"):
        dense_forward(X, W, b, lambda z: z[0])
    with pytest.raises(ValueError, match=r"activation_derivative\(Z\) returned shape \(6, 1\)"):
        dense_backward_batch(X, Z, Z, W, lambda z: z[:, :1])
    with pytest.raises(TypeError, match="activation is 'relu'; expected a function"):
        dense_forward(X, W, b, "relu")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- elementwise

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays("float64", SHAPES, elements=st.floats(-50, 50)),
    st.sampled_from([relu, tanh, sigmoid, tanh_derivative, leaky_relu, gelu, silu, silu_derivative]),
)
def test_elementwise_functions_keep_any_shape(Z: np.ndarray, function: Callable[..., Any]) -> None:
    ours, reference = (function(Z, variant=variant) for variant in ("auto", "reference"))
    assert np.shape(ours) == Z.shape
    np.testing.assert_allclose(ours, reference, rtol=1e-13, atol=1e-14)


def test_elementwise_functions_take_numbers_and_lists() -> None:
    assert relu(-2) == 0
    assert relu([[1, -1]]).tolist() == [[1, 0]]
    assert sigmoid(np.float32(0)) == 0.5
    assert sigmoid(np.float32(0)).dtype == np.float32


# ------------------------------------------------------------------------------------------------------------ updates


def test_updates_work_in_place_on_views() -> None:
    flat = np.ones(10)
    sgd_update(flat[2:5], np.full(3, 2.0), np.zeros(3), 0.5)
    assert flat.tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    adam_update(flat[:2], np.ones(2), np.zeros(2), np.zeros(2), 0.1, 0.9, 0.999, 1e-8, 1)
    np.testing.assert_allclose(flat[:2], 0.9)
    sgd_update(flat[2:3], np.full(1, 4.0), np.full(1, 2.0), 0.25, 0.5, nesterov=True)
    assert flat[2] == -0.25 * (4 + 0.5 * 5)
    adam_update(flat[5:6], np.ones(1), np.zeros(1), np.zeros(1), 0.1, 0.9, 0.999, 1e-8, 1, weight_decay=0.5)
    np.testing.assert_allclose(flat[5], 1 - 0.05 - 0.1)


def test_fused_activations_are_the_functions() -> None:
    for function, derivative in (
        (leaky_relu, leaky_relu_derivative),
        (gelu, gelu_derivative),
        (silu, silu_derivative),
    ):
        for variant in variants("dense_forward"):
            fused, Z = dense_forward(X, W, b, function, variant=variant)
            np.testing.assert_allclose(fused, function(Z), rtol=1e-14, atol=1e-16)
            ours = dense_backward_batch(X, Z, Z, W, derivative, variant=variant)
            plain = dense_backward_batch(X, Z, Z, W, lambda z, d=derivative: d(z), variant=variant)
            for one, other in zip(ours, plain, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_updates_require_arrays_that_can_change_in_place() -> None:
    good = np.ones(3)

    def refuse(error: type[Exception], message: str, *arrays: Any) -> None:
        before = [np.array(array) for array in arrays]
        with pytest.raises(error, match=message):
            sgd_update(*arrays, 0.1)
        for array, copy in zip(arrays, before, strict=True):
            assert (np.array(array) == copy).all()

    frozen = good.copy()
    frozen.flags.writeable = False
    refuse(TypeError, "parameters is a list", [1.0, 2.0, 3.0], good, good.copy())
    refuse(TypeError, "gradient has dtype float32 but parameters has float64", good, good.astype("f4"), good.copy())
    refuse(TypeError, "parameters is dtype int64", np.ones(3, int), good, good.copy())
    refuse(ValueError, r"velocity has shape \(4,\)", good, good.copy(), np.ones(4))
    refuse(ValueError, "parameters must be contiguous and writable", np.ones(6)[::2], good, good.copy())
    refuse(ValueError, "parameters must be contiguous and writable", frozen, good, good.copy())
    refuse(ValueError, "velocity shares memory with parameters", good, frozen, good)
    refuse(ValueError, "gradient is not contiguous", good, np.ones(6)[::2], good.copy())
    sgd_update(good.copy(), frozen, good.copy(), 0.1)  # a gradient is only read
    with pytest.raises(ValueError, match="step is 0; it counts from 1"):
        adam_update(good, good.copy(), good.copy(), good.copy(), 0.1, 0.9, 0.999, 1e-8, 0)
    with pytest.raises(TypeError):
        adam_update(good, good.copy(), good.copy(), good.copy(), 0.1, 0.9, 0.999, 1e-8, 1.5)  # type: ignore[arg-type]
