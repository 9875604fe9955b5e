"""The command ``fastnet predict``: apply a model file to a table."""

import argparse
import csv
import io
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import tables
from ..ensemble import load
from ..io import storage
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from ..network import Network


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "predict",
        help="apply a model to a new file",
        description="Predict every row of a CSV or NPZ file. Columns are found by name; the target may be among them "
        "and is ignored, other columns that the model was not trained on are refused. The result is a CSV: for "
        "regression the target, for classification the class and the probability of each.",
    )
    parser.set_defaults(run=predict)
    parser.option("model", "a file that fastnet train --out, or Network.save, wrote", metavar="MODEL")
    parser.option("file", "a .csv or .npz file", metavar="FILE")
    parser.option("--out", "write to this file, not to standard output", metavar="PREDICTIONS")
    parser.option("--json", "print JSON", action="store_true")


def check_output(path: str, *inputs: str) -> None:
    """Check before any work that a file can be written, and is not an input."""
    storage.check_target(path)
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise ValueError(f"{storage.display_path(path)} is an input of this command; write to another file")


def gives_probabilities(loss: str | None) -> bool:
    """Whether a network trained with this loss predicts class probabilities."""
    return loss is not None and bool(LOSSES[loss].probabilities)


def predictions(net: Network, X: Array) -> tuple[Array, Array | None]:
    """Predict rows given in the units of a table.

    Returns
    -------
    values : ndarray, shape (rows, outputs)
        In the target's units; probabilities where the loss gives them.
    labels : ndarray, shape (rows,), or None
        Number of the class, for classification.
    """
    preparation = net.preparation
    inputs = preparation.inputs(X) if preparation else X
    classes = preparation.classes if preparation else None
    if not gives_probabilities(net.loss):
        outputs = net.predict(inputs)
        if classes is not None:
            return outputs, outputs.argmax(axis=1)
        return preparation.restore(outputs) if preparation else outputs, None
    values = net.predict_proba(inputs)
    if classes is None and LOSSES[str(net.loss)].probabilities == "sigmoid":  # independent, of no class
        return values, None
    if values.shape[1] == 1:
        values = np.hstack([1 - values, values])
    return values, values.argmax(axis=1)


def predict(options: argparse.Namespace) -> int:
    """Apply a model to a file, write the predictions, and return the exit status."""
    if options.out is not None:
        check_output(options.out, options.model, options.file)
    net = load(options.model)
    if not isinstance(net, Network):
        raise ValueError(
            f"{storage.display_path(options.model)} holds an ensemble; predict with fastnet.load in Python"
        )
    X = tables.read_inputs(options.file, net.preparation, net.layer_sizes[0])
    text = _as_json(net, X) if options.json else _as_csv(net, X)
    if options.out is None:
        print(text, end="")
    else:
        with storage.replacing(options.out) as file:
            file.write(text.encode())
    return 0


def _as_csv(net: Network, X: Array) -> str:
    values, labels = predictions(net, X)
    target, classes = _target(net), _classes(net)
    rows = [numbers(row) for row in values.astype(net.dtype)]  # as many digits as this dtype has
    if labels is None:
        heads = [target] if values.shape[1] == 1 else [f"{target}_{i + 1}" for i in range(values.shape[1])]
    else:
        name = "probability" if gives_probabilities(net.loss) else "output"
        heads = [target, *[f"{name}_{label}" for label in classes]]
        rows = [[classes[label], *row] for label, row in zip(labels, rows, strict=True)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([heads, *rows])
    return file.getvalue()


def _as_json(net: Network, X: Array) -> str:
    values, labels = predictions(net, X)
    classes = _classes(net)
    result: dict[str, Any] = {"target": _target(net)}
    if labels is None:
        result["predictions"] = (values[:, 0] if values.shape[1] == 1 else values).tolist()
    else:
        result |= {"classes": classes, "predictions": [classes[label] for label in labels]}
        result["probabilities" if gives_probabilities(net.loss) else "outputs"] = values.tolist()
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
