"""The contracts of losses and updates; those of layers and activations stand in `operations`."""

from typing import Any

import numpy as np

from . import losses
from .base import Array, Case, OpSpec, nan, normal, rounding
from .cases import BATCH_BENCHES, BATCHES, VECTORS, with_options
from .losses import LossSpec

# ------------------------------------------------------------------------------------------- losses


def _regression(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Array, Array]:
    """Targets and outputs; every fifth element is met exactly, where |d| has a corner."""
    targets, outputs = normal(rng, case.dims, dtype), normal(rng, case.dims, dtype)
    outputs.reshape(-1)[4::5] = targets.reshape(-1)[4::5]
    return targets, outputs


def _regression_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return (*_regression(case, dtype, rng), np.full(1, np.nan))


def _regression_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    return (rounding(results[0] * np.sqrt(arguments[0].size), eps=eps),)


def _regression_derivative_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return (*_regression(case, dtype, rng), nan(case.dims, dtype))


def _regression_derivative_bound(
    arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float
) -> tuple[Array, ...]:
    return (rounding(results[0], eps=eps),)


def _logits(case: Case, dtype: Any, rng: np.random.Generator) -> Array:
    """Outputs of every size that a training run meets, saturated ones (+-1e4) included."""
    scales = np.resize([1.0, 10.0, 1e4, 0.01], case.dims[0])
    return (rng.standard_normal(case.dims) * scales[:, None]).astype(dtype)


def _labels(case: Case, rng: np.random.Generator) -> Array:
    return rng.integers(0, case.dims[1], case.dims[0])


def _softmax_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return (_logits(case, dtype, rng), nan(case.dims, dtype))


def _spread(Z: Array) -> Array:
    """1 + every element's distance to the top: exp magnifies the rounding of its argument by that, until it is 0."""
    return 1 + np.minimum(np.max(Z, axis=1, keepdims=True) - Z, 750)


def _softmax_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    (softmax,) = results
    k = softmax.shape[1]
    return (rounding(softmax * (np.sqrt(k) + _spread(arguments[0])) / 2, eps=eps),)


def _cross_entropy_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return (_labels(case, rng), _logits(case, dtype, rng), np.full(1, np.nan))


def _cross_entropy_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    # log sum exp is right to eps of 1 or of itself, whichever is larger, in every row.
    return (rounding((results[0] + 1) * np.sqrt(len(arguments[0])), eps=eps),)


def _cross_entropy_derivative_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return (_labels(case, rng), _logits(case, dtype, rng), nan(case.dims, dtype))


def _cross_entropy_derivative_bound(
    arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float
) -> tuple[Array, ...]:
    labels, Z, _ = arguments
    hot = np.zeros_like(Z)
    hot[np.arange(len(Z)), labels] = 1
    softmax, k = results[0] * len(Z) + hot, Z.shape[1]
    return (rounding((softmax * (np.sqrt(k) + _spread(Z)) / 2 + hot) / len(Z), eps=eps),)


def _binary(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Array, Array]:
    """Targets, mostly 0 or 1 and some between, and logits of every size."""
    hard, soft = rng.integers(0, 2, case.dims), rng.random(case.dims)
    return np.where(rng.random(case.dims) < 0.8, hard, soft).astype(dtype), _logits(case, dtype, rng)


def _binary_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return (*_binary(case, dtype, rng), np.full(1, np.nan))


def _binary_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    # A hard target's term is right to a few eps of itself, however small; of a soft one's, z y cancels.
    targets, Z, _ = arguments
    soft = np.abs(Z) * ((targets != 0) & (targets != 1))
    return (rounding(results[0] * np.sqrt(Z.size), np.sum(soft) / len(Z), eps=eps),)


def _binary_derivative_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    return (*_binary(case, dtype, rng), nan(case.dims, dtype))


def _binary_derivative_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    targets, *_ = arguments
    return (rounding(np.abs(results[0]) + 2 * targets / len(targets), eps=eps),)


def _accuracy_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    return (np.full(1, 4 * np.finfo(np.float64).eps),)  # a count divided by a count


