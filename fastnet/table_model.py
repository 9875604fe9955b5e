"""Models of tables: they predict a column of a DataFrame from other columns, which they find by name.

It needs pandas, scikit-learn and skops (``pip install pandas scikit-learn skops``).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from .io import model, storage, table_onnx
from .kernels.specs.base import Array
from .kernels.specs.losses import LOSSES
from .messages import counted, listed, one_line
from .network import Network
from .table import Columns, as_text, check_columns, numbers, text_of, unread, unread_lines

try:
    import pandas
    import skops.io
    from sklearn.compose import ColumnTransformer
except ImportError as error:
    raise ImportError(f"models of tables need skops: pip install pandas scikit-learn skops ({error})") from error

_FORMAT = "fastnet table 1"
_TYPES = {
    "builtins": {"dict", "list", "tuple", "str", "int", "float", "bool", "NoneType", "slice"},
    "numpy": {"ndarray", "dtype", "float32", "float64", "int64"},
    "sklearn.compose._column_transformer": {"ColumnTransformer"},
    "sklearn.impute._base": {"SimpleImputer", "MissingIndicator"},
    "sklearn.pipeline": {"Pipeline"},
    "sklearn.preprocessing._data": {"StandardScaler"},
    "sklearn.preprocessing._encoders": {"OneHotEncoder"},
}
"""The types that a model file may hold: far fewer than skops would trust."""


@dataclass
class TableModel:
    """A model of a table: it predicts a column of a DataFrame from other columns, which it finds by name.

    `fastnet train FILE --target COLUMN --out MODEL` makes one, and `load` reads it.

    Attributes
    ----------
    columns : Columns
        The columns used.
    target : str
        The column predicted.
    classes : list or None
        For classification, the class of each label 0, 1, ...
    scaling : tuple of float
        For regression, shift and scale: predictions are outputs * scale + shift.
    members : list of (ColumnTransformer, Network)
        Predictions are the mean over these.
    id : str or None
        The column that identifies a row; `fastnet predict` copies it.
    """

    columns: Columns
    target: str
    classes: list[Any] | None
    scaling: tuple[float, float]
    members: list[tuple[Any, Network]]
    id: str | None = None

    @property
    def has_probabilities(self) -> bool:
        """Whether the loss that was minimised yields probabilities."""
        loss = self.members[0][1].loss
        return self.classes is not None and loss is not None and bool(LOSSES[loss].probabilities)

    def outputs(self, frame: Any) -> Array:
        """Return the mean of the members' outputs.

        Parameters
        ----------
        frame : pandas.DataFrame or polars.DataFrame
            Must have the columns that the model uses, in any order; others are ignored.

        Returns
        -------
        ndarray of float64
            For classification (rows, classes), where rows of probabilities sum to 1; for regression (rows,), in the
            target's units.

        Raises
        ------
        ValueError
            If columns are missing, or one that held numbers or dates in training now holds hardly any.
        """
        return self.outputs_of(self.parse(frame)[0])

    def outputs_of(self, features: Any, members: Sequence[int] | None = None) -> Array:
        """Return the mean outputs of some members, by index, or of all, for a frame of `Columns.features`."""
        chosen = self.members if members is None else [self.members[i] for i in members]
        total: Any = 0.0
        for transformer, network in chosen:
            X = transformer.transform(features)
            values = network.predict_proba(X) if self.has_probabilities else network.predict(X)
            total = total + values.astype(np.float64) / len(chosen)
        found = np.asarray(total)
        if self.classes is None:
            return np.asarray(found[:, 0] * self.scaling[1] + self.scaling[0])
        return found / found.sum(axis=1, keepdims=True) if self.has_probabilities else found

    def parse(self, frame: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Return `Columns.features` of a table, and the cells that could not be read; see `outputs`."""
        frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
        if not isinstance(frame, pandas.DataFrame):
            raise TypeError(f"frame is a {type(frame).__name__}; expected a pandas or polars DataFrame")
        if not len(frame):
            raise ValueError("the table has no rows of data")
        check_columns(self.columns.kinds, list(frame.columns), "the table")
        return self.columns.checked(frame)

    def notes(self, frame: Any, features: Any, unreadable: Mapping[str, Any]) -> list[str]:
        """Say what `parse` ignored or found new in a table: columns, cells, values of categories."""
        known = {*self.columns.kinds, *self.columns.left_out, self.target, self.id}
        others = [name for name in frame.columns if name not in known]
        found = [f"ignored, since the model was not trained on them: {listed(others)}"] if others else []
        found += unread_lines(unreadable)
        encoder = {name: fitted for name, fitted, _ in self.members[0][0].transformers_}.get("categories")
        for name, values in zip(self.columns.text, encoder.categories_ if encoder else (), strict=True):
            new = features[name][~features[name].isin(values)]
            if len(new):
                found.append(f"{counted(len(new), 'row')} with a new value of {name!r}, such as {new.iloc[0]!r}")
        return found

    def truth(self, column: Any) -> tuple[Array, Array]:
        """Return which rows of a target column are known, and their labels or numbers, as `scores` takes them."""
        if self.classes is None:
            values = numbers(column)
            return values.notna().to_numpy(), values.dropna().to_numpy()
        names = {text_of(label): number for number, label in enumerate(self.classes)}
        labels = as_text(column).map(names)
        return labels.notna().to_numpy(), labels.dropna().to_numpy(np.int64)

    def unscored(self, column: Any, known: Array) -> list[str]:
        """Describe the other, non-empty cells of a target column: those that hold no number or known class."""
        if self.classes is None:
            return unread_lines(unread(column, known, "number"), "not scored")
        names = as_text(column)
        counts = names[~known & (names != "")].value_counts()
        if not len(counts):
            return []
        said = ", ".join(f"{name[:40]!r} in {counted(rows, 'row')}" for name, rows in counts.iloc[:8].items())
        more = f", and {len(counts) - 8:,} more" if len(counts) > 8 else ""
        rows = counted(int(counts.sum()), "row")
        return [f"{rows} not scored, since the model has no such class of {self.target!r}: {said}{more}"]

    def predict(self, frame: Any) -> Array:
        """Predict the target.

        Parameters
        ----------
        frame : pandas.DataFrame or polars.DataFrame
            As for `outputs`.

        Returns
        -------
        ndarray, shape (rows,)
            Classes, or numbers in the target's units.
        """
        found = self.outputs(frame)
        return found if self.classes is None else np.array(self.classes)[found.argmax(axis=1)]

    def predict_proba(self, frame: Any) -> Array:
        """Return the probability of each class, in the order of ``classes``: (rows, classes).

        Raises
        ------
        RuntimeError
            If the model is a regression, or minimised a loss that yields no probabilities.
        """
        if not self.has_probabilities:
            raise RuntimeError(
                "this model gives no probabilities: it predicts numbers, or was trained with another loss"
            )
        return self.outputs(frame)

    def to_onnx(self, path: storage.Path) -> None:
        """Write the model, including the preparation of columns, as an ONNX model (needs the package onnx).

        Each column of `Columns.features` is an input (rows, 1) of its name: numbers as float64, gaps as NaN; booleans
        and categories as text, gaps as ""; a date as the numbers made of it. Outputs are ``predictions`` (rows,) and,
        for classes, ``probabilities`` (rows, classes), or ``outputs`` if the loss yields no probabilities.

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
            If a column has the name of another part of the model, the model is larger than ONNX's 2 GiB, or the path
            has the suffix of another format.
        """
        layers = [(made, [*zip(net.weights, net.biases, net.activations, strict=True)]) for made, net in self.members]
        first = self.members[0][1]
        function = LOSSES[str(first.loss)].probabilities if self.has_probabilities else None
        table_onnx.to_onnx(path, layers, first.dtype, function, self.classes, self.scaling)

    def save(self, path: storage.Path) -> None:
        """Write the model to a skops file, all or nothing; `load` reads it.

        Raises
        ------
        OSError
            If the file cannot be written; an existing file is then unchanged.
        ValueError
            If the path has the suffix of another format, such as .onnx.
        """
        storage.check_suffix(path, ".skops")
        states = [(transformer, model.state_of(network)) for transformer, network in self.members]
        members = [[transformer, dict(arrays), dict(metadata)] for transformer, (arrays, metadata) in states]
        content: dict[str, Any] = {"format": _FORMAT, "target": self.target, "id": self.id, "members": members}
        content |= {"kinds": self.columns.kinds, "left_out": self.columns.left_out}
        content |= {"classes": self.classes, "scaling": [*self.scaling]}
        with storage.replacing(path) as file:
            file.write(skops.io.dumps(content))


