"""Losses of the simd variant: across blocks, at extreme outputs, and the same bits however rows are divided."""

from typing import Any

import numpy as np
import pytest

from fastnet.kernels.cpu import losses
from fastnet.kernels.jit.call_by_address import call, kernel_address
from fastnet.kernels.jit.decorator import jit
from fastnet.kernels.reference import losses as losses_module
from fastnet.kernels.registry import TABLE, Case, Variant
from fastnet.kernels.specs import losses as specs
from fastnet.kernels.verify import check

pytestmark = pytest.mark.compiled

DTYPES = ("float32", "float64")
LOSSES = {name: spec.code for name, spec in specs.LOSSES.items()}
CROSS_ENTROPY, BINARY_CROSS_ENTROPY = LOSSES["cross_entropy"], LOSSES["binary_cross_entropy"]
SIMD = [variant for variant in TABLE if variant.name == "simd" and variant.operation in losses.KERNELS]
CASES = (
    Case((63, 10), "one row less than a block"),
    Case((64, 10), "exactly a block"),
    Case((65, 10), "one row more"),
    Case((300, 1), "one column; five blocks"),
    Case((300, 31), "the widest that is transposed; five blocks, which a tree of halves divides unevenly"),
    Case((130, 32), "the narrowest that is not"),
    Case((9, 1100), "a row longer than what is worked through at once"),
    Case((70, 129), "many columns, and one more than eight lanes divide"),
)
SHAPES = [(1, 1), (7, 10), (200, 1), (200, 10), (130, 40), (5, 1100)]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("variant", SIMD, ids=lambda variant: variant.operation)
def test_loss_of_blocks_of_rows(variant: Variant, case: Case, dtype: str) -> None:
    assert check(variant, case, dtype) <= 1 / 3


@jit
def _in_parts(kernel: int, rows: Any, dtype: Any, cuts: Any) -> None:
    for p in range(cuts.size - 1, 0, -1):
        call(losses.loss_rows, kernel, dtype, (rows, cuts[p - 1], cuts[p]))


def in_parts(
    loss: int, labels: Any, targets: Any, Z: Any, row_weights: Any, D: Any, values: Any, scratch: Any, cuts: Any
) -> None:
    """The loss of the rows between one cut and the next, the last part first."""
    rows = losses.LossRows(labels, targets, Z, row_weights, D, values, scratch)
    _in_parts(kernel_address(losses.loss_kernel(loss), Z.dtype), rows, Z.dtype, cuts)


def test_codes_are_fixed() -> None:
    names = ("mse", "mae", "huber", "cross_entropy", "binary_cross_entropy")
    assert [LOSSES[name] for name in names] == list(range(5)), "callers may hold them"


def problem(shape: tuple[int, int], dtype: str) -> tuple[Any, Any, Any, Any]:
    """Labels, targets from 0 to 1, outputs of all sizes, unequal shares."""
    rng = np.random.default_rng(shape)
    scales = np.resize([1.0, 1e4, 1e-3, 30.0], shape[0])[:, None]
    Z = (rng.standard_normal(shape) * scales).astype(dtype)
    targets = np.where(rng.random(shape) < 0.7, rng.integers(0, 2, shape), rng.random(shape)).astype(dtype)
    return rng.integers(0, shape[1], shape[0]), targets, Z, rng.random(shape[0]).astype(dtype)