def _loss(name: str, sample: Any, bound: Any, flops: int, matrices: int) -> OpSpec:
    return OpSpec(
        name,
        "B,k",
        sample,
        bound,
        lambda B, k: flops * B * k,
        lambda B, k: matrices * B * k,
        BATCHES,
        BATCH_BENCHES,
        results=(1,) if name == "softmax" else (2,),
    )


def _of_loss(spec: LossSpec) -> tuple[OpSpec, OpSpec]:
    """Return the contracts of a loss and of its derivative."""
    samples = (_regression_sample, _regression_derivative_sample)
    bounds = (_regression_bound, _regression_derivative_bound)
    if spec.takes_labels:
        samples = (_cross_entropy_sample, _cross_entropy_derivative_sample)
        bounds = (_cross_entropy_bound, _cross_entropy_derivative_bound)
    elif spec.unit_targets:
        samples = (_binary_sample, _binary_derivative_sample)
        bounds = (_binary_bound, _binary_derivative_bound)
    matrices = 1 if spec.takes_labels else 2
    return (
        _loss(spec.name, samples[0], bounds[0], spec.flops, matrices),
        _loss(f"{spec.name}_derivative", samples[1], bounds[1], spec.derivative_flops, matrices + 1),
    )


LOSSES = (
    *(contract for spec in losses.LOSSES.values() for contract in _of_loss(spec)),
    _loss("softmax", _softmax_sample, _softmax_bound, 4, 2),
    _loss("accuracy", _cross_entropy_sample, _accuracy_bound, 1, 1),
)

# ------------------------------------------------------------------------------------------ updates


def _sgd_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    momentum = 0.0 if case.option == "plain" else 0.9
    arrays = (normal(rng, case.dims, dtype) for _ in range(3))
    return (*arrays, 0.1, momentum, case.option == "nesterov")


def _sgd_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    parameters, gradient, velocity, rate, momentum, nesterov = arguments
    new_velocity = np.abs(gradient) + np.abs(momentum * velocity)
    step = np.abs(gradient) + momentum * new_velocity if nesterov else new_velocity
    return rounding(parameters, rate * step, eps=eps) / 2, rounding(new_velocity, eps=eps) / 2


def _adam_sample(case: Case, dtype: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    parameters, gradient, mean = (normal(rng, case.dims, dtype) for _ in range(3))
    square = normal(rng, case.dims, dtype) ** 2
    step = 1 if case.option == "first" else 1000
    decay = 0.5 if case.option == "decay" else 0.0
    return (parameters, gradient, mean, square, 0.1, 0.9, 0.999, 1e-8, decay, step)


def _adam_bound(arguments: tuple[Any, ...], results: tuple[Array, ...], eps: float) -> tuple[Array, ...]:
    parameters, gradient, mean, square, rate, beta1, beta2, epsilon, _, step = arguments
    new_mean = beta1 * np.abs(mean) + (1 - beta1) * np.abs(gradient)  # of magnitudes: m and g may cancel
    new_square = beta2 * square + (1 - beta2) * gradient**2
    move = rate * new_mean / (1 - beta1**step) / (np.sqrt(new_square / (1 - beta2**step)) + epsilon)
    return tuple(rounding(*terms, eps=eps) for terms in ((parameters, move), (new_mean,), (new_square,)))


_UPDATE_BENCH = Case((9610,), "the parameters of 64-128-10")

UPDATES = (
    OpSpec(
        "sgd_update",
        "size",
        _sgd_sample,
        _sgd_bound,
        lambda n: 4 * n,
        lambda n: 5 * n,
        with_options(VECTORS, ("plain", "momentum", "nesterov")),
        with_options((_UPDATE_BENCH,), ("momentum",)),
        results=(0, 2),
        in_place=True,
    ),
    OpSpec(
        "adam_update",
        "size",
        _adam_sample,
        _adam_bound,
        lambda n: 12 * n,
        lambda n: 7 * n,
        with_options(VECTORS, ("first", "later", "decay")),
        with_options((_UPDATE_BENCH,), ("later",)),
        results=(0, 2, 3),
        in_place=True,
    ),
)
