"""Tables: read CSV and NPZ files into arrays; errors are one line that says what is wrong and where."""

import csv
import itertools
import math
import operator
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from . import checks
from .io.storage import Path, display_path, reading
from .kernels.api import validation
from .kernels.specs.base import Array
from .preparation import Preparation
from .validation import finite_matrix

TASKS = ("classification", "regression")
MAX_INTEGER_CLASSES = 20
"""Whole numbers are taken for classes if at most this many different values occur, each twice on average."""

_MAX_CLASSES = 1000
_MAX_COLUMNS = 1 << 16
_MAX_LINE_BYTES = 1 << 26
_MIN_ROWS = 10
_SEPARATORS = ((",", "comma"), (";", "semicolon"), ("\t", "tab"))
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}


@dataclass(frozen=True, eq=False)
class Table:
    """A table read for training.

    Attributes
    ----------
    X : ndarray, shape (rows, n)
        The features, in the units of the file.
    y : ndarray, shape (rows,)
        For regression the target, float64; for classification labels 0, 1, ..., int64.
    features : tuple of str or None
        Names of the columns of X; None for an NPZ file.
    target : str
    classes : tuple of str or of int, or None
        What the labels stand for, sorted; None for regression.
    task_reason : str
        Why the task was chosen, in words.
    separator : str
        "comma", "semicolon" or "tab"; "" for an NPZ file.
    """

    X: Array
    y: Array
    features: tuple[str, ...] | None
    target: str
    classes: tuple[str, ...] | tuple[int, ...] | None
    task_reason: str
    separator: str

    @property
    def task(self) -> str:
        """``"classification"`` or ``"regression"``."""
        return "regression" if self.classes is None else "classification"


def read(path: Path, target: str | None = None, task: str | None = None) -> Table:
    r"""Read a table to train on.

    A CSV file has a header, in UTF-8, separated by commas, semicolons or tabs; every column but the target
    must hold numbers. An NPZ file holds arrays ``X`` (rows, n) and the target (rows,).

    Parameters
    ----------
    path : str or path-like
        Named ``.npz``, or else read as CSV.
    target : str, optional
        The column to predict. Needed for CSV; the array ``"y"`` by default for NPZ.
    task : {"classification", "regression"}, optional
        By default, text is classified, and so are whole numbers with at most 20 different values, each found
        twice on average; other numbers are regressed.

    Returns
    -------
    Table

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If anything is wrong with it; the message is one line, with the number of the file's line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import fastnet.data
    >>> path = pathlib.Path(tempfile.mkdtemp(), "houses.csv")
    >>> rows = [f"{area},{rooms},{100 * area + 5 * rooms}" for area in range(50, 60) for rooms in range(3)]
    >>> _ = path.write_text("\n".join(["area,rooms,price", *rows]))
    >>> table = fastnet.data.read(path, target="price")
    >>> table.task, table.features, table.X.shape
    ('regression', ('area', 'rooms'), (30, 2))
    """
    if task is not None:
        checks.choice("task", task, TASKS)
    shown_path = display_path(path)
    if shown_path.lower().endswith(".npz"):
        target = "y" if target is None else target
        content = _read_npz(path, shown_path, target)
    else:
        content = _read_csv(path, shown_path, partial(_with_target, shown_path, target))
        target = str(target)
    X, column, features, separator = content
    if len(X) < _MIN_ROWS:
        raise ValueError(f"{shown_path} has {len(X)} rows of data; expected at least {_MIN_ROWS}")
    y, classes, reason = _labels_or_numbers(shown_path, column, target, task)
    return Table(X, y, features, target, classes, "as requested" if task else reason, separator)


def read_inputs(path: Path, preparation: Preparation | None, inputs: int) -> Array:
    """Read the columns that a network takes, in its order, in the units of the file.

    Columns are found by name where the network keeps names, else by their order. The target may be present and
    is ignored; any other column that the network does not take is refused.

    Raises
    ------
    OSError, ValueError
        As `read`.
    """
    shown_path = display_path(path)
    if shown_path.lower().endswith(".npz"):
        X = _load_npz(path, shown_path)[0]
    else:
        X = _read_csv(path, shown_path, partial(_without_target, shown_path, preparation))[0]
    if len(X) == 0:
        raise ValueError(f"{shown_path} has no rows of data")
    if X.shape[1] != inputs:
        raise ValueError(f"{shown_path} has {X.shape[1]} columns of features; this model takes {inputs}")
    return X


