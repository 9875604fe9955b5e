"""Scores of predictions, with the splits and baselines to measure them; all use scikit-learn."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .dataset import split_rows
from .kernels.specs.base import Array

try:
    from sklearn import metrics
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder
except ImportError as error:
    raise ImportError(f"scores of tables need scikit-learn: pip install pandas scikit-learn skops ({error})") from error

BOOSTING = "HistGradientBoosting"
MEAN, MOST_FREQUENT = "mean of the target", "most frequent class"


def _strata(y: Array, parts: int) -> Array:
    """Return labels for stratification into parts; classes of fewer than 2 rows per part join the most frequent one."""
    counts = np.bincount(y)
    return np.where(counts[y] < 2 * parts, counts.argmax(), y)


def split(y: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Return the indices of rows to keep and to hold out, stratified by class if y holds labels."""
    if y.dtype.kind != "i":
        return split_rows(len(y), share, seed)
    strata, size = _strata(y, 1), max(1, round(share * len(y)))
    held = max(size, len(np.unique(strata)))
    kept, out = train_test_split(np.arange(len(y)), test_size=held, random_state=seed % 2**32, stratify=strata)
    return np.sort(kept), np.sort(out)


def folds(y: Array, count: int, seed: int) -> list[tuple[Array, Array]]:
    """Return, for each fold, the indices of the rows outside and inside it."""
    if y.dtype.kind == "i":
        strata = _strata(y, count)
        return list(StratifiedKFold(count, shuffle=True, random_state=seed % 2**32).split(strata, strata))
    return list(KFold(count, shuffle=True, random_state=seed % 2**32).split(y))


def scores(y: Array, outputs: Array) -> dict[str, float]:
    """Return the scores of predictions.

    Parameters
    ----------
    y : ndarray, shape (rows,)
        Labels, int64, or numbers.
    outputs : ndarray
        For labels (rows, classes), of which the largest is predicted; for numbers (rows,).

    Returns
    -------
    dict of str to float
        For labels: accuracy, balanced accuracy, F1 (of class 1 if there are two classes, else the mean over classes)
        and the area under the ROC curve. For numbers: RMSE, MAE and R^2. NaN if a score is not defined.
    """
    if outputs.ndim == 1:
        errors, spread = outputs - y, y - y.mean()
        explained = 1 - float(errors @ errors) / float(spread @ spread) if spread.any() else math.nan
        return {"rmse": math.sqrt(np.mean(errors**2)), "mae": float(np.abs(errors).mean()), "r2": explained}
    found, classes, present = outputs.argmax(axis=1), outputs.shape[1], np.unique(y)
    average = "binary" if classes == 2 else "macro"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that were never predicted
        result = {"accuracy": float(np.mean(found == y)), "balanced": metrics.balanced_accuracy_score(y, found)}
        result["f1"] = float(metrics.f1_score(y, found, average=average, zero_division=0))
    result["auc"] = math.nan
    if classes == 2 and len(present) == 2:
        result["auc"] = float(metrics.roc_auc_score(y, outputs[:, 1] - outputs[:, 0]))
    elif len(present) > 1:
        each = [metrics.roc_auc_score(y == label, outputs[:, label]) for label in present]
        result["auc"] = float(np.mean(each))
    return result


def confusion(y: Array, outputs: Array) -> list[list[int]]:
    """Return the confusion matrix: how often each class (row) was predicted as each class (column)."""
    every = range(outputs.shape[1])
    return metrics.confusion_matrix(y, outputs.argmax(axis=1), labels=every).tolist()


def boosting(text: list[str], classification: bool, seed: int = 0) -> Any:
    """Return a HistGradientBoosting model for frames of `Columns.features`; text columns become categories."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=250)
    columns = ColumnTransformer([("categories", encoder, text)], remainder="passthrough")
    made = HistGradientBoostingClassifier if classification else HistGradientBoostingRegressor
    return make_pipeline(columns, made(categorical_features=list(range(len(text))), random_state=seed % 2**32))


def baseline_outputs(
    train: tuple[Any, Array], features: Any, text: list[str], classes: int, boosted: bool
) -> dict[str, Array]:
    """Return the predictions of baseline models, fitted on the same rows, in the form that `scores` takes.

    Parameters
    ----------
    train : tuple of (DataFrame, ndarray)
        Features and y of the rows to fit.
    features : DataFrame
        Features of the rows to predict.
    text : list of str
        Names of the text columns.
    classes : int
        0 for regression.
    boosted : bool
        Whether HistGradientBoosting is one of them.
    """
    X, y = train
    if not classes:
        found: dict[str, Array] = {MEAN: np.full(len(features), y.mean())}
        if boosted:
            found[BOOSTING] = boosting(text, classification=False).fit(X, y).predict(features)
        return found
    shares = np.bincount(y, minlength=classes) / len(y)
    found = {MOST_FREQUENT: np.tile(shares, (len(features), 1))}
    if boosted and (shares > 0).sum() > 1:
        model, outputs = boosting(text, classification=True).fit(X, y), np.zeros((len(features), classes))
        outputs[:, model.classes_] = model.predict_proba(features)
        found |= {BOOSTING: outputs}
    return found


def compare(y: Array, ours: Array, theirs: Array, balanced: bool = False) -> str:
    """Return "ahead", "behind" or "even", by the mean difference of row errors and twice its standard error.

    A row's error is the squared difference or, for classes, 1 if the class is wrong; with ``balanced`` all classes
    count alike, however rare.
    """
    ours, theirs = ((out.argmax(1) != y) * 1.0 if out.ndim == 2 else (out - y) ** 2 for out in (ours, theirs))
    differences = theirs - ours
    if balanced:
        counts = np.bincount(y)
        differences = differences * len(y) / np.count_nonzero(counts) / counts[y]
    noise = 2 * differences.std() / math.sqrt(len(y))
    mean = differences.mean()
    return "ahead" if mean > noise else "behind" if mean < -noise else "even"
