"""One fit of fastnet.sklearn's estimators: scikit-learn's parameters and optimizer in the engine's layout.

`Session.train` replaces scikit-learn's loop over the batches of an epoch; see `fastnet.sklearn`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from .kernels.engine import sklearn_conversions
from .kernels.engine.backend import start_epoch
from .kernels.engine.engine import CPU
from .kernels.engine.numpy_engine import NumpyEngine
from .kernels.engine.optimizer_state import OptimizerState
from .kernels.engine.plan import aligned, aligned_zeros, parameter_count
from .kernels.engine.synced import SyncedArray
from .kernels.specs.activations import ACTIVATIONS
from .kernels.specs.base import Array
from .kernels.specs.losses import LOSSES
from .kernels.specs.optimizers import OPTIMIZERS
from .sklearn_additions import OWN_LOSSES, dropout_rates

ACTIVATION_NAMES = {"logistic": "sigmoid", **{name: name for name in ACTIVATIONS if name != "sigmoid"}}
"""fastnet's name of each activation: scikit-learn calls sigmoid logistic."""

LOSS_NAMES = {"softmax": "cross_entropy", "logistic": "binary_cross_entropy", "identity": "mse"}
"""The loss of each output activation; exp, that of poisson, has none here."""

_MIN_DENSITY = 0.05
"""Sparse data with a smaller fraction of nonzero elements are left to scikit-learn, whose products skip zeros."""

_MAX_DENSE_BYTES = 2**30
"""Largest size of sparse data when made dense."""

_MAX_RATE_RATIO = 1e18
"""The engine stores SGD's velocity divided by the rate; if the rate falls by more than this, it could overflow in
float32."""


def unsupported(
    estimator: Any, X: Any, y: Any, sample_weight: Array | None, layer_units: list[int], incremental: bool
) -> str:
    """Return why the engine cannot express this fit, exactly and without loss; "" if it can."""
    parameters = estimator.coefs_ + estimator.intercepts_
    shapes = [*pairwise(layer_units), *((k,) for k in layer_units[1:])]
    elements = math.prod(X.shape)
    optimizer = getattr(estimator, "_optimizer", None) if incremental else None
    rate_falls = estimator.learning_rate == "invscaling" and (optimizer is not None or estimator.solver == "sgd")
    last_step = estimator.t_ + X.shape[0] * estimator.max_iter + 1
    if estimator.out_activation_ not in LOSS_NAMES:
        return f"loss is {estimator.loss!r}"
    if [np.shape(p) for p in parameters] != shapes:
        return "hidden_layer_sizes are not those of the coefs_ to go on from"
    if not all(isinstance(p, np.ndarray) and p.dtype == X.dtype and p.flags.writeable for p in parameters):
        return f"the coefs_ and intercepts_ to go on from are not all writeable arrays of {X.dtype}, X's dtype"
    if not isinstance(y, np.ndarray):
        return "y is sparse"
    if estimator.out_activation_ == "softmax" and not (y.sum(axis=1) == 1).all():
        return "rows of y have several labels or none, where one class a row was fitted before"
    if sample_weight is not None and not (sample_weight >= 0).all():
        return "sample_weight holds negative numbers"
    if issparse(X) and X.nnz < _MIN_DENSITY * elements:
        return f"X is sparse, and less than {_MIN_DENSITY:.0%} of it is not zero"
    if issparse(X) and elements * X.dtype.itemsize > _MAX_DENSE_BYTES:
        return f"X is sparse, and would take more than {_MAX_DENSE_BYTES >> 20} MiB as an array"
    if optimizer is not None and type(optimizer) not in (SGDOptimizer, AdamOptimizer):
        return f"the optimizer to go on with is a {type(optimizer).__name__}"
    if rate_falls and not estimator.power_t * math.log(last_step) < math.log(_MAX_RATE_RATIO):
        return "power_t and max_iter let the rate of invscaling fall to less than 1e-18 of the first"
    return ""


