"""Networks as arrays and text, for model files and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernels.api import validation
from ..kernels.specs.base import Array
from ..preparation import Preparation
from ..validation import check_loss
from . import storage


def state_of(network: Any) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata of a `Network` that a model file holds; views, not copies."""
    text = network.preparation.to_text() if network.preparation is not None else None
    description = storage.NetworkDescription(
        list(network.layer_sizes),
        list(network.activations),
        network.dtype.name,
        network.seed,
        network.loss,
        text,
    )
    return storage.state_dict(description, network.weights, network.biases)


def network_of(network_class: Any, shown_path: str, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> Any:
    """Return the network that `state_of` described.

    Parameters
    ----------
    network_class : type
        `Network`, which imports this module.
    shown_path : str
        Name of the file, with which errors begin.
    arrays, metadata : mapping
        Content of the file.

    Raises
    ------
    ValueError
        If anything is missing, does not fit, or is not finite.
    """
    description = storage.description(shown_path, arrays, metadata)
    try:
        *hidden, output = description.activations
        net = network_class(description.layer_sizes, hidden, output, description.dtype, description.seed)
        if description.loss is not None:
            check_loss(description.loss, net.layer_sizes, net.activations)
        net.loss = description.loss
        if description.preparation is not None:
            net.preparation = Preparation.from_text(description.preparation, net.layer_sizes[0], net.layer_sizes[-1])
        for i, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
            W[...], b[...] = arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"]
            validation.finite(f"layers.{i}.weight", W)
            validation.finite(f"layers.{i}.bias", b)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown_path}: {error}") from None
    return net
