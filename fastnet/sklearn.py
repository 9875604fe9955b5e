"""scikit-learn's MLPClassifier and MLPRegressor, trained by the compiled training step.

It needs scikit-learn 1.7 or newer.

Validation, labels, initial weights, shuffling, early stopping, schedules, warnings and messages are scikit-learn's own
code, unchanged. Its loop passes batches to `_backprop` and gradients to an optimizer. Here the loop is told that all
rows are one batch, and `_backprop` trains a whole epoch in one call: it visits the rows in the order that the loop
would have used, takes the steps itself, and returns the loss and no gradients. Where the engine cannot express a fit,
scikit-learn's own `_backprop` runs on scikit-learn's batches.
"""

from __future__ import annotations

import inspect
import math
import threading
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

from .kernels.cpu.threads.pool import limit_threads
from .kernels.engine import sklearn_conversions
from .kernels.engine.backend import start_epoch
from .kernels.engine.engine import CPU
from .kernels.engine.forward import forward_through
from .kernels.engine.numpy_engine import NumpyEngine
from .kernels.engine.optimizer_state import OptimizerState
from .kernels.engine.plan import aligned, aligned_zeros, parameter_count
from .kernels.specs.activations import ACTIVATIONS
from .kernels.specs.base import Array
from .kernels.specs.optimizers import OPTIMIZERS

try:
    from joblib.parallel import get_active_backend
    from scipy.sparse import issparse
    from sklearn import neural_network
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(
        f'fastnet.sklearn needs scikit-learn 1.7 or newer: pip install "scikit-learn>=1.7,<1.10" ({error})'
    ) from error


_OF_TABLES = ("TabularClassifier", "TabularRegressor")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_TABLES})