def load(path: storage.Path) -> TableModel:
    """Read a model that `fastnet train FILE --out` or `TableModel.save` wrote.

    Nothing in the file is executed: it is not a pickle, and types other than those that `save` writes are rejected.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a complete file of this kind; the message is one line.
    """
    with storage.reading(path) as file:
        data = file.read()
    with one_line(path, "is not a model of a table"):
        if data[:2] != b"PK":
            raise ValueError(
                "expected what fastnet train FILE --target COLUMN --out wrote; fastnet.load reads networks"
            )
        with zipfile.ZipFile(BytesIO(data)) as archive:
            if "schema.json" not in archive.namelist():
                raise ValueError("it is an archive of another kind, as .npz and .xlsx files are")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which this fastnet never writes")
            unknown = sorted(_types(json.loads(archive.read("schema.json"))))
        if unknown:
            raise ValueError(f"it holds {listed(unknown)}, which such a file never does; it is not opened")
        content = skops.io.loads(data, trusted=["numpy.dtype"])
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {str(content['format'])[:40]!r}; this fastnet reads {_FORMAT!r}")
        members = [(part[0], model.network_of(Network, part[1], part[2])) for part in content["members"]]
        shift, scale = map(float, content["scaling"])
        texts = [*content["kinds"].items(), *content["left_out"].items()]
        known = content["classes"] is None or type(content["classes"]) is list
        known = known and all(type(text) is str for pair in texts for text in pair)
        if not known or not np.isfinite([shift, scale]).all():
            raise ValueError("its columns, classes or scaling are not as fastnet writes them")
        columns, target = Columns(dict(content["kinds"]), dict(content["left_out"])), str(content["target"])
        found = TableModel(columns, target, content["classes"], (shift, scale), members, content["id"])
        width = 1 if found.classes is None else len(found.classes)
        if not members or any(
            type(t) is not ColumnTransformer
            or n.layer_sizes != (len(t.get_feature_names_out()), *n.layer_sizes[1:-1], width)
            for t, n in members
        ):
            raise ValueError("its parts do not fit each other")
    return found


def _types(node: Any) -> set[str]:
    """Return the types in a file's skops schema that are not in `_TYPES`."""
    if isinstance(node, list):
        return {name for part in node for name in _types(part)}
    if not isinstance(node, dict):
        return set()
    module, name = node.get("__module__"), node.get("__class__")
    known = name is None or name in _TYPES.get(str(module), ())
    return {found for part in node.values() for found in _types(part)} | (set() if known else {f"{module}.{name}"})
