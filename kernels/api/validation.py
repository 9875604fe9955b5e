"""Input validation: convert or reject arguments before anything is computed or overwritten.

Each message says what arrived, what was expected and what to do. A parameter ``at`` holds the row numbers to name in
messages, where the rows are a selection from the caller's array.
"""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

FLOATS = _FLOAT32, _FLOAT64 = (np.dtype(np.float32), np.dtype(np.float64))
_SUM_TOLERANCE = 1e-3  # for probabilities, which may have been computed in float16
_CHUNK_ELEMENTS = 1 << 18  # checked for NaN at a time, which avoids a mask of the whole array


def floats(**arrays: ArrayLike) -> list[Array]:
    """Convert named inputs to float arrays of one dtype.

    Mixed floats promote; integers and booleans become float64; float16 becomes float32.

    Raises
    ------
    TypeError
        If an input is not made of real numbers, or is of a float type wider than float64.
    """
    found = []
    for name, value in arrays.items():
        array = value if type(value) is np.ndarray else _as_array(name, value)
        dtype = array.dtype
        if dtype is not _FLOAT32 and dtype is not _FLOAT64 and dtype not in FLOATS:  # `in` compares, which is slower
            array = _to_float(name, array, value)
        found.append(array)
    dtype = found[0].dtype
    for array in found:
        if array.dtype is not dtype and array.dtype != dtype:
            return [array.astype(np.float64, copy=False) for array in found]
    return found


def _as_array(name: str, value: ArrayLike) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose masked values would be used; fill them in or drop their rows")
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is a sparse matrix; these kernels take dense arrays: {name}.toarray()")
    try:
        return np.asarray(value)
    except ValueError as error:
        why = f"its rows differ in length ({error})" if isinstance(value, (list, tuple)) else str(error)
        raise ValueError(f"{name} is not an array: {why}") from None


def _to_float(name: str, array: Array, value: Any) -> Array:
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:  # float16, or another byte order
        return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32)
    dtypes = np.ravel(getattr(value, "dtypes", ()))
    if len(dtypes) and all(map(_is_number, dtypes)):  # pandas columns of mixed dtypes, or nullable ones
        return value.to_numpy(dtype="float64", na_value=np.nan)
    raise TypeError(f"{_not_numbers(name, array, value)}")


_PANDAS_ADVICE = (
    (("category",), 'pandas.get_dummies({frame}, columns=["{column}"])', "{series}.cat.codes"),
    (("datetime", "timedelta", "period"),) + ("({series} - {series}.min()).dt.total_seconds()",) * 2,
    (("Int", "UInt", "Float", "boolean"),) + ('{series}.astype("float64"), with missing values filled in before',) * 2,
    (
        ("",),
        'pandas.to_numeric({series}), or for names pandas.get_dummies({frame}, columns=["{column}"])',
        "pandas.to_numeric({series}), or for classes np.unique({series}, return_inverse=True)[1]",
    ),
)
"""Prefixes of pandas dtype names, each with the code that makes a column of a table, or a single column, numeric."""


def _is_number(dtype: Any) -> bool:
    """Whether a NumPy, pandas or polars dtype holds numbers or booleans."""
    kind = getattr(dtype, "kind", None)
    return kind in ("i", "u", "b", "f") if kind else bool(getattr(dtype, "is_numeric", bool)())


