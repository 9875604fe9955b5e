"""Ensemble: networks that predict by the mean of their outputs; and `load`, which reads an ensemble or a network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .hints import Hinting, hinting
from .io import model, onnx, storage
from .kernels.api import validation
from .kernels.specs.base import Array
from .kernels.specs.losses import LOSSES
from .messages import counted
from .network import Network
from .validation import check_inputs, takes_softmax


class Ensemble(Hinting):
    """Networks of the same inputs, outputs and dtype, which predict by the mean of their outputs.

    Parameters
    ----------
    networks : iterable of Network
        Hidden layers may differ. Networks are not copied: predictions use their current parameters.

    Attributes
    ----------
    networks : tuple of Network

    Raises
    ------
    TypeError
        If one of them is not a Network.
    ValueError
        If there is none, or they differ in inputs, outputs or dtype.

    Examples
    --------
    >>> from fastnet import Ensemble, Network
    >>> ensemble = Ensemble(Network([2, 3, 1], seed=i) for i in range(5))
    >>> ensemble.predict([[0.5, 1.0]]).shape, ensemble.spread([[0.5, 1.0]]).shape
    ((1, 1), (1, 1))
    """

    @hinting
    def __init__(self, networks: Iterable[Network]) -> None:
        if isinstance(networks, Network) or not isinstance(networks, Iterable):
            raise TypeError(f"networks is {networks!r}; expected a list of Networks")
        self._networks = tuple(networks)
        if not self._networks:
            raise ValueError("networks is empty; expected at least one Network")
        for i, network in enumerate(self._networks):
            if not isinstance(network, Network):
                raise TypeError(f"networks[{i}] is a {type(network).__name__}; expected a fastnet.Network")
            mine, first = _interface(network), _interface(self._networks[0])
            if mine != first:
                raise ValueError(f"networks[{i}] has {mine}; expected {first}, as networks[0] has")

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks."""
        return self._networks

    def predict(self, X: ArrayLike) -> Array:
        """Return the mean of the networks' raw outputs.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample a row.

        Returns
        -------
        ndarray, shape (B, n_out)

        Raises
        ------
        TypeError, ValueError
            As `Network.predict`.
        """
        return _mean(self._outputs(X, False))

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the mean of the networks' class probabilities.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample a row.

        Returns
        -------
        ndarray, shape (B, n_out)
            After cross_entropy rows sum to 1.

        Raises
        ------
        RuntimeError
            If a network was not trained with a cross-entropy, or networks with both kinds are mixed.
        TypeError, ValueError
            As `Network.predict`.
        """
        self._probabilities()
        return _mean(self._outputs(X, True))

    def predict_labels(self, X: ArrayLike) -> Array:
        """Return decisions by `predict_proba`: class labels or, after binary_cross_entropy, 0 or 1 for each output.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample a row.

        Returns
        -------
        ndarray of int64, shape (B,) or (B, n_out)
            As `Network.predict_labels`.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `predict_proba`.
        """
        found = self.predict_proba(X)
        if takes_softmax(self._networks[0].loss):
            return np.argmax(found, axis=1)
        return (found > 0.5).astype(np.int64).reshape(-1 if found.shape[1] == 1 else found.shape)

    def spread(self, X: ArrayLike) -> Array:
        """Return how far the networks disagree: the standard deviation of each output over the networks.

        It uses probabilities if the networks were trained with a cross-entropy, else raw outputs; 0 for one network.

        Parameters
        ----------
        X : array_like, shape (B, n_in)
            One sample a row.

        Returns
        -------
        ndarray, shape (B, n_out)

        Raises
        ------
        RuntimeError
            If only some networks give probabilities, or these are of different kinds.
        TypeError, ValueError
            As `Network.predict`.
        """
        outputs = self._outputs(X, self._probabilities() != "")
        return outputs.std(axis=0, dtype=np.float64).astype(outputs.dtype)

    def _outputs(self, X: ArrayLike, probabilities: bool) -> Array:
        """Return all networks' outputs (networks, B, n_out)."""
        first = self._networks[0]
        X = check_inputs(X, first.layer_sizes, first.dtype)  # once for all networks
        found = np.empty((len(self._networks), len(X), first.layer_sizes[-1]), first.dtype)
        for network, out in zip(self._networks, found, strict=True):
            (network.predict_proba if probabilities else network.predict)(X, out)
        return found

    def _probabilities(self) -> str:
        """Return the function that turns all networks' outputs into probabilities, or ""."""
        functions = [LOSSES[network.loss].probabilities if network.loss else "" for network in self._networks]
        for i, function in enumerate(functions):
            if function != functions[0]:
                raise RuntimeError(
                    f"networks[0] has the loss {self._networks[0].loss!r}, networks[{i}] {self._networks[i].loss!r}: "
                    "they have no probabilities in common; expected networks trained with the same loss"
                )
        return functions[0]

    def save(self, path: storage.Path) -> None:
        """Write all networks to one safetensors file, all or nothing; `fastnet.load` reads it.

        Parameters
        ----------
        path : str or path-like
            An existing file is replaced. Weights are called ``members.0.layers.0.weight`` and so on.

        Raises
        ------
        OSError
            If the file cannot be written; what was there is untouched.
        ValueError
            If a parameter is NaN or infinite, or the path has the suffix of another format, such as .onnx.
        """
        self._check_finite()
        arrays: dict[str, Array] = {}
        members = []
        for i, network in enumerate(self._networks):
            own, metadata = model.state_of(network)
            arrays |= {f"members.{i}.{name}": array for name, array in own.items()}
            members.append(metadata)
        storage.write(path, arrays, {"kind": "ensemble", "members": json.dumps(members)})

    def to_onnx(self, path: storage.Path) -> None:
        """Write an ONNX model of all networks and their mean, with the outputs that `Network.to_onnx` describes.

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
        RuntimeError
            As `spread`.
        ValueError
            If a parameter is NaN or infinite, the model is larger than ONNX's 2 GiB, or the path has the suffix of
            another format.
        """
        self._check_finite()
        self._probabilities()
        members = [[*zip(net.weights, net.biases, net.activations, strict=True)] for net in self._networks]
        first = self._networks[0]
        onnx.to_onnx(path, members, first.dtype, first.loss)

    def _check_finite(self) -> None:
        for i, network in enumerate(self._networks):
            validation.finite(f"networks[{i}].parameters", network.parameters)

    def __repr__(self) -> str:
        return f"Ensemble([{', '.join(map(repr, self._networks))}])"


