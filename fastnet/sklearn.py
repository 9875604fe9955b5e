"""scikit-learn's MLPClassifier and MLPRegressor, trained by the compiled training step.

It needs scikit-learn 1.7 or newer.

Validation, labels, initial weights, shuffling, early stopping, schedules, warnings and messages are scikit-learn's own
code, unchanged. Its loop passes batches to `_backprop` and gradients to an optimizer. Here the loop is told that all
rows are one batch, and `_backprop` trains a whole epoch in one call: it visits the rows in the order that the loop
would have used, takes the steps itself, and returns the loss but no gradients. If the engine cannot express a fit,
scikit-learn's own `_backprop` runs on scikit-learn's batches.
"""

from __future__ import annotations

import copy
import inspect
import math
import threading
from typing import Any

import numpy as np

from .hints import hinting
from .kernels.cpu.threads.pool import limit_threads
from .kernels.engine.forward import forward_through
from .kernels.specs.base import Array
from .messages import counted
from .progress import progress_bar, update_bar

try:
    from joblib.parallel import get_active_backend
    from scipy.sparse import issparse
    from sklearn import neural_network
    from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, is_classifier
    from sklearn.utils import check_array, check_consistent_length, compute_sample_weight
    from sklearn.utils._param_validation import StrOptions
    from sklearn.utils.multiclass import type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f'fastnet.sklearn needs scikit-learn 1.7 or newer: pip install "scikit-learn>=1.7,<1.10" ({error})'
    ) from error

from . import checks, sklearn_additions
from .sklearn_additions import CallbackSupportMixin
from .sklearn_session import ACTIVATION_NAMES, Session, unsupported

_OF_TABLES = ("TabularClassifier", "TabularRegressor")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_TABLES})


