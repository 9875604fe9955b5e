"""Tables: files read by pandas, and the kinds of their columns, which scikit-learn turns into inputs of a network.

It needs pandas and scikit-learn (``pip install pandas scikit-learn skops``).
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .io import storage
from .kernels.specs.base import Array
from .messages import counted, listed, one_line

try:
    import pandas
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
except ImportError as error:
    raise ImportError(
        f"tables need pandas and scikit-learn: pip install pandas scikit-learn skops ({error})"
    ) from error

_ENCODINGS = ("utf-8-sig", "cp1252")
_SEPARATORS = (",", ";", "\t", "|", r"\s+")
_GAPS = ["?", "-", "--", ".", "missing"]
"""Cells that are gaps besides those that pandas takes for them: empty ones, NA, N/A, NaN, NULL, None."""

_MOSTLY = 0.95
"""Text is read as numbers, or as dates, if at least this share of its cells can be; the others are gaps then."""

_MAX_COLUMNS = 1 << 16
_ID = re.compile(r"(?i:(^|[ _.-])(id|index|rownames?)$|^unnamed: \d+$)|Id$|ID$")
_EPOCH = "2000-01-01"


# ----------------------------------------------------------------------------------------------- reading


def read(path: storage.Path, target: str = "y") -> Any:
    """Read a table as a pandas DataFrame.

    Parameters
    ----------
    path : str or path-like
        By its suffix Parquet (``.parquet``), Feather (``.feather``, ``.arrow``), NPZ (arrays ``X`` (rows, n), whose
        columns are called X0, X1, ..., and the target), or else CSV: the separator, the encoding (UTF-8, UTF-16 or
        Windows-1252), decimal commas and the compression are recognised.
    target : str, default "y"
        The array of an NPZ file that is read beside X, if it is there.

    Returns
    -------
    pandas.DataFrame
        An index that the file holds, such as the row names that R writes, is left out.

    Raises
    ------
    ImportError
        If Parquet or Feather is to be read, and pyarrow is not installed.
    OSError, ValueError
        If the file cannot be read; the message is one line.
    """
    shown, suffix = storage.display_path(path), str(path).lower().rpartition(".")[2]
    with storage.reading(path) as file:
        head = file.read(4096)
    if not head:
        raise ValueError(f"{shown} is empty")
    readers = {"parquet": pandas.read_parquet, "pq": pandas.read_parquet}
    readers |= {"feather": pandas.read_feather, "arrow": pandas.read_feather}
    with one_line(path):
        if suffix == "npz":
            frame = _read_npz(path, target)
        elif suffix in readers:
            try:
                frame = readers[suffix](path)
            except ImportError:
                raise ImportError(
                    f"{shown}: reading this file needs the package pyarrow: pip install pyarrow"
                ) from None
        else:
            frame = _read_csv(path, head)
    frame.columns = [str(name).strip() for name in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"{shown} has two columns called {twice[0]!r}; rename one")
    return frame


def _read_csv(path: storage.Path, head: bytes) -> Any:
    compressed = str(path).lower().endswith((".gz", ".bz2", ".zip", ".xz", ".zst"))
    utf16 = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if b"\0" in head and not (compressed or utf16):
        raise ValueError("it holds bytes that are not text; is it a CSV file?")
    for encoding in ("utf-16",) if utf16 and not compressed else _ENCODINGS:
        with suppress(UnicodeDecodeError):
            return _parse_csv(path, {"encoding": encoding, "na_values": _GAPS, "skipinitialspace": True})
    raise ValueError("its text is neither UTF-8 nor Windows-1252; save it as UTF-8")


def _has_names(frame: Any) -> bool:
    """Whether rows of a CSV are one cell longer than its header: by names, as R writes, or a separator at the end."""
    return not isinstance(frame.index, pandas.RangeIndex)


def _parse_csv(path: storage.Path, options: dict[str, Any]) -> Any:
    samples, ragged = dict[str, Any](), list[str]()
    for separator in _SEPARATORS:
        try:
            sampled = {"nrows": 100, "dtype": str, "keep_default_na": False, "na_values": []}
            sample = pandas.read_csv(path, sep=separator, **{**options, **sampled})
        except pandas.errors.ParserError:
            ragged.append(separator)
        else:
            if sample.index.nlevels == 1:  # rows are at most one longer, by a name
                samples[separator] = sample
    # By a wrong separator the rows are shorter than the header. Spaces are one only where no other character is.
    reach = {tried: sample.iloc[:, -1].ne("").any() or _has_names(sample) for tried, sample in samples.items()}
    whole = {tried: sample for tried, sample in samples.items() if reach[tried]} or samples
    widths = {tried: sample.shape[1] for tried, sample in whole.items()}
    separator = max(widths, key=lambda tried: (tried != r"\s+" and widths[tried] > 1, widths[tried]), default=",")
    for tried in ragged if widths.get(separator, 1) == 1 else ():
        if pandas.read_csv(path, sep=tried, nrows=0, **options).shape[1] > 1:
            return pandas.read_csv(path, sep=tried, **options)  # raises an error that names the line
    sample = whole[separator]
    if sample.shape[1] > _MAX_COLUMNS:
        raise ValueError(
            f"it has {sample.shape[1]:,} columns; a CSV may have {_MAX_COLUMNS:,}: use an NPZ or Parquet file"
        )
    if separator == ";" and sample.stack().str.fullmatch(r"[+-]?\d+,\d+").any():
        options = {**options, "decimal": ","}
    options = {**options, "sep": separator, "low_memory": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates of several formats, lengths that differ
        frame = pandas.read_csv(path, **options)
        if _has_names(frame) and frame.iloc[:, -1].isna().all():
            frame = pandas.read_csv(path, index_col=False, **options)  # rows end with a separator
    if all(re.fullmatch(r"[+-]?\d*[.,]?\d+(\.\d+)?", str(name)) for name in frame.columns):
        raise ValueError(f"its first line must name the columns, and here it holds numbers: {listed(frame.columns)}")
    return frame.reset_index(drop=True)


def _read_npz(path: storage.Path, target: str) -> Any:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:  # NumPy leaves a damaged file open
        if "X" not in stored:
            raise ValueError(f"it has no array 'X'; there are: {listed(stored)}")
        X, y = stored["X"], stored.get(target)
    if X.ndim != 2 or X.dtype.kind not in "iubf" or X.size == 0:
        raise ValueError(f"X has shape {X.shape} and dtype {X.dtype}; expected numbers (rows, n), at least one")
    frame = pandas.DataFrame(X, columns=[f"X{i}" for i in range(X.shape[1])])
    if y is not None:
        if y.shape not in ((len(X),), (len(X), 1)) or y.dtype.kind not in "iubfUS":
            raise ValueError(f"{target} has shape {y.shape} and dtype {y.dtype}; expected ({len(X)},) numbers or text")
        frame[target] = (y.astype(str) if y.dtype.kind == "S" else y).reshape(-1)
    return frame


def check_columns(wanted: Iterable[str], columns: Collection[str], where: str) -> None:
    """Refuse names that a table lacks: all are named, and what may have been meant.

    Raises
    ------
    ValueError
    """
    missing = [name for name in wanted if name not in columns]
    near = [found for name in missing for found in difflib.get_close_matches(name, columns, 1)]
    if missing:
        what = "no column" if len(missing) == 1 else "no columns"
        meant = f"; did you mean {listed(near)}?" if near else ""
        raise ValueError(f"{where} has {what} {listed(missing)}{meant}; there are: {listed(columns)}")


# ------------------------------------------------------------------------------------------------- kinds


def numbers(column: Any) -> Any:
    """Return a column as float64, in which cells that are no finite numbers are NaN: $1,234.50 and 45% are numbers."""
    if not pandas.api.types.is_numeric_dtype(column):
        text = column.astype("string").str.strip().str.replace(r"^[$€£]\s*|\s*%$|,(?=\d{3}(\D|$))", "", regex=True)
        column = pandas.to_numeric(text.where(~text.str.contains("_", na=False)), errors="coerce")
    with np.errstate(over="ignore"):
        return column.astype("float64").replace([np.inf, -np.inf], np.nan)


def text_of(value: Any) -> str:
    """Return a cell as text: whole numbers without a point, as they are where a column has no gaps."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def as_text(column: Any) -> Any:
    """Return a column as text, gaps as ""."""
    return column.astype(object).map(text_of, na_action="ignore").where(column.notna(), "")