def run(loss: int, shape: tuple[int, int], dtype: str, cuts: Any, gradient: bool = True) -> tuple[Any, Any]:
    """Losses and gradient; all that must be filled, and the scratch, arrives as NaN."""
    labels, targets, Z, row_weights = problem(shape, dtype)
    values, D = np.full(shape[0], np.nan), np.full(shape if gradient else (0, shape[1]), np.nan, dtype)
    scratch = np.full(losses.scratch_size(int(np.diff(cuts).max()), shape[1]), np.nan, dtype)
    in_parts(loss, labels, targets, Z, row_weights, D, values, scratch, np.array(cuts))
    return values, D


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss_bits_do_not_depend_on_the_division(loss: int, shape: tuple[int, int], dtype: str) -> None:
    rows = shape[0]
    values, D = run(loss, shape, dtype, [0, rows])
    for cuts in ([0, rows // 2, rows], [0, rows // 3, rows // 3, rows - rows // 5, rows], list(range(rows + 1))):
        others, other = run(loss, shape, dtype, cuts)
        assert others.tobytes() == values.tobytes()
        assert other.tobytes() == D.tobytes()
    assert run(loss, shape, dtype, [0, rows], gradient=False)[0].tobytes() == values.tobytes()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss_rows_against_the_oracle(loss: int, shape: tuple[int, int], dtype: str) -> None:
    """Each row as a batch of its own: losses are sums over outputs, gradients carry the row's share."""
    labels, targets, Z, row_weights = problem(shape, dtype)
    values, D = run(loss, shape, dtype, [0, shape[0]])
    wide, eps = Z.astype(np.longdouble), float(np.finfo(dtype).eps)
    for i in range(shape[0]):
        truth = labels[i : i + 1] if loss == CROSS_ENTROPY else targets[i : i + 1].astype(np.longdouble)
        (value,), (slope,), _ = losses_module.row_losses(loss, truth, wide[i : i + 1])
        slope = row_weights[i] * slope
        # A soft target cancels against a logit of any size; a softmax magnifies its logits' roundings.
        logits = specs.LOSS_BY_CODE[loss].targets != "values"
        scale = np.abs(wide[i]).sum() if logits or specs.LOSS_BY_CODE[loss].absolute_error else 0
        assert abs(values[i] - value) <= 4 * eps * (value + scale + 1e-30)
        spread = 30 if loss == CROSS_ENTROPY else 2
        assert (np.abs(D[i] - slope) <= spread * eps * (np.abs(slope) + (row_weights[i] if logits else 0))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_rows_do_not_depend_on_the_division(dtype: str) -> None:
    """Equal shares are multiplied in earlier."""
    labels, targets, Z, row_weights = problem((64, 7), dtype)
    for loss in LOSSES.values():
        D, values = np.full((2, 64, 7), np.nan, dtype), np.empty(64)
        scratch, cuts = np.empty(losses.scratch_size(64, 7), dtype), np.array([0, 64])
        row_weights[:] = 0.3
        in_parts(loss, labels, targets, Z, row_weights, D[0], values, scratch, cuts)
        row_weights[-1] = 0.7
        in_parts(loss, labels, targets, Z, row_weights, D[1], values, scratch, cuts)
        assert D[0, :-1].tobytes() == D[1, :-1].tobytes()
        assert (D[0, -1] != D[1, -1]).any()


def test_saturated_logits_give_the_limits() -> None:
    Z = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], np.float32)
    D, loss = np.empty_like(Z), np.empty(1)
    labels = np.array([0, 0])
    losses.value(CROSS_ENTROPY, labels, Z, loss)
    losses.gradient(CROSS_ENTROPY, labels, Z, D)
    assert loss[0] == 1e4
    np.testing.assert_array_equal(D, [[0, 0, 0], [-0.5, 0.5, 0]])
    targets = np.array([[1, 0, 1], [1, 1, 0]], np.float32)
    losses.value(BINARY_CROSS_ENTROPY, targets, Z, loss)
    losses.gradient(BINARY_CROSS_ENTROPY, targets, Z, D)
    assert loss[0] == pytest.approx((1e4 + 2 * np.log(2)) / 2, rel=1e-7)
    np.testing.assert_array_equal(D, [[0, 0, -0.25], [-0.5, 0, 0.25]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_confident_predictions_keep_their_digits(dtype: str) -> None:
    """log(1 + e) where 1 + e is 1, and sigmoid(z) - 1 where sigmoid(z) is 1."""
    Z, targets = np.array([[40.0], [-40.0]], dtype), np.array([[1.0], [0.0]], dtype)
    loss, D = np.empty(1), np.empty_like(Z)
    losses.value(BINARY_CROSS_ENTROPY, targets, Z, loss)
    losses.gradient(BINARY_CROSS_ENTROPY, targets, Z, D)
    assert loss[0] == pytest.approx(np.exp(-40.0), rel=4 * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(D[:, 0], [-np.exp(-40.0) / 2, np.exp(-40.0) / 2], rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("columns", [1, 3, 10, 40])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_nan_and_infinity_propagate(loss: int, columns: int) -> None:
    for bad, place in ((np.nan, 0), (np.nan, columns - 1), (-np.nan, columns // 2), (np.inf, 0)):
        Z, targets = np.zeros((70, columns)), np.ones((70, columns))
        Z[66, place] = bad
        value, D = np.empty(1), np.empty_like(Z)
        truth = np.zeros(70, np.int64) if loss == CROSS_ENTROPY else targets
        losses.value(loss, truth, Z, value)
        losses.gradient(loss, truth, Z, D)
        assert not np.isfinite(value[0])
        assert np.isfinite(np.delete(D, 66, axis=0)).all()
        if np.isnan(bad):
            assert np.isnan(value[0])
            assert np.isnan(D[66, place])
        if loss == CROSS_ENTROPY:
            assert np.isnan(D[66]).all()


@pytest.mark.parametrize("columns", [3, 10, 40])
def test_softmax_of_nan_and_infinity_is_nan(columns: int) -> None:
    for bad, place in ((np.nan, 0), (np.nan, columns - 1), (-np.nan, 1), (np.inf, 2)):
        Z = np.zeros((70, columns))
        Z[66, place] = bad
        result = np.empty_like(Z)
        losses.softmax(Z, result)
        assert np.isnan(result[66]).all()
        assert np.isfinite(np.delete(result, 66, axis=0)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100])
def test_tree_sum_counts_each_element_once(size: int) -> None:
    values = 2.0 ** (np.arange(size) % 50)  # sums of powers of two are exact
    assert losses.tree_sum(values.copy()) == values.sum()


def test_rows_outside_the_range_are_left_alone() -> None:
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
    assert share[0] == losses_module.accuracy(labels, Z)


@jit
def _count(kernel: int, rows: Any, dtype: Any, first: int, last: int, correct: Any) -> None:
    call(losses.correct_rows, kernel, dtype, (rows, first, last, correct, 0))


def count_correct(labels: Any, targets: Any, Z: Any, loss: int, first: int, last: int) -> int:
    """Count the correct answers of some rows."""
    unused, correct = np.empty(0), np.empty(1, np.int64)
    rows = losses.LossRows(labels, targets, Z, unused, np.empty((0, 0)), unused, unused)
    _count(kernel_address(losses.correct_kernel(loss), Z.dtype), rows, Z.dtype, first, last, correct)
    return int(correct[0])


@pytest.mark.parametrize("columns", [1, 4])
def test_binary_accuracy_counts_elements(columns: int) -> None:
    rng = np.random.default_rng(0)
    Z, targets = rng.standard_normal((50, columns)), rng.random((50, columns))
    Z[3], Z[4, 0], targets[5] = 0, np.nan, 0.5  # 0, NaN and 1/2 all say no
    targets[3] = 0
    truth = (Z > 0) == (targets > 0.5)
    labels = np.empty(0, np.int64)
    assert count_correct(labels, targets, Z, BINARY_CROSS_ENTROPY, 0, 50) == truth.sum()
    assert count_correct(labels, targets, Z, BINARY_CROSS_ENTROPY, 3, 9) == truth[3:9].sum()


def test_accuracy_of_some_rows() -> None:
    Z, labels = np.random.default_rng(0).standard_normal((50, 4)), np.arange(50) % 4
    assert count_correct(labels, Z, Z, CROSS_ENTROPY, 7, 30) == (Z[7:30].argmax(axis=1) == labels[7:30]).sum()
