"""Export of models of tables to ONNX: scaling, gaps, categories, networks and classes in one graph.

skl2onnx is not used: 1.20 rejects an encoder's infrequent categories, and onnxruntime lacks its float64 imputer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.specs.base import Array
from .onnx import Graph, Member
from .storage import Path, check_suffix


def numbers(graph: Graph, pipeline: Any, inputs: Sequence[str]) -> str:
    """Add a fitted pipeline of StandardScaler and SimpleImputer with indicators; return its result, float64."""
    scaler, imputer = (step for _, step in pipeline.steps)
    X = graph.add("Concat", *inputs, axis=1)
    X = graph.add("Sub", X, graph.constant(scaler.mean_, dtype=np.float64))
    X = graph.add("Div", X, graph.constant(scaler.scale_, dtype=np.float64))
    gaps = graph.add("IsNaN", X)
    filled = graph.add("Where", gaps, graph.constant(imputer.statistics_, dtype=np.float64), X)
    if not len(imputer.indicator_.features_):  # no column had gaps in the training rows
        return filled
    marked = graph.constant(imputer.indicator_.features_, dtype=np.int64)
    return graph.add("Concat", filled, graph.add("Gather", graph.cast(gaps, np.float64), marked, axis=1), axis=1)


def categories(graph: Graph, encoder: Any, inputs: Sequence[str]) -> str:
    """Add a fitted OneHotEncoder, whose rare and unknown categories share a column; return its result, float64."""
    columns = []
    for name, known, infrequent in zip(inputs, encoder.categories_, encoder.infrequent_categories_, strict=True):
        rare = set() if infrequent is None else {*infrequent}
        places = {value: i for i, value in enumerate(value for value in known if value not in rare)}
        width = len(places) + bool(rare)  # an unknown value gets the last place, or one beyond it
        found = graph.add(
            "LabelEncoder",
            name,
            domain="ai.onnx.ml",
            keys_strings=[*places] or [""],
            values_int64s=[*places.values()] or [0],
            default_int64=len(places),
        )
        columns.append(graph.add("Equal", found, graph.constant(np.arange(width), dtype=np.int64)))
    return graph.cast(graph.add("Concat", *columns, axis=1), np.float64)


def to_onnx(
    path: Path,
    members: Sequence[tuple[Any, Member]],
    dtype: np.dtype[Any],
    function: str | None,
    classes: list[Any] | None,
    scaling: tuple[float, float],
) -> None:
    """Write transformers, networks and the mean of their predictions; see `TableModel.to_onnx`."""
    check_suffix(path, ".onnx")
    graph = Graph([layers for _, layers in members], dtype)
    add = {"numbers": numbers, "categories": categories}
    kinds: dict[str, Any] = {"numbers": np.float64, "categories": np.str_}
    for kind, _, names in members[0][0].transformers_:
        for name in names:
            graph.input(name, kinds[kind], 1)
    inputs = []
    for transformer, _ in members:
        parts = [add[kind](graph, fitted, names) for kind, fitted, names in transformer.transformers_]
        inputs.append(graph.cast(graph.add("Concat", *parts, axis=1), dtype))
    found = graph.cast(graph.mean_of_networks(inputs, function), np.float64)
    if classes is None:
        shift, scale = (graph.constant(value, dtype=np.float64) for value in scaling)
        found = graph.add("Squeeze", found, graph.constant([1], dtype=np.int64))
        graph.output("predictions", graph.add("Add", graph.add("Mul", found, scale), shift), np.float64)
    else:
        if function:
            sums = graph.add("ReduceSum", found, graph.constant([1], dtype=np.int64), keepdims=1)
            found = graph.add("Div", found, sums)
        named: Array = np.array(classes)
        label = graph.add("ArgMax", found, axis=1, keepdims=0)
        label = graph.add("Gather", graph.constant(named, dtype=named.dtype), label, axis=0)
        graph.output("predictions", label, named.dtype)
        graph.output("probabilities" if function else "outputs", found, np.float64, len(classes))
    graph.write(path)