def dates_of(column: Any, form: str) -> Any:
    """Return a column as dates without a time zone; text is read by the format, or by ISO 8601, and else is NaT."""
    if not pandas.api.types.is_datetime64_any_dtype(column):
        column = pandas.to_datetime(as_text(column), format=form or "ISO8601", errors="coerce", utc=True)
    return column.dt.tz_convert(None) if column.dt.tz is not None else column


def _date_format(values: Any) -> str:
    """Return the format of most of these texts, or "" where they are no dates."""
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
    """Which columns of a table a model takes, and how.

    Attributes
    ----------
    kinds : dict of str to str
        "number", "boolean", "category", or "date" of each column taken, with the dates' format where they are text.
    left_out : dict of str to str
        Why a column is not taken.
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
        """Take every column of a frame as numbers, none for an id, but those that hold nothing or one number."""
        found = {name: _uniform(frame[name]) for name in frame.columns}
        kinds = {name: "number" for name, why in found.items() if not why}
        return cls(kinds, {name: why for name, why in found.items() if why})

    @property
    def text(self) -> list[str]:
        """The columns that `features` returns as text."""
        return [name for name, kind in self.kinds.items() if kind in ("boolean", "category")]

    def lines(self, frame: Any) -> list[str]:
        """Describe the columns of a frame in lines: the kinds, gaps and rare values, and what is left out and why."""
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

    def check(self, frame: Any) -> None:
        """Refuse a table in which a column that held numbers, or dates, holds hardly any.

        Raises
        ------
        ValueError
        """
        for name, wrong in self.unread(frame).items():
            if wrong["cells"] > 0.5 * frame[name].notna().sum():
                raise ValueError(
                    f"column {name!r} holds {wrong['example']!r}; the model was trained on {wrong['expected']}s there"
                )

    def unread(self, frame: Any) -> dict[str, dict[str, Any]]:
        """Return `unread` cells of the columns of numbers and of dates: they become gaps."""
        found: dict[str, dict[str, Any]] = {}
        for name, kind in self.kinds.items():
            if kind == "number" or kind.startswith("date"):
                parsed = numbers(frame[name]) if kind == "number" else dates_of(frame[name], kind[5:])
                found |= unread(frame[name], parsed.notna(), kind.split()[0])
        return found

    def features(self, frame: Any) -> Any:
        """Return the columns that are taken as a frame of float64 and text; dates become days and parts of them."""
        parts: dict[str, Any] = {}
        for name, kind in self.kinds.items():
            if kind.startswith("date"):
                dates = dates_of(frame[name], kind[5:])
                found = {"days": (dates - pandas.Timestamp(_EPOCH)) / pandas.Timedelta(days=1)}
                for part in ("month", "day", "day_of_week", "hour"):
                    found[part] = getattr(dates.dt, part).astype("float64")
                for part, values in found.items():
                    called = f"{name} ({part})"
                    while called in self.kinds:  # a column of the table
                        called += "'"
                    parts[called] = values
            else:
                parts[name] = numbers(frame[name]) if kind == "number" else as_text(frame[name])
        return pandas.DataFrame(parts, index=frame.index)

    def transformer(self, features: Any) -> Any:
        """Return scikit-learn's transformer from `features` to inputs of a network, fitted on these rows."""
        text, least = self.text, rare_below(len(features))
        rest = [name for name in features.columns if name not in text]
        filled = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        rare = {"handle_unknown": "infrequent_if_exist", "min_frequency": least, "max_categories": 256}
        encoded = OneHotEncoder(sparse_output=False, dtype=np.float32, **rare)
        steps = [("numbers", make_pipeline(StandardScaler(), filled), rest), ("categories", encoded, text)]
        return ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0).fit(features)


