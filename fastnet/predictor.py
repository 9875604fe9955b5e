"""Predictor: a snapshot of a network for prediction; and `predict`, which it shares with `Network`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .hints import Hinting
from .kernels.engine.forward import forward_of
from .kernels.specs.base import Array
from .validation import check_inputs


class Predictor(Hinting):
    """A snapshot of a network, made by `Network.predictor`: its weights, copied and packed once.

    It never changes, even if the network does; it can be pickled, and any number of threads may call it.

    Parameters
    ----------
    layer_sizes : tuple of int
    activations : tuple of str
    parameters : ndarray, shape (P,)

    Attributes
    ----------
    layer_sizes : tuple of int
        Inputs, hidden sizes, outputs.
    activations : tuple of str
        One per layer.
    dtype : dtype

    Examples
    --------
    >>> from fastnet import Network
    >>> predictor = Network([2, 3, 1], seed=0).predictor()
    >>> predictor([[0.5, 1.0]]).shape
    (1, 1)
    """

    def __init__(self, layer_sizes: tuple[int, ...], activations: tuple[str, ...], parameters: Array) -> None:
        self.layer_sizes, self.activations, self.dtype = layer_sizes, activations, parameters.dtype
        forward = forward_of(layer_sizes, activations, self.dtype)
        values = forward.pack(parameters)
        if values is None:
            raise ValueError(f"{parameters.size} parameters do not fit layer sizes {list(layer_sizes)}")
        self._forward, self._values = forward.packed(), values

    def __repr__(self) -> str:
        sizes, activations = list(self.layer_sizes), list(self.activations)
        return f"Predictor({sizes}, activations={activations}, dtype={self.dtype.name!r})"

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[Any, ...]]:
        """Pickle unpacked parameters, since the packed format depends on the machine."""
        return Predictor, (self.layer_sizes, self.activations, self._forward.unpack(self._values))

    def __call__(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return raw outputs, with the bits of `Network.predict`.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample per row.
        out : ndarray, shape (B, n_out), optional
            As for `Network.predict`.

        Returns
        -------
        ndarray, shape (B, n_out)

        Raises
        ------
        TypeError, ValueError
            As `Network.predict`.
        """
        return predict(self._forward, self._values, X, out)

    @property
    def address(self) -> int:
        """Address of a C function that predicts, for C and for functions compiled by Numba.

        Its signature is ``int64_t f(const T *X, int64_t rows, T *out)``, where T is float or double according to the
        dtype; X (rows, n_in) and out (rows, n_out) are C-contiguous and must not overlap. It runs on the calling
        thread, needs no GIL and allocates nothing for a few rows. It returns ``rows``, or 0 if X holds NaN or infinity
        or memory is exhausted; out is then invalid. The address is valid as long as the predictor lives.
        """
        if "_c_function" not in self.__dict__:  # if several threads come here, one of them sets it
            self.__dict__.setdefault("_c_function", self._forward.c_function(self._values))
        return int(self.__dict__["_c_function"].address)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and biases."""
        return int(self._values.nbytes)


def predict(forward: Any, values: Array, X: ArrayLike, out: Array | None) -> Array:
    """Return the outputs for X (B, n_in): ``out``, or a new array.

    Parameters
    ----------
    forward : Forward or DeviceForward
    values : ndarray
        Its parameters, or its packed values; for a DeviceForward, the host's memory of the parameters.
    X : array_like
    out : ndarray or None

    Raises
    ------
    TypeError, ValueError
        As `Network.predict`.
    """
    dtype = forward.dtype
    # The usual array skips validation, which takes longer than a row: `forward` checks sizes and numbers itself.
    if type(X) is not np.ndarray or X.dtype != dtype or X.ndim != 2 or not X.flags.c_contiguous:
        X = check_inputs(X, forward.layer_sizes, dtype)
    if out is None:
        found = np.empty((len(X), forward.n_out), dtype)
    else:
        found = _checked_out(out, (len(X), forward.n_out), dtype)
    fits = values.dtype == dtype and values.flags.c_contiguous
    if not fits or not forward(values, X, found, out is not None):
        check_inputs(X, forward.layer_sizes, dtype)
        if out is not None and (np.may_share_memory(out, X) or np.may_share_memory(out, values)):
            raise ValueError("out shares memory with X or with the parameters; expected an array of its own")
        raise ValueError(
            f"the network has {values.size} parameters of {values.dtype}, which do not fit its layer sizes "
            f"{list(forward.layer_sizes)} and dtype {dtype}: write into net.parameters, but leave its shape alone"
        )
    return found if out is None else out


def _checked_out(out: Any, shape: tuple[int, int], dtype: Any) -> Array:
    """Return ``out`` as a plain array; raise if it cannot receive the outputs."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray) or out.dtype != dtype:
        arrived = f"an array of {out.dtype}" if type(out) is np.ndarray else f"a {type(out).__name__}"
        raise TypeError(f"out is {arrived}; expected an array of {dtype}, the network's dtype")
    if out.shape != shape or not out.flags.carray:
        state = "" if out.flags.carray else ", read-only or not contiguous"
        raise ValueError(f"out has shape {out.shape}{state}; expected a writable, contiguous array of shape {shape}")
    return np.asarray(out)
