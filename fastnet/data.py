"""Data: the bundled digits, and splits."""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import checks
from .dataset import split_rows
from .kernels.specs.base import Array

__all__ = ["digits", "split"]


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load the bundled images of handwritten digits: 1797 images of 8 x 8 pixels.

    The test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI Machine
    Learning Repository, 1998, https://doi.org/10.24432/C50P49), under CC BY 4.0; the same images and order
    as scikit-learn's ``load_digits``. Pixels were counts 0..16; here they are scaled to 0..1.

    Returns
    -------
    X : ndarray of float32, shape (1797, 64)
        Pixels row by row, multiples of 1/16 from 0 (background) to 1.
    y : ndarray of int64, shape (1797,)
        The digit, 0 to 9.
    """
    path = resources.files(__package__).joinpath("digits.npz")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return stored["pixels"] / np.float32(16), stored["labels"].astype(np.int64)


def split(X: ArrayLike, y: ArrayLike, share: float = 0.2, seed: int | None = 0) -> tuple[Array, Array, Array, Array]:
    """Hold out a random share of the rows.

    Parameters
    ----------
    X, y : array_like
        With the same number of rows.
    share : float, default 0.2
        Share of the rows to hold out, 0 < share < 1; at least one row.
    seed : int or None, default 0
        Determines, with the number of rows, which rows are held out. None draws a seed.

    Returns
    -------
    X_train, X_held_out, y_train, y_held_out : ndarray
        Copies; the rows keep their order.

    Raises
    ------
    ValueError
        If the numbers of rows differ, or one side would have no rows.
    """
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim == 0 or y.ndim == 0 or len(X) != len(y):
        raise ValueError(f"X has shape {X.shape} and y {y.shape}; expected the same number of rows")
    kept, held = split_rows(len(X), checks.number("share", share, above=0, below=1), checks.seed(seed))
    return X[kept], X[held], y[kept], y[held]