def __getattr__(name: str) -> Any:
    """Import the estimators of tables when they are first used: only they need pandas."""
    if name in _OF_TABLES:
        from . import tabular

        return getattr(tabular, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_OUTPUTS = {**ACTIVATION_NAMES, "softmax": "identity"}
"""fastnet's name of each output activation, or of the last hidden layer's; softmax is applied after identity."""


def _max_threads(estimator: Any) -> int | None:
    """Return the bound on an estimator's threads: its own, or 1 in a joblib thread, beside which others train.

    In its processes joblib itself bounds the threads, by NUMBA_NUM_THREADS.
    """
    given: int | None = estimator.threads
    if given is None and threading.current_thread() is not threading.main_thread():
        backend, _ = get_active_backend()  # loky, the default, runs no tasks in threads
        return None if type(backend).__name__ == "LokyBackend" else 1
    return given


class _EngineMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CallbackSupportMixin):  # type: ignore[misc]
    """Trains scikit-learn's estimators on the engine, and predicts as `Network` does."""

    _validation: Any = None
    _bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without that of a running `fit`: a callback may copy the estimator."""
        during = ("_session", "_epoch_task", "_bar", "_validation")
        return {name: value for name, value in super().__getstate__().items() if name not in during}

    @hinting
    def fit(self, X: Any, y: Any, sample_weight: Array | None = None, *, X_val: Any = None, y_val: Any = None) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse matrix, shape (n, n_features)
        y : array-like, shape (n,) or (n, n_outputs)
        sample_weight : array-like, shape (n,), optional
        X_val, y_val : array-like, optional
            Other rows, whose loss after each epoch becomes ``validation_loss_curve_``. Nothing else depends on them,
            not even early stopping. A pipeline passes them on without applying its other steps.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If callbacks is not a sequence of functions.
        ValueError
            As scikit-learn's ``fit``; also if only one of X_val and y_val is given, or they do not fit X and y; if the
            number of dropout rates is not that of hidden layers; or if scikit-learn's code would have to train with a
            feature that it lacks.
        OSError
            If the backend is "cuda", but numba-cuda, the driver or the GPU is missing; the message says which.
        """
        if (X_val is None) != (y_val is None):
            missing = "X_val" if X_val is None else "y_val"
            raise ValueError(f"{missing} is missing; X_val and y_val are given together or not at all")
        me: Any = self
        me._validate_params()  # before the bar appears
        self._check_added()
        with progress_bar(me.max_iter, False if me.solver == "lbfgs" else me.progress) as bar:
            try:
                self._bar, self._validation = bar, None if X_val is None else (X_val, y_val)
                return super().fit(X, y, sample_weight)
            finally:
                del self._bar, self._validation

    def transform(self: Any, X: Any) -> Any:
        """Return the outputs of the last hidden layer: (n, its size).

        Raises
        ------
        ValueError
            If X does not match the data of `fit`, or there is no hidden layer.
        """
        check_is_fitted(self)
        if len(self.coefs_) == 1:
            raise ValueError("hidden_layer_sizes is empty; transform returns the outputs of the last hidden layer")
        hidden = copy.copy(self)
        hidden.coefs_, hidden.intercepts_ = self.coefs_[:-1], self.intercepts_[:-1]
        hidden.n_layers_, hidden.out_activation_ = self.n_layers_ - 1, self.activation
        return hidden._forward_pass_fast(X)

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: `transform` keeps the dtype of X."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self: Any) -> int:
        """The number of columns that `transform` returns; scikit-learn names them by it."""
        return len(self.coefs_[-1])

    def _fit(self: Any, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        self._check_added()
        sklearn_additions.check_target(self, y)
        sklearn_additions.check_engine(self, "solver is 'lbfgs'" if self.solver == "lbfgs" else "")
        given = sample_weight
        class_weight = getattr(self, "class_weight", None)
        if class_weight is not None:
            if incremental and class_weight == "balanced":
                raise ValueError("partial_fit sees some rows only; give class_weight as a dict, not 'balanced'")
            check_consistent_length(X, y)
            if class_weight != "balanced" and type_of_target(y).startswith("multilabel"):
                raise ValueError("class_weight is a dict and y multi-label; give 'balanced', or sample_weight")
            if class_weight != "balanced":
                sklearn_additions.check_class_weight(class_weight, self.classes_ if incremental else np.unique(y))
            if incremental:  # y need not hold every class
                class_weight = {label: class_weight.get(label, 1.0) for label in np.unique(y)}
            weights = compute_sample_weight(class_weight, y)
            sample_weight = weights if sample_weight is None else weights * _check_sample_weight(sample_weight, X)
        with sklearn_additions.fit_task(self, X, y, given, incremental):
            return super()._fit(X, y, sample_weight, incremental)

    def _check_added(self: Any) -> None:
        """Reject callbacks that are not callable, and a GPU that does not exist."""
        if self.backend == "cuda":
            from .kernels.cuda.device import require  # imports numba.cuda

            require('backend="cuda"')
        checks.callbacks(self.callbacks)

    def _initialize(self, *args: Any) -> None:
        super()._initialize(*args)
        self.validation_loss_curve_: list[float] = []

    def _validate_input(self: Any, X: Any, y: Any, *args: Any, **options: Any) -> Any:
        X, y = super()._validate_input(X, y, *args, **options)
        if self._validation is not None:
            X_val, y_val = self._validation
            sklearn_additions.check_target(self, y_val, "y_val")
            try:
                X_val = validate_data(self, X_val, accept_sparse=["csr", "csc"], dtype=X.dtype, reset=False)
            except ValueError as error:
                raise ValueError(f"X_val: {error}") from None
            if is_classifier(self):
                if np.ndim(y_val) == 1 and self._label_binarizer.y_type_.startswith("multilabel"):
                    raise ValueError(f"y_val has one dimension; expected {y.shape[1]} labels a row, as y has")
                unknown = np.setdiff1d(y_val, self.classes_)
                if len(unknown):
                    raise ValueError(f"y_val holds {unknown[0]}, a class that y lacks")
                y_val = self._label_binarizer.transform(y_val)
            y_val = check_array(y_val, ensure_2d=False, dtype=X.dtype, input_name="y_val")
            check_consistent_length(X_val, y_val)
            y_val = y_val.reshape(len(y_val), -1)
            outputs = 1 if y.ndim == 1 else y.shape[1]
            if y_val.shape[1] != outputs:
                raise ValueError(f"y_val has {counted(y_val.shape[1], 'output')}; expected {outputs}, as y has")
            self._validation = X_val, y_val
        return X, y

    def _update_no_improvement_count(self: Any, *args: Any) -> None:
        super()._update_no_improvement_count(*args)  # first: a callback may end the fit
        row = {"epoch": self.n_iter_ - 1, "loss": float(self.loss_)}
        if self._validation is not None:
            X_val, y_val = self._validation
            found = self._forward_pass_fast(X_val, check_input=False)
            self.validation_loss_curve_.append(sklearn_additions.validation_loss(self, y_val, found))
            row["val_loss"] = self.validation_loss_curve_[-1]
        if self._bar is not None:
            update_bar(self._bar, row)
        for callback in self.callbacks:
            callback(row)
        sklearn_additions.epoch_task(self)

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Any:
        """Return scikit-learn's outputs; scikit-learn's code computes them if the kernels do not accept the arrays."""
        me: Any = self
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        dtype, last = me.coefs_[0].dtype, _OUTPUTS.get(me.out_activation_)
        if not (last is None or issparse(X) or me.backend == "numpy" or np.result_type(X.dtype, dtype) != dtype):
            rows, names = np.ascontiguousarray(X, dtype), [ACTIVATION_NAMES[me.activation]] * (me.n_layers_ - 2)
            with limit_threads(_max_threads(me)):
                outputs = forward_through(
                    me.coefs_, me.intercepts_, (*names, last), rows, me.out_activation_ == "softmax"
                )
            if outputs is not None:
                return outputs
        if me.activation in sklearn_additions.OWN_ACTIVATIONS:
            return sklearn_additions.outputs(me, X)
        return super()._forward_pass_fast(X, check_input=False)

    def _fit_stochastic(self: Any, X: Any, y: Any, sample_weight: Any, *rest: Any) -> None:
        super_fit = super()._fit_stochastic
        layer_units, incremental = rest[-2:]
        reason = unsupported(self, X, y, sample_weight, layer_units, incremental)
        if reason:
            sklearn_additions.check_engine(self, reason)
            super_fit(X, y, sample_weight, *rest)
            return
        rows, asked = X.shape[0], (self.batch_size, self.shuffle)
        if self.early_stopping:  # rounded as by train_test_split
            rows -= math.ceil(self.validation_fraction * rows)
        session = Session(self, rows)
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
            return super()._backprop(X, y, sample_weight, *rest)
        # Without gradients scikit-learn's optimizer changes nothing.
        return session.train(self, X, y, sample_weight), [], []


_ADDED: dict[str, Any] = {"backend": "auto", "threads": None, "progress": False, "callbacks": (), "dropout": 0.0}
"""Parameters that both estimators add to scikit-learn's, and their defaults."""


def _constructor(estimator: Any, **added: Any) -> Any:
    """Return the ``__init__`` of a subclass of scikit-learn's estimator, with its parameters and ``added`` ones.

    scikit-learn reads an estimator's parameters, for `get_params` and `clone`, from its constructor's signature.
    """

    def __init__(self: Any, *args: Any, **parameters: Any) -> None:  # noqa: N807
        for name, default in added.items():
            setattr(self, name, parameters.pop(name, default))
        estimator.__init__(self, *args, **parameters)

    inherited = inspect.signature(estimator.__init__).parameters.values()
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in added.items()]
    constructor: Any = __init__
    constructor.__signature__ = inspect.Signature([*inherited, *own])
    return hinting(constructor)