# ---------------------------------------------------------------------------------------------- columns


class _Columns(NamedTuple):
    """Which columns of a CSV file to read, by position."""

    features: Sequence[int]
    target: int | None


class _Target(NamedTuple):
    """A target column: numbers, or cells that may be text, and where the cell of each row stands, for messages."""

    cells: Array | list[str]
    place: Callable[[int], str]


_Content = tuple[Array, _Target, tuple[str, ...] | None, str]
"""What a file holds: features, target, names of the features, name of the separator."""


def _listed(names: Sequence[str]) -> str:
    """Join names for a message; after 8 only their number."""
    some = ", ".join(repr(name[:40]) for name in names[:8])
    return some + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


def _with_target(shown_path: str, target: str | None, header: Sequence[str]) -> _Columns:
    if target is None:
        raise ValueError(
            f"{shown_path}: which column is to be predicted? Name it by --target; there are: {_listed(header)}"
        )
    if target not in header:
        numbers = all(_number(name) is not None for name in header)
        hint = "; the first line must name the columns, and here it holds numbers" if numbers else ""
        raise ValueError(f"{shown_path} has no column {target!r}; there are: {_listed(header)}{hint}")
    if len(header) == 1:
        raise ValueError(f"{shown_path} has no column but the target {target!r}; expected features beside it")
    at = header.index(target)
    return _Columns([i for i in range(len(header)) if i != at], at)


def _without_target(shown_path: str, preparation: Preparation | None, header: Sequence[str]) -> _Columns:
    features, target = (preparation.features, preparation.target) if preparation else (None, None)
    if features is None:
        return _Columns([i for i, name in enumerate(header) if name != target], None)
    places = {name: i for i, name in enumerate(header)}
    missing = [name for name in features if name not in places]
    unknown = [name for name in header if name not in {*features, target}]
    if missing:
        there = f"; it has instead {_listed(unknown)}" if unknown else ""
        raise ValueError(f"{shown_path} lacks columns that this model takes: {_listed(missing)}{there}")
    if unknown:
        raise ValueError(
            f"{shown_path} has columns that this model was not trained on: {_listed(unknown)}; remove them"
        )
    return _Columns([places[name] for name in features], None)


def _labels_or_numbers(shown_path: str, column: _Target, target: str, task: str | None) -> tuple[Array, Any, str]:
    """Decide the task; return labels and classes, or numbers and None, and the reason."""
    numbers = _numbers(shown_path, column, task)
    values: Any = sorted({*column.cells}) if numbers is None else np.unique(numbers)
    if len(values) == 1:
        raise ValueError(f"{shown_path}: target {target!r} holds {values[0]!s} in every row; there is nothing to learn")
    if numbers is None:
        if len(values) > _MAX_CLASSES:
            raise ValueError(
                f"{shown_path}: target {target!r} holds more than {_MAX_CLASSES} different texts; is it a name?"
            )
        labels = {name: label for label, name in enumerate(values)}
        return np.array([labels[cell] for cell in column.cells]), tuple(values), "its values are text"
    whole = bool((values == np.floor(values)).all() and np.abs(values).max() < 2**53)
    few = whole and len(values) <= MAX_INTEGER_CLASSES and len(numbers) >= 2 * len(values)
    if task == "regression" or (task is None and not few):
        return numbers, None, "it has many different values" if whole else "its values are numbers with fractions"
    if len(values) > _MAX_CLASSES:
        raise ValueError(f"{shown_path}: target {target!r} has {len(values):,} different values, too many for classes")
    classes = tuple(int(value) if whole else repr(float(value)) for value in values)
    return np.searchsorted(values, numbers), classes, f"its values are whole numbers, {len(values)} different ones"


