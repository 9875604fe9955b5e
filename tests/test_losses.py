"""Losses of the simd rung: across blocks, at extreme outputs, and the same bits however rows are shared out."""

from typing import Any

import numpy as np
import pytest

from fastnet.kernels import losses, reference
from fastnet.kernels._jit import jit
from fastnet.kernels.elementwise import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, HUBER, MAE, MSE
from fastnet.kernels.variants import TABLE, Case, Variant, check

pytestmark = pytest.mark.compiled

DTYPES = ("float32", "float64")
LOSSES = {"mse": MSE, "mae": MAE, "huber": HUBER, "cross_entropy": CROSS_ENTROPY, "binary": BINARY_CROSS_ENTROPY}
SIMD = [
    variant
    for variant in TABLE
    if variant.name == "simd" and variant.operation.startswith(("mse", "mae", "huber", "soft", "cross", "bin", "acc"))
]
CASES = (
    Case((63, 10), "one row less than a block"),
    Case((64, 10), "exactly a block"),
    Case((65, 10), "one row more"),
    Case((300, 1), "one column; five blocks"),
    Case((300, 31), "the widest that is transposed; five blocks, which a tree of halves divides unevenly"),
    Case((130, 32), "the narrowest that is not"),
    Case((70, 129), "many columns, and one more than eight lanes divide"),
)
SHAPES = [(1, 1), (7, 10), (200, 1), (200, 10), (130, 40)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("variant", SIMD, ids=lambda variant: variant.operation)
def test_blocks(variant: Variant, case: Case, dtype: str) -> None:
    assert check(variant, case, dtype) <= 1 / 3


@jit
def in_pieces(
    loss: int, labels: Any, targets: Any, Z: Any, shares: Any, D: Any, values: Any, scratch: Any, cuts: Any
) -> None:
    """`loss_rows` of the rows between one cut and the next, the last piece first."""
    for p in range(cuts.size - 1, 0, -1):
        losses.loss_rows(loss, labels, targets, Z, shares, D, values, scratch, cuts[p - 1], cuts[p])


def problem(shape: tuple[int, int], dtype: str) -> tuple[Any, Any, Any, Any]:
    """Labels, targets from 0 to 1, outputs of all sizes, unequal shares."""
    rng = np.random.default_rng(shape)
    scales = np.resize([1.0, 1e4, 1e-3, 30.0], shape[0])[:, None]
    Z = (rng.standard_normal(shape) * scales).astype(dtype)
    targets = np.where(rng.random(shape) < 0.7, rng.integers(0, 2, shape), rng.random(shape)).astype(dtype)
    return rng.integers(0, shape[1], shape[0]), targets, Z, rng.random(shape[0]).astype(dtype)


def run(loss: int, shape: tuple[int, int], dtype: str, cuts: Any, gradient: bool = True) -> tuple[Any, Any]:
    """Losses and gradient; all that must be filled, and the scratch, arrives as NaN."""
    labels, targets, Z, shares = problem(shape, dtype)
    values, D = np.full(shape[0], np.nan), np.full(shape if gradient else (0, shape[1]), np.nan, dtype)
    scratch = np.full(losses.scratch_size(int(np.diff(cuts).max()), shape[1]), np.nan, dtype)
    in_pieces(loss, labels, targets, Z, shares, D, values, scratch, np.array(cuts))
    return values, D


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_any_cuts_give_the_same_bits(loss: int, shape: tuple[int, int], dtype: str) -> None:
    rows = shape[0]
    values, D = run(loss, shape, dtype, [0, rows])
    for cuts in ([0, rows // 2, rows], [0, rows // 3, rows // 3, rows - rows // 5, rows], list(range(rows + 1))):
        others, other = run(loss, shape, dtype, cuts)
        assert others.tobytes() == values.tobytes()
        assert other.tobytes() == D.tobytes()
    assert run(loss, shape, dtype, [0, rows], gradient=False)[0].tobytes() == values.tobytes()


def test_rows_outside_are_left_alone() -> None:
    for loss in LOSSES.values():
        values, D = run(loss, (100, 3), "float32", [40, 50])
        assert np.isfinite(values[40:50]).all()
        assert np.isfinite(D[40:50]).all()
        assert np.isnan(np.delete(values, range(40, 50))).all()
        assert np.isnan(np.delete(D, range(40, 50), axis=0)).all()


def test_accuracy_treats_nan_as_argmax_does() -> None:
    rng = np.random.default_rng(0)
    Z = rng.integers(0, 3, (2000, 5)).astype(float)  # ties
    Z[rng.random(Z.shape) < 0.1] = np.nan
    labels, share = rng.integers(0, 5, 2000), np.empty(1)
    losses.accuracy(labels, Z, share)
    assert share[0] == reference.accuracy(labels, Z)