class MLPClassifier(_EngineMixin, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's ``MLPClassifier`` on compiled kernels: the same parameters, attributes and methods.

    With the same ``random_state`` it starts from the same weights, visits the rows in the same order and takes the
    same steps as scikit-learn's, up to rounding.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
    shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As for `sklearn.neural_network.MLPClassifier`. ``activation`` may also name any activation of `Network`; with
        those, as with dropout, fits that scikit-learn's code would have to train (see the notes) raise ValueError.
    backend : {"auto", "numpy", "cpu", "cuda"}, default "auto"
        "numpy" runs the reference equations, "cpu", which "auto" means, the compiled kernels. "cuda" trains on an
        NVIDIA GPU: attributes are fetched from it at the end, and after each epoch if early stopping, ``X_val`` or
        callbacks need them; predictions are computed on the CPU.
    threads : int or None, default None
        Upper bound on the cpu backend's threads, which do not affect the bits of results; it may exceed what is there.
        None means all, but one within a thread in which joblib's backends threading or dask run a task.
    progress : bool or None, default False
        Whether `fit` shows a progress bar on standard error; None shows it on terminals and in notebooks.
    callbacks : sequence of callables, default ()
        Called after each epoch with a dict of "epoch", from 0 on, "loss", and "val_loss" if `fit` has X_val. A
        KeyboardInterrupt raised in one ends the fit, with scikit-learn's warning. lbfgs has no epochs. `clone`, and so
        a search, copies callbacks: pass functions, not methods of an object that collects something. From scikit-learn
        1.9 on, ``set_callbacks`` takes callbacks of scikit-learn's own protocol, which may end the fit.
    dropout : float or sequence of float, default 0.0
        Fraction in [0, 1) of the hidden layers' outputs that a step of sgd or adam sets to 0, or one per hidden layer;
        the other outputs are divided by 1 - rate. The masks depend on ``random_state``. Dropout applies only in
        training. `loss_curve_` is that of the thinned network, whose noise may end a fit by ``tol``, so prefer
        ``early_stopping``, which scores the whole network.
    class_weight : "balanced", dict of class to float, or None, default None
        Factor of each class's sample weights; "balanced" makes all classes count alike if sample weights
        are equal.
        `partial_fit` takes a dict, in which a missing class has the factor 1.

    Attributes
    ----------
    validation_loss_curve_ : list of float
        The log-loss of `fit`'s X_val after each epoch, without the penalty; empty without X_val, and for lbfgs.

    Notes
    -----
    scikit-learn's code trains with ``solver="lbfgs"``, with negative sample weights, and on sparse data of which less
    than a twentieth is not zero. ``loss_`` of multi-label problems is computed from logits, not from probabilities
    clipped at the dtype's eps.

    Examples
    --------
    >>> import fastnet.data
    >>> from fastnet.sklearn import MLPClassifier
    >>> X, y = fastnet.data.digits()
    >>> MLPClassifier(early_stopping=True, random_state=0).fit(X[:1400], y[:1400]).score(X[1400:], y[1400:]) > 0.85
    True
    """

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012
        **neural_network.MLPClassifier._parameter_constraints,
        **sklearn_additions.CONSTRAINTS,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    __init__ = _constructor(neural_network.MLPClassifier, **_ADDED, class_weight=None)


class MLPRegressor(_EngineMixin, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's ``MLPRegressor`` on compiled kernels: the same parameters, attributes and methods.

    With the same ``random_state`` it starts from the same weights, visits the rows in the same order and takes the
    same steps as scikit-learn's, up to rounding.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
    max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As for `sklearn.neural_network.MLPRegressor`. ``activation`` may also name any activation of `Network`, and
        ``loss`` may be "mae", "huber" or "log_cosh" of `Trainer`; with those, as with dropout, fits that scikit-learn's
        code would have to train (see the notes) raise ValueError.
    backend : {"auto", "numpy", "cpu", "cuda"}, default "auto"
        "numpy" runs the reference equations, "cpu", which "auto" means, the compiled kernels. "cuda" trains on an
        NVIDIA GPU: attributes are fetched from it at the end, and after each epoch if early stopping, ``X_val`` or
        callbacks need them; predictions are computed on the CPU.
    threads : int or None, default None
        Upper bound on the cpu backend's threads, which do not affect the bits of results; it may exceed what is there.
        None means all, but one within a thread in which joblib's backends threading or dask run a task.
    progress : bool or None, default False
        Whether `fit` shows a progress bar on standard error; None shows it on terminals and in notebooks.
    callbacks : sequence of callables, default ()
        Called after each epoch with a dict of "epoch", from 0 on, "loss", and "val_loss" if `fit` has X_val. A
        KeyboardInterrupt raised in one ends the fit, with scikit-learn's warning. lbfgs has no epochs. `clone`, and so
        a search, copies callbacks: pass functions, not methods of an object that collects something. From scikit-learn
        1.9 on, ``set_callbacks`` takes callbacks of scikit-learn's own protocol, which may end the fit.
    dropout : float or sequence of float, default 0.0
        Fraction in [0, 1) of the hidden layers' outputs that a step of sgd or adam sets to 0, or one per hidden layer;
        the other outputs are divided by 1 - rate. The masks depend on ``random_state``. Dropout applies only in
        training. `loss_curve_` is that of the thinned network, whose noise may end a fit by ``tol``, so prefer
        ``early_stopping``, which scores the whole network.

    Attributes
    ----------
    validation_loss_curve_ : list of float
        The loss of `fit`'s X_val after each epoch, without the penalty, on the scale of ``loss_curve_``; empty without
        X_val, and for lbfgs.

    Notes
    -----
    scikit-learn's code trains with ``loss="poisson"``, with ``solver="lbfgs"``, with negative sample weights, and on
    sparse data of which less than a twentieth is not zero.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnet.sklearn import MLPRegressor
    >>> X = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    >>> y = X[:, 0] * X[:, 1]
    >>> MLPRegressor(learning_rate_init=0.01, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012
        **neural_network.MLPRegressor._parameter_constraints,
        **sklearn_additions.CONSTRAINTS,
        "loss": [StrOptions({"squared_error", "poisson", *sklearn_additions.OWN_LOSSES})],
    }

    __init__ = _constructor(neural_network.MLPRegressor, **_ADDED)
