"""The command ``fastnet predict``: apply a model file to a table."""

import argparse
import csv
import io
import json
import math
import os
import shlex
import sys
import warnings
from typing import Any

import numpy as np

from ..ensemble import Ensemble, load
from ..io import storage
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from ..messages import counted, listed, one_line


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "predict",
        help="apply a model to a new file",
        description="Predict every row of a table. Columns are found by name; the target may be among them, and "
        "the predictions are then scored, on standard error; other columns are ignored. The result is a CSV: for "
        "regression the target, for classification the class and the probability of each, or, without a cross-entropy, "
        "the raw output of each. A network that Network.save wrote takes all columns, in order. It needs "
        "pip install pandas scikit-learn skops.",
    )
    parser.set_defaults(run=predict)
    parser.option("model", "a file that fastnet train --out, or Network.save, wrote", metavar="MODEL")
    parser.option("file", "a table, of any form that fastnet train takes", metavar="FILE")
    parser.option("--id", "copy this column (default: that of fastnet train --id)", metavar="COLUMN")
    parser.option("--out", "write to this file, not to standard output", metavar="PREDICTIONS")
    parser.option("--json", "print JSON", action="store_true")


def check_output(path: str, *inputs: str) -> None:
    """Check, before any work, that a file can be written and is not an input."""
    storage.check_target(path)
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise ValueError(f"{storage.display_path(path)} is an input of this command; write to another file")


def is_table_model(path: str) -> bool:
    """Return whether a file is a model of a table, which is an archive, rather than a network."""
    with storage.reading(path) as file:
        return file.read(4) == b"PK\x03\x04"


def _is_model(path: str) -> bool:
    """Return whether a file has the layout of a model, skops or safetensors, which no table has."""
    with storage.reading(path) as file:
        start = file.read(9)
        file.seek(-min(file.seek(0, os.SEEK_END), 1 << 12), os.SEEK_END)
        end = file.read()  # an archive's directory, whose last entry is skops' schema
    return (start[:4] == b"PK\x03\x04" and b"schema.json" in end) or (start[8:] == b"{" and b"\0" in start)


def _check_arguments(options: argparse.Namespace) -> None:
    """Reject a model as the file to predict; say so if the arguments are swapped."""
    shown = storage.display_path(options.file)
    if not _is_model(options.file):
        return
    if _is_model(options.model):
        raise ValueError(f"{shown} is a model; expected a table to predict: fastnet predict MODEL FILE")
    words = ["fastnet", "predict", options.file, options.model]
    for name, value in (("--id", options.id), ("--out", options.out)):
        words += [] if value is None else [name, value]
    words += ["--json"] * options.json
    raise ValueError(f"{shown} is a model: the arguments are swapped; write {shlex.join(words)}")


def predict(options: argparse.Namespace) -> int:
    """Apply a model to a file, write the predictions, and return the exit status."""
    _check_arguments(options)
    if options.out is not None:
        check_output(options.out, options.model, options.file)
        if not options.json and options.out.lower().endswith(".json"):
            raise ValueError(f"--out {options.out} would hold CSV; give --json too, or end it in .csv")
        storage.check_suffix(options.out, ".json" if options.json else ".csv")
    result = _of_table(options) if is_table_model(options.model) else _of_network(options)
    text = to_json(result) + "\n" if options.json else as_csv(result)
    if options.out is None:
        print(text, end="")
    else:
        with storage.replacing(options.out) as out:
            out.write(text.encode())
    return 0


def read_table(options: argparse.Namespace, target: str) -> Any:
    """Read the table that a command line names; print warnings as lines of the command."""
    from .. import table_file

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = table_file.read(options.file, target)
    for warning in caught:
        print(f"{options.parser.prog}: {warning.message}", file=sys.stderr)
    return frame