def _not_numbers(name: str, array: Array, value: Any) -> str:
    """Say which part of a value is not made of numbers, and what to write instead."""
    if hasattr(value, "columns") and hasattr(value, "dtypes"):  # a table of pandas
        for column, dtype in zip(value.columns, value.dtypes, strict=True):
            if not _is_number(dtype):
                advice = next(a for starts, a, _ in _PANDAS_ADVICE if str(dtype).startswith(starts))
                if hasattr(value, "to_dummies"):  # polars
                    advice = '{frame}.to_dummies("{column}")'
                advice = advice.format(frame=name, column=column, series=f'{name}["{column}"]')
                return f"{name} has a column {column!r} of dtype {dtype}; expected numbers: write {advice}"
    if hasattr(value, "dtype") and hasattr(value, "index"):  # a single column
        advice = next(a for starts, _, a in _PANDAS_ADVICE if str(value.dtype).startswith(starts))
        return f"{name} has dtype {value.dtype}; expected numbers: write {advice.format(series=name)}"
    if array.dtype.kind in "mM":
        since = f"({name} - {name}.min())" if array.dtype.kind == "M" else name
        return f'{name} has dtype {array.dtype}; expected numbers: write {since} / np.timedelta64(1, "s")'
    for position, element in np.ndenumerate(array) if array.dtype.kind in "OUS" else ():
        try:
            float(element)
        except (TypeError, ValueError, OverflowError):
            where = "".join(f", {what} {i}" for what, i in zip(("row", "column"), position, strict=False))
            what = f"{type(element).__name__} {str(element)!r:.40}"
            holds = f"{name} has dtype {array.dtype} and holds {what}{where}"
            by = f" by np.unique({name}, return_inverse=True)[1]" if array.ndim == 1 else ""
            return f"{holds}; expected numbers: drop that column, or number its categories{by}"
    return (
        f"{name} has dtype {array.dtype}; expected numbers, at most float64: convert it first, "
        f'for example by np.asarray({name}, dtype="float64")'
    )


def matrix(name: str, array: Array, columns: int | None = None) -> None:
    """Reject an array that is not two-dimensional; ``columns`` is the number it should have, if known."""
    if array.ndim != 2:
        hint = ""
        if array.ndim == 1 and columns == 1:
            hint = f"; for one input use {name}.reshape(-1, 1)"
        elif array.ndim == 1 and columns in (None, array.size):
            hint = f"; for one sample use {name}.reshape(1, -1)"
        raise ValueError(f"{name} has shape {array.shape}; expected two dimensions, one sample a row{hint}")


def same_shape(name: str, array: Array, other_name: str, other: Array) -> None:
    """Reject arrays of different shapes, which NumPy would broadcast: (B,) against (B, 1) gives (B, B)."""
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape} but {other_name} has {other.shape}; they must be the same")


def nonempty(name: str, array: Array) -> None:
    """Reject an array without elements."""
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); expected at least one row and one column")


def finite(name: str, array: Array, at: Array | None = None) -> None:
    """Reject NaN and infinity, naming the first one's position."""
    if array.ndim == 0 or array.size == 0:
        return
    rows = max(1, _CHUNK_ELEMENTS * len(array) // array.size)
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows]
        is_finite = np.isfinite(chunk)  # evaluated once: another thread may write to the array
        if not is_finite.all():
            position = tuple(int(i) for i in np.argwhere(~is_finite)[0])
            what = "NaN" if np.isnan(chunk[position]) else "infinity"
            where = (_number(position[0] + start, at), *position[1:])
            location = f"row {where[0]}" + "".join(f", column {column}" for column in where[1:])
            raise ValueError(f"{name} holds {what} at {location}; remove or replace such values first")


def unit_interval(name: str, array: Array, at: Array | None = None) -> None:
    """Reject numbers below 0 or above 1, naming the first one's row; NaN passes, as elsewhere in the kernels."""
    outside = (array < 0) | (array > 1)
    if outside.any():
        position = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"{name} holds {array[position]} in row {_number(position[0], at)}; expected targets from 0 (no) to 1 "
            f"(yes), one for each output; for class labels use cross_entropy"
        )


def _number(row: int, at: Array | None) -> int:
    return row if at is None else int(at[row])


