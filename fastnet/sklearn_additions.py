"""Features that scikit-learn's MLP lacks: more activations and losses, dropout, scikit-learn's callbacks.

scikit-learn's code does not support them, so they raise an error if the engine cannot train, as with
``solver="lbfgs"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral, Number, Real
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.neural_network._base import ACTIVATIONS as SKLEARN_ACTIVATIONS
from sklearn.neural_network._base import LOSS_FUNCTIONS
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from sklearn.utils.extmath import safe_sparse_dot

from . import checks
from .kernels.api import validation
from .kernels.reference import activations as reference_activations
from .kernels.reference import losses as reference_losses
from .kernels.specs.activations import ACTIVATIONS
from .kernels.specs.base import Array
from .kernels.specs.losses import LOSSES

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Placeholder: older releases have no callback protocol."""


OWN_ACTIVATIONS = set(ACTIVATIONS) - {*SKLEARN_ACTIVATIONS, "sigmoid"}
"""Names of the activations that scikit-learn lacks; it calls sigmoid logistic."""

OWN_LOSSES = {name for name, spec in LOSSES.items() if not spec.probabilities} - {"mse"}
"""Names of the regression losses that scikit-learn lacks; it calls mse squared_error."""


CONSTRAINTS = {
    "backend": [StrOptions({"auto", "numpy", "cpu", "cuda"})],
    "threads": [Interval(Integral, 1, None, closed="left"), None],
    "progress": ["boolean", None],
    "callbacks": [
        "array-like",
        Hidden(callable),
    ],  # `checks.callbacks` says what to write
    "activation": [StrOptions({"identity", "logistic", "tanh", "relu", *OWN_ACTIVATIONS})],
    "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
}
"""Constraints of parameters that scikit-learn's estimators lack, or for which they accept fewer values; the estimators
of tables use them, too."""


def dropout_rates(estimator: Any) -> tuple[float, ...]:
    """Return the dropout rate of each hidden layer; empty for none."""
    return checks.dropout(estimator.dropout, len(np.atleast_1d(estimator.hidden_layer_sizes)))[1]


def check_target(estimator: Any, y: Any, name: str = "y") -> None:
    """Reject gaps in a target, fractions as classes, text or dates as numbers; ValueError names the first such row."""
    made, takes_classes = type(estimator).__name__, is_classifier(estimator)
    ours = next(kind.__name__ for kind in type(estimator).__mro__ if kind.__module__.startswith("fastnet."))
    if y is None:
        raise ValueError(f"{made} requires {name} to be passed, but the target {name} is None")
    array = np.asarray(0 if issparse(y) else y)
    if np.ma.is_masked(y):  # scikit-learn would train on the masked values
        _refuse(np.ma.getmaskarray(y), y, name, "; remove or replace such values first")
    if array.ndim == 0:
        return  # scikit-learn says what is expected
    if array.dtype.kind == "O":
        _refuse(np.frompyfunc(_is_gap, 1, 1)(array).astype(bool), array, name, "; remove or replace such values first")
        if takes_classes and array.size and all(isinstance(value, (bool, np.bool_)) for value in array.flat):
            raise ValueError(f"{name} holds booleans as objects; write {name}.astype(bool)")
    elif array.dtype.kind in "mM":
        _refuse(np.isnat(array), array, name, "; remove or replace such values first")
        if not takes_classes:  # as numbers they would count the dtype's time unit
            since = f"({name} - {name}.min())" if array.dtype.kind == "M" else name
            what = f', but {made} predicts numbers; write {since} / np.timedelta64(1, "s")'
            _refuse(~np.isnat(array), array, name, what)
    if array.dtype.kind == "f":
        validation.finite(name, array)
        if takes_classes:
            other = ours.replace("Classifier", "Regressor")
            what = f": it is continuous, but {made} predicts classes; name the classes, or take {other}"
            _refuse(array != np.floor(array), array, name, what)
    elif not takes_classes and array.dtype.kind in "OUS":
        other = ours.replace("Regressor", "Classifier")
        what = f", but {made} predicts numbers; give numbers, or take {other}"
        _refuse(np.frompyfunc(_is_text, 1, 1)(array).astype(bool), array, name, what)


@contextmanager
def naming_text(X: Any, names: Any) -> Iterator[None]:
    """Turn scikit-learn's error of an array of a table that holds text into one that names the cell and what to give.

    ``names`` are those of the columns that the estimator was fitted on, () of an array, None where it is fitted now.
    """
    try:
        yield
    except (TypeError, ValueError):
        cells = np.asarray(X, object)
        if cells.ndim != 2:  # a sparse matrix, say
            raise
        wrong = np.frompyfunc(lambda cell: isinstance(cell, (str, bytes)) and _is_text(cell), 1, 1)(cells).astype(bool)
        if np.asarray(X).dtype.kind in "US":
            wrong[:, :] = True  # scikit-learn refuses text of numbers, too, but among objects
        for place in np.argwhere(wrong)[:1]:
            row, column = place.tolist()
            where = f"row {row}, column {column}"
            advice = "the model was trained on an array of numbers: make numbers of it"
            if names is None:
                advice = "text is taken in a DataFrame: give pandas.DataFrame(X)"
            elif len(names):
                where += f" ({names[column]})" if column < len(names) else ""
                advice = "text is taken in a DataFrame: give pandas.DataFrame(X, columns=model.feature_names_in_)"
            said = f"X is an array that holds {str(cells[row, column])[:40]!r} at {where}"
            raise ValueError(f"{said}; expected numbers, and NaN for gaps; {advice}") from None
        raise