def _of_table(options: argparse.Namespace) -> dict[str, Any]:
    """Predict with a model of a table."""
    from .. import scores, table, table_model

    model, shown = table_model.load(options.model), storage.display_path(options.file)
    frame = read_table(options, model.target)
    name = model.id if options.id is None and model.id in frame.columns else options.id
    if name is not None:
        table.check_columns([name], list(frame.columns), shown)
    with one_line(shown, "cannot be predicted"):
        features, unread = model.parse(frame)
        outputs = model.outputs_of(features)
    result: dict[str, Any] = {"target": model.target} | ({} if name is None else {"id": name, "ids": _ids(frame[name])})
    result |= _described(outputs, model.classes, model.has_probabilities)
    notes = model.notes(frame, features, unread)
    if model.target in frame.columns:
        known, truth = model.truth(frame[model.target])
        notes += model.unscored(frame[model.target], known)
        if known.any():
            result["scores"] = scores.scores(truth, outputs[known])
            said = ", ".join(f"{key} {value:.4g}" for key, value in result["scores"].items())
            notes.append(f"{said} on {counted(len(truth), 'row')} with a known {model.target!r}")
    for note in notes:
        print(f"fastnet predict: {note}", file=sys.stderr)
    return result


def _of_network(options: argparse.Namespace) -> dict[str, Any]:
    """Predict with a network or an ensemble, which take all columns in order."""
    net, shown = load(options.model), storage.display_path(options.file)
    first = net.networks[0] if isinstance(net, Ensemble) else net
    from .. import table

    frame = read_table(options, "")
    if options.id is not None:
        table.check_columns([options.id], list(frame.columns), shown)
    features = frame.drop(columns=[] if options.id is None else options.id)
    wrong = [name for name in features.columns if table.numbers(features[name]).isna().any()]
    if wrong:
        hold = f"column {listed(wrong)} holds" if len(wrong) == 1 else f"columns {listed(wrong)} hold"
        raise ValueError(f"{shown}: {hold} gaps or text; a network takes numbers only")
    if features.shape[1] != first.layer_sizes[0]:
        raise ValueError(
            f"{shown} has {counted(features.shape[1], 'column')} of features; this model takes {first.layer_sizes[0]}"
        )
    X = features.apply(table.numbers).to_numpy()
    function = LOSSES[first.loss].probabilities if first.loss else None
    classes = list(range(first.layer_sizes[-1])) if function == "softmax" else None
    ids = {} if options.id is None else {"id": options.id, "ids": _ids(frame[options.id])}
    outputs = net.predict_proba(X) if function else net.predict(X)
    return {"target": "prediction", **ids, **_described(outputs, classes, function == "softmax")}


def _ids(column: Any) -> list[Any]:
    """Return the ids of the rows, with None for missing ones."""
    return [None if gap else value for value, gap in zip(column.tolist(), column.isna(), strict=True)]


def _described(outputs: Array, classes: list[Any] | None, has_probabilities: bool) -> dict[str, Any]:
    if classes is None:
        return {"predictions": (outputs[:, 0] if outputs.shape[1:] == (1,) else outputs).tolist()}
    found = {"classes": classes, "predictions": [classes[label] for label in outputs.argmax(axis=1)]}
    return found | {"probabilities" if has_probabilities else "outputs": outputs.tolist()}


def as_csv(result: dict[str, Any]) -> str:
    """Return predictions as CSV, with numbers in float32: the seven digits that a network computes with."""
    target, found = result["target"], result["predictions"]
    columns = dict[str, Any]()
    if "classes" in result:
        columns[target] = found
        name = "probability" if "probabilities" in result else "output"
        values = np.array(result["probabilities" if "probabilities" in result else "outputs"], np.float32)
        columns |= {f"{name}_{label}": values[:, i] for i, label in enumerate(result["classes"])}
    elif found and isinstance(found[0], list):
        columns |= {f"{target}_{i + 1}": column for i, column in enumerate(np.array(found, np.float32).T)}
    else:
        columns[target] = np.array(found, np.float32)
    if "id" in result:
        if result["id"] in columns:
            raise ValueError(
                f"--id {result['id']!r} is the name of a column of predictions, too; rename it, or add --json"
            )
        columns = {result["id"]: result["ids"], **columns}
    shown = [numbers(column) if isinstance(column, np.ndarray) else column for column in columns.values()]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[*columns], *zip(*shown, strict=True)])
    return file.getvalue()


def numbers(values: Array) -> list[str]:
    """Return the shortest decimal that its dtype reads back for each number: 1325968.8, not 1.3259688e+06."""
    return [repr(float(str(value))) for value in values]


def to_json(value: Any) -> str:
    """Return JSON; NaN and infinity, which JSON lacks, become null, and values such as dates become text."""
    return json.dumps(_finite(value), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
