"""Tables: recognises the kinds of columns, which scikit-learn then turns into inputs of a network.

It needs pandas and scikit-learn (``pip install pandas scikit-learn skops``).
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .kernels.specs.base import Array
from .messages import counted, listed

try:
    import pandas
    from scipy.stats import f as f_distribution
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
except ImportError as error:
    raise ImportError(
        f"tables need pandas and scikit-learn: pip install pandas scikit-learn skops ({error})"
    ) from error

_MOSTLY = 0.95
"""Text is read as numbers or dates if at least this fraction of its cells can be; the others become gaps."""

_ID = re.compile(r"(?i:(^|[ _.-])(id|index|rownames?)$|^unnamed: \d+$)|Id$|ID$")
_EPOCH = "2000-01-01"
_DATE = pandas.Timestamp("2024-12-31 18:30", tz="UTC")
"""An example for messages; its day cannot be a month."""


def check_columns(wanted: Iterable[str], columns: Collection[str], where: str) -> None:
    """Reject names of columns that a table lacks; the error lists all of them and suggests what may have been meant.

    Raises
    ------
    ValueError
    """
    wanted = list(wanted)
    missing, others = ([x for x in xs if x not in given] for xs, given in ((wanted, columns), (columns, wanted)))
    near = [found for name in missing for found in difflib.get_close_matches(name, others, 1)]
    if missing:
        what = "no column" if len(missing) == 1 else "no columns"
        meant = f" (did you mean {listed(near)}?)" if near else ""
        one = "; does its first line name all columns, and one character separate them?" if len(columns) == 1 else ""
        raise ValueError(f"{where} has {what} {listed(missing)}{meant}; there are: {listed(columns)}{one}")


def check_frame(X: Any, least: int) -> None:
    """Reject a DataFrame that has too few rows or several columns of the same name, or that holds infinity.

    Raises
    ------
    ValueError
    """
    if len(X) < least:
        raise ValueError(f"X has {len(X)} sample(s), one a row; expected at least {least}")
    twice = X.columns[X.columns.duplicated()].unique()
    if len(twice):
        raise ValueError(f"X has several columns of the same name: {listed(twice)}; rename or drop them")
    for name, column in X.items():
        is_float = pandas.api.types.is_float_dtype(column)
        if is_float and np.isinf(column.to_numpy(np.float64, na_value=np.nan)).any():
            raise ValueError(f"column {name!r} of X contains infinity; expected finite numbers, NaN for gaps")


# ------------------------------------------------------------------------------------------------- kinds


def numbers(column: Any) -> Any:
    """Return a column as float64, with NaN for cells that are not finite numbers; $1,234.50 and 45% are numbers."""
    if not pandas.api.types.is_numeric_dtype(column):
        text = column.astype("string").str.strip().str.replace(r"^[$€£]\s*|\s*%$|,(?=\d{3}(\D|$))", "", regex=True)
        column = pandas.to_numeric(text.where(~text.str.contains("_", na=False)), errors="coerce")
    with np.errstate(over="ignore"):
        values = column.to_numpy(np.float64, na_value=np.nan)
    finite = np.isfinite(values)  # `replace` made preparing a small table take as long as training on it
    return pandas.Series(values if finite.all() else np.where(finite, values, np.nan), column.index, name=column.name)


def text_of(value: Any) -> str:
    """Return a cell as text, whole numbers without a decimal point, as in a column without gaps."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def as_text(column: Any) -> Any:
    """Return a column as text, with "" for gaps."""
    return column.astype(object).map(text_of, na_action="ignore").where(column.notna(), "")


def dates_of(column: Any, form: str) -> Any:
    """Return a column as dates without a time zone; text is parsed by the format, or by ISO 8601, or becomes NaT."""
    if not pandas.api.types.is_datetime64_any_dtype(column):
        column = pandas.to_datetime(as_text(column), format=form or "ISO8601", errors="coerce", utc=True)
    return column.dt.tz_convert(None) if column.dt.tz is not None else column