def _numbers(shown_path: str, column: _Target, task: str | None) -> Array | None:
    """Return the target as numbers, or None if it is text, which stands for classes."""
    if isinstance(column.cells, np.ndarray):
        return column.cells
    values = [_number(cell) for cell in column.cells]
    examples: dict[str, str] = {}  # the first cell of each kind
    for row, (cell, value) in enumerate(zip(column.cells, values, strict=True)):
        kind = "text" if value is None else "number" if math.isfinite(value) else "infinite"
        if kind not in examples:
            examples[kind] = f"{column.place(row)} holds {cell[:40]!r}"
    if "infinite" in examples:
        raise ValueError(f"{examples['infinite']}; expected a finite number, or text for a class")
    if "text" not in examples:
        return np.array(values)
    if task == "regression":
        raise ValueError(f"{examples['text']}; expected a number, for regression")
    if task is None and "number" in examples:
        raise ValueError(
            f"{examples['text']} but {examples['number'].removeprefix(f'{shown_path}, ')}; expected numbers "
            "throughout, or text throughout (--task classification takes all of it for labels)"
        )
    return None


# -------------------------------------------------------------------------------------------------- CSV


def _number(cell: str) -> float | None:
    """Return a cell as a number, or None if it is text, as is Python's 1_000."""
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _lines(file: BinaryIO, shown_path: str) -> Iterator[str]:
    """Yield the file's lines, decoded."""
    for number, raw in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), 1):
        if len(raw) == _MAX_LINE_BYTES:
            raise ValueError(
                f"{shown_path}, line {number} is longer than {_MAX_LINE_BYTES >> 20} MiB; is it a CSV file?"
            )
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            hint = "; save the file as UTF-8"
            if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                hint = " (it begins like UTF-16); save the file as UTF-8"
            elif b"\0" in raw:
                hint = "; is it a CSV file?"
            raise ValueError(f"{shown_path}, line {number} is not UTF-8: byte 0x{raw[error.start]:02x}{hint}") from None


def _read_csv(path: Path, shown_path: str, choose: Callable[[Sequence[str]], _Columns]) -> _Content:
    """Read the columns chosen from the header."""
    with reading(path) as file:
        lines = _lines(file, shown_path)
        first = next(lines, "")
        if not first.strip():
            where = ", line 1 is empty: expected column names" if first else " is empty"
            raise ValueError(f"{shown_path}{where}")
        delimiter, separator = max(_SEPARATORS, key=lambda known: first.count(known[0]))
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True, skipinitialspace=True)
        try:
            header = _header(shown_path, next(reader))
            columns = choose(header)
            X, target = _rows(shown_path, reader, header, columns)
        except csv.Error as error:
            message = str(error)
            if "new-line" in message:
                message = "a bare carriage return; expected lines that end as on Unix or Windows"
            elif "'" in message or "end of data" in message or "field limit" in message:
                message += "; is a quotation mark left open?"
            raise ValueError(f"{shown_path}, line {reader.line_num}: {message}") from None
    return X, target, tuple(header[i] for i in columns.features), separator


def _header(shown_path: str, cells: Sequence[str]) -> list[str]:
    """Return the names of the columns."""
    if len(cells) > _MAX_COLUMNS:
        raise ValueError(f"{shown_path} has {len(cells):,} columns; a CSV may have {_MAX_COLUMNS:,}: use an NPZ file")
    names = [cell.strip() for cell in cells]
    seen: set[str] = set()
    for i, name in enumerate(names):
        if not name:
            hint = " (an index that pandas wrote? save with index=False)" if i == 0 else ""
            raise ValueError(f"{shown_path}, line 1: column {i + 1} has no name{hint}")
        if name in seen:
            raise ValueError(f"{shown_path}, line 1: two columns are called {name[:40]!r}")
        seen.add(name)
    return names