def _interface(network: Network) -> str:
    inputs, *_, outputs = network.layer_sizes
    return f"{counted(inputs, 'input')}, {counted(outputs, 'output')} and dtype {network.dtype}"


def _mean(outputs: Array) -> Array:
    """Return the mean over networks, accumulated in float64."""
    return np.asarray(outputs.mean(axis=0, dtype=np.float64), outputs.dtype)


def load(path: storage.Path) -> Any:
    """Read what `Network.save` or `Ensemble.save` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Network or Ensemble
        With its loss, so that `predict_proba` works.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a complete model file of a version that this fastnet knows, its arrays do not fit its layers, or a
        weight is NaN or infinite. Nothing in a file is ever executed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import fastnet
    >>> path = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
    >>> net = fastnet.Network([2, 3, 1])
    >>> net.save(path)
    >>> bool((fastnet.load(path).parameters == net.parameters).all())
    True
    """
    arrays, metadata = storage.read(path, "model", "ensemble")
    with storage.naming_file(path):
        if metadata["kind"] == "model":
            return model.network_of(Network, arrays, metadata)
        members = storage.parse(metadata, "members")
        if not isinstance(members, list) or not all(map(_is_metadata, members)):
            raise ValueError("its 'members' are not as fastnet writes them")
        return Ensemble(
            model.network_of(Network, _part(arrays, f"members.{i}."), member) for i, member in enumerate(members)
        )


def _is_metadata(member: Any) -> bool:
    return isinstance(member, dict) and all(isinstance(text, str) for text in member.values())


def _part(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays of one member under the names that a model file has."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
