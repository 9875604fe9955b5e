"""TabularClassifier and TabularRegressor: scikit-learn estimators that take tables as they are.

Columns are recognised and prepared as `fastnet train` does. The networks are those of RealMLP's simple variant
(Holzmüller, Grinsztajn and Steinwart 2024) in size and rates; docs/tables.md says what of it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import scores
from .ensemble import Ensemble
from .kernels.specs.base import Array
from .many import fit_many
from .network import Network
from .optimizers import Adam, CosineDecay
from .table import Columns
from .trainer import Trainer

try:
    import pandas
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import assert_all_finite, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"estimators of tables need pandas and scikit-learn: pip install pandas scikit-learn skops ({error})"
    ) from error

_BETA2 = 0.95
"""Adam's: lower than usual, since a training takes a few hundred steps."""

Part = tuple[Array, Array]
"""Inputs, and labels or numbers."""


class _Tabular(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: how they read tables and train members."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _checked_target(self, X: Any, y: Any) -> Array:
        """Return y as a vector of as many finite values as X has rows."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
        return np.asarray(y)

    def _inputs(self, X: Any, *, fits: bool = False) -> Array:
        """Return what the networks are given; with ``fits`` recognise the columns first."""
        X, least = X.to_pandas() if hasattr(X, "to_pandas") else X, 2 if fits else 1
        if isinstance(X, pandas.DataFrame):
            validate_data(self, X, reset=fits, skip_check_array=True)
            if len(X) < least:
                raise ValueError(f"X has {len(X)} sample(s), one a row; expected at least {least}")
            frame = X.set_axis([str(name) for name in X.columns], axis=1)
        else:
            X = validate_data(self, X, reset=fits, ensure_all_finite="allow-nan", ensure_min_samples=least)
            frame = pandas.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
        if fits:
            self.columns_ = Columns.of(frame)
            if not self.columns_.kinds:
                why = ", ".join(f"{name} ({reason})" for name, reason in self.columns_.left_out.items())
                raise ValueError(f"X has no column to learn from; left out: {why}")
        features = self.columns_.features(frame)
        if fits:
            self.transformer_ = self.columns_.transformer(features)
        return np.asarray(self.transformer_.transform(features), np.float32)

    def _train(self: Any, train: Part, targets: Array, held: Part | None, loss: str, activation: str) -> None:
        """Train the members towards ``targets``; the rows that choose the epoch are held out by ``train``'s y."""
        X, y = train
        seeds = check_random_state(self.random_state).randint(2**31, size=self.n_members).tolist()
        options: dict[str, Any] = {"validation_data": held}
        rows = len(X)
        if held is None and self.validation_fraction > 0:
            parts = [scores.split(y, self.validation_fraction, seed) for seed in seeds]
            options = {"rows": [kept for kept, _ in parts], "validation_rows": [chosen for _, chosen in parts]}
            rows = len(parts[0][0])
        # Steps of an epoch are equally large: a short last one would count as much, at the same rate.
        batch = math.ceil(rows / max(1, round(rows / self.batch_size)))
        optimizer = Adam(CosineDecay(self.learning_rate, self.epochs), beta2=_BETA2)
        trainers = []
        for seed in seeds:
            outputs = targets.shape[1]
            network = Network([X.shape[1], *self.hidden_layer_sizes, outputs], hidden=activation, seed=seed)
            network.weights[-1][...] = 0  # at first all rows are predicted alike
            trainers.append(Trainer(network, loss, optimizer, batch, seed=seed, threads=self.threads))
        patience = self.epochs if held is not None or "rows" in options else None
        options |= {"patience": patience, "progress": False, "threads": self.threads}
        self.histories_ = fit_many(trainers, X, targets, self.epochs, **options)
        self.ensemble_ = Ensemble([trainer.network for trainer in trainers])


class TabularClassifier(ClassifierMixin, _Tabular):  # type: ignore[misc]
    """Classifies the rows of a table.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default (256, 256, 256)
    epochs : int, default 64
        Passes over the rows; the learning rate falls to 0 along half a cosine in that time.
    batch_size : int, default 256
        About so many rows a step: an epoch is cut into equal steps.
    learning_rate : float, default 0.0025
        The rate at first.
    label_smoothing : float, default 0.1
        Share of a label that is spread over all classes. 0 where probabilities count more than decisions.
    n_members : int, default 1
        Networks of different seeds and validation rows, trained side by side; predictions are the mean of theirs.
    validation_fraction : float, default 0.2
        Share of the rows that choose the epoch whose parameters are kept, where `fit` is given no ``X_val``. 0 trains
        on all and keeps the last.
    random_state : int, RandomState or None, default None
    threads : int or None, default None
        Upper bound of threads, which do not change a bit; None means all.

    Attributes
    ----------
    classes_ : ndarray
    columns_ : fastnet.table.Columns
        The kinds of the columns taken, and why others are left out.
    transformer_ : ColumnTransformer
        From `columns_.features` to inputs.
    ensemble_ : fastnet.Ensemble
    histories_ : list of fastnet.History
        The curves of each member.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas
    >>> from fastnet.sklearn import TabularClassifier
    >>> colour, size = np.tile(["red", "green", None], 60), np.random.default_rng(0).normal(size=180)
    >>> X = pandas.DataFrame({"colour": colour, "size": size})
    >>> y = np.where((colour == "red") | (size > 1), "stop", "go")
    >>> TabularClassifier(random_state=0).fit(X[:120], y[:120]).score(X[120:], y[120:]) > 0.9
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (256, 256, 256),
        *,
        epochs: int = 64,
        batch_size: int = 256,
        learning_rate: float = 0.0025,
        label_smoothing: float = 0.1,
        n_members: int = 1,
        validation_fraction: float = 0.2,
        random_state: Any = None,
        threads: int | None = None,
    ) -> None:
        self.hidden_layer_sizes, self.epochs, self.batch_size = hidden_layer_sizes, epochs, batch_size
        self.learning_rate, self.label_smoothing, self.n_members = learning_rate, label_smoothing, n_members
        self.validation_fraction, self.random_state, self.threads = validation_fraction, random_state, threads

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None) -> TabularClassifier:
        """Train on a table.

        Parameters
        ----------
        X : DataFrame or array_like, shape (n, columns)
            A pandas or polars DataFrame of numbers, text, booleans and dates, with gaps; or numbers, NaN for gaps.
        y : array_like, shape (n,)
            The classes.
        X_val, y_val : optional
            Rows that choose the epoch, instead of a share of X.

        Returns
        -------
        TabularClassifier
            Itself.

        Raises
        ------
        ValueError
            If X and y do not fit, y holds a single class, or no column tells anything.
        """
        inputs, y = self._inputs(X, fits=True), self._checked_target(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {self.classes_[0]}; expected at least 2")
        held = None
        if X_val is not None:
            wanted = self._checked_target(X_val, y_val)
            unknown = ~np.isin(wanted, self.classes_)
            if unknown.any():
                raise ValueError(f"y_val holds {wanted[unknown][0]}, a class that y lacks")
            held = self._inputs(X_val), np.searchsorted(self.classes_, wanted)
        share = self.label_smoothing
        targets = np.eye(len(self.classes_))[labels] * (1 - share) + share / len(self.classes_)
        self._train((inputs, labels.astype(np.int64)), targets, held, "cross_entropy", "relu")
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, in the order of ``classes_``: (n, classes)."""
        check_is_fitted(self)
        found = self.ensemble_.predict_proba(self._inputs(X)).astype(np.float64)
        return found / found.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row: (n,)."""
        found = self.predict_proba(X)  # first: it says where the estimator is not fitted
        return np.asarray(self.classes_[found.argmax(axis=1)])


class TabularRegressor(RegressorMixin, _Tabular):  # type: ignore[misc]
    """Predicts a number for each row of a table, within the range of those it was trained on.

    Parameters
    ----------
    hidden_layer_sizes, epochs, batch_size, n_members, validation_fraction, random_state, threads
        As of `TabularClassifier`.
    learning_rate : float, default 0.004
        The rate at first.

    Attributes
    ----------
    columns_, transformer_, ensemble_, histories_
        As of `TabularClassifier`; losses are those of targets of mean 0 and standard deviation 1.
    shift_, scale_ : float
        Mean and standard deviation of y.
    range_ : tuple of float
        Smallest and largest y.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnet.sklearn import TabularRegressor
    >>> X = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    >>> y = X[:, 0] * X[:, 1]
    >>> TabularRegressor(random_state=0).fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.9
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (256, 256, 256),
        *,
        epochs: int = 64,
        batch_size: int = 256,
        learning_rate: float = 0.004,
        n_members: int = 1,
        validation_fraction: float = 0.2,
        random_state: Any = None,
        threads: int | None = None,
    ) -> None:
        self.hidden_layer_sizes, self.epochs, self.batch_size = hidden_layer_sizes, epochs, batch_size
        self.learning_rate, self.n_members, self.validation_fraction = learning_rate, n_members, validation_fraction
        self.random_state, self.threads = random_state, threads

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None) -> TabularRegressor:
        """Train on a table.

        Parameters
        ----------
        X, X_val, y_val
            As of `TabularClassifier.fit`.
        y : array_like, shape (n,)
            The numbers.

        Returns
        -------
        TabularRegressor
            Itself.

        Raises
        ------
        ValueError
            If X and y do not fit, or no column tells anything.
        """
        inputs, y = self._inputs(X, fits=True), self._checked_target(X, y).astype(np.float64)
        self.shift_, self.scale_ = float(y.mean()), float(y.std()) or 1.0
        self.range_ = float(y.min()), float(y.max())
        scaled, held = (y - self.shift_) / self.scale_, None
        if X_val is not None:
            wanted = self._checked_target(X_val, y_val).astype(np.float64)
            held = self._inputs(X_val), (wanted - self.shift_) / self.scale_
        self._train((inputs, scaled), scaled[:, None], held, "mse", "mish")
        return self

    def predict(self, X: Any) -> Array:
        """Return a number for each row: (n,), float64."""
        check_is_fitted(self)
        found = self.ensemble_.predict(self._inputs(X))[:, 0].astype(np.float64)
        return np.clip(found * self.scale_ + self.shift_, *self.range_)
