"""scikit-learn's MLPClassifier and MLPRegressor, trained by the compiled epoch.

Imports scikit-learn (``pip install "fastnet-jit[sklearn]"``), the trainer's names of backends, and
``fastnet.kernels``.

Validation, labels, initial weights, shuffling, early stopping, schedules, warnings and messages are scikit-learn's own
code, which runs as it is. Its loop hands batches to `_backprop` and gradients to an optimizer; here it is told that
all rows are one batch, and `_backprop` trains through an epoch in one call, visits the rows in the order that the loop
would have, takes the steps itself, and returns the loss and no gradients. Where the engine cannot express what is asked
for, scikit-learn's `_backprop` runs on scikit-learn's batches.
"""

from __future__ import annotations

import math
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

from .kernels.cpu.threads.pool import limit_threads
from .kernels.engine import sklearn_conversions
from .kernels.engine.engine import Engine, OptimizerState, start_epoch
from .kernels.engine.plan import (
    ADAM,
    MEAN_LOSS,
    MOMENTUM,
    NESTEROV,
    PENALTY,
    PLAIN_SGD,
    STEP,
    aligned,
    aligned_zeros,
    parameter_count,
)
from .kernels.specs.base import Array
from .kernels.specs.codes import IDENTITY, RELU, SIGMOID, TANH
from .trainer import BACKENDS

try:
    from scipy.sparse import issparse
    from sklearn import neural_network
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils._param_validation import Interval, StrOptions
except ImportError as error:
    raise ImportError(
        f'fastnet.sklearn needs scikit-learn 1.7 or newer: pip install "fastnet-jit[sklearn]" ({error})'
    ) from error

_ACTIVATIONS = {"identity": IDENTITY, "logistic": SIGMOID, "tanh": TANH, "relu": RELU}

_LOSSES = {"softmax": "cross_entropy", "logistic": "binary_cross_entropy", "identity": "mse"}
"""Of each output activation; poisson's, exp, has none here."""

_LEAST_DENSITY = 0.05
"""Sparse data with a smaller share of numbers are left to scikit-learn, whose products skip the zeros."""

_LARGEST_DENSE = 2**30
"""Bytes that sparse data may take when they are made dense."""

_LARGEST_FALL = 1e18
"""SGD's velocity is kept divided by the rate; a rate that falls further could overflow it in float32."""


