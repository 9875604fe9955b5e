"""TabularClassifier and TabularRegressor: scikit-learn estimators that take tables as they are.

They recognise and prepare columns, and train networks, as `fastnet train` does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

try:
    import pandas
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_consistent_length, check_random_state, column_or_1d, compute_class_weight
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f"tables need pandas and scikit-learn: pip install pandas scikit-learn ({error})") from error

from . import recipe, scores
from .ensemble import Ensemble
from .hints import hinting
from .kernels.api.validation import finite
from .kernels.specs.base import Array
from .many import fit_many
from .network import Network
from .optimizers import Adam, CosineDecay
from .progress import bars_labelled
from .sklearn_additions import CONSTRAINTS, check_class_weight, check_target, naming_text
from .sklearn_session import ACTIVATION_NAMES
from .table import Columns, check_frame, codes, moments
from .trainer import Trainer

_COUNT, _SHARE = Interval(Integral, 1, None, closed="left"), Interval(Real, 0, 1, closed="left")

Part = tuple[Any, ...]
"""Inputs, targets, and weights, if any."""


class _Tabular(BaseEstimator):  # type: ignore[misc]
    """Base of both estimators: checks arguments, reads tables and trains members."""

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012 - scikit-learn's name
        **CONSTRAINTS,
        "hidden_layer_sizes": ["array-like", _COUNT],
        "epochs": [_COUNT],
        "batch_size": [_COUNT],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "n_members": [_COUNT],
        "validation_fraction": [_SHARE],
        "random_state": ["random_state"],
        "l2": [Interval(Real, 0, None, closed="left")],
        "patience": [_COUNT, None],
        "refit": ["boolean"],
    }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags

    @hinting
    def fit(self: Any, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> Any:
        """Train on a table, as the class's parameters say.

        Parameters
        ----------
        X : DataFrame or array_like, shape (n, columns)
            A pandas or polars DataFrame of numbers, text, booleans and dates, possibly with gaps. Whole numbers become
            categories if they are better used so, see `fastnet.table.codes`. Or an array of numbers, used as such, with
            NaN or masked elements for gaps.
        y : array_like, shape (n,)
            The classes, or numbers.
        sample_weight : array_like, shape (n,), optional
            Weight of each row, in training and when it is held out to choose the epoch. It affects neither the
            preparation of columns nor the scale of y.
        X_val, y_val : optional
            Rows that choose the epoch, instead of a fraction of X.

        Returns
        -------
        TabularClassifier or TabularRegressor
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is out of range; if X and y do not match or are not finite, y holds a single class, or no
            column is usable; if all rows weigh 0; or if the number of dropout rates is not that of hidden layers. The
            estimator is then unchanged.
        TypeError
            If X is a sparse matrix, its columns' names are of several types, or a callback is not callable.
        OSError
            If the backend is "cuda", but numba-cuda, the driver or the GPU is missing; the message says which.
        """
        self._validate_params()
        if (X_val is None) != (y_val is None):
            given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
            raise ValueError(f"{given} is given without {missing}; give both, or neither")
        made = copy.copy(self)  # receives all results, so that a fit that fails changes nothing
        strata, targets, weights = made._targets(self._checked_target(X, y))
        held = None if X_val is None else made._held_targets(self._checked_target(X_val, y_val, "y_val"))
        if sample_weight is not None:
            given = _check_sample_weight(sample_weight, targets, dtype=np.float64, ensure_non_negative=True)
            weights = given if weights is None else given * weights
        counts = np.full(len(targets), True) if weights is None else weights > 0
        if not counts.any():
            raise ValueError("every row weighs 0, by sample_weight or class_weight; expected one above 0 at least")
        part, strata = _rows((made._inputs(X, targets, counts), targets, weights), counts), strata[counts]
        validation = None if held is None else (made._inputs(X_val), *held)
        made._train(part, strata, validation)
        self.__dict__ = made.__dict__
        return self

    def _checked_target(self, X: Any, y: Any, name: str = "y") -> Array:
        """Return y as a vector of finite values, one for each row of X."""
        check_target(self, y, name)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        if not len(y):
            raise ValueError(f"X{name[1:]} and {name} hold 0 rows; expected at least {1 if name[1:] else 2}")
        return np.asarray(y)

    def _inputs(self, X: Any, targets: Array | None = None, counts: Any = None) -> Array:
        """Return the networks' inputs; with targets, first recognise the columns, using the rows that count."""
        X, fits = X.to_pandas() if hasattr(X, "to_pandas") else X, targets is not None
        is_frame, least = isinstance(X, pandas.DataFrame), 2 if fits else 1
        if is_frame:
            check_frame(X, least)
            validate_data(self, X, reset=fits, skip_check_array=True)
        else:
            with naming_text(X, None if fits else getattr(self, "feature_names_in_", ())):
                if isinstance(X, np.ma.MaskedArray):
                    X = np.ma.filled(X.astype(np.float64), np.nan)
                X = validate_data(self, X, reset=fits, ensure_all_finite="allow-nan", ensure_min_samples=least)
        # Match columns by position: if both tables have names, these have been checked to be the same.
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(X.shape[1])])
        frame = X.set_axis(list(names), axis=1) if is_frame else pandas.DataFrame(X, columns=list(names))
        if targets is not None:
            found = codes(frame[counts], targets[counts]) if is_frame else []
            self.columns_ = Columns.of(frame, category=found) if is_frame else Columns.of_numbers(frame)
            if not self.columns_.kinds:
                why = ", ".join(f"{name} ({reason})" for name, reason in self.columns_.left_out.items())
                raise ValueError(f"X has no column to learn from; left out: {why}")
        if fits:
            self.transformer_, inputs = self.columns_.transformed(self.columns_.features(frame))
        else:
            inputs = self.transformer_.transform(self.columns_.checked(frame)[0])
        return np.asarray(inputs, np.float32)

    def _train(self: Any, train: Part, strata: Array, held: Part | None) -> None:
        """Train the members; the rows that choose the epoch are held out stratified by ``strata``."""
        X, targets, weights = train
        seeds = check_random_state(self.random_state).randint(2**31, size=self.n_members).tolist()
        parts, rows = [], len(X)
        if held is None and self.validation_fraction > 0:
            parts = [scores.split(strata, self.validation_fraction, seed) for seed in seeds]
            rows = len(parts[0][0])
        trainers = [self._trainer(train, rows, seed, self.epochs) for seed in seeds]
        options: dict[str, Any] = {"progress": self.progress, "callbacks": self.callbacks}
        options["patience"] = patience = self.patience or (self.epochs if held or parts else None)
        if len(trainers) == 1:  # here several threads train one network, with the same bits
            if parts:
                (X, targets, weights), held = (_rows(train, chosen) for chosen in parts[0])
            trainers[0].fit(X, targets, self.epochs, sample_weight=weights, validation_data=held, **options)
        else:
            if parts:
                options["rows"], options["validation_rows"] = zip(*parts, strict=True)
            options |= {"sample_weight": weights, "validation_data": held, "threads": self.threads}
            fit_many(trainers, X, targets, self.epochs, **options)
        histories = [trainer.history for trainer in trainers]
        self.histories_ = [*map(dict, histories)]
        ended = [h for h in histories if parts and h.epochs < self.epochs and h.epochs - h.best_epoch <= patience]
        if parts and self.refit and not ended:  # a callback that has ended training wants no refit
            with bars_labelled("refit: "):
                self._refit(train, trainers, [_rows(train, out) for _, out in parts])
        self.ensemble_ = Ensemble([trainer.network for trainer in trainers])

    def _trainer(self: Any, train: Part, rows: int, seed: int, epochs: int) -> Trainer:
        """Return the trainer of a new member, for training on ``rows`` rows while the rate falls to 0."""
        sizes = [train[0].shape[1], *np.atleast_1d(self.hidden_layer_sizes).tolist(), train[1].shape[1]]
        network = Network(sizes, hidden=ACTIVATION_NAMES[self.activation], seed=seed)
        network.weights[-1][...] = 0  # initial predictions are the same for all rows
        optimizer = Adam(CosineDecay(self.learning_rate, epochs), beta2=recipe.BETA2)
        how = {"seed": seed, "l2": self.l2, "dropout": self.dropout, "threads": self.threads, "backend": self.backend}
        return Trainer(network, self._loss, optimizer, recipe.even_batch(rows, self.batch_size), **how)

    def _refit(self: Any, train: Part, trainers: list[Trainer], held: list[Part]) -> None:
        """Replace members by new ones trained on all rows, for the number of epochs that `recipe.annealed` returns."""
        epochs = {}
        for i, (trainer, part) in enumerate(zip(trainers, held, strict=True)):
            best, _ = recipe.kept(trainer, part)
            if best is not None:
                epochs[i] = recipe.annealed(best + 1, self.epochs)
                trainers[i] = self._trainer(train, len(train[0]), trainer.seed, epochs[i])
        (X, targets, weights), last = train, [*epochs.values()]
        if len(trainers) == len(epochs) == 1:
            trainers[0].fit(X, targets, last[0], sample_weight=weights, progress=self.progress)
        elif epochs:
            options = {"sample_weight": weights, "progress": self.progress, "threads": self.threads}
            ends = [lambda row: row["epoch"] + 1 == last[row["trainer"]]]
            fit_many([trainers[i] for i in epochs], X, targets, max(last), callbacks=ends, **options)


