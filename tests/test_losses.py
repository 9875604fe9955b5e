"""Losses of the simd rung: across blocks, at extreme logits, and the same bits however blocks are shared out."""

from typing import Any

import numpy as np
import pytest

from fastnet.kernels import losses, reference
from fastnet.kernels.variants import TABLE, Case, Variant, check

pytestmark = pytest.mark.compiled

DTYPES = ("float32", "float64")
SIMD = [variant for variant in TABLE if variant.name == "simd" and variant.operation in vars(losses)]
CASES = (
    Case((63, 10), "one row less than a block"),
    Case((64, 10), "exactly a block"),
    Case((65, 10), "one row more"),
    Case((300, 31), "the widest that is transposed; five blocks, which a tree of halves divides unevenly"),
    Case((130, 32), "the narrowest that is not"),
    Case((70, 129), "many columns, and one more than eight lanes divide"),
)
SHAPES = [(1, 1), (7, 10), (200, 10), (130, 40)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("variant", SIMD, ids=lambda variant: variant.operation)
def test_blocks(variant: Variant, case: Case, dtype: str) -> None:
    assert check(variant, case, dtype) <= 1 / 3


def logits(shape: tuple[int, int], dtype: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(shape)
    scales = np.resize([1.0, 1e4, 1e-3, 30.0], shape[0])[:, None]
    return rng.integers(0, shape[1], shape[0]), (rng.standard_normal(shape) * scales).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_loss_and_gradient(shape: tuple[int, int], dtype: str) -> None:
    labels, Z = logits(shape, dtype)
    D, fused, alone = np.full_like(Z, np.nan), np.full(1, np.nan), np.full(1, np.nan)
    losses.softmax_cross_entropy(labels, Z, D, fused)
    losses.cross_entropy(labels, Z, alone)
    assert fused.tobytes() == alone.tobytes()
    wide = Z.astype(np.longdouble)
    eps = np.finfo(dtype).eps
    truth = reference.cross_entropy(labels, wide)
    assert abs(fused[0] - truth) <= 4 * eps * (1 + truth)
    assert np.abs(D - reference.cross_entropy_derivative(labels, wide)).max() <= 20 * eps / len(Z)


def test_saturated_logits_give_the_limits() -> None:
    Z = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], np.float32)
    D, loss = np.empty_like(Z), np.empty(1)
    losses.softmax_cross_entropy(np.array([0, 0]), Z, D, loss)
    assert loss[0] == 1e4
    np.testing.assert_array_equal(D, [[0, 0, 0], [-0.5, 0.5, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_sharing_of_the_blocks_gives_the_same_bits(shape: tuple[int, int], dtype: str) -> None:
    labels, Z = logits(shape, dtype)
    other = logits(shape, dtype)[1][::-1].copy()
    blocks = losses.block_count(shape[0])
    whole, shared = np.empty_like(Z), np.full_like(Z, np.nan)
    sums, parts = np.empty(blocks), np.full((2, blocks), np.nan)
    squares = np.empty(blocks)
    losses.softmax_cross_entropy_blocks(labels, Z, whole, 0, blocks, sums)
    losses.mse_blocks(Z, other, 0, blocks, squares)
    for block in reversed(range(blocks)):
        losses.softmax_cross_entropy_blocks(labels, Z, shared, block, block + 1, parts[0])
        losses.mse_blocks(Z, other, block, block + 1, parts[1])
    assert parts.tobytes() == np.stack([sums, squares]).tobytes()
    assert whole.tobytes() == shared.tobytes()


@pytest.mark.parametrize("columns", [3, 10, 40])
def test_nan_and_infinity_show(columns: int) -> None:
    for bad, place in ((np.nan, 0), (np.nan, columns - 1), (-np.nan, 1), (np.inf, 2)):
        Z = np.zeros((70, columns))
        Z[66, place] = bad
        loss, D, probabilities = np.empty(1), np.empty_like(Z), np.empty_like(Z)
        losses.softmax_cross_entropy(np.zeros(70, int), Z, D, loss)
        losses.softmax(Z, probabilities)
        assert np.isnan(loss[0])
        for result in (D, probabilities):
            assert np.isnan(result[66]).all()
            assert np.isfinite(np.delete(result, 66, axis=0)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100])
def test_tree_sum_counts_each_once(size: int) -> None:
    values = 2.0 ** (np.arange(size) % 50)  # sums of powers of two are exact
    assert losses.tree_sum(values.copy()) == values.sum()


def test_accuracy_treats_nan_as_argmax_does() -> None:
    rng = np.random.default_rng(0)
    Z = rng.integers(0, 3, (2000, 5)).astype(float)  # ties
    Z[rng.random(Z.shape) < 0.1] = np.nan
    labels, share = rng.integers(0, 5, 2000), np.empty(1)
    losses.accuracy(labels, Z, share)
    assert share[0] == reference.accuracy(labels, Z)