def class_targets(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: Any, at: Array | None = None) -> Array:
    """Convert class labels 0..classes-1 (rows,) or one-hot rows to int64 labels (rows,), soft labels to the dtype.

    Parameters
    ----------
    name : str
    value : array_like
    shape : tuple of int
        (rows, classes).
    dtype : dtype
        Dtype of soft labels (rows, classes), which are probabilities of the classes.
    at : ndarray of int64, optional

    Raises
    ------
    TypeError
        If they are not numbers.
    ValueError
        If they have another shape, are not whole, are out of range, or rows are not probabilities.
    """
    rows, classes = shape
    array = _as_array(name, value)
    if array.dtype.kind not in "iubf":
        raise TypeError(
            f"{name} has dtype {array.dtype}; expected class labels 0..{classes - 1}: number the classes, "
            f"for example by np.unique({name}, return_inverse=True)[1]"
        )
    if array.shape == (rows, classes):
        return _from_probabilities(name, array, dtype, at)
    if array.shape == (rows, 1) and hasattr(value, "columns"):
        array = array[:, 0]
    if array.shape != (rows,):
        hint = f"; use {name}.ravel()" if array.shape == (rows, 1) else ""
        raise ValueError(
            f"{name} has shape {array.shape}; expected ({rows},) class labels or ({rows}, {classes}) "
            f"probabilities, one for each row of X{hint}"
        )
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < classes:
        return array.astype(np.int64)
    finite(name, array, at)
    with np.errstate(invalid="ignore"):  # 1e300 becomes an arbitrary integer, which is rejected below
        whole = array.astype(np.int64)
    wrong = np.flatnonzero((whole != array) | (whole < 0) | (whole >= classes))
    if wrong.size:
        row = int(wrong[0])
        hint = f"; if they count from 1, use {name} - 1" if whole.min() == 1 and whole.max() == classes else ""
        if not hint and (whole == array).all() and len(np.unique(whole)) <= classes:
            hint = f"; number them by np.unique({name}, return_inverse=True)[1]"
        elif not hint and whole.min() >= 0 and (whole == array).all():
            hint = f"; labels up to {whole.max()} need a network of {whole.max() + 1} outputs"
        raise ValueError(
            f"{name} holds {array[row]} in row {_number(row, at)}; expected whole class labels from 0 to "
            f"{classes - 1}, one for each output{hint}"
        )
    return whole


def _from_probabilities(name: str, array: Array, dtype: Any, at: Array | None) -> Array:
    """Return labels if every row is one-hot, else the rows in the dtype, provided they are probabilities."""
    hot = array == 1
    if ((np.count_nonzero(hot, axis=1) == 1) & (np.count_nonzero(array, axis=1) == 1)).all():
        return hot.argmax(axis=1).astype(np.int64)
    finite(name, array, at)
    sums = array.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero((array < 0).any(axis=1) | (np.abs(sums - 1) > _SUM_TOLERANCE))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"{name} holds {array[row]} in row {_number(row, at)}; expected probabilities of the {array.shape[1]} "
            "classes, numbers of 0 or above that sum to 1"
        )
    return np.ascontiguousarray(array, dtype)


def function(name: str, value: Any) -> None:
    """Reject a value that cannot be called, such as the name of an activation."""
    if not callable(value):
        raise TypeError(f"{name} is {value!r}; expected a function of Z, such as fastnet.kernels.relu or a lambda")


def in_place(**arrays: Array) -> None:
    """Reject arrays that cannot be updated in place: the caller's own array must change, so nothing is converted."""
    first = arrays["parameters"]
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
            what = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise TypeError(f"{name} is {what}; expected a NumPy array of float32 or float64")
        if array.dtype != first.dtype:
            raise TypeError(f"{name} has dtype {array.dtype} but parameters has {first.dtype}; they must be the same")
        if array.ndim != 1 or array.shape != first.shape:
            raise ValueError(f"{name} has shape {array.shape}; expected one dimension, like parameters {first.shape}")
        if name == "gradient" and not array.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous; use np.ascontiguousarray")
        if name != "gradient" and not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueError(f"{name} must be contiguous and writable, since it is updated in place")
    for other, name in itertools.combinations(arrays, 2):
        if np.may_share_memory(arrays[name], arrays[other]):
            raise ValueError(f"{name} shares memory with {other}; expected arrays of their own")


def public(function: Callable[..., Any], name: str, **parts: str) -> Callable[..., Any]:
    """Give a generated function its public name, and fill in the fields of its docstring."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = inspect.cleandoc(function.__doc__ or "").format(**parts) + "\n"
    return function
