"""predict."""

import argparse
import csv
import io
import json
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import tables
from ..io import storage
from ..kernels.specs.base import Array
from ..network import Network, load

CLASSIFIES = ("cross_entropy", "binary_cross_entropy")
"""Losses whose outputs become class probabilities."""


class Predictions(NamedTuple):
    """What a network says of rows of a table, in the table's terms."""

    values: Array  # (rows, outputs), in the target's units; probabilities, where there are such
    labels: Array | None  # (rows,) the class's number, for classification


def predictions(net: Network, X: Array) -> Predictions:
    """Predict rows as they stand in a table."""
    preparation = net.preparation
    inputs = preparation.inputs(X) if preparation else X
    if net.loss in CLASSIFIES:
        values = net.predict_proba(inputs)
        if values.shape[1] == 1 and preparation is not None and preparation.classes is not None:
            values = np.hstack([1 - values, values])
        single = net.loss == "binary_cross_entropy" and (preparation is None or preparation.classes is None)
        return Predictions(values, None if single else values.argmax(axis=1))
    outputs = net.predict(inputs)
    if preparation is None:
        return Predictions(outputs, None)
    if preparation.classes is not None:
        return Predictions(outputs, outputs.argmax(axis=1))
    return Predictions(preparation.restore(outputs), None)


def predict(options: argparse.Namespace) -> int:
    """Apply a model to a file; write what it says, and return the exit status."""
    if options.out is not None:
        storage.check_target(options.out)
        for source in (options.model, options.file):
            if os.path.realpath(options.out) == os.path.realpath(source):
                raise ValueError(f"{storage.display_path(options.out)} is read here; write to another file")
    net = load(options.model)
    X = tables.read_inputs(options.file, net.preparation, net.layer_sizes[0])
    text = _as_json(net, X) if options.json else _as_csv(net, X)
    if options.out is None:
        print(text, end="")
    else:
        with storage.replacing(options.out) as file:
            file.write(text.encode())
    return 0


def _as_csv(net: Network, X: Array) -> str:
    found, target, classes = predictions(net, X), _target(net), _classes(net)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    display_path = found.values.astype(net.dtype)  # as many digits as its numbers have
    if found.labels is None:
        several = [f"{target}_{i + 1}" for i in range(display_path.shape[1])]
        writer.writerow([target] if len(several) == 1 else several)
        writer.writerows(numbers(row) for row in display_path)
        return file.getvalue()
    name = "probability" if net.loss in CLASSIFIES else "output"
    writer.writerow([target, *[f"{name}_{label}" for label in classes]])
    for label, row in zip(found.labels.tolist(), display_path, strict=True):
        writer.writerow([classes[label], *numbers(row)])
    return file.getvalue()


def _as_json(net: Network, X: Array) -> str:
    found, classes = predictions(net, X), _classes(net)
    told: dict[str, Any] = {"target": _target(net)}
    values = found.values.tolist()
    if found.labels is None:
        told["predictions"] = [row[0] for row in values] if found.values.shape[1] == 1 else values
    else:
        told |= {"classes": classes, "predictions": [classes[label] for label in found.labels.tolist()]}
        told["probabilities" if net.loss in CLASSIFIES else "outputs"] = values
    return to_json(told) + "\n"


def _target(net: Network) -> str:
    return net.preparation.target if net.preparation else "prediction"


def _classes(net: Network) -> Sequence[Any]:
    kept = net.preparation.classes if net.preparation else None
    return list(range(net.layer_sizes[-1])) if kept is None else list(kept)


def numbers(row: Array) -> list[str]:
    """The shortest digits that give back each number in its own dtype; 1325968.8, not 1.3259688e+06."""
    return [repr(float(str(value))) for value in row]


def to_json(value: Any) -> str:
    """JSON without NaN and infinity, which it does not have: they become null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
