"""The training loop over one rung of the table: forward, loss, backward, update.

Imports `variants`. An `Engine` owns the activations and gradients of a network at one batch size; kernels
allocate what scratch they need. It takes its functions from the table and nowhere else, so nothing runs in
training that is not held against the oracle.

Layout: parameters and gradient are flat vectors (P,): W1, b1, W2, b2, ..., row-major, no padding.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from .contracts import Array
from .variants import PROMOTED, highest

LOSSES = {"mse": ("mse", "mse_derivative"), "cross_entropy": ("cross_entropy", "cross_entropy_derivative")}
"""The operations that a loss is made of: its value and its gradient."""

PREDICT_ROWS = 1024
"""Rows worked through at a time where no batch size is given."""

Update = Callable[[Array, Array], None]


def parameter_count(layer_sizes: Sequence[int]) -> int:
    """Number of weights and biases."""
    return sum((n + 1) * k for n, k in pairwise(layer_sizes))


def layer_views(flat: Array, layer_sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    """Views (W (k, n), b (k,)) of every layer into a flat vector."""
    views = []
    start = 0
    for n, k in pairwise(layer_sizes):
        views.append((flat[start : start + k * n].reshape(k, n), flat[start + k * n : start + k * n + k]))
        start += k * n + k
    return views


class Engine:
    """A network at work on one rung: its parameters, and buffers for batches of up to ``rows`` rows.

    Parameters
    ----------
    parameters : ndarray, shape (P,)
        Read by everything; written only by the update that `train_epoch` is given.
    layer_sizes : sequence of int
        Inputs, hidden sizes, outputs.
    activations : sequence of int
        A code of `elementwise` for every layer.
    loss : str
        A key of `LOSSES`.
    rung : str
        Of every operation the highest variant up to this rung of the ladder runs.
    rows : int, optional
        Largest batch.
    """

    def __init__(
        self,
        parameters: Array,
        layer_sizes: Sequence[int],
        activations: Sequence[int],
        loss: str = "mse",
        rung: str = PROMOTED,
        rows: int = PREDICT_ROWS,
    ) -> None:
        dtype = parameters.dtype
        self.rows = rows
        self.parameters = parameters
        self.gradient = np.zeros_like(parameters)
        self._layers = list(zip(layer_views(parameters, layer_sizes), activations, strict=True))
        self._gradients = layer_views(self.gradient, layer_sizes)
        self._loss_name = loss
        self._forward = highest("dense_forward", rung)
        self._backward = highest("dense_backward_batch", rung)
        self._loss, self._loss_derivative = (highest(operation, rung) for operation in LOSSES[loss])
        self._accuracy = highest("accuracy", rung)
        self._softmax = highest("softmax", rung)

        def per_layer() -> list[Array]:
            return [np.empty((rows, k), dtype) for k in layer_sizes[1:]]

        self._batch = np.empty((rows, layer_sizes[0]), dtype)
        self._Z, self._A, self._dA = per_layer(), per_layer(), per_layer()
        self._nothing = np.empty((0, layer_sizes[0]), dtype)  # the first layer's dX, which nobody needs
        self._scalar = np.empty(1)

    # Every method below works on at most `rows` rows at a time and returns views of the buffers.

    def forward(self, X: Array) -> Array:
        """Outputs (B, n_out) of a batch."""
        m = len(X)
        A = X
        for ((W, b), activation), Z_buffer, A_buffer in zip(self._layers, self._Z, self._A, strict=True):
            self._forward(A, W, b, activation, A_buffer[:m], Z_buffer[:m])
            A = A_buffer[:m]
        return A

    def _value(self, operation: Callable[..., None], truth: Array, outputs: Array) -> float:
        operation(truth, outputs, self._scalar)
        return float(self._scalar[0])

    def loss_and_gradient(self, X: Array, y: Array) -> tuple[float, Array]:
        """Reported loss of a batch and its outputs; the objective's gradient is left in ``gradient``."""
        m = len(X)
        outputs = self.forward(X)
        loss = self._value(self._loss, y, outputs)
        self._loss_derivative(y, outputs, self._dA[-1][:m])
        for i in reversed(range(len(self._layers))):
            (W, _), activation = self._layers[i]
            dW, db = self._gradients[i]
            inputs, dX = (self._A[i - 1][:m], self._dA[i - 1][:m]) if i else (X, self._nothing)
            self._backward(inputs, self._Z[i][:m], self._dA[i][:m], W, activation, dW, db, dX)
        return loss, outputs

    def objective(self, loss: float, y: Array) -> float:
        """What the gradient is the gradient of: the mean over rows of the sum over outputs."""
        return loss * y.shape[1] if self._loss_name == "mse" else loss

    def train_epoch(self, update: Update, X: Array, y: Array, order: Array | None, batch_size: int) -> dict[str, float]:
        """One pass over the data, batch by batch; returns the row-weighted means of the batches.

        The losses are those before each update, as the article prints them.
        """
        totals = _Totals(self, y)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a loss of inf or NaN says it all
            for start in range(0, len(X), batch_size):
                X_batch, y_batch = self._gather(X, y, order, start, min(start + batch_size, len(X)))
                loss, outputs = self.loss_and_gradient(X_batch, y_batch)
                totals.add(loss, y_batch, outputs)
                update(self.parameters, self.gradient)
        return totals.means()

    def _gather(self, X: Array, y: Array, order: Array | None, start: int, stop: int) -> tuple[Array, Array]:
        if order is None:
            return X[start:stop], y[start:stop]
        chosen = order[start:stop]
        # "clip", since "raise" makes take() go through a buffer of its own; the order is ours.
        return np.take(X, chosen, axis=0, out=self._batch[: stop - start], mode="clip"), y[chosen]

    def evaluate(self, X: Array, y: Array) -> dict[str, float]:
        """Loss, and for classification accuracy, over all rows."""
        totals = _Totals(self, y)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for start in range(0, len(X), self.rows):
                y_slice = y[start : start + self.rows]
                outputs = self.forward(X[start : start + self.rows])
                totals.add(self._value(self._loss, y_slice, outputs), y_slice, outputs)
        return totals.means()

    def predict(self, X: Array, probabilities: bool = False) -> Array:
        """Outputs (B, n_out), or their softmax, of any number of rows, in an array of its own."""
        result = np.empty((len(X), self._layers[-1][0][0].shape[0]), X.dtype)
        for start in range(0, len(X), self.rows):
            outputs = self.forward(X[start : start + self.rows])
            target = result[start : start + self.rows]
            if probabilities:
                self._softmax(outputs, target)
            else:
                target[...] = outputs
        return result


class _Totals:
    """Row-weighted sums of what is measured on every batch."""

    def __init__(self, engine: Engine, y: Array) -> None:
        self._rows = 0
        self._loss = 0.0
        self._right = 0.0
        self._engine = engine
        self._classifies = y.ndim == 1

    def add(self, loss: float, y: Array, outputs: Array) -> None:
        self._rows += len(y)
        self._loss += loss * len(y)
        if self._classifies:
            self._right += self._engine._value(self._engine._accuracy, y, outputs) * len(y)

    def means(self) -> dict[str, float]:
        means = {"loss": self._loss / self._rows}
        if self._classifies:
            means["accuracy"] = self._right / self._rows
        return means