def __getattr__(name: str) -> Any:
    """Import the estimators of tables when they are asked for: they need pandas, the others do not."""
    if name in _OF_TABLES:
        from . import tabular

        return getattr(tabular, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
"""fastnet's name of each of scikit-learn's activations."""

_LOSSES = {"softmax": "cross_entropy", "logistic": "binary_cross_entropy", "identity": "mse"}
"""The loss of each output activation; poisson's, exp, has none here."""

_OUTPUTS = {"softmax": "identity", "logistic": "sigmoid", "identity": "identity"}
"""fastnet's name of each output activation; softmax comes after it."""

_MIN_DENSITY = 0.05
"""Sparse data with a smaller share of nonzero elements are left to scikit-learn, whose products skip zeros."""

_MAX_DENSE_BYTES = 2**30
"""Largest size of sparse data when made dense."""

_MAX_RATE_RATIO = 1e18
"""SGD's velocity is kept divided by the rate; if the rate falls by more than this, it could overflow in float32."""


class _Session:
    """One call of `_fit_stochastic`: parameters and the optimizer's state in the engine's layout, and the engine."""

    def __init__(self, estimator: Any, rows: int) -> None:
        self._rows = rows
        self._coefs, self._intercepts = estimator.coefs_, estimator.intercepts_
        self._sizes = [len(self._coefs[0]), *(len(b) for b in self._intercepts)]
        self._flat = aligned(parameter_count(self._sizes), self._coefs[0].dtype)
        self._views = self._transposed(self._flat)
        sklearn_conversions.fill(self._views, self._coefs + self._intercepts)
        # Until the end the attributes are views, so that scores see each epoch's parameters.
        estimator.coefs_, estimator.intercepts_ = self._views[: len(self._coefs)], self._views[len(self._coefs) :]
        self._loss = _LOSSES[estimator.out_activation_]
        self._scale = sklearn_conversions.GRADIENT_SCALE[self._loss]
        self._batch = 200 if estimator.batch_size == "auto" else int(estimator.batch_size)
        self.batch_size = rows if rows > self._batch else estimator.batch_size
        self._order = np.arange(rows) if estimator.shuffle else None
        self._optimizer: Any = None

    def _transposed(self, flat: Array) -> list[Array]:
        return sklearn_conversions.transposed_views(flat, self._sizes)

    def _start(self, estimator: Any, X: Any, y: Array, sample_weight: Array | None) -> None:
        """Take over the state of scikit-learn's optimizer, which exists by now, and prepare the data."""
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
        self._state = OptimizerState(rule_code, vectors, hyper, l2_per_batch=l2, max_row_loss=max_row_loss)
        self._state.progress["step"] = sklearn_conversions.FAR_STEP + getattr(optimizer, "t", 0)
        hidden = ACTIVATIONS[_ACTIVATIONS[estimator.activation]].code
        codes = [*[hidden] * (len(self._sizes) - 2), ACTIVATIONS["identity"].code]
        engine: Any = NumpyEngine if estimator.backend == "numpy" else CPU
        uses_order = self._order is not None
        self._engine = engine(self._flat, self._sizes, codes, self._loss, self._batch, self._state, uses_order)
        self._optimizer = optimizer

    @property
    def _steps(self) -> int:
        """Number of steps taken, Adam's before this session included."""
        return int(self._state.progress["step"]) - sklearn_conversions.FAR_STEP

    def train(self, estimator: Any, X: Any, y: Array, sample_weight: Array | None) -> float:
        """Train an epoch on these rows, the same every time, and return the mean of its batches' objectives."""
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
        loss, penalty = float(objective["mean_loss"]), float(objective["penalty"])
        if self._loss == "mse":
            loss /= self._sizes[-1]
        return float((loss + penalty) / self._scale / self._rows)

    def finish(self, estimator: Any) -> None:
        """Write parameters and optimizer state back to scikit-learn's attributes."""
        sklearn_conversions.fill(self._coefs + self._intercepts, self._views)
        if estimator.coefs_ and estimator.coefs_[0] is self._views[0]:  # not the best ones of early stopping
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


def _max_threads(estimator: Any) -> int | None:
    """Return the bound of an estimator's threads: its own, or 1 in a thread of joblib's, beside which others train.

    joblib bounds the threads of its processes itself, by NUMBA_NUM_THREADS.
    """
    given: int | None = estimator.threads
    if given is None and threading.current_thread() is not threading.main_thread():
        backend, _ = get_active_backend()  # loky, the default, is never that of a thread in which joblib runs a task
        return None if type(backend).__name__ == "LokyBackend" else 1
    return given


class _EngineMixin:
    """Trains scikit-learn's estimators on the engine, and predicts as `Network` does."""

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Any:
        """Return scikit-learn's outputs; by scikit-learn's code where arrays are not what the kernels take."""
        me: Any = self
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        dtype, last = me.coefs_[0].dtype, _OUTPUTS.get(me.out_activation_)
        if not (last is None or issparse(X) or me.backend == "numpy" or np.result_type(X.dtype, dtype) != dtype):
            rows, names = np.ascontiguousarray(X, dtype), [_ACTIVATIONS[me.activation]] * (me.n_layers_ - 2)
            with limit_threads(_max_threads(me)):
                outputs = forward_through(
                    me.coefs_, me.intercepts_, (*names, last), rows, me.out_activation_ == "softmax"
                )
            if outputs is not None:
                return outputs
        return super()._forward_pass_fast(X, check_input=False)  # type: ignore[misc]

    def _can_engine(
        self: Any, X: Any, y: Any, sample_weight: Array | None, layer_units: list[int], incremental: bool
    ) -> bool:
        """Whether the engine can express this fit, exactly and without loss."""
        parameters = self.coefs_ + self.intercepts_
        shapes = [*pairwise(layer_units), *((k,) for k in layer_units[1:])]
        elements = math.prod(X.shape)
        optimizer = getattr(self, "_optimizer", None) if incremental else None
        rate_falls = self.learning_rate == "invscaling" and (optimizer is not None or self.solver == "sgd")
        last_step = self.t_ + X.shape[0] * self.max_iter + 1
        return bool(
            self.out_activation_ in _LOSSES
            and [np.shape(p) for p in parameters] == shapes
            and all(isinstance(p, np.ndarray) and p.dtype == X.dtype and p.flags.writeable for p in parameters)
            and isinstance(y, np.ndarray)
            and (self.out_activation_ != "softmax" or (y.sum(axis=1) == 1).all())
            and (sample_weight is None or (sample_weight >= 0).all())
            and (not issparse(X) or X.nnz >= _MIN_DENSITY * elements)
            and (not issparse(X) or elements * X.dtype.itemsize <= _MAX_DENSE_BYTES)
            and (optimizer is None or type(optimizer) in (SGDOptimizer, AdamOptimizer))
            and (not rate_falls or self.power_t * math.log(last_step) < math.log(_MAX_RATE_RATIO))
        )

    def _fit_stochastic(self: Any, X: Any, y: Any, sample_weight: Any, *rest: Any) -> None:
        super_fit = super()._fit_stochastic  # type: ignore[misc]
        layer_units, incremental = rest[-2:]
        if not self._can_engine(X, y, sample_weight, layer_units, incremental):
            super_fit(X, y, sample_weight, *rest)
            return
        rows, asked = X.shape[0], (self.batch_size, self.shuffle)
        if self.early_stopping:  # as train_test_split rounds
            rows -= math.ceil(self.validation_fraction * rows)
        session = _Session(self, rows)
        with limit_threads(_max_threads(self)):
            try:
                self._session = session
                self.batch_size, self.shuffle = session.batch_size, False
                super_fit(X, y, sample_weight, *rest)
            finally:
                self.batch_size, self.shuffle = asked
                del self._session
                session.finish(self)

    def _backprop(self: Any, X: Any, y: Any, sample_weight: Any, *rest: Any) -> Any:
        session = self.__dict__.get("_session")
        if session is None:
            return super()._backprop(X, y, sample_weight, *rest)  # type: ignore[misc]
        # Without gradients scikit-learn's optimizer changes nothing.
        return session.train(self, X, y, sample_weight), [], []


_CONSTRAINTS = {
    "backend": [StrOptions({"auto", "numpy", "cpu"})],  # cuda has neither l2_per_batch nor max_row_loss
    "threads": [Interval(Integral, 1, None, closed="left"), None],
}
"""Constraints of the parameters that scikit-learn's estimators do not have."""


def _constructor(estimator: Any) -> Any:
    """Return the ``__init__`` of a subclass of scikit-learn's estimator: the same parameters, backend and threads.

    scikit-learn reads the parameters of an estimator, for `get_params` and `clone`, from its constructor's signature.
    """

    def __init__(self: Any, *args: Any, backend: str = "auto", threads: int | None = None, **parameters: Any) -> None:  # noqa: N807
        estimator.__init__(self, *args, **parameters)
        self.backend, self.threads = backend, threads

    inherited = inspect.signature(estimator.__init__).parameters.values()
    added = [p for p in inspect.signature(__init__).parameters.values() if p.kind == p.KEYWORD_ONLY]
    constructor: Any = __init__
    constructor.__signature__ = inspect.Signature([*inherited, *added])
    return constructor


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
    backend : {"auto", "numpy", "cpu"}, default "auto"
        numpy runs the reference equations, cpu the compiled kernels; auto is cpu.
    threads : int or None, default None
        Upper bound of cpu's threads, which do not change a bit; more than available is no error. None means all, but
        one in a thread in which joblib's backends threading and dask run a task.

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

    _parameter_constraints: dict[str, Any] = {**neural_network.MLPClassifier._parameter_constraints, **_CONSTRAINTS}  # noqa: RUF012

    __init__ = _constructor(neural_network.MLPClassifier)


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
    backend : {"auto", "numpy", "cpu"}, default "auto"
        numpy runs the reference equations, cpu the compiled kernels; auto is cpu.
    threads : int or None, default None
        Upper bound of cpu's threads, which do not change a bit; more than available is no error. None means all, but
        one in a thread in which joblib's backends threading and dask run a task.

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

    _parameter_constraints: dict[str, Any] = {**neural_network.MLPRegressor._parameter_constraints, **_CONSTRAINTS}  # noqa: RUF012

    __init__ = _constructor(neural_network.MLPRegressor)