def _rows(part: Part, chosen: Array) -> Part:
    """Return some rows of inputs, targets and weights."""
    return tuple(None if each is None else each[chosen] for each in part)


@hinting
class TabularClassifier(ClassifierMixin, _Tabular):  # type: ignore[misc]
    """Classifies the rows of a table.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, or int, default (256, 256, 256)
    epochs : int, default 64
        Passes over the rows; the learning rate falls to 0 along half a cosine in that time.
    batch_size : int, default 256
        Approximate rows per step: an epoch is cut into equal steps.
    learning_rate : float, default 0.0025
        The initial rate; the default was chosen on the tables of docs/tables.md.
    label_smoothing : float, default 0.1
        Fraction of a label that is spread over all classes. Use 0 if probabilities matter more than decisions.
    n_members : int, default 1
        Number of networks, with different seeds and validation rows; predictions are the mean over them.
    validation_fraction : float, default 0.2
        If `fit` gets no ``X_val``, this fraction of the rows is held out. They choose the epoch whose parameters are
        kept or, with ``refit``, how many epochs it trains. 0 trains on all rows and keeps the last epoch.
    random_state : int, RandomState or None, default None
    threads : int or None, default None
        Upper bound on threads, which do not affect the bits of results: they train a single network together, or
        several networks with one thread each. None means all.
    backend : {"auto", "numpy", "cpu", "cuda"}, default "auto"
        As for `fastnet.Trainer`. With cuda, an NVIDIA GPU, several members are trained one after the other.
    activation : str, default "relu"
        Activation of the hidden layers, as for `fastnet.sklearn.MLPClassifier`.
    dropout : float or sequence of float, default 0.0
        Fraction of the hidden layers' outputs that a step sets to 0, or one per layer, as for `fastnet.Trainer`.
    l2 : float, default 0.0
        Adds l2/2 times the sum of all squared weights to the objective.
    patience : int or None, default None
        Stop after this many epochs without a better loss of the held-out rows, even if the learning rate has not fallen
        to 0 yet. If no rows are held out, the training loss counts, and the best epoch is kept, too. None trains all
        epochs.
    class_weight : "balanced", dict of class to float, or None, default None
        Factor of the weights (``sample_weight`` or 1) of each class's rows, in training and in choosing the epoch.
        "balanced" makes all classes count alike; a class missing in a dict has the factor 1.
    refit : bool, default True
        Whether a member whose epoch was chosen by rows held out of X is trained again, on all rows, while the rate
        falls to 0 in about as many epochs. It takes up to twice the time, and pays on most tables of docs/tables.md.
    callbacks : sequence of callables, default ()
        Called after each epoch with a dict of "epoch", from 0 on, "loss" and whatever else `histories_` holds; the
        network stops training if one returns true, and ``refit`` is then skipped. With several members, each calls them
        from its own thread, with its index as "trainer". ``refit`` calls none.
    progress : bool or None, default False
        Whether `fit` shows progress bars on standard error, for training and for ``refit``; None shows them on
        terminals and in notebooks.

    Attributes
    ----------
    classes_ : ndarray
    class_weight_ : ndarray or None
        The factor of each class, if ``class_weight`` is given.
    columns_ : fastnet.table.Columns
        The kinds of the columns used, and why others are left out.
    transformer_ : ColumnTransformer
        Transforms `columns_.features` to inputs.
    ensemble_ : fastnet.Ensemble
    histories_ : list of dict
        The curves of each member, as in `fastnet.History`, from the training that chose the epoch.

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

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012
        **_Tabular._parameter_constraints,
        "label_smoothing": [_SHARE],
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }
    _loss = "cross_entropy"

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = recipe.HIDDEN,
        *,
        epochs: int = recipe.EPOCHS,
        batch_size: int = recipe.BATCH_SIZE,
        learning_rate: float = recipe.RATES["classification"],
        label_smoothing: float = recipe.SMOOTHING,
        n_members: int = 1,
        validation_fraction: float = 0.2,
        random_state: Any = None,
        threads: int | None = None,
        backend: str = "auto",
        activation: str = recipe.ACTIVATIONS["classification"],
        dropout: float | Sequence[float] = 0.0,
        l2: float = 0.0,
        patience: int | None = None,
        refit: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        callbacks: Sequence[Callable[[dict[str, float]], Any]] = (),
        progress: bool | None = False,
    ) -> None:
        self.hidden_layer_sizes, self.epochs, self.batch_size = hidden_layer_sizes, epochs, batch_size
        self.learning_rate, self.label_smoothing, self.n_members = learning_rate, label_smoothing, n_members
        self.validation_fraction, self.random_state, self.threads = validation_fraction, random_state, threads
        self.backend, self.activation, self.dropout, self.l2 = backend, activation, dropout, l2
        self.patience, self.refit, self.class_weight = patience, refit, class_weight
        self.callbacks, self.progress = callbacks, progress

    def _targets(self, y: Array) -> tuple[Array, Array, Array | None]:
        """Find the classes; return labels, the networks' training targets, and the weights by class, if any."""
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {self.classes_[0]}; expected at least 2")
        self.class_weight_ = None
        if self.class_weight is not None:
            if self.class_weight != "balanced":
                check_class_weight(self.class_weight, self.classes_)
            self.class_weight_ = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            if not ((self.class_weight_ >= 0) & np.isfinite(self.class_weight_)).all():
                raise ValueError(f"class_weight is {self.class_weight}; expected finite numbers, at least 0")
        return labels.astype(np.int64), *self._learnt(labels)

    def _held_targets(self, y: Array) -> tuple[Array, Array | None]:
        unknown = ~np.isin(y, self.classes_)
        if unknown.any():
            raise ValueError(f"y_val holds {y[unknown][0]}, a class that y lacks")
        return self._learnt(np.searchsorted(self.classes_, y))

    def _learnt(self, labels: Array) -> tuple[Array, Array | None]:
        """Return smoothed labels as probabilities, and the weights of the labels, if any."""
        weights = None if self.class_weight_ is None else self.class_weight_[labels]
        return recipe.smoothed(labels, len(self.classes_), self.label_smoothing), weights

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, in the order of ``classes_``: (n, classes)."""
        check_is_fitted(self, "ensemble_")
        found = self.ensemble_.predict_proba(self._inputs(X)).astype(np.float64)
        return found / found.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row: (n,)."""
        found = self.predict_proba(X)  # first, since it checks that the estimator is fitted
        return np.asarray(self.classes_[found.argmax(axis=1)])