class Session:
    """One call of `_fit_stochastic`: parameters and the optimizer's state in the engine's layout, and the engine."""

    def __init__(self, estimator: Any, rows: int) -> None:
        self._rows = rows
        self._coefs, self._intercepts = estimator.coefs_, estimator.intercepts_
        self._sizes = [len(self._coefs[0]), *(len(b) for b in self._intercepts)]
        self._flat = aligned(parameter_count(self._sizes), self._coefs[0].dtype)
        self._parameters = SyncedArray(self._flat)
        self._views = self._transposed(self._flat)
        sklearn_conversions.fill(self._views, self._coefs + self._intercepts)
        # During the fit the attributes are views, so that scores use each epoch's parameters.
        estimator.coefs_, estimator.intercepts_ = self._views[: len(self._coefs)], self._views[len(self._coefs) :]
        self._loss = estimator.loss if estimator.loss in OWN_LOSSES else LOSS_NAMES[estimator.out_activation_]
        self._scale = sklearn_conversions.GRADIENT_SCALE.get(self._loss, 1.0)
        self._batch = 200 if estimator.batch_size == "auto" else int(estimator.batch_size)
        self.batch_size = rows if rows > self._batch else estimator.batch_size
        self._order = np.arange(rows) if estimator.shuffle else None
        self._dropout, self._seed = dropout_rates(estimator), 0
        if self._dropout:  # the seed includes the rows seen so far, so that each call of partial_fit has its own masks
            self._seed = (int(estimator._random_state.randint(2**31)) << 32) + estimator.t_ % 2**32
        self._optimizer: Any = None

    def _transposed(self, flat: Array) -> list[Array]:
        return sklearn_conversions.transposed_views(flat, self._sizes)

    def _start(self, estimator: Any, X: Any, y: Array, sample_weight: Array | None) -> None:
        """Take over the state of scikit-learn's optimizer, which now exists, and prepare the data."""
        if X.shape[0] != self._rows:
            raise RuntimeError(
                f"this version of scikit-learn trains on {X.shape[0]} rows where {self._rows} were expected; use one "
                "that fastnet was tested with"
            )
        dtype, optimizer = self._flat.dtype, estimator._optimizer
        self._X = np.ascontiguousarray(X.toarray() if issparse(X) else X, dtype)
        self._targets = y.argmax(axis=1) if self._loss == "cross_entropy" else np.ascontiguousarray(y, dtype)
        self._weights = None if sample_weight is None else np.ascontiguousarray(sample_weight, np.float64)
        if isinstance(optimizer, AdamOptimizer):
            rule = "adam"
            vectors = aligned_zeros(2, self._flat.size, dtype)
            means, squares = map(self._transposed, vectors)
            sklearn_conversions.fill(means, optimizer.ms, self._scale)
            sklearn_conversions.fill(squares, optimizer.vs, self._scale**2)
            hyper: tuple[float, ...] = (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon * self._scale)
        else:
            rule = "sgd" if optimizer.momentum == 0 else "nesterov" if optimizer.nesterov else "momentum"
            self._rate, hyper = optimizer.learning_rate, (optimizer.momentum,)
            vectors = aligned_zeros(OPTIMIZERS[rule].state_vectors, self._flat.size, dtype)
            for vector in vectors:
                sklearn_conversions.fill(self._transposed(vector), optimizer.velocities, -self._scale / self._rate)
        clipped = self._loss == "cross_entropy" or (self._loss == "binary_cross_entropy" and self._sizes[-1] == 1)
        l2 = float(estimator.alpha) * self._scale
        max_row_loss = sklearn_conversions.largest_log_loss(dtype) if clipped else math.inf
        rule_code = OPTIMIZERS[rule].code
        extras: dict[str, Any] = {"l2_per_batch": l2, "max_row_loss": max_row_loss}
        extras |= {"dropout": self._dropout, "seed": self._seed}
        self._state = OptimizerState(rule_code, vectors, hyper, **extras)
        self._state.progress["step"] = sklearn_conversions.FAR_STEP + getattr(optimizer, "t", 0)
        hidden = ACTIVATIONS[ACTIVATION_NAMES[estimator.activation]].code
        codes = [*[hidden] * (len(self._sizes) - 2), ACTIVATIONS["identity"].code]
        layers = self._sizes, codes, self._loss, self._batch, self._state
        if estimator.backend == "cuda":
            from .kernels.cuda.engine import CudaEngine  # imports numba.cuda

            self._engine: Any = CudaEngine(self._parameters, *layers)
        else:
            engine: Any = NumpyEngine if estimator.backend == "numpy" else CPU
            self._engine = engine(self._flat, *layers, self._order is not None)
        self._optimizer = optimizer

    @property
    def _steps(self) -> int:
        """Number of steps taken, including Adam's before this session."""
        return int(self._state.progress["step"]) - sklearn_conversions.FAR_STEP

    def train(self, estimator: Any, X: Any, y: Array, sample_weight: Array | None) -> float:
        """Train an epoch on these rows, the same in every call, and return the mean of its batches' objectives."""
        if self._optimizer is None:
            self._start(estimator, X, y, sample_weight)
        optimizer, state, order = self._optimizer, self._state, self._order
        if order is not None:  # as sklearn.utils.shuffle, without its 0.1 ms of checks
            shuffled = np.arange(len(order))
            estimator._random_state.shuffle(shuffled)
            self._order = order = order[shuffled]
        if self._weights is not None:
            visited = self._weights if order is None else self._weights[order]
            if not sklearn_conversions.batch_sums(visited, self._batch).all():
                raise ZeroDivisionError("Weights sum to zero, can't be normalized")
        if isinstance(optimizer, AdamOptimizer):
            betas, steps = (optimizer.beta_1, optimizer.beta_2), -(-self._rows // self._batch)
            rates = sklearn_conversions.adam_rates(optimizer.learning_rate_init, *betas, self._steps, steps)
        else:
            if optimizer.learning_rate != self._rate:
                sklearn_conversions.fill([*state.state], [*state.state], self._rate / optimizer.learning_rate)
                self._rate = optimizer.learning_rate
            rates = np.array([self._rate / self._scale])
        objective = self._engine.objective
        objective["mean_loss"] = objective["penalty"] = 0
        start_epoch(state.progress, state.totals, 0)
        self._engine.train(self._X, self._targets, self._weights, order, rates)
        called = len(estimator.callbacks) > 0 or hasattr(estimator, "_epoch_task")
        if estimator.early_stopping or called or estimator._validation is not None:
            self._parameters.host  # noqa: B018 - fetches the memory that the attributes are views of
        loss, penalty = float(objective["mean_loss"]), float(objective["penalty"])
        if LOSSES[self._loss].mean_over_outputs:
            loss /= self._sizes[-1]
        return float((loss + penalty) / self._scale / self._rows)

    def finish(self, estimator: Any) -> None:
        """Write parameters and optimizer state back to scikit-learn's attributes."""
        self._parameters.host  # noqa: B018 - fetches parameters trained on a device
        sklearn_conversions.fill(self._coefs + self._intercepts, self._views)
        if estimator.coefs_ and estimator.coefs_[0] is self._views[0]:  # else they are early stopping's best ones
            estimator.coefs_, estimator.intercepts_ = self._coefs, self._intercepts
        optimizer = self._optimizer
        if isinstance(optimizer, AdamOptimizer):
            means, squares = map(self._transposed, self._state.state)
            optimizer.ms = sklearn_conversions.copies(means, 1 / self._scale)
            optimizer.vs = sklearn_conversions.copies(squares, 1 / self._scale**2)
            optimizer.t = self._steps
            if optimizer.t > 0:
                betas = optimizer.beta_1, optimizer.beta_2
                last = sklearn_conversions.adam_rates(optimizer.learning_rate_init, *betas, optimizer.t - 1, 1)
                optimizer.learning_rate = float(last[0])
        elif optimizer is not None:
            velocity = self._state.state[0] if len(self._state.state) else np.zeros_like(self._flat)
            optimizer.velocities = sklearn_conversions.copies(self._transposed(velocity), -self._rate / self._scale)