def _date_format(values: Any) -> str:
    """Return the date format of most of these texts, or "" if they are not dates."""
    first = str(values.iloc[0])
    for day_first in (True, False) if "." in first else (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form = pandas.tseries.api.guess_datetime_format(first, dayfirst=day_first)
        if form and re.search(r"\d\D+\d", first) and dates_of(values, form).notna().mean() >= _MOSTLY:
            return str(form)
    return ""


@dataclass
class Columns:
    """The columns of a table that a model uses, and how it uses them.

    Attributes
    ----------
    kinds : dict of str to str
        "number", "boolean", "category" or "date" for each column used; for dates given as text, followed by the format.
    left_out : dict of str to str
        For each other column, why it is not used.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, frame: Any, drop: Collection[str] = (), category: Collection[str] = ()) -> Columns:
        """Recognise the kinds of the columns of a frame of features."""
        found = cls()
        for name in frame.columns:
            why = "as requested" if name in drop else None if name in category else _useless(name, frame[name])
            if why:
                found.left_out[name] = why
            else:
                found.kinds[name] = "category" if name in category else _kind(frame[name].dropna())
        return found

    @classmethod
    def of_numbers(cls, frame: Any) -> Columns:
        """Use every column of a frame as numbers, even ids, except those that are empty or constant."""
        found = {name: _uniform(frame[name]) for name in frame.columns}
        kinds = {name: "number" for name, why in found.items() if not why}
        return cls(kinds, {name: why for name, why in found.items() if why})

    @property
    def text(self) -> list[str]:
        """Names of the columns that `features` returns as text."""
        return [name for name, kind in self.kinds.items() if kind in ("boolean", "category")]

    def lines(self, frame: Any) -> list[str]:
        """Describe a frame's columns in lines: their kinds, gaps and rare values, and which are left out and why."""
        by_kind: dict[str, list[str]] = {"number": [], "boolean": [], "category": [], "date": [], "left out": []}
        least = rare_below(len(frame))
        for name, kind in self.kinds.items():
            about, values = [], frame[name]
            if kind == "category":
                counts = as_text(values.dropna()).value_counts()
                rare = f", {int((counts < least).sum())} in fewer than {least} rows taken together"
                about.append(counted(len(counts), "value") + rare * bool((counts < least).any()))
            about += [kind[5:]] * kind.startswith("date ")
            gaps = int((numbers(values) if kind == "number" else values).isna().sum())
            about += [counted(gaps, "gap")] * (gaps > 0)
            by_kind[kind.split()[0]].append(f"{name} ({'; '.join(about)})" if about else name)
        by_kind["left out"] = [f"{name} ({why})" for name, why in self.left_out.items()]
        found = []
        for kind, names in by_kind.items():
            more = f", and {len(names) - 12:,} more" if len(names) > 12 else ""
            found += [f"{kind:<10}{', '.join(names[:12])}{more}"] if names else []
        return found

    def features(self, frame: Any) -> Any:
        """Return the columns used as a frame of float64 and text; dates become numbers of days and date parts."""
        return self.parse(frame)[0]

    def checked(self, frame: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Return what `parse` returns, for a table on which the model was not trained.

        Raises
        ------
        ValueError
            If a column that held numbers or dates in training now holds hardly any.
        """
        features, found = self.parse(frame)
        for name, wrong in found.items():
            if wrong["cells"] > 0.5 * frame[name].notna().sum():
                form = self.kinds[name][5:] or "%Y-%m-%d"
                like = f", such as {_DATE.strftime(form)!r}" if wrong["expected"] == "date" else ""
                raise ValueError(
                    f"column {name!r} holds {wrong['example']!r}; the model was trained on {wrong['expected']}s there"
                    f"{like}"
                )
        return features, found

    def parse(self, frame: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Return `features`, and the `unread` cells of number and date columns, which become gaps."""
        parts, found = dict[str, Any](), dict[str, dict[str, Any]]()
        for name, kind in self.kinds.items():
            if kind.startswith("date"):
                parsed = dates_of(frame[name], kind[5:])
                values = {"days": (parsed - pandas.Timestamp(_EPOCH)) / pandas.Timedelta(days=1)}
                for part in ("month", "day", "day_of_week", "hour"):
                    values[part] = getattr(parsed.dt, part).astype("float64")
                for part, column in values.items():
                    called = f"{name} ({part})"
                    while called in self.kinds:  # the table has a column of that name
                        called += "'"
                    parts[called] = column
            else:
                parsed = parts[name] = numbers(frame[name]) if kind == "number" else as_text(frame[name])
            if name not in self.text:
                found |= unread(frame[name], parsed.notna(), kind.split()[0])
        return pandas.DataFrame(parts, index=frame.index), found

    def transformer(self, features: Any) -> Any:
        """Return a scikit-learn transformer from `features` to inputs of a network, fitted on these rows.

        Raises
        ------
        ValueError
            If a column cannot be scaled; see `moments`.
        """
        return self.transformed(features)[0]

    def transformed(self, features: Any) -> tuple[Any, Array]:
        """Return the `transformer` for these rows and their inputs, which fitting computes anyway.

        Raises
        ------
        ValueError
            If a column cannot be scaled; see `moments`.
        """
        text, least = self.text, rare_below(len(features))
        rest = [name for name in features.columns if name not in text]
        filled = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        rare = {"handle_unknown": "infrequent_if_exist", "min_frequency": least, "max_categories": 256}
        encoded = OneHotEncoder(sparse_output=False, dtype=np.float32, **rare)
        for name in rest:
            moments(features[name].dropna().to_numpy(), f"column {name!r}")  # the scaler would not report an overflow
        steps = [("numbers", make_pipeline(StandardScaler(), filled), rest), ("categories", encoded, text)]
        made = ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0)
        inputs = made.fit_transform(features)
        return made, inputs


_LEAST = 1e-150
"""Smallest standard deviation whose square is accurate."""


def moments(values: Array, what: str) -> tuple[float, float]:
    """Return the mean and standard deviation of finite numbers; the latter is 0 if all are equal or there are none.

    Raises
    ------
    ValueError
        If the numbers are so large, or so close to 0, that their squares overflow or vanish.
    """
    if not len(values) or values.min() == values.max():
        return (float(values[0]) if len(values) else 0.0), 0.0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mean, deviation = float(values.mean()), float(values.std())
    if not _LEAST < deviation < np.inf:
        largest = f"{np.abs(values).max():.0e}"
        raise ValueError(f"{what} holds numbers of about {largest}, whose squares float64 cannot hold; divide by that")
    return mean, deviation


def unread(column: Any, known: Any, expected: str) -> dict[str, dict[str, Any]]:
    """Return how many cells of a column are neither blank nor as expected, and the first of them; {} if none."""
    lost = column.notna().to_numpy() & ~np.asarray(known, bool)
    cells = column[lost] if lost.any() else column[:0]
    cells = cells[as_text(cells) != ""] if len(cells) else cells  # blank ones are gaps
    if not len(cells):
        return {}
    return {column.name: {"expected": expected, "cells": len(cells), "example": text_of(cells.iloc[0])[:40]}}


def unread_lines(found: Mapping[str, Mapping[str, Any]], fate: str = "taken for gaps") -> list[str]:
    """Describe the cells that could not be read and their fate, in a line for each of at most 8 columns."""
    said = [
        f"no {each['expected']} could be read in {counted(each['cells'], 'cell')} of {name!r}, such as "
        f"{each['example']!r}: {fate}"
        for name, each in found.items()
    ]
    return said[:8] + [f"the same in {counted(len(said) - 8, 'more column')}"] * (len(said) > 8)


def rare_below(rows: int) -> int:
    """Return how often a category must occur in the training rows to get an input of its own."""
    return min(10, max(2, rows // 100))


def _uniform(column: Any) -> str:
    """Return "empty" or "constant", or a description of cells that a network cannot use, or ""."""
    known = column.notna()
    if not known.any():
        return "empty"
    if pandas.api.types.is_complex_dtype(column):
        return "complex numbers; give their parts as two columns"
    try:
        if column.dtype == object:
            column.astype("string")
        return "constant" if column.nunique() == 1 and known.all() else ""
    except (TypeError, NotImplementedError, UnicodeDecodeError):  # unhashable, as lists, or bytes that are not text
        return f"cells of type {type(column[known].iloc[0]).__name__}; give numbers or text"


def _useless(name: str, column: Any) -> str:
    """Say why a column is useless for predicting new rows, or return ""."""
    if why := _uniform(column):
        return why
    values = column.dropna()
    different = values.nunique()
    if pandas.api.types.is_bool_dtype(values) or pandas.api.types.is_datetime64_any_dtype(values):
        return ""
    if pandas.api.types.is_numeric_dtype(values):
        whole = different == len(column) > 2 and ((values := numbers(values)) % 1 == 0).all()
        counts = whole and values.iloc[0] in (0, 1) and (values.diff().iloc[1:] == 1).all()
        return "an id: every row has another" if whole and (counts or _ID.search(name)) else ""
    if pandas.api.types.is_timedelta64_dtype(values):
        return "a duration; give it as a number"
    if different <= len(values) / 2 or _kind(values) != "category":
        return ""
    found = numbers(values).notna()
    if (share := found.mean()) > 0.5:
        odd = text_of(values[~found].iloc[0])[:20]
        return f"{share:.0%} are numbers, others text such as {odd!r}: empty these cells"
    example = f", such as {text_of(values.iloc[0])[:20]!r}"  # shows why the column is taken for text
    some = f"text, {different:,} different in {len(values):,} rows{example}"
    return f"an id: every row has another text{example}" if different == len(column) else some


def _kind(values: Any) -> str:
    """Return the kind of a column without gaps, as `Columns.kinds` holds it."""
    if pandas.api.types.is_numeric_dtype(values) and not pandas.api.types.is_bool_dtype(values):
        return "number" if np.isfinite(numbers(values)).any() else "category"
    if pandas.api.types.is_bool_dtype(values) or {*values.astype(str).str.lower().unique()[:3]} <= {"true", "false"}:
        return "boolean"
    if pandas.api.types.is_datetime64_any_dtype(values):
        return "date"
    if isinstance(values.dtype, pandas.CategoricalDtype):
        return "category"
    if numbers(values).notna().mean() >= _MOSTLY:
        return "number"
    return f"date {form}" if (form := _date_format(values)) else "category"


_MOST_CODES, _ROWS_A_CODE, _DEGREE, _LEVEL = 32, 5, 3, 0.001
"""For `codes`: most different values, fewest rows per value on average, degree of the curve, level of the test."""


def codes(frame: Any, targets: Array) -> list[str]:
    """Return columns of a few whole numbers that are codes, hours or the like, and better used as categories.

    In such a column, the F test for lack of fit rejects that the targets' means at each value lie on a cubic (on a
    curve of lower degree, for 4 values or fewer). A tree isolates such values one by one; a network would have to bend
    its function at each.

    Parameters
    ----------
    frame : DataFrame
    targets : ndarray, shape (rows, outputs)
        Numbers; for classes, their indicators or probabilities.
    """
    found = []
    for name in frame.columns:
        column = frame[name]
        if not pandas.api.types.is_numeric_dtype(column) or pandas.api.types.is_bool_dtype(column):
            continue
        x = numbers(column).to_numpy()
        known = ~np.isnan(x)
        x, y = x[known], targets[known]
        values, index, counts = np.unique(x, return_inverse=True, return_counts=True)
        if not 3 <= len(values) <= _MOST_CODES or (values % 1).any() or len(x) < _ROWS_A_CODE * len(values):
            continue
        y = y - y.mean(axis=0)
        sums = np.zeros((len(values), y.shape[1]))
        np.add.at(sums, index, y)
        means, degree = sums / np.sqrt(counts)[:, None], min(_DEGREE, len(values) - 2)
        at = (values - values.mean()) / np.ptp(values)
        curve, _ = np.linalg.qr(np.vander(at, degree + 1) * np.sqrt(counts)[:, None])
        whole, of_values, of_curve = ((z**2).sum() for z in (y, means, curve.T @ means))
        outputs = max(1, y.shape[1] - 1)  # indicators of classes sum to 1
        freedom = (len(values) - degree - 1) * outputs, (len(x) - len(values)) * outputs
        lack, rest = (of_values - of_curve) / freedom[0], (whole - of_values) / freedom[1]
        if lack > 0 and f_distribution.sf(lack / max(rest, 1e-12 * whole), *freedom) < _LEVEL:
            found.append(name)
    return found


# ---------------------------------------------------------------------------------------------- the target

MAX_INTEGER_CLASSES = 20
"""Whole numbers count as classes if there are at most this many different ones, each at least twice on average."""

_MIN_ROWS, _MAX_CLASSES = 10, 1000


def target_of(column: Any, task: str | None = None) -> tuple[Any, Array, list[Any] | None, str]:
    """Return which rows of the target are known, its labels or numbers, the classes or None, and why that task.

    Parameters
    ----------
    column : pandas.Series
    task : {"classification", "regression"}, optional
        By default, text, booleans and whole numbers with at most 20 different values, each occurring at least twice on
        average, are classified; other numbers are regressed.

    Raises
    ------
    ValueError
        If the target holds too few rows, a single value, too many classes, dates, or text for a regression.
    """
    name = column.name
    known = column.notna()
    values = column[known]
    kind = _kind(values) if len(values) else "number"
    if kind.startswith("date"):
        raise ValueError(f"target {name!r} holds dates; predict a number instead, such as days since the first of them")
    if kind == "number":
        found = numbers(column)
        known = found.notna()
        values = found[known]
    elif task == "regression":
        raise ValueError(f"target {name!r} holds {str(values.iloc[0])[:40]!r}; expected numbers, for regression")
    if len(values) < _MIN_ROWS:
        raise ValueError(f"target {name!r} is known in {counted(len(values), 'row')}; expected at least {_MIN_ROWS}")
    distinct = values.nunique()
    if distinct == 1:
        raise ValueError(f"target {name!r} holds {text_of(values.iloc[0])} in every row; there is nothing to learn")
    whole = kind == "number" and bool((values % 1 == 0).all())
    few = distinct <= MAX_INTEGER_CLASSES and len(values) >= 2 * distinct
    if task == "regression" or (task is None and kind == "number" and not (whole and few)):
        reason = f"whole numbers, {distinct:,} different" if whole else "numbers with fractions"
        return known, values.to_numpy(np.float64), None, "as requested" if task else reason
    if distinct > min(_MAX_CLASSES, len(values) / 2):
        advice = "if these are numbers, leave out --task classification" if kind == "number" else "is it a name?"
        raise ValueError(f"target {name!r} holds {distinct:,} different values in {len(values):,} rows; {advice}")
    values = values.astype("int64") if whole else values if kind == "number" else as_text(values)
    labels, classes = pandas.factorize(values, sort=True)
    reasons = {"boolean": "booleans", "category": "text", "number": "whole numbers" if whole else "numbers"}
    reason = "as requested" if task else f"{reasons[kind]}, {distinct} different"
    return known, labels.astype(np.int64), classes.tolist(), reason
