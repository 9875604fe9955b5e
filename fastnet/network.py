"""Network: layer sizes, one flat parameter vector and its views, predictions.

All computation is in `fastnet.kernels`; files are handled by `storage`, `model` and `onnx`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import checks
from .hints import Hinting, hinting
from .io import model, onnx, storage
from .kernels.api import validation
from .kernels.engine import rng
from .kernels.engine.engine import CPU
from .kernels.engine.forward import forward_of
from .kernels.engine.plan import aligned, hold, layer_views, parameter_count
from .kernels.engine.synced import SyncedArray
from .kernels.specs.activations import ACTIVATIONS
from .kernels.specs.base import Array
from .kernels.specs.batches import MICRO_BATCH_ROWS
from .predictor import Predictor, predict
from .summary import summary
from .validation import check_inputs, check_loss, check_targets, takes_softmax


class Network(Hinting):
    """A dense feed-forward network: Z = X W^T + b and A = activation(Z), layer after layer.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden sizes if any, outputs: ``[64, 128, 10]``.
    hidden : str or sequence of str, default "relu"
        Activation of the hidden layers, or one for each: "identity", "relu", "tanh", "sigmoid",
        "leaky_relu", "gelu" (exact), "silu", "elu", "softplus" or "mish".
    output : str, default "identity"
        Activation of the last layer.
    dtype : {"float32", "float64"}, default "float32"
        Dtype of the parameters and of all computations; inputs are converted to it.
    seed : int or None, default 0
        None draws a seed, which the attribute then holds. Initial weights depend on seed, sizes and activations alone.
        They are uniform, with He's limit sqrt(6 / inputs) before relu and its smooth variants, and with Glorot's limit
        sqrt(6 / (inputs + outputs)) before identity, tanh and sigmoid. Biases are zero.

    Attributes
    ----------
    parameters : ndarray, shape (P,)
        All parameters, writable: W1, b1, W2, b2, ..., row-major, no padding. The memory is always the same; reading the
        attribute copies parameters to it that a GPU has trained.
    weights, biases : tuple of ndarray
        Writable views into ``parameters``, W (k, n) and b (k,), one per layer.
    layer_sizes : tuple of int
    activations : tuple of str
        One per layer.
    loss : str or None
        The loss with which the network was last trained; `predict_proba` needs it.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If a size is below 1, there are fewer than two sizes, or a name is unknown.
    MemoryError
        If the parameters are larger than all memory.

    Examples
    --------
    >>> from fastnet import Network
    >>> net = Network([2, 3, 1], seed=0)
    >>> net.predict([[0.5, 1.0]]).shape
    (1, 1)
    """

    @hinting
    def __init__(
        self,
        sizes: Sequence[int],
        hidden: str | Sequence[str] = "relu",
        output: str = "identity",
        dtype: DTypeLike = "float32",
        seed: int | None = 0,
    ) -> None:
        self.layer_sizes = checks.layer_sizes(sizes)
        self.activations = checks.activations(hidden, output, len(self.layer_sizes) - 2)
        self.dtype = checks.dtype(dtype)
        self.seed = checks.seed(seed)
        self._loss: str | None = None
        self._synced = self._allocate()
        self.parameters[:] = 0
        for i, W in enumerate(self.weights):
            k, n = W.shape
            limit = math.sqrt(6 / (n if ACTIVATIONS[self.activations[i]].he_init else n + k))
            W[...] = rng.symmetric(self.seed, rng.WEIGHTS, i, W.shape, limit)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to replace the parameters, or attributes that describe their memory: compiled code relies on both."""
        if name in ("layer_sizes", "activations", "dtype", "seed") and name in self.__dict__:
            raise AttributeError(f"{name} cannot be changed; make another Network")
        if name in ("parameters", "weights", "biases"):  # net.parameters -= step comes here, too, after subtracting
            part = "" if name == "parameters" else "[0]"
            raise AttributeError(f"{name} cannot be replaced; write into it: net.{name}{part}[:] = ...")
        super().__setattr__(name, value)

    def _allocate(self) -> SyncedArray:
        """Return uninitialised parameters on the host."""
        count = parameter_count(self.layer_sizes)
        nbytes = count * self.dtype.itemsize
        said = f"a network of the sizes {list(self.layer_sizes)} has {checks.gibibytes(nbytes)} of parameters"
        checks.memory(nbytes, said, "choose smaller layers")
        memory = aligned(count, self.dtype)
        hold(memory)
        return SyncedArray(memory)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, with the current parameters, wherever they are."""
        return {**self.__dict__, "_synced": self.parameters}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Restore a copy; its parameters are aligned as those of the original."""
        self.__dict__.update(attributes)
        given, size = attributes["_synced"], parameter_count(self.layer_sizes)
        if given.shape != (size,) or given.dtype != self.dtype:
            arrived = f"{given.shape} parameters of {given.dtype}"
            raise ValueError(f"a pickle holds {arrived}; expected ({size},) of {self.dtype} for {self.layer_sizes}")
        self._synced = self._allocate()
        self.parameters[:] = given

    # ------------------------------------------------------------------------------------ parameters

    @property
    def parameters(self) -> Array:
        """All parameters as one flat vector (P,), fetched from the GPU if they were trained there."""
        return self._synced.host

    @property
    def loss(self) -> str | None:
        """The loss with which the network was last trained, or None."""
        return self._loss

    @loss.setter
    def loss(self, value: str | None) -> None:
        if value is not None:
            check_loss(value, self.layer_sizes, self.activations)
        self._loss = value

    @property
    def weights(self) -> tuple[Array, ...]:
        """Views W (k, n), one per layer."""
        return tuple(W for W, _ in layer_views(self.parameters, self.layer_sizes))

    @property
    def biases(self) -> tuple[Array, ...]:
        """Views b (k,), one per layer."""
        return tuple(b for _, b in layer_views(self.parameters, self.layer_sizes))

    # ------------------------------------------------------------------------------------ prediction

    def predict(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return raw outputs, whatever the loss.

        The bits of a row's outputs depend neither on the other rows of X nor on the number of threads. Several Python
        threads may predict with one network at once. Inputs so large that a layer overflows give infinity or NaN,
        without an error. If the parameters are on a GPU that has enough memory, it predicts; outputs then differ by
        rounding.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample per row. A C-contiguous array of the network's dtype is read in place.
        out : ndarray, shape (B, n_out), optional
            Array that receives the outputs: C-contiguous, of the network's dtype, not overlapping X or the parameters.

        Returns
        -------
        ndarray, shape (B, n_out)
            ``out``, or a new array.

        Raises
        ------
        TypeError
            If X does not consist of real numbers, or ``out`` is not an array of the network's dtype.
        ValueError
            If X has the wrong shape, is empty, or holds NaN or infinity, or if ``out`` has the wrong shape, is
            read-only, not contiguous, or overlaps X or the parameters. ``out`` is then unchanged.
        """
        return self._predict(self.activations, False, X, out)

    def predict_proba(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return class probabilities: the softmax of the outputs or, after binary_cross_entropy, their sigmoid.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample per row.
        out : ndarray, shape (B, n_out), optional
            As for `predict`.

        Returns
        -------
        ndarray, shape (B, n_out)
            ``out``, or a new array. After cross_entropy, rows sum to 1.

        Raises
        ------
        RuntimeError
            If the network was not trained with either cross-entropy: its outputs are then not logits.
        TypeError, ValueError
            As `predict`.
        """
        softmax = takes_softmax(self.loss)
        names = (*self.activations[:-1], "identity" if softmax else "sigmoid")
        return self._predict(names, softmax, X, out)

    def _predict(self, names: tuple[str, ...], softmax: bool, X: ArrayLike, out: Array | None) -> Array:
        """Return the outputs of the layers with these activations, computed on the device that has the parameters."""
        sizes, on_device = tuple(self.layer_sizes), self._synced.device
        if on_device is None:
            return predict(forward_of(sizes, tuple(names), self.dtype, False, softmax), self._synced.host, X, out)
        from .kernels.cuda.forward import DeviceForward  # imports numba.cuda

        try:
            return predict(DeviceForward(on_device, sizes, names, softmax), self._synced.memory, X, out)
        except MemoryError:  # of the GPU
            return predict(forward_of(sizes, tuple(names), self.dtype, False, softmax), self._synced.host, X, out)

    def predict_labels(self, X: ArrayLike) -> Array:
        """Return decisions: class labels or, after binary_cross_entropy, 0 or 1 for each output.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample per row.

        Returns
        -------
        ndarray of int64, shape (B,) or (B, n_out)
            After cross_entropy, the index of the largest output, the first of equals. After binary_cross_entropy, 1
            where the probability is above 0.5; shape (B,) for a single output.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `predict_proba`.
        """
        softmax = takes_softmax(self.loss)
        outputs = self.predict(X)
        if softmax:
            return np.argmax(outputs, axis=1)
        return (outputs > 0).astype(np.int64).reshape(-1 if outputs.shape[1] == 1 else outputs.shape)

    def predictor(self) -> Predictor:
        """Return a snapshot for prediction: it copies and packs the weights once, instead of in each call.

        Returns
        -------
        Predictor
            ``predictor(X)`` returns what `predict` returns now, even if this network changes later;
            ``predictor.address`` can be called from compiled code. It needs about as much memory as the parameters.
        """
        return Predictor(tuple(self.layer_sizes), tuple(self.activations), self.parameters)

    def loss_and_gradient(self, X: ArrayLike, y: ArrayLike, loss: str = "mse") -> tuple[float, Array]:
        """Return the objective that training minimises, and its gradient, at the current parameters.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample per row.
        y : array_like
            Targets, as for `Trainer.fit` with this loss.
        loss : str, default "mse"
            As for `Trainer`. The objective is the mean over rows of the sum over outputs.

        Returns
        -------
        objective : float
        gradient : ndarray, shape (P,)
            In the order of ``parameters``.

        Raises
        ------
        TypeError, ValueError
            As `Trainer.fit`.
        """
        check_loss(loss, self.layer_sizes, self.activations)
        X = check_inputs(X, self.layer_sizes, self.dtype)
        y = check_targets(y, len(X), self, loss)
        return self._engine(loss, len(X)).loss_and_gradient(X, y)

    def check_gradients(
        self, X: ArrayLike, y: ArrayLike, loss: str | None = None, count: int = 200, seed: int = 0
    ) -> float:
        """Compare the gradient with central differences of the objective, in float64.

        Parameters
        ----------
        X, y : array_like
            A batch, as for `loss_and_gradient`; a few rows are enough.
        loss : str, optional
            By default the loss with which the network was trained, or mse.
        count : int, default 200
            Number of parameters to try, chosen by the seed; all if there are no more.
        seed : int, default 0

        Returns
        -------
        float
            The largest difference, relative to the gradient's largest element. It is about 1e-9 in a smooth network,
            1e-2 or more for a wrong gradient. If a relu's input is within 1e-6 of 0, the differences straddle its kink,
            and 1e-4 or more means nothing: try other rows.

        Raises
        ------
        TypeError, ValueError
            As `loss_and_gradient`.
        """
        count = checks.integer("count", count, least=1)
        twin = Network(self.layer_sizes, self.activations[:-1], self.activations[-1], "float64", self.seed)
        twin.parameters[:] = self.parameters
        loss = loss or self.loss or "mse"
        _, gradient = twin.loss_and_gradient(X, y, loss)
        tried = rng.permutation(checks.seed(seed), rng.SPLIT, 1, len(gradient))[:count]
        worst = 0.0
        for i in tried.tolist():
            value, ends = float(twin.parameters[i]), []
            step = 1e-6 * max(1.0, abs(value))
            for shifted in (value + step, value - step):
                twin.parameters[i] = shifted
                ends.append(twin.loss_and_gradient(X, y, loss)[0])
            twin.parameters[i] = value
            worst = max(worst, abs((ends[0] - ends[1]) / (2 * step) - float(gradient[i])))
        largest = float(np.abs(gradient).max())
        return worst / largest if largest > 0 else worst

    if not TYPE_CHECKING:  # otherwise type checkers would take a network for a callable

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            """Raise TypeError with a hint: in PyTorch and Keras, calling a network predicts."""
            raise TypeError(f"{type(self).__name__!r} object is not callable: net.predict(X) predicts")

    @property
    def activation_codes(self) -> tuple[int, ...]:
        """The code by which kernels know each layer's activation."""
        return tuple(ACTIVATIONS[name].code for name in self.activations)

    def _engine(self, loss: str | None = None, batch: int = MICRO_BATCH_ROWS, uses_order: bool = False) -> Any:
        """Build a CPU backend on this network's parameters."""
        codes = self.activation_codes
        return CPU(self.parameters, self.layer_sizes, codes, loss or "mse", batch, None, uses_order)

    # ----------------------------------------------------------------------------------------- files

    def save(self, path: storage.Path) -> None:
        """Write the network to a safetensors file, all or nothing; `fastnet.load` reads it.

        Parameters
        ----------
        path : str or path-like
            An existing file is replaced. Weights are called ``layers.0.weight`` (k, n) and ``layers.0.bias``
            (k,), as in PyTorch; everything else is in the file's metadata.

        Raises
        ------
        OSError
            If the file cannot be written; an existing file is then unchanged.
        ValueError
            If a parameter is NaN or infinite, or the path has the suffix of another format, such as .onnx.
        """
        validation.finite("network.parameters", self.parameters)
        arrays, metadata = model.state_of(self)
        storage.write(path, arrays, {**metadata, "kind": "model"})

    def to_onnx(self, path: storage.Path) -> None:
        """Write the network as an ONNX model (needs the package onnx).

        Its input ``X`` is a batch of rows (rows, n_in), of the network's dtype. Its outputs depend on the loss with
        which the network was trained: ``label`` (rows,) and ``probabilities`` (rows, classes) after cross_entropy,
        ``probabilities`` after binary_cross_entropy, else ``outputs``.

        Parameters
        ----------
        path : str or path-like
            An existing file is replaced, all or nothing.

        Raises
        ------
        ImportError
            If the package onnx is not installed.
        OSError
            If the file cannot be written.
        ValueError
            If a parameter is NaN or infinite, the model is larger than ONNX's 2 GiB, or the path has the suffix of
            another format.
        """
        validation.finite("network.parameters", self.parameters)
        layers = list(zip(self.weights, self.biases, self.activations, strict=True))
        onnx.to_onnx(path, [layers], self.dtype, self.loss)

    # --------------------------------------------------------------------------------------- summary

    def summary(self, batch_size: int | None = 32) -> str:
        """Return a text table of the layers and their parameters, and the memory that training takes.

        Parameters
        ----------
        batch_size : int or None, default 32
            As for `Trainer`; batches of more than 1024 rows, or None, take no more memory than those of 1024.

        Returns
        -------
        str
        """
        batch_size = checks.count_or_none("batch_size", batch_size, " for the full batch")
        return summary(self, batch_size, self._engine(batch=batch_size or MICRO_BATCH_ROWS, uses_order=True).nbytes)

    def __repr__(self) -> str:
        *hidden, output = self.activations
        return (
            f"Network({list(self.layer_sizes)}, hidden={hidden}, output={output!r}, "
            f"dtype={self.dtype.name!r}, seed={self.seed})"
        )