@hinting
class TabularRegressor(RegressorMixin, _Tabular):  # type: ignore[misc]
    """Predicts a number for each row of a table, within the range of those it was trained on.

    Parameters
    ----------
    hidden_layer_sizes, epochs, batch_size, n_members, validation_fraction, random_state, threads, backend, dropout, \
    l2, patience, refit, callbacks, progress
        As for `TabularClassifier`.
    learning_rate : float, default 0.004
        The initial rate; the default was chosen on the tables of docs/tables.md.
    activation : str, default "mish"
        Activation of the hidden layers, as for `fastnet.sklearn.MLPRegressor`.

    Attributes
    ----------
    columns_, transformer_, ensemble_, histories_
        As for `TabularClassifier`; losses are those of targets scaled to mean 0 and standard deviation 1.
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

    _loss = "mse"

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = recipe.HIDDEN,
        *,
        epochs: int = recipe.EPOCHS,
        batch_size: int = recipe.BATCH_SIZE,
        learning_rate: float = recipe.RATES["regression"],
        n_members: int = 1,
        validation_fraction: float = 0.2,
        random_state: Any = None,
        threads: int | None = None,
        backend: str = "auto",
        activation: str = recipe.ACTIVATIONS["regression"],
        dropout: float | Sequence[float] = 0.0,
        l2: float = 0.0,
        patience: int | None = None,
        refit: bool = True,
        callbacks: Sequence[Callable[[dict[str, float]], Any]] = (),
        progress: bool | None = False,
    ) -> None:
        self.hidden_layer_sizes, self.epochs, self.batch_size = hidden_layer_sizes, epochs, batch_size
        self.learning_rate, self.n_members, self.validation_fraction = learning_rate, n_members, validation_fraction
        self.random_state, self.threads, self.backend, self.activation = random_state, threads, backend, activation
        self.dropout, self.l2, self.patience, self.refit = dropout, l2, patience, refit
        self.callbacks, self.progress = callbacks, progress

    def _targets(self, y: Array) -> tuple[Array, Array, None]:
        """Find the scale; return scaled numbers twice: as a vector for splits, and as a matrix for training."""
        y = self._numbers("y", y)
        self.shift_, deviation = moments(y, "y")
        self.scale_ = deviation or 1.0
        self.range_ = float(y.min()), float(y.max())
        scaled = (y - self.shift_) / self.scale_
        return scaled, scaled[:, None], None

    def _held_targets(self, y: Array) -> tuple[Array, None]:
        return np.asarray((self._numbers("y_val", y) - self.shift_) / self.scale_)[:, None], None

    def _numbers(self, name: str, y: Array) -> Array:
        y = y.astype(np.float64)
        finite(name, y)
        return y

    def predict(self, X: Any) -> Array:
        """Return a number for each row: (n,), float64."""
        check_is_fitted(self, "ensemble_")
        found = self.ensemble_.predict(self._inputs(X))[:, 0].astype(np.float64)
        return np.clip(found * self.scale_ + self.shift_, *self.range_)
