"""Dataset: inputs, targets and weights for training, converted and validated, all at once or chunk by chunk."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .kernels.api import validation
from .kernels.engine import rng
from .kernels.engine.plan import owner
from .kernels.specs.base import Array
from .kernels.specs.batches import MICRO_BATCH_ROWS
from .kernels.specs.losses import LOSSES
from .messages import counted
from .network import Network
from .validation import check_inputs, check_targets

PART_BYTES = 16 << 20
"""A memory map is read in chunks of about this size."""

_SAMPLE_ROWS = 256
"""Rows from which the data's scale is estimated."""

_MOST_TARGETS = 1 << 20
"""Targets from which the loss of always predicting the same is computed; more would take memory for nothing."""

_FAR = 100.0
"""A mean or standard deviation above this is far from unit scale; so are columns whose standard
deviations are all below its reciprocal."""

Chunk = tuple[Array, Array, Array | None, Array | None, int]
"""X, y, the epoch's weights, the order in which to visit the rows, and the index within the epoch of X's first row."""


class Dataset:
    """X and y, and optionally a weight for each row.

    Arrays are converted and checked once, here. A memory map is not loaded: its chunks are read, converted and checked
    when training reaches them, so that memory use does not grow with the data.

    Parameters
    ----------
    network : Network
    loss : str
    X, y : array_like
        As `Trainer.fit` takes them.
    weights : array_like, shape (n,), optional
    prefix : str, default ""
        Prefix of the arrays' names in messages.

    Attributes
    ----------
    rows : int
        Number of rows that `select` has chosen, or of all.
    mapped : bool
        Whether X is a memory map, read chunk by chunk.
    """

    def __init__(
        self,
        network: Network,
        loss: str,
        X: ArrayLike,
        y: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        prefix: str = "",
    ) -> None:
        self._network, self._loss = network, loss
        self._chosen: Array | None = None
        self._names = f"{prefix}X", f"{prefix}y"
        self.mapped = isinstance(X, np.memmap)
        if isinstance(X, np.memmap):
            self._X: Array = X
            self._y = np.asarray(y)
            validation.matrix(self._names[0], X)
            validation.nonempty(self._names[0], X)
            if self._y.ndim == 0 or len(self._y) != len(X):
                raise ValueError(
                    f"{self._names[1]} has shape {self._y.shape}; expected {counted(len(X), 'row')}, one for each of X"
                )
            self.rows = len(X)
            self._read(np.arange(1))  # reports errors that concern all rows
        else:
            # Our own views keep memory and sizes, whatever a callback does to the caller's arrays.
            self._X, self._y = (array.view() for array in self._checked(X, y))
            self._held = weakref.ref(owner(self._X)), weakref.ref(owner(self._y))
            self.rows = len(self._X)
        self._weights = None if weights is None else check_total(row_weights(weights, self.rows))

    def _read(self, places: Array) -> tuple[Array, Array]:
        """Return rows of X and y; those of a memory map are converted and checked."""
        for name, array in zip(self._names, (self._X, self._y), strict=True):
            _check_file(name, array)
        X, y = np.asarray(self._X[places]), np.asarray(self._y[places])
        return self._checked(X, y, places) if self.mapped else (X, y)

    def _checked(self, X: ArrayLike, y: ArrayLike, at: Array | None = None) -> tuple[Array, Array]:
        """Return inputs and targets, converted and checked for training."""
        X = check_inputs(X, self._network.layer_sizes, self._network.dtype, self._names[0], at)
        return X, check_targets(y, len(X), self._network, self._loss, self._names[1], at)

    def iter_chunks(self, batch: int, order: Array | None = None, first_row: int = 0) -> Iterator[Chunk]:
        """Iterate over an epoch, from ``first_row`` on, in chunks that end where a step or a micro-batch ends.

        Arrays form a single chunk, together with the order in which to visit its rows. Chunks of a memory map, and of
        selected rows that are not shuffled, have their rows already in that order.
        """
        shuffled = order is not None
        if self._chosen is not None:
            order = self._chosen if order is None else self._chosen[order]
        if not self.mapped and (shuffled or order is None):
            yield self._X, self._y, self._weights, order, 0
            return
        weights = self._weights if self._weights is None or order is None else self._weights[order]
        step = max(MICRO_BATCH_ROWS, PART_BYTES // self._row_bytes())
        start = first_row
        while start < self.rows:
            end = min(start // batch * batch + batch, self.rows)  # end of the batch that holds start
            if end - start > step:
                end = start + step // MICRO_BATCH_ROWS * MICRO_BATCH_ROWS
            else:
                end = min(self.rows, end + max(0, step - (end - start)) // batch * batch)
            places = np.arange(start, end) if order is None else order[start:end]
            yield (*self._read(places), weights, None, start)
            start = end

    def _row_bytes(self) -> int:
        """Return the approximate bytes of a row, stored and converted; the same on all ranks."""
        sizes = self._network.layer_sizes
        return 2 * self._network.dtype.itemsize * (sizes[0] + sizes[-1])

    def at_once(self, shuffled: bool) -> tuple[Array, Array, Array | None, Array | None] | None:
        """Return X, y, weights and the indices of rows to visit (None for all); None if data are read in chunks."""
        if self.mapped:
            return None
        if self._chosen is None or shuffled:
            return self._X, self._y, self._weights, self._chosen
        X, y, weights, _, _ = next(self.iter_chunks(MICRO_BATCH_ROWS))
        return (X, y, weights, None) if len(X) == self.rows else None

    def sample(self) -> tuple[Array, Array, Array | None]:
        """Return up to 256 evenly spaced rows of X and y, and their weights."""
        count = min(self.rows, _SAMPLE_ROWS)
        places = np.arange(count) * (self.rows - 1) // max(1, count - 1)
        places = places if self._chosen is None else self._chosen[places]
        return (*self._read(places), None if self._weights is None else self._weights[places])

    def remarks(self) -> tuple[str, str]:
        """Describe what in the data makes learning impossible, and what is far from the scale that training expects.

        Based on `sample`; that all targets are the same is confirmed on all rows, except of a memory map. Either text
        may be empty.
        """
        X, y, _ = self.sample()
        chosen = slice(None) if self._chosen is None else self._chosen
        if (y == y[0]).all() and (self.mapped or (self._y[chosen] == y[0]).all()):
            one = y[0].tolist() if y.ndim == 1 or y.shape[1] > 1 else float(y[0, 0])
            what = "belongs to the same class" if y.ndim == 1 else "has the same target"
            return f"Every row {what}, {one}: there is nothing to learn but this constant.", ""
        scaled_data = {"X": X} | ({"y": y} if LOSSES[self._loss].targets == "values" else {})
        far = {name: text for name, columns in scaled_data.items() if (text := _far_from_unit_scale(name, columns))}
        scaled = " and ".join(f"({name} - {name}.mean(axis=0)) / {name}.std(axis=0)" for name in far)
        constant = any(
            (columns == columns[0]).all(axis=0).any() for name, columns in scaled_data.items() if name in far
        )
        scaled += ", without columns that hold one value only" if constant else ""
        return "", f"The data are far from unit scale ({'; '.join(far.values())}): train on {scaled}." if far else ""

    def constant_loss(self) -> float | None:
        """Return the `constant_loss` of the targets, of evenly spaced rows if they are many; None for a memory map."""
        if self.mapped:
            return None
        step = -(-self._y.size // _MOST_TARGETS)
        chosen: Any = slice(None, None, step) if self._chosen is None else self._chosen[::step]
        return constant_loss(self._loss, self._y[chosen], None if self._weights is None else self._weights[chosen])

    def split(self, share: float, seed: int) -> tuple[Dataset, Dataset]:
        """Return the rows to keep and those to hold out, by the rule of `fastnet.data.split`."""
        kept, held = split_rows(self.rows, share, seed)
        if self.mapped or self._chosen is not None:
            return self.select(kept), self.select(held)
        weights = (None, None) if self._weights is None else (self._weights[kept], self._weights[held])
        parts = zip((kept, held), weights, strict=True)
        first, second = (Dataset(self._network, self._loss, self._X[at], self._y[at], w) for at, w in parts)
        return first, second

    def select(self, rows: Array) -> Dataset:
        """Return a dataset of the rows with these indices, int64, which may repeat; nothing is copied."""
        selected = copy.copy(self)
        selected._chosen = rows if self._chosen is None else self._chosen[rows]
        selected.rows = len(rows)
        if self._weights is not None and not self._weights[selected._chosen].any():
            raise ValueError("sample_weight is 0 in every selected row; expected at least one above 0")
        return selected


def _check_file(name: str, array: Any) -> None:
    """Reject a memory map whose file has become shorter: reading beyond its end would crash the process."""
    file = getattr(array, "base", None)
    while isinstance(file, np.ndarray):
        array, file = file, file.base
    if not isinstance(array, np.memmap) or not isinstance(file, mmap):
        return
    there, mapped = file.size(), array.offset + array.nbytes
    if there < mapped:
        raise ValueError(
            f"{name} is a memory map of {array.filename}, which has become shorter: {there:,} bytes where {mapped:,} "
            "are mapped; leave a file alone that is trained on"
        )


def validation_arrays(data: tuple[ArrayLike, ...]) -> tuple[ArrayLike, ...]:
    """Return validation data, a pair (X, y) or (X, y, sample_weight), or raise TypeError."""
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError("validation_data must be a pair (X, y), or (X, y, sample_weight)")
    return tuple(data)


def _far_from_unit_scale(name: str, rows: Array) -> str:
    """Describe the first column whose mean or standard deviation is far from 0 and 1."""
    means = np.add.reduce(rows, dtype=np.float64) / len(rows)
    deviations = np.sqrt(np.add.reduce(np.square(rows - means)) / len(rows))  # `std` would compute the means again
    far = (abs(means) > _FAR) | (deviations > _FAR)
    if deviations.max() < 1 / _FAR:  # a nearly constant column does no harm beside columns of unit scale
        far |= deviations > 0
    if not far.any():
        return ""
    i = int(far.argmax())
    where = f"column {i} of {name}" if len(means) > 1 else name
    return f"{where} has mean {means[i]:.3g} and standard deviation {deviations[i]:.3g}"


def constant_loss(loss: str, y: Array, weights: Array | None = None) -> float | None:
    """Return the loss of always predicting the same: the means, medians for mae, or shares; None if it is not known.

    It is not known of weighted medians, nor of probabilities as targets, whose own entropy no network can go below.
    """
    if loss in ("huber", "log_cosh") or (weights is not None and (loss == "mae" or not weights.any())):
        return None
    if loss in ("cross_entropy", "binary_cross_entropy") and ((y > 0) & (y < 1)).any():
        return None
    if loss == "mse" and weights is None:
        return float(np.square(y - y.mean(axis=0, dtype=np.float64)).mean())  # `average` takes longer than an epoch
    if loss in ("mse", "mae"):
        y = y.astype(np.float64)
        away = y - np.average(y, axis=0, weights=weights) if loss == "mse" else abs(y - np.median(y, axis=0))
        return float(np.average(away**2 if loss == "mse" else away, axis=0, weights=weights).mean())
    shares = np.bincount(y, weights) if y.ndim == 1 else np.average(y, axis=0, weights=weights)
    shares = np.stack([shares, 1 - shares]) if loss == "binary_cross_entropy" else shares / shares.sum()
    return float(-np.sum(shares * np.log(np.maximum(shares, 1e-300))))


def split_rows(rows: int, share: float, seed: int) -> tuple[Array, Array]:
    """Return the rows to keep and those to hold out, each in ascending order."""
    held_out = max(1, round(share * rows))
    if held_out >= rows:
        raise ValueError(f"a share of {share:g} of {counted(rows, 'row')} leaves none on the other side")
    order = rng.permutation(seed, rng.SPLIT, 0, rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def row_weights(value: ArrayLike, rows: int) -> Array:
    """Return sample weights as float64; checks each weight, but not their sum."""
    (weights,) = validation.floats(sample_weight=value)
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}; expected ({rows},), one weight for each row of X")
    validation.finite("sample_weight", weights)
    negative = np.flatnonzero(weights < 0)
    if negative.size:
        row = int(negative[0])
        raise ValueError(f"sample_weight holds {weights[row]} in row {row}; expected weights of 0 or above")
    return np.ascontiguousarray(weights, np.float64)


def check_total(weights: Array) -> Array:
    """Return the sample weights of all rows; raise ValueError if their sum is 0 or infinite."""
    if not weights.any():
        raise ValueError("sample_weight is 0 in every row; expected at least one above 0")
    with np.errstate(over="ignore"):
        if not np.isfinite(weights.sum()):
            raise ValueError("sample_weight sums to infinity; only ratios matter: divide by the largest")
    return weights