class _FitSession:
    """One call of `_fit_stochastic`: parameters and the optimizer's state in the engine's layout, and the engine."""

    def __init__(self, estimator: Any, rows: int) -> None:
        self._rows = rows
        self._coefs, self._intercepts = estimator.coefs_, estimator.intercepts_
        self._sizes = [len(self._coefs[0]), *(len(b) for b in self._intercepts)]
        self._flat = aligned(parameter_count(self._sizes), self._coefs[0].dtype)
        self._views = sklearn_conversions.transposed_views(self._flat, self._sizes)
        sklearn_conversions.fill(self._views, self._coefs + self._intercepts)
        # Until the end the attributes are views, so that scores see each epoch's parameters.
        estimator.coefs_, estimator.intercepts_ = self._views[: len(self._coefs)], self._views[len(self._coefs) :]
        self._loss = _LOSSES[estimator.out_activation_]
        self._gain = sklearn_conversions.GRADIENT_SCALE[self._loss]
        self._batch = 200 if estimator.batch_size == "auto" else int(estimator.batch_size)
        self.batch_size = rows if rows > self._batch else estimator.batch_size
        self._order = np.arange(rows) if estimator.shuffle else None
        self._optimizer: Any = None

    def _begin(self, estimator: Any, X: Any, y: Array, sample_weight: Array | None) -> None:
        """Take over from scikit-learn's optimizer, which stands ready by now, and lay out the data."""
        if X.shape[0] != self._rows:
            raise RuntimeError(
                f"this version of scikit-learn trains on {X.shape[0]} rows where {self._rows} were expected; use one "
                'that "fastnet-jit[sklearn]" allows'
            )
        self._X = np.ascontiguousarray(X.toarray() if issparse(X) else X, self._flat.dtype)
        entropy = self._loss == "cross_entropy"
        self._truth = y.argmax(axis=1) if entropy else np.ascontiguousarray(y, self._flat.dtype)
        self._weights = None if sample_weight is None else np.ascontiguousarray(sample_weight, np.float64)
        optimizer = estimator._optimizer
        dtype, alpha = self._flat.dtype, float(estimator.alpha)
        if isinstance(optimizer, AdamOptimizer):
            state = aligned_zeros(2, self._flat.size, dtype)
            sklearn_conversions.fill(
                sklearn_conversions.transposed_views(state[0], self._sizes), optimizer.ms, self._gain
            )
            sklearn_conversions.fill(
                sklearn_conversions.transposed_views(state[1], self._sizes), optimizer.vs, self._gain**2
            )
            code, hyper = ADAM, {"beta1": optimizer.beta_1, "beta2": optimizer.beta_2}
            hyper["epsilon"] = optimizer.epsilon * self._gain
            self._behind = optimizer.t
        else:
            self._rate = optimizer.learning_rate
            state = aligned_zeros(int(optimizer.momentum > 0), self._flat.size, dtype)
            if optimizer.momentum > 0:
                views = sklearn_conversions.transposed_views(state[0], self._sizes)
                sklearn_conversions.fill(views, optimizer.velocities, -self._gain / self._rate)
            code = PLAIN_SGD if optimizer.momentum == 0 else NESTEROV if optimizer.nesterov else MOMENTUM
            hyper = {"beta1": optimizer.momentum}
        clipped = self._loss == "cross_entropy" or (self._loss == "binary_cross_entropy" and self._sizes[-1] == 1)
        cap = sklearn_conversions.largest_log_loss(dtype) if clipped else math.inf
        self._descent = OptimizerState(code, state, **hyper, l2_per_batch=alpha * self._gain, cap=cap)
        self._descent.progress[STEP] = sklearn_conversions.FAR_STEP
        codes = [_ACTIVATIONS[estimator.activation]] * (len(self._sizes) - 2) + [IDENTITY]
        variant = "parallel" if estimator.backend == "auto" else BACKENDS[estimator.backend]
        self._engine = Engine(
            self._flat, self._sizes, codes, self._loss, self._batch, variant, self._descent, self._order is not None
        )
        self._optimizer = optimizer

    @property
    def _steps(self) -> int:
        """Steps taken."""
        return int(self._descent.progress[STEP]) - sklearn_conversions.FAR_STEP

    def train(self, estimator: Any, X: Any, y: Array, sample_weight: Array | None) -> float:
        """Train an epoch on these rows, the same every time, and return the mean of its batches' objectives."""
        if self._optimizer is None:
            self._begin(estimator, X, y, sample_weight)
        optimizer, descent, order = self._optimizer, self._descent, self._order
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
            rates = sklearn_conversions.adam_rates(
                optimizer.learning_rate_init, *betas, self._behind + self._steps, steps
            )
        else:
            if optimizer.learning_rate != self._rate:
                sklearn_conversions.fill([*descent.state], [*descent.state], self._rate / optimizer.learning_rate)
                self._rate = optimizer.learning_rate
            rates = np.array([self._rate / self._gain])
        objective_terms = self._engine.plan.objective_terms
        objective_terms[[MEAN_LOSS, PENALTY]] = 0
        start_epoch(descent.progress, descent.totals, 0)
        self._engine.train(self._X, self._truth, self._weights, order, rates)
        loss, penalty = objective_terms[[MEAN_LOSS, PENALTY]].tolist()
        if self._loss == "mse":
            loss /= self._sizes[-1]
        return float((loss + penalty) / self._gain / self._rows)

    def finish(self, estimator: Any) -> None:
        """Give everything back to scikit-learn's attributes."""
        sklearn_conversions.fill(self._coefs + self._intercepts, self._views)
        if estimator.coefs_ and estimator.coefs_[0] is self._views[0]:  # not the best ones of early stopping
            estimator.coefs_, estimator.intercepts_ = self._coefs, self._intercepts
        optimizer = self._optimizer
        if isinstance(optimizer, AdamOptimizer):
            means, squares = (
                sklearn_conversions.transposed_views(vector, self._sizes) for vector in self._descent.state
            )
            optimizer.ms = sklearn_conversions.copies(means, 1 / self._gain)
            optimizer.vs = sklearn_conversions.copies(squares, 1 / self._gain**2)
            optimizer.t = self._behind + self._steps
            if optimizer.t > 0:
                betas = optimizer.beta_1, optimizer.beta_2
                last = sklearn_conversions.adam_rates(optimizer.learning_rate_init, *betas, optimizer.t - 1, 1)
                optimizer.learning_rate = float(last[0])
        elif optimizer is not None:
            velocity = self._descent.state[0] if len(self._descent.state) else np.zeros_like(self._flat)
            views = sklearn_conversions.transposed_views(velocity, self._sizes)
            optimizer.velocities = sklearn_conversions.copies(views, -self._rate / self._gain)