def _refuse(wrong: Any, array: Any, name: str, what: str) -> None:
    """Raise ValueError about the first element that is marked as wrong, if any; ``what`` says what is wrong."""
    if np.any(wrong):
        place = tuple(np.argwhere(wrong)[0])
        shown = repr(str(array[place]))[:40] if isinstance(array[place], str) else array[place]
        raise ValueError(f"{name} holds {shown} at row {place[0] if place else 0}{what}")


def _is_gap(value: Any) -> bool:
    if isinstance(value, str):
        return False
    name = type(value).__name__
    return name in ("NoneType", "NAType", "NaTType") or bool(isinstance(value, Number) and value != value)


def _is_text(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return True
    return False


def check_class_weight(class_weight: Any, classes: Any) -> None:
    """Reject a dict with a key that is not a class, unless it has all classes: a fold's rows may lack a rare class."""
    named = dict.fromkeys(np.asarray(classes).tolist())
    missing = [name for name in named if name not in class_weight]
    unknown = [key for key in class_weight if key not in named] if missing else []
    if unknown:
        spelt = {str(name).lower(): repr(name) for name in missing}
        near = [f"did you mean {spelt[name]}?" for name in get_close_matches(str(unknown[0]).lower(), spelt, 1)]
        shown = ", ".join(map(repr, [*named][:8])) + (f" and {len(named) - 8:,} more" if len(named) > 8 else "")
        raise ValueError(
            f"class_weight has a key {unknown[0]!r}, which is no class of y; there are: {shown}; "
            f"{near[0] if near else 'correct the key, or leave it out'}"
        )


def check_engine(estimator: Any, reason: str) -> None:
    """Reject features that only the engine has if, for ``reason`` (unless ""), scikit-learn's code would train."""
    wanted = [f"activation={estimator.activation!r}"] * (estimator.activation in OWN_ACTIVATIONS)
    wanted += [f"loss={estimator.loss!r}"] * (estimator.loss in OWN_LOSSES)
    wanted += [f"dropout={estimator.dropout!r}"] * bool(dropout_rates(estimator))
    if wanted and reason:
        raise ValueError(
            f"{' and '.join(wanted)} {'is' if len(wanted) == 1 else 'are'} not scikit-learn's, whose code would train "
            f"here, because {reason}; change this, or use what scikit-learn has"
        )


def outputs(estimator: Any, X: Any) -> Array:
    """Return outputs computed with the reference's activations, for arrays that the kernels do not accept."""
    names = [*[estimator.activation] * (estimator.n_layers_ - 2), estimator.out_activation_]
    A = X
    for W, b, name in zip(estimator.coefs_, estimator.intercepts_, names, strict=True):
        A = safe_sparse_dot(A, W) + b
        if name in OWN_ACTIVATIONS:
            A = getattr(reference_activations, name)(A)
        else:
            SKLEARN_ACTIVATIONS[name](A)  # in place
    return np.asarray(A)


def validation_loss(estimator: Any, y: Array, found: Array) -> float:
    """Return the loss of outputs (n, k), on the scale of ``loss_curve_``."""
    if estimator.loss in OWN_LOSSES:
        return float(getattr(reference_losses, estimator.loss)(y, found))
    is_binary = (estimator.loss, estimator.out_activation_) == ("log_loss", "logistic")
    return float(LOSS_FUNCTIONS["binary_log_loss" if is_binary else estimator.loss](y, found))


@contextmanager
def fit_task(estimator: Any, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Iterator[None]:
    """Notify callbacks of scikit-learn's protocol, if any, that a fit begins and ends."""
    if not getattr(estimator, "_skl_callbacks", ()):
        yield
        return
    data = {"estimator": estimator, "X": X, "y": y}
    data["metadata"] = None if sample_weight is None else {"sample_weight": sample_weight}
    epochs = 0 if estimator.solver == "lbfgs" else 1 if incremental else estimator.max_iter
    context = estimator._init_callback_context(max_subtasks=epochs)
    context.call_on_fit_task_begin(**data)
    estimator._epoch_task, patience = (context, data), estimator.n_iter_no_change
    try:
        yield
    finally:
        del estimator._epoch_task
        if estimator.n_iter_no_change < 0:  # a callback has ended it
            estimator.n_iter_no_change = patience
            del estimator._optimizer.trigger_stopping
    context.call_on_fit_task_end(**data, reconstruction_attributes=lambda: _fitted(estimator))


def epoch_task(estimator: Any) -> None:
    """Notify these callbacks that an epoch has ended; if one wants to stop, this epoch is the last."""
    context, data = getattr(estimator, "_epoch_task", (None, {}))
    if context is None:
        return
    task = context.subcontext(task_name="epoch")
    task.call_on_fit_task_begin(**data)
    if task.call_on_fit_task_end(**data, reconstruction_attributes=lambda: _fitted(estimator)):
        # scikit-learn's loop ends when more than n_iter_no_change epochs brought no gain, unless trigger_stopping
        # lowers the rate instead: make both say stop.
        estimator.n_iter_no_change = -1
        estimator._optimizer.trigger_stopping = lambda message, verbose: True


def _fitted(estimator: Any) -> dict[str, Any]:
    """Return the attributes with which a copy of the estimator predicts as it does now."""
    return {name: [array.copy() for array in getattr(estimator, name)] for name in ("coefs_", "intercepts_")}
