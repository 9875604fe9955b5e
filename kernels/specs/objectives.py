"""The contracts of losses and updates, generated from their specs; those of layers stand in `operations`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .base import Array, Case, OpSpec, nan, normal, rounding
from .cases import BATCH_BENCHES, BATCHES, VECTORS, with_options
from .losses import LOSS_BY_CODE, LossSpec
from .optimizers import UPDATES as UPDATE_SPECS
from .optimizers import UpdateSpec

# ------------------------------------------------------------------------------------------- losses


def _logits(case: Case, dtype: Any, rng: np.random.Generator) -> Array:
    """Outputs of every size that a training run meets, saturated ones (+-1e4) included."""
    scales = np.resize([1.0, 10.0, 1e4, 0.01], case.dims[0])
    return (rng.standard_normal(case.dims) * scales[:, None]).astype(dtype)


def _values(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Array, Array]:
    """Targets and outputs; every fifth element is met exactly, where |d| has a corner."""
    targets, outputs = normal(rng, case.dims, dtype), normal(rng, case.dims, dtype)
    outputs.reshape(-1)[4::5] = targets.reshape(-1)[4::5]
    return targets, outputs


def _probabilities(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Array, Array]:
    """Targets, mostly 0 or 1 and some between, and logits of every size."""
    hard, soft = rng.integers(0, 2, case.dims), rng.random(case.dims)
    return np.where(rng.random(case.dims) < 0.8, hard, soft).astype(dtype), _logits(case, dtype, rng)


def _labels(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Array, Array]:
    """Labels, or where the case says so soft ones, and logits of every size."""
    logits = _logits(case, dtype, rng)
    if case.option == "soft":
        return rng.dirichlet(np.full(case.dims[1], 0.5), case.dims[0]).astype(dtype), logits
    return rng.integers(0, case.dims[1], case.dims[0]), logits


_INPUTS = {"values": _values, "probabilities": _probabilities, "labels": _labels}
"""Targets and outputs of a case, by `LossSpec.targets`."""


def _spread(Z: Array) -> Array:
    """Return 1 + each element's distance to the top: exp magnifies roundings of its argument by that, until it is 0."""
    return 1 + np.minimum(np.max(Z, axis=1, keepdims=True) - Z, 750)


def _loss_bound(spec: LossSpec, targets: Array, outputs: Array, loss: Array, eps: float) -> Array:
    terms = loss * np.sqrt(targets.size)
    if spec.takes_labels:  # in every row, log sum exp is accurate to eps times max(1, itself)
        return rounding(terms + np.sqrt(targets.size), eps=eps)
    if spec.unit_targets:
        # A hard target's term has a relative error of a few eps, however small it is; a soft target's z y may cancel.
        soft = np.abs(outputs) * ((targets != 0) & (targets != 1))
        return rounding(terms, np.sum(soft) / len(outputs), eps=eps)
    return rounding(terms, spec.absolute_error * np.mean(np.abs(outputs - targets)), eps=eps)


def _loss_derivative_bound(spec: LossSpec, targets: Array, outputs: Array, gradient: Array, eps: float) -> Array:
    rows, k = outputs.shape
    if spec.takes_labels:
        y = targets if targets.ndim > 1 else np.eye(k)[targets]
        softmax = gradient * rows + y
        return rounding((softmax * (np.sqrt(k) + _spread(outputs)) / 2 + y) / rows, eps=eps)
    if spec.unit_targets:
        return rounding(np.abs(gradient) + 2 * targets / rows, eps=eps)
    return rounding(gradient, eps=eps)


def _softmax_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return _logits(case, dtype, rng), nan(case.dims, dtype)


def _softmax_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    (softmax,) = results
    k = softmax.shape[1]
    return (rounding(softmax * (np.sqrt(k) + _spread(arguments[0])) / 2, eps=eps),)


def _accuracy_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return *_labels(case, dtype, rng), nan((1,), np.float64)


def _accuracy_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    return (np.full(1, 4 * np.finfo(np.float64).eps),)  # a count divided by a count


def _operation(
    name: str, sample: Any, bound: Any, flops: int, matrices: int, *, result: int = 2, cases: Any = BATCHES
) -> OpSpec:
    def times(factor: int) -> Callable[..., int]:
        return lambda B, k: factor * B * k

    return OpSpec(name, "B,k", sample, bound, times(flops), times(matrices), cases, BATCH_BENCHES, results=(result,))


def _of_loss(spec: LossSpec) -> Iterator[OpSpec]:
    """Specify a loss and its derivative, called with ``(targets, outputs, out)``."""
    matrices = 1 if spec.takes_labels else 2
    cases = BATCHES + (with_options(BATCHES, ("soft",)) if spec.takes_labels else ())

    def operation(name: str, element_bound: Callable[..., Array], flops: int, matrices: int) -> OpSpec:
        def sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
            targets, outputs = _INPUTS[spec.targets](case, dtype, rng)
            return targets, outputs, nan(case.dims, dtype) if name != spec.name else nan((1,), np.float64)

        def bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
            return (element_bound(spec, *arguments[:2], results[0], eps),)

        return _operation(name, sample, bound, flops, matrices, cases=cases)

    yield operation(spec.name, _loss_bound, spec.flops, matrices)
    yield operation(f"{spec.name}_derivative", _loss_derivative_bound, spec.derivative_flops, matrices + 1)


LOSSES = (
    *(operation for spec in LOSS_BY_CODE for operation in _of_loss(spec)),
    _operation("softmax", _softmax_sample, _softmax_bound, 4, 2, result=1),
    _operation("accuracy", _accuracy_sample, _accuracy_bound, 1, 1),
)

# ------------------------------------------------------------------------------------------ updates


def _of_update(spec: UpdateSpec) -> OpSpec:
    """Specify an update, called with ``(parameters, gradient, *state, *numbers)``."""

    def sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
        arrays = [normal(rng, case.dims, dtype) for _ in ("parameters", "gradient", *spec.state)]
        squares = (array**2 if name == "square" else array for name, array in zip(spec.state, arrays[2:], strict=True))
        return (*arrays[:2], *squares, *spec.options[case.option])

    states = len(spec.state)
    return OpSpec(
        spec.operation,
        "size",
        sample,
        spec.bound,
        lambda n: spec.flops * n,
        lambda n: (3 + 2 * states) * n,
        with_options(VECTORS, tuple(spec.options)),
        (Case((9610,), "the parameters of 64-128-10", next(iter(spec.options))),),
        results=(0, *range(2, 2 + states)),
        in_place=True,
    )


UPDATES = tuple(_of_update(spec) for spec in UPDATE_SPECS.values())