class _EngineMixin:
    """What both estimators add to scikit-learn's."""

    def _can_engine(
        self, X: Any, y: Any, sample_weight: Array | None, layer_units: list[int], incremental: bool
    ) -> bool:
        """Whether the engine can express this fit, exactly and without loss."""
        me: Any = self
        parameters = me.coefs_ + me.intercepts_
        shapes = [*pairwise(layer_units), *((k,) for k in layer_units[1:])]
        if me.out_activation_ not in _LOSSES or [np.shape(p) for p in parameters] != shapes:
            return False
        if any(not isinstance(p, np.ndarray) or p.dtype != X.dtype or not p.flags.writeable for p in parameters):
            return False
        if not isinstance(y, np.ndarray) or (me.out_activation_ == "softmax" and not (y.sum(axis=1) == 1).all()):
            return False
        if sample_weight is not None and not (sample_weight >= 0).all():
            return False
        if issparse(X):
            numbers = math.prod(X.shape)
            if X.nnz < _LEAST_DENSITY * numbers or numbers * X.dtype.itemsize > _LARGEST_DENSE:
                return False
        optimizer = getattr(me, "_optimizer", None) if incremental else None
        if optimizer is not None and type(optimizer) not in (SGDOptimizer, AdamOptimizer):
            return False
        if me.learning_rate == "invscaling" and (optimizer is not None or me.solver == "sgd"):
            last = me.t_ + X.shape[0] * me.max_iter + 1
            return bool(me.power_t * math.log(last) < math.log(_LARGEST_FALL))
        return True

    def _fit_stochastic(self, X: Any, y: Any, sample_weight: Any, *rest: Any) -> None:
        me: Any = self
        super_fit = super()._fit_stochastic  # type: ignore[misc]
        layer_units, incremental = rest[-2:]
        if not self._can_engine(X, y, sample_weight, layer_units, incremental):
            super_fit(X, y, sample_weight, *rest)
            return
        rows, asked = X.shape[0], (me.batch_size, me.shuffle)
        if me.early_stopping:  # as train_test_split rounds
            rows -= math.ceil(me.validation_fraction * rows)
        course = _FitSession(self, rows)
        with limit_threads(me.threads):
            try:
                me._course = course
                me.batch_size, me.shuffle = course.batch_size, False
                super_fit(X, y, sample_weight, *rest)
            finally:
                me.batch_size, me.shuffle = asked
                del me._course
                course.finish(self)

    def _backprop(self, X: Any, y: Any, sample_weight: Any, *rest: Any) -> Any:
        course = self.__dict__.get("_course")
        if course is None:
            return super()._backprop(X, y, sample_weight, *rest)  # type: ignore[misc]
        # Without gradients scikit-learn's optimizer changes nothing.
        return course.train(self, X, y, sample_weight), [], []


_OURS = {
    "backend": [StrOptions({"auto", *BACKENDS} - {"cuda"})],  # which has neither their l2 nor their loss's cap
    "threads": [Interval(Integral, 1, None, closed="left"), None],
}
"""What the parameters that scikit-learn's estimators do not have may be."""


class MLPClassifier(_EngineMixin, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's ``MLPClassifier`` on compiled kernels: the same parameters, attributes and methods.

    With the same ``random_state`` it starts from the same weights, visits the rows in the same order and takes the
    same steps as scikit-learn's, up to rounding.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
    shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As `sklearn.neural_network.MLPClassifier` takes them.
    backend : {"auto", "numpy", "serial", "parallel"}, default "auto"
        numpy is the reference, serial the compiled kernels on one thread, parallel those on several, with the same
        bits; small networks stay on one. auto is parallel.
    threads : int or None, default None
        Upper bound for parallel; more than there are is no error, None means all.

    Notes
    -----
    ``solver="lbfgs"``, negative sample weights, and sparse data of which less than a twentieth is not zero are trained
    by scikit-learn's code. ``loss_`` of multi-label problems is computed from logits, not from probabilities clipped at
    the dtype's eps.

    Examples
    --------
    >>> import fastnet.data
    >>> from fastnet.sklearn import MLPClassifier
    >>> X, y = fastnet.data.digits()
    >>> MLPClassifier(early_stopping=True, random_state=0).fit(X[:1400], y[:1400]).score(X[1400:], y[1400:]) > 0.85
    True
    """

    _parameter_constraints: dict[str, Any] = {**neural_network.MLPClassifier._parameter_constraints, **_OURS}  # noqa: RUF012

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.backend = backend
        self.threads = threads


class MLPRegressor(_EngineMixin, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's ``MLPRegressor`` on compiled kernels: the same parameters, attributes and methods.

    With the same ``random_state`` it starts from the same weights, visits the rows in the same order and takes the
    same steps as scikit-learn's, up to rounding.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
    max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As `sklearn.neural_network.MLPRegressor` takes them.
    backend : {"auto", "numpy", "serial", "parallel"}, default "auto"
        numpy is the reference, serial the compiled kernels on one thread, parallel those on several, with the same
        bits; small networks stay on one. auto is parallel.
    threads : int or None, default None
        Upper bound for parallel; more than there are is no error, None means all.

    Notes
    -----
    ``loss="poisson"``, ``solver="lbfgs"``, negative sample weights, and sparse data of which less than a twentieth is
    not zero are trained by scikit-learn's code.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnet.sklearn import MLPRegressor
    >>> X = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    >>> y = X[:, 0] * X[:, 1]
    >>> MLPRegressor(learning_rate_init=0.01, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    _parameter_constraints: dict[str, Any] = {**neural_network.MLPRegressor._parameter_constraints, **_OURS}  # noqa: RUF012

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__(
            loss=loss,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.backend = backend
        self.threads = threads
