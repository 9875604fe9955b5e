"""Public kernels on inputs of every layout, each in the middle of a larger array, against float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fuzz import trials

from fastnet import kernels
from fastnet.kernels.registry import TABLE
from fastnet.kernels.specs.operations import OP_SPECS
from fastnet.kernels.verify import check

GUARD = 12345.0
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 95, 129, 200)


def size(rng: np.random.Generator) -> int:
    return int(rng.choice(SIZES)) if rng.random() < 0.8 else int(rng.integers(1, 300))


def laid_out(rng: np.random.Generator, values: Any) -> tuple[Any, Any]:
    """Return the values as a view of a random layout into a larger array of guards, and that array."""
    order, steps = rng.permutation(values.ndim), rng.choice([1, 1, 1, 2, 3, -1, -2], values.ndim)
    margins = rng.integers(0, 4, (values.ndim, 2))
    shape = [
        int(before + n * abs(step) + after)
        for n, step, (before, after) in zip(values.shape, steps, margins, strict=True)
    ]
    odd = int(rng.integers(0, 2)) * int(rng.integers(1, 8))  # elements at odd addresses
    count = int(np.prod(shape))
    raw = np.zeros(count * values.itemsize + 8, np.uint8)
    outer = raw[odd : odd + count * values.itemsize].view(values.dtype)
    outer[:] = GUARD
    outer = outer.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    view = outer
    for axis, (n, step, (before, _)) in enumerate(zip(values.shape, steps, margins, strict=True)):
        chosen = slice(before, before + n * abs(step), abs(step))
        view = view[(slice(None),) * axis + (chosen,)]
        if step < 0:
            view = np.flip(view, axis)
    view[...] = values
    if rng.random() < 0.2:
        view.flags.writeable = False
    return view, outer


def changed(outer: Any, view: Any, values: Any) -> bool:
    """Whether anything but the view has changed, or the view itself."""
    return bool((view != values).any() or (outer == GUARD).sum() != outer.size - values.size)


def guarded_out(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
    """Return a contiguous output in the middle of guards, at any address of an element, and what is around it."""
    count, before = int(np.prod(shape)), int(rng.integers(16, 48))
    outer = np.full(count + 96, GUARD, dtype)
    return outer[before : before + count].reshape(shape), (outer[:before], outer[before + count :])


def error_bound(magnitudes: Any, k: int, eps: float) -> Any:
    return 8 * eps * np.sqrt(k) * magnitudes + 1e-300


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_products_in_every_layout() -> None:
    for number, rng in trials("products in odd layouts", 80, 0.1):
        m, k, n = (size(rng) for _ in range(3))
        dtype = np.dtype(str(rng.choice(["float32", "float64"])))
        values = [rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (n, k), (n,))]
        (X, *_), (W, *_), (b, *_) = placed = [laid_out(rng, value) for value in values]
        wide = [value.astype("f8") for value in values]
        eps, trial = float(np.finfo(dtype).eps), f"trial {number}: {m} x {k} x {n}, {dtype}"
        variant = str(rng.choice([*kernels.variants("matmul"), "auto"]))

        out, around = guarded_out(rng, (m, n), dtype)
        out[...] = np.nan
        assert kernels.matmul(X, W.T, out=out, variant=variant) is out
        true, bound = wide[0] @ wide[1].T, error_bound(np.abs(wide[0]) @ np.abs(wide[1]).T, k, eps)
        assert (np.abs(out - true) <= bound).all(), f"{trial}, matmul {variant}"
        assert all((part == GUARD).all() for part in around), f"{trial}, matmul {variant} wrote beside out"

        variant = str(rng.choice([*kernels.variants("dense_forward"), "auto"]))
        A, Z = kernels.dense_forward(X, W, b, kernels.relu, variant=variant)
        bound += 8 * eps * np.sqrt(k) * np.abs(wide[2])
        assert (np.abs(Z - true - wide[2]) <= bound).all(), f"{trial}, {variant}"
        assert (np.maximum(Z, 0) == A).all(), f"{trial}, {variant}"

        variant = str(rng.choice([*kernels.variants("dense_backward_batch"), "auto"]))
        D, _ = laid_out(rng, rng.standard_normal((m, n)).astype(dtype))
        dW, db, dX = kernels.dense_backward_batch(X, Z, D, W, kernels.relu_derivative, variant=variant)
        dZ = D.astype("f8") * (Z > 0)
        for found, left, right in ((dW, dZ.T, wide[0]), (dX, dZ, wide[1]), (db, np.ones((1, m)), dZ)):
            error = np.abs(found.reshape(len(left), -1) - left @ right)
            allowed = error_bound(np.abs(left) @ np.abs(right), left.shape[1], eps)
            assert (error <= allowed).all(), f"{trial}, {variant}"
        for (view, outer), value in zip(placed, values, strict=True):
            assert not changed(outer, view, value), f"{trial}: an input was changed"


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_every_operation_at_random_sizes() -> None:
    """By the check that all variants pass in the other tests at chosen sizes."""
    for _, rng in trials("operations at random sizes", 80, 0.1):
        variant = TABLE[int(rng.integers(len(TABLE)))]
        case = OP_SPECS[variant.operation].cases[int(rng.integers(len(OP_SPECS[variant.operation].cases)))]
        case = replace(case, dims=tuple(size(rng) if n > 1 else n for n in case.dims), why="at random")
        check(variant, case, str(rng.choice(["float32", "float64"])), int(rng.integers(2**31)))


@pytest.mark.compiled
def test_layouts_are_noticed() -> None:
    """The helpers of these tests see a kernel that writes beside its output, and an input that changes."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 4))
    for _ in range(50):
        view, outer = laid_out(rng, values)
        assert (view == values).all()
        assert not changed(outer, view, values)
        if view.flags.writeable:
            view[1, 2] += 1
            assert changed(outer, view, values)
