"""The registry's CUDA variants: functions that take an operation's arguments, on the device, and launch kernels.

Arrays have the shapes of the operation's `OpSpec`, are all on the device, and all float32 or all float64. They are
C-contiguous, as the public functions make them, except those of `matmul`. Calls do not wait for the kernels.
"""

from functools import cache, partial
from typing import Any

import numpy as np

from ..specs.activations import ACTIVATIONS
from ..specs.batches import MICRO_BATCH_ROWS
from ..specs.losses import CROSS_ENTROPY, LOSS_BY_CODE, LOSSES
from ..specs.optimizers import HYPER_SIZE, UPDATES, UpdateSpec
from .arguments import DEVICE_PROGRESS, gemm_args
from .device import SIMULATED, cuda, empty, enqueue
from .launch import GEMM_VARIANTS, GRID_Y, SMS, TILES, launch
from .rules import constants
from .steps import (
    SOFT_CROSS_ENTROPY,
    THREADS,
    activation_kernel,
    gate_kernel,
    loss_gradient_kernel,
    loss_kernel,
    reduce_kernel,
    softmax_kernel,
    sums_kernel,
    update_kernel,
)


def blocks(size: int) -> int:
    """Return the blocks of THREADS threads for elementwise work on ``size`` elements: enough to fill a card."""
    return max(1, min(-(-size // THREADS), 2 if SIMULATED else 8 * SMS))


def _flat(array: Any) -> tuple[Any, int, int]:
    """Return an array as a vector, and its strides in elements.

    An empty array becomes one element, since CUDA rejects empty ones.
    """
    if array.size == 0:
        return empty(1, array.dtype), 1, 1
    item = array.dtype.itemsize
    strides = tuple(step // item for step in array.strides)
    if array.ndim == 1:
        return array, strides[0], 1
    vector = array if array.flags["C_CONTIGUOUS"] else array.T
    return vector.reshape(array.size), *strides


@cache
def _no_progress() -> Any:
    """Return the ``progress`` for products of fixed sizes, which never read it."""
    return cuda.to_device(np.zeros(1, DEVICE_PROGRESS))


def _product(variant: str, sizes: tuple[int, int, int], a: Any, b: Any, c: Any, splits: int = 1, **rest: int) -> None:
    """Compute C = A B with `launch`.

    Parameters
    ----------
    variant : str
        A key of `GEMM_VARIANTS`.
    sizes : tuple of int
        (M, N, K).
    a, b : tuple
        A as a vector, and its strides by M and by K; B, and its strides by N and by K.
    c : vector
        C (M, N), row by row, from its first element on.
    splits : int, default 1
        As in `launch`.
    **rest : int
        Other fields of `GemmArgs`.
    """
    (a, *a_strides), (b, *b_strides) = a, b
    args = gemm_args(sizes, (0, *a_strides), (0, *b_strides), (0, sizes[1]), c.dtype, **rest)
    launch(variant, args, (_no_progress(), a, b, c), splits)


def matmul(variant: str, A: Any, B: Any, out: Any) -> None:
    """out = A B.

    Parameters
    ----------
    variant : str
        A key of `GEMM_VARIANTS`.
    A : device array, shape (M, K)
    B : device array, shape (K, N)
        Each contiguous in C or Fortran order, as `device.send` leaves it.
    out : device array, shape (M, N)
        C-contiguous.

    Raises
    ------
    ValueError
        If M exceeds the rows of the largest grid.
    """
    b, b_k, b_column = _flat(B)
    _product(variant, (A.shape[0], B.shape[1], A.shape[1]), _flat(A), (b, b_column, b_k), _flat(out)[0])


def dense_forward(variant: str, X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    """A = activation(Z), Z = X W^T + b: one product with its epilogue.

    W and b are copied into one buffer, as they are in a network, and A and Z are copied out of another.

    Parameters
    ----------
    variant : str
        A key of `GEMM_VARIANTS`.
    X : device array, shape (B, n)
    W : device array, shape (k, n)
    b : device array, shape (k,)
    activation : int
        Code of the ActivationSpec.
    A, Z : device arrays, shape (B, k)
        Written.

    Raises
    ------
    ValueError
        If B exceeds the rows of the largest grid.
    MemoryError
        If the buffers do not fit on the card.
    """
    (rows, n), k = X.shape, W.shape[0]
    if rows * k == 0:
        return
    weights, results = empty(k * n + k, X.dtype), empty(2 * rows * k, X.dtype)
    if n:
        weights[: k * n].copy_to_device(_flat(W)[0])
    weights[k * n : k * n + k].copy_to_device(b)
    rest = {"bias": k * n, "code": int(activation), "z": rows * k}
    _product(variant, (rows, k, n), (_flat(X)[0], n, 1), (weights, n, 1), results, **rest)
    _flat(A)[0].copy_to_device(results[: rows * k])
    _flat(Z)[0].copy_to_device(results[rows * k : 2 * rows * k])


def splits_for(dtype: Any, rows: int, columns: int, depth: int) -> int:
    """Return the number of parts of a long sum: enough that the grid fills the card, each of 64 to 1024 terms.

    The error of a longer chain of float32 additions would grow with its length. The parts take less memory than the
    summands, as long as the rows or the columns of the result are fewer than 1024.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    rows, columns : int
        Of the result.
    depth : int
        Terms of the sum.

    Returns
    -------
    int
        At least 1; depends on these sizes alone, so the bits are the same from run to run.
    """
    short = min(GRID_Y, -(-depth // MICRO_BATCH_ROWS))
    if SIMULATED:
        return max(1, min(3, depth // 4), short)
    smallest = TILES[np.dtype(dtype).name][-1]
    tiles = -(-rows // smallest.m) * -(-columns // smallest.n)
    return max(1, min(32, SMS // max(1, tiles), depth // 64), short)


def dense_backward_batch(
    variant: str, X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any
) -> None:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.

    dW and db are sums over the batch, computed in `splits_for` parts, which are then added up in order.

    Parameters
    ----------
    variant : str
        A key of `GEMM_VARIANTS`.
    X : device array, shape (B, n)
    Z, dL_dA : device arrays, shape (B, k)
    W : device array, shape (k, n)
    activation : int
        Code of the ActivationSpec.
    dW, db : device arrays, shapes (k, n) and (k,)
        Written.
    dX : device array, shape (B, n) or (0, n)
        Written; without rows, as for the first layer, it is not computed.

    Raises
    ------
    ValueError
        If B or k exceeds the rows of the largest grid.
    MemoryError
        If dZ or the parts do not fit on the card.
    """
    (rows, n), k, dtype = X.shape, W.shape[0], X.dtype
    dz = empty(rows * k, dtype)
    if rows * k:
        enqueue(gate_kernel, blocks(rows * k), THREADS, int(activation), _flat(Z)[0], _flat(dL_dA)[0], dz, rows * k)
    splits = splits_for(dtype, k, n, rows)
    part = -(-rows // splits)
    if k * n:
        parts, rest = empty(splits * k * n, dtype), {"split": max(1, part), "split_step": k * n}
        _product(variant, (k, n, rows), (dz, 1, k), (_flat(X)[0], 1, n), parts, splits, **rest)
        enqueue(reduce_kernel, blocks(k * n), THREADS, parts, splits, k * n, _flat(dW)[0])
    if k:
        parts = empty(splits * k, dtype)
        enqueue(sums_kernel, (-(-k // THREADS), splits), THREADS, dz, rows, k, parts, part)
        enqueue(reduce_kernel, blocks(k), THREADS, parts, splits, k, db)
    if dX.size:
        _product(variant, (rows, n, k), (dz, k, 1), (_flat(W)[0], 1, n), _flat(dX)[0])


def apply_activation(code: int, derives: bool, Z: Any, out: Any) -> None:
    """out = activation(Z), or its derivative at Z if ``derives``; vectors of one length; ``code`` is the spec's."""
    if Z.size:
        enqueue(activation_kernel, blocks(Z.size), THREADS, code, derives, Z, out, Z.size)


def _rows(code: int, truth: Any, outputs: Any) -> tuple[Any, ...]:
    """Return the first arguments of the loss kernels, up to ``k``; ``truth``: labels (B,) or targets (B, k)."""
    labelled = truth.ndim == 1
    code = SOFT_CROSS_ENTROPY if code == CROSS_ENTROPY and not labelled else code
    labels, targets = (truth, empty(1, outputs.dtype)) if labelled else (empty(1, np.int64), _flat(truth)[0])
    return code, labels, targets, _flat(outputs)[0], *outputs.shape


def loss(code: int, counts: bool, truth: Any, outputs: Any, out: Any) -> None:
    """Store a loss as it is reported: a mean over all elements, or over rows, as its spec says; or the accuracy.

    Parameters
    ----------
    code : int
        Of the LossSpec.
    counts : bool
        Whether to store the fraction of rows answered correctly instead, for losses of labels.
    truth : device array
        Labels int64 (B,), or targets (B, k).
    outputs : device array, shape (B, k)
        At least one row.
    out : device array of float64, shape (1,)
        Written.
    """
    rows, k = outputs.shape
    count = -rows if counts else rows * k if LOSS_BY_CODE[code].mean_over_outputs else rows
    enqueue(loss_kernel, 1, THREADS, *_rows(code, truth, outputs), count, out)


def loss_gradient(code: int, truth: Any, outputs: Any, out: Any) -> None:
    """Store the derivative of the mean over rows of a loss in ``out`` (B, k); other parameters as in `loss`."""
    enqueue(loss_gradient_kernel, blocks(len(outputs)), THREADS, *_rows(code, truth, outputs), _flat(out)[0])


def softmax(outputs: Any, out: Any) -> None:
    """Store the softmax of every row of ``outputs`` (B, k) in ``out`` (B, k)."""
    enqueue(softmax_kernel, blocks(len(outputs)), THREADS, _flat(outputs)[0], _flat(out)[0], *outputs.shape)


def update(operation: UpdateSpec, *arguments: Any) -> None:
    """Take a step of an optimizer, in place.

    Parameters
    ----------
    operation : UpdateSpec
    *arguments
        As `UpdateSpec` says: parameters (P,), gradient (P,), state vectors (P,), all on the device, then numbers.
    """
    spec, p, g, state, hyper, rate, step = operation.parse(arguments)
    shared = tuple(map(p.dtype.type, constants(spec, (*hyper, *np.zeros(HYPER_SIZE - len(hyper))), rate, step)))
    first, second, *_ = (*state, g, g)  # the kernel leaves alone the vectors that a rule lacks
    if p.size:
        enqueue(
            update_kernel, blocks(p.size), THREADS, spec.code, spec.state_vectors, p, g, first, second, p.size, shared
        )


_PRODUCTS = (matmul, dense_forward, dense_backward_batch)

VARIANTS: dict[tuple[str, str], Any] = {
    **{(f.__name__, name): partial(f, name) for name in GEMM_VARIANTS for f in _PRODUCTS},
    **{(name, "cuda"): partial(apply_activation, code, False) for code, name in enumerate(ACTIVATIONS)},
    **{(f"{name}_derivative", "cuda"): partial(apply_activation, code, True) for code, name in enumerate(ACTIVATIONS)},
    **{(name, "cuda"): partial(loss, spec.code, False) for name, spec in LOSSES.items()},
    **{(f"{name}_derivative", "cuda"): partial(loss_gradient, spec.code) for name, spec in LOSSES.items()},
    ("accuracy", "cuda"): partial(loss, CROSS_ENTROPY, True),
    ("softmax", "cuda"): softmax,
    **{(name, "cuda"): partial(update, spec) for name, spec in UPDATES.items()},
}
"""The function of every CUDA variant, by operation and name, over device arrays."""
