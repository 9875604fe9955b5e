"""The command ``fastnet predict``: apply a model file to a table."""

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
from ..kernels.specs.losses import LOSSES
from ..network import Network, load


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "predict",
        help="apply a model to a new file",
        description="Predict every row of a CSV or NPZ file. Columns are found by name; the target may be among them "
        "and is ignored, other columns that the model was not trained on are refused. The result is a CSV: for "
        "regression the target, for classification the class and the probability of each.",
    )
    parser.add_argument("model", metavar="MODEL", help="a file that fastnet train --out, or Network.save, wrote")
    parser.add_argument("file", metavar="FILE", help="a .csv or .npz file")
    parser.add_argument("--out", metavar="PREDICTIONS", help="write to this file, not to standard output")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=predict, parser=parser)


class Predictions(NamedTuple):
    """Predictions for the rows of a table, in the table's units and classes."""

    values: Array  # (rows, outputs), in the target's units; probabilities where the loss gives them
    labels: Array | None  # (rows,) number of the class, for classification


def gives_probabilities(loss: str | None) -> bool:
    """Whether a network trained with this loss predicts class probabilities."""
    return loss is not None and bool(LOSSES[loss].probabilities)


def predictions(net: Network, X: Array) -> Predictions:
    """Predict rows given in the units of a table."""
    preparation = net.preparation
    inputs = preparation.inputs(X) if preparation else X
    if gives_probabilities(net.loss):
        values = net.predict_proba(inputs)
        if values.shape[1] == 1 and preparation is not None and preparation.classes is not None:
            values = np.hstack([1 - values, values])
        independent = LOSSES[str(net.loss)].probabilities == "sigmoid" and (
            preparation is None or preparation.classes is None
        )
        return Predictions(values, None if independent else values.argmax(axis=1))
    outputs = net.predict(inputs)
    if preparation is None:
        return Predictions(outputs, None)
    if preparation.classes is not None:
        return Predictions(outputs, outputs.argmax(axis=1))
    return Predictions(preparation.restore(outputs), None)


def predict(options: argparse.Namespace) -> int:
    """Apply a model to a file, write the predictions, and return the exit status."""
    if options.out is not None:
        storage.check_target(options.out)
        for source in (options.model, options.file):
            if os.path.realpath(options.out) == os.path.realpath(source):
                raise ValueError(
                    f"{storage.display_path(options.out)} is an input of this command; write to another file"
                )
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
    values = found.values.astype(net.dtype)  # as many digits as this dtype has
    if found.labels is None:
        count = values.shape[1]
        writer.writerow([target] if count == 1 else [f"{target}_{i + 1}" for i in range(count)])
        writer.writerows(numbers(row) for row in values)
        return file.getvalue()
    name = "probability" if gives_probabilities(net.loss) else "output"
    writer.writerow([target, *[f"{name}_{label}" for label in classes]])
    for label, row in zip(found.labels.tolist(), values, strict=True):
        writer.writerow([classes[label], *numbers(row)])
    return file.getvalue()


def _as_json(net: Network, X: Array) -> str:
    found, classes = predictions(net, X), _classes(net)
    result: dict[str, Any] = {"target": _target(net)}
    values = found.values.tolist()
    if found.labels is None:
        result["predictions"] = [row[0] for row in values] if found.values.shape[1] == 1 else values
    else:
        result |= {"classes": classes, "predictions": [classes[label] for label in found.labels.tolist()]}
        result["probabilities" if gives_probabilities(net.loss) else "outputs"] = values
    return to_json(result) + "\n"


def _target(net: Network) -> str:
    return net.preparation.target if net.preparation else "prediction"


def _classes(net: Network) -> Sequence[Any]:
    kept = net.preparation.classes if net.preparation else None
    return list(range(net.layer_sizes[-1])) if kept is None else list(kept)


def numbers(row: Array) -> list[str]:
    """Return the shortest decimal of each number that its dtype reads back: 1325968.8, not 1.3259688e+06."""
    return [repr(float(str(value))) for value in row]


def to_json(value: Any) -> str:
    """Return JSON, in which NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
