"""Converts networks to and from arrays and metadata, for model files and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ..kernels.api import validation
from ..kernels.specs.base import Array
from . import storage


def state_of(network: Any) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata of a `Network` that a model file holds; views, not copies.

    Weights are ``layers.0.weight`` (k, n) and ``layers.0.bias`` (k,), as PyTorch's ``nn.Linear`` holds them.
    """
    arrays = {}
    for i, (W, b) in enumerate(zip(network.weights, network.biases, strict=True)):
        arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"] = W, b
    metadata = {
        "layer_sizes": json.dumps(network.layer_sizes),
        "activations": json.dumps(network.activations),
        "dtype": network.dtype.name,
        "seed": str(network.seed),
        "loss": network.loss or "",
    }
    return arrays, metadata


def network_of(network_class: Any, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> Any:
    """Return the network that `state_of` described.

    The metadata are checked against the arrays before anything of the size that they claim is allocated.

    Parameters
    ----------
    network_class : type
        `Network`, which imports this module.
    arrays, metadata : mapping
        Content of the file.

    Raises
    ------
    KeyError, TypeError, ValueError
        If anything is missing, does not fit, or is not finite; see `storage.naming_file`.
    """
    if "preparation" in metadata:
        raise ValueError(
            "it holds a table's scaling, of a fastnet before tables were read by pandas; train again with fastnet "
            "train FILE --target COLUMN --out MODEL, or save it by safetensors without the metadata's 'preparation' "
            "and 'checksum', and give the network (X - input_shift) / input_scale, which stand in 'preparation'"
        )
    sizes, activations, seed = (storage.parse(metadata, name) for name in ("layer_sizes", "activations", "seed"))
    if not isinstance(sizes, list) or len(sizes) < 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"layer sizes are {str(sizes)[:80]}; expected at least two whole numbers above 0")
    if not isinstance(activations, list) or len(activations) != len(sizes) - 1:
        raise ValueError(f"activations are {str(activations)[:80]}; expected one for each of {len(sizes) - 1} layers")
    dtype, loss = metadata["dtype"], metadata["loss"] or None
    for i, (n, k) in enumerate(pairwise(sizes)):
        for name, shape in ((f"layers.{i}.weight", (k, n)), (f"layers.{i}.bias", (k,))):
            found = arrays[name]
            if found.shape != shape or found.dtype.name != dtype:
                raise ValueError(
                    f"{name} has shape {found.shape} and dtype {found.dtype}; its metadata say {shape} and {dtype[:40]}"
                )
            validation.finite(name, found)
    *hidden, output = activations
    net = network_class(sizes, hidden, output, dtype, seed)
    net.loss = loss
    for i, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        W[...], b[...] = arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"]
    return net