def unread(column: Any, known: Any, expected: str) -> dict[str, dict[str, Any]]:
    """Return how many cells of a column hold something, but not what is expected, and the first; {} where none does."""
    cells = column[column.notna() & ~known]
    cells = cells[as_text(cells) != ""]  # blank ones are gaps
    if not len(cells):
        return {}
    return {column.name: {"expected": expected, "cells": len(cells), "example": text_of(cells.iloc[0])[:40]}}


def unread_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which cells are taken for gaps, a line for each of at most 8 columns."""
    said = [
        f"no {each['expected']} could be read in {counted(each['cells'], 'cell')} of {name!r}, such as "
        f"{each['example']!r}: taken for gaps"
        for name, each in found.items()
    ]
    return said[:8] + [f"the same in {counted(len(said) - 8, 'more column')}"] * (len(said) > 8)


def rare_below(rows: int) -> int:
    """Return how often a category must occur in the rows trained on to have an input of its own."""
    return min(10, max(2, rows // 100))


def _uniform(column: Any) -> str:
    """Return "empty" or "constant" where a column is, or ""."""
    known = column.notna()
    if not known.any():
        return "empty"
    return "constant" if known.all() and column.nunique() == 1 else ""


def _useless(name: str, column: Any) -> str:
    """Say why a column tells nothing about a new row, or return ""."""
    if why := _uniform(column):
        return why
    values = column.dropna()
    different = values.nunique()
    if pandas.api.types.is_bool_dtype(values) or pandas.api.types.is_datetime64_any_dtype(values):
        return ""
    if pandas.api.types.is_numeric_dtype(values):
        whole = different == len(column) > 2 and (values % 1 == 0).all()
        counts = whole and values.iloc[0] in (0, 1) and (values.diff().iloc[1:] == 1).all()
        return "an id: every row has another" if whole and (counts or _ID.search(name)) else ""
    if pandas.api.types.is_timedelta64_dtype(values):
        return "a duration; give it as a number"
    if different <= len(values) / 2 or _kind(values) != "category":
        return ""
    some = f"text, {different:,} different in {len(values):,} rows"
    return "an id: every row has another" if different == len(column) else some


def _kind(values: Any) -> str:
    """Return the kind of a column without gaps, as `Columns.kinds` holds it."""
    if pandas.api.types.is_bool_dtype(values) or {*values.astype(str).str.lower().unique()[:3]} <= {"true", "false"}:
        return "boolean"
    if pandas.api.types.is_datetime64_any_dtype(values):
        return "date"
    if isinstance(values.dtype, pandas.CategoricalDtype):
        return "category"
    if numbers(values).notna().mean() >= _MOSTLY:
        return "number"
    return f"date {form}" if (form := _date_format(values)) else "category"


# ---------------------------------------------------------------------------------------------- the target

MAX_INTEGER_CLASSES = 20
"""Whole numbers are taken for classes if at most this many different values occur, each twice on average."""

_MIN_ROWS, _MAX_CLASSES = 10, 1000


def target_of(column: Any, task: str | None = None) -> tuple[Any, Array, list[Any] | None, str]:
    """Return the target's rows that are known, its labels or numbers, the classes or None, and why it is taken so.

    Parameters
    ----------
    column : pandas.Series
    task : {"classification", "regression"}, optional
        By default text and booleans are classified, and so are whole numbers with at most 20 different values, each
        found twice on average; other numbers are regressed.

    Raises
    ------
    ValueError
        If it holds too few rows, a single value, too many classes, dates, or text for a regression.
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
    if distinct > _MAX_CLASSES or (kind == "category" and distinct > len(values) / 2):
        raise ValueError(f"target {name!r} holds {distinct:,} different values in {len(values):,} rows; is it a name?")
    values = values.astype("int64") if whole else values if kind == "number" else as_text(values)
    labels, classes = pandas.factorize(values, sort=True)
    reasons = {"boolean": "booleans", "category": "text", "number": "whole numbers" if whole else "numbers"}
    reason = "as requested" if task else f"{reasons[kind]}, {distinct} different"
    return known, labels.astype(np.int64), classes.tolist(), reason