def _rows(shown_path: str, reader: Any, header: Sequence[str], columns: _Columns) -> tuple[Array, _Target]:
    """Read the numbers of the chosen columns; other cells are reported by column and line."""
    values, lines, cells = array("d"), array("q"), list[str]()
    pick = operator.itemgetter(*columns.features) if len(columns.features) > 1 else None

    def place(row: int, column: int) -> str:
        return f"{shown_path}, line {lines[row]}: column {header[column]!r}"

    line = reader.line_num + 1
    for row in reader:
        if row:  # blank lines are skipped
            lines.append(line)
            if len(row) != len(header):
                raise ValueError(f"{shown_path}, line {line} has {len(row)} fields; the header has {len(header)}")
            features = pick(row) if pick else [row[i] for i in columns.features]
            try:
                values.extend(map(float, features))
                is_wrong = "_" in "".join(features)
            except ValueError:
                is_wrong = True
            if is_wrong:
                column = next(i for i in columns.features if _number(row[i]) is None)
                raise ValueError(f"{place(-1, column)} {_what_is_wrong(row[column])}")
            if columns.target is not None:
                cells.append(row[columns.target].strip())
                if not cells[-1]:
                    raise ValueError(f"{place(-1, columns.target)} is empty; fill it in, or leave the row out")
        line = reader.line_num + 1
    X = np.asarray(values).reshape(len(lines), len(columns.features))
    wrong = np.argwhere(~np.isfinite(X))
    if wrong.size:
        at, i = wrong[0]
        raise ValueError(f"{place(at, columns.features[i])} holds {X[at, i]}; expected a finite number")
    return X, _Target(cells, lambda at: place(at, columns.target or 0))


def _what_is_wrong(cell: str) -> str:
    """Describe a cell that is not a number."""
    cell = cell.strip(" \t\r\n")  # not \x1d, say, which float() rejects
    if cell.lower() in _MISSING:
        what = f"holds {cell!r}" if cell else "is empty"
        return f"{what}, a missing value; fill it in, or leave the row out"
    hint = ": numbers have a decimal point" if _number(cell.replace(",", ".")) is not None else ""
    return f"holds {cell[:40]!r}; expected a number{hint}"


# -------------------------------------------------------------------------------------------------- NPZ


def _load_npz(path: Path, shown_path: str) -> tuple[Array, dict[str, Array]]:
    """Read X, checked, and all arrays of an NPZ file, without unpickling anything."""
    with reading(path) as file:
        if file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
            raise ValueError(f"{shown_path} is not an NPZ file; write it by numpy.savez(path, X=X, y=y)")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: np.asarray(stored[name]) for name in stored.files}
        except MemoryError:
            raise
        except Exception as error:  # a damaged archive raises more than ten types
            reason = " ".join(str(error).split())[:150]
            if "allow_pickle" in reason:
                reason = "it holds Python objects, which are never unpickled"
            raise ValueError(f"{shown_path} is not an NPZ file of numbers and text: {reason}") from None
    if "X" not in arrays:
        raise ValueError(f"{shown_path} has no array 'X'; there are: {_listed(list(arrays)) or 'none'}")
    return finite_matrix(f"{shown_path}: X", arrays["X"]), arrays


def _read_npz(path: Path, shown_path: str, target: str) -> _Content:
    X, arrays = _load_npz(path, shown_path)
    if target not in arrays or target == "X":
        raise ValueError(f"{shown_path} has no array {target!r} to predict; there are: {_listed(list(arrays))}")
    y = arrays[target]
    if y.shape == (len(X), 1):
        y = y.ravel()
    if y.shape != (len(X),):
        raise ValueError(
            f"{shown_path}: {target} has shape {y.shape}; expected ({len(X)},), one value for each row of X"
        )
    cells: Array | list[str]
    if y.dtype.kind in "iubf":
        validation.finite(f"{shown_path}: {target}", y)
        cells = y.astype(np.float64)
    elif y.dtype.kind == "U":
        cells = [cell.strip() for cell in y.tolist()]
    else:
        raise ValueError(f"{shown_path}: {target} has dtype {y.dtype}; expected numbers, or text for classes")
    return X, _Target(cells, lambda row: f"{shown_path}: row {row} of {target!r}"), None, ""
