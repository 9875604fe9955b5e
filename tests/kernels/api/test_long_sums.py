"""Sums of the public functions over 16 million terms of one sign, in every variant, held against float64."""

from typing import Any

import numpy as np
import pytest

from fastnet.kernels import cross_entropy, dense_backward_batch, identity_derivative, matmul, mse, softmax
from fastnet.kernels.registry import TABLE
from fastnet.kernels.specs.batches import GROUP_ROWS, MICRO_BATCH_ROWS

TERMS = 1 << 24
TOLERANCE = 1e-6
"""Of the largest element."""

pytestmark = pytest.mark.compiled


def names(operation: str) -> list[str]:
    """Name the compiled variants; the reference sums as NumPy does."""
    return [variant.name for variant in TABLE if variant.operation == operation and variant.name != "reference"]


def positive(*shape: int) -> Any:
    return np.random.default_rng(0).random(shape, dtype="f4") + np.float32(0.5)


def error(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("variant", names("matmul"))
def test_products(variant: str) -> None:
    A, B = positive(1, TERMS), positive(TERMS, 2)
    assert error(matmul(A, B, variant=variant), A.astype("f8") @ B) < 2 * TOLERANCE


@pytest.mark.parametrize("variant", names("matmul"))
def test_parts_of_a_product_meet(variant: str) -> None:
    """No term is lost or counted twice where parts of the sum meet."""
    for terms in (MICRO_BATCH_ROWS - 1, MICRO_BATCH_ROWS, MICRO_BATCH_ROWS + 1, 3 * MICRO_BATCH_ROWS + 5):
        assert (matmul(np.ones((3, terms)), np.ones((terms, 40)), variant=variant) == terms).all()


@pytest.mark.parametrize("variant", names("dense_backward_batch"))
@pytest.mark.parametrize("rows", [TERMS, GROUP_ROWS + MICRO_BATCH_ROWS + 1])
def test_gradients(variant: str, rows: int) -> None:
    X, dZ = positive(rows, 2), positive(rows, 1)
    dW, db, dX = dense_backward_batch(X, dZ, dZ, np.ones((1, 2), "f4"), identity_derivative, variant=variant)
    assert error(dW, dZ.T.astype("f8") @ X) < TOLERANCE
    assert error(db, dZ.sum(dtype="f8")) < TOLERANCE
    assert (dX == dZ).all()


@pytest.mark.parametrize("variant", names("dense_backward_batch"))
def test_parts_of_a_batch_meet(variant: str) -> None:
    """No row is lost or counted twice where parts meet."""
    for rows in (MICRO_BATCH_ROWS, MICRO_BATCH_ROWS + 1, 2 * MICRO_BATCH_ROWS, GROUP_ROWS, 2 * GROUP_ROWS + 1):
        X, dZ = np.ones((rows, 3)), np.ones((rows, 40))
        dW, db, dX = dense_backward_batch(X, dZ, dZ, np.ones((40, 3)), identity_derivative, variant=variant)
        assert (dW == rows).all()
        assert (db == rows).all()
        assert (dX == 40).all()


@pytest.mark.parametrize("variant", names("softmax"))
def test_rows_of_16_million_columns(variant: str) -> None:
    Z = positive(1, TERMS)
    exponentials = np.exp(Z.astype("f8"))
    assert error(softmax(Z, variant=variant), exponentials / exponentials.sum()) < TOLERANCE
    expected = np.log(exponentials.sum()) - float(Z[0, 7])
    assert error(cross_entropy([7], Z, variant=variant), expected) < TOLERANCE
    soft = np.full_like(Z, 1 / TERMS)
    expected = np.log(exponentials.sum()) - Z.mean(dtype="f8")
    assert error(cross_entropy(soft, Z, variant=variant), expected) < TOLERANCE


@pytest.mark.parametrize("variant", names("mse"))
def test_loss_of_16_million_rows(variant: str) -> None:
    y = positive(TERMS, 1)
    assert error(mse(y, np.zeros_like(y), variant=variant), np.square(y, dtype="f8").mean()) < TOLERANCE
