"""DeviceForward: the outputs of a network whose parameters are on the device."""

from itertools import pairwise
from typing import Any

import numpy as np

from ..cpu.elementwise import all_finite
from ..engine.backend import Array
from ..specs.activations import ACTIVATIONS
from .arguments import DEVICE_PROGRESS, gemm_args
from .data import send_to
from .device import empty, enqueue, send
from .launch import launch
from .steps import THREADS, softmax_kernel
from .variants import blocks

BUFFER_BYTES = 1 << 28
"""About how much what lies between layers may take: more rows go through the network in parts."""

MAX_ROWS = 1 << 18
"""Rows of a part at most: a grid has no more blocks than `launch` says."""


class DeviceForward:
    """The forward pass on the device, called as `engine.forward.Forward` is.

    A row's outputs do not depend on the rows that come with it: every element is one sum in the order of K, whatever
    tile computes it. They are not the CPU's bits.

    Parameters
    ----------
    parameters : device array
        Begins with the network's parameters (P,); read.
    layer_sizes : tuple of int
        Inputs, hidden sizes, outputs.
    names : tuple of str
        Every layer's activation.
    softmax : bool
        Whether outputs go through softmax.
    """

    def __init__(self, parameters: Any, layer_sizes: tuple[int, ...], names: tuple[str, ...], softmax: bool) -> None:
        self.layer_sizes, self.dtype, self.n_out = layer_sizes, parameters.dtype, layer_sizes[-1]
        self._parameters, self._softmax = parameters, softmax
        self._codes = [ACTIVATIONS[name].code for name in names]

    def __call__(self, memory: Array, X: Array, out: Array, kept: bool) -> bool:
        """Compute outputs.

        Parameters
        ----------
        memory : ndarray, shape (P,)
            The host's memory of the parameters, which is not read.
        X : ndarray, shape (B, n_in)
        out : ndarray, shape (B, n_out)
        kept : bool
            Whether ``out`` must stay as it is where this returns False.

        Returns
        -------
        bool
            False where sizes do not fit, X is empty, holds NaN or infinity, or a kept ``out`` overlaps X or ``memory``.

        Raises
        ------
        MemoryError
            If what lies between layers does not fit the card.
        """
        if len(X) == 0 or X.shape[1] != self.layer_sizes[0] or not all_finite(X.reshape(-1)):
            return False
        if kept and (np.may_share_memory(out, X) or np.may_share_memory(out, memory)):
            return False
        widest = max(self.layer_sizes)
        rows = min(len(X), MAX_ROWS, max(1, BUFFER_BYTES // (2 * widest * self.dtype.itemsize)))
        purpose = "outputs of layers; predict fewer rows at a time, or on the CPU"
        buffers = [empty(rows * widest, self.dtype, purpose) for _ in "ab"]
        progress = send(np.zeros(1, DEVICE_PROGRESS))
        for start in range(0, len(X), rows):
            part = X[start : start + rows]
            out[start : start + rows] = self._outputs(part, progress, *buffers)
        return True

    def _outputs(self, X: Array, progress: Any, below: Any, above: Any) -> Array:
        """Return the outputs for rows that fit two buffers, which the layers' inputs and outputs take turns in."""
        rows, offset = len(X), 0
        send_to(X, below)
        for (n, k), code in zip(pairwise(self.layer_sizes), self._codes, strict=True):
            inputs, weights = (0, n, 1), (offset, n, 1)
            args = gemm_args((rows, k, n), inputs, weights, (0, k), self.dtype, bias=offset + n * k, code=code)
            launch("cuda", args, (progress, below, self._parameters, above))
            below, above, offset = above, below, offset + (n + 1) * k
        if self._softmax:
            enqueue(softmax_kernel, blocks(rows), THREADS, below, above, rows, self.n_out)
            below = above
        return np.asarray(below[: rows * self.n_out].copy_to_host()).reshape(rows, self.n_out)
