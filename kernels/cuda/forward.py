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
"""Approximate limit on the memory for outputs of layers; more rows go through the network in parts."""

MAX_ROWS = 1 << 18
"""Maximum number of rows in a part, because a grid has a maximum number of blocks, see `launch`."""


class DeviceForward:
    """The forward pass on the device, called as `engine.forward.Forward` is.

    A row's outputs do not depend on the other rows: every element is one sum in the order of K, whatever tile computes
    it. They are not bitwise equal to the CPU's.

    Parameters
    ----------
    parameters : device array
        Begins with the network's parameters (P,); read.
    layer_sizes : tuple of int
        Inputs, hidden sizes, outputs.
    names : tuple of str
        Activation of every layer.
    softmax : bool
        Whether to apply softmax to the outputs.
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
            Whether ``out`` must stay unchanged if this returns False.

        Returns
        -------
        bool
            False if sizes do not match, X is empty or has NaN or infinity, or a kept ``out`` overlaps X or ``memory``.

        Raises
        ------
        MemoryError
            If the outputs of layers do not fit on the card.
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
        """Return the outputs for rows that fit in two buffers, which alternate as the inputs and outputs of layers."""
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
