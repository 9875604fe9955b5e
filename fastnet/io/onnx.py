"""Export to ONNX: the layers as a graph, preceded by a table's scaling and followed by its units or classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.specs.activations import ACTIVATIONS
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from ..preparation import Preparation
from .storage import Path, replacing

_OPSET, _IR_VERSION = 17, 8  # of 2022, which all runtimes in use read
_MAX_WEIGHT_BYTES = 2**31 - 2**20  # the limit of a protocol buffer, less some bytes for the graph

Layer = tuple[Array, Array, str]


class _Graph:
    """The nodes and constants of a graph under construction."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx = onnx
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any, name: str = "") -> str:
        """Add a constant and return its name; unnamed values get the network's dtype."""
        array = np.asarray(value) if name else np.asarray(value, self.dtype)
        name = name or f"constant_{len(self.constants)}"
        strings = array.dtype.kind == "U"
        data = [text.encode() for text in array.tolist()] if strings else np.ascontiguousarray(array).tobytes()
        kind = self.onnx.TensorProto.STRING if strings else self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        self.constants[name] = self.onnx.helper.make_tensor(name, kind, array.shape, data, raw=not strings)
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def erf(self, x: str) -> str:
        """Add the error function, computed in float32 because onnxruntime has no other."""
        single = self.add("Cast", x, to=self.onnx.TensorProto.FLOAT)
        return self.add("Cast", self.add("Erf", single), to=self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype))


def to_onnx(
    path: Path,
    members: Sequence[Sequence[Layer]],
    dtype: np.dtype[Any],
    loss: str | None,
    preparation: Preparation | None,
) -> None:
    """Write the layers of a network, or of several and their mean, as an ONNX model; see `Network.to_onnx`."""
    try:
        import onnx
        import onnx.checker
    except ImportError:
        raise ImportError('ONNX export needs the package onnx: pip install "fastnet-jit[onnx]"') from None
    size = sum(W.nbytes + b.nbytes for layers in members for W, b, _ in layers)
    if size > _MAX_WEIGHT_BYTES:
        raise ValueError(f"this model takes {size / 2**30:.1f} GiB; an ONNX file holds less than 2 GiB")
    graph = _Graph(onnx, dtype)
    taken, outputs = _build(graph, members, loss, preparation)
    info = onnx.helper.make_tensor_value_info
    inputs, found = [info("X", taken, ["rows", members[0][0][0].shape[1]])], [info(*output) for output in outputs]
    body = onnx.helper.make_graph(graph.nodes, "fastnet", inputs, found, list(graph.constants.values()))
    opsets = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(body, producer_name="fastnet", opset_imports=opsets, ir_version=_IR_VERSION)
    if preparation is not None:
        onnx.helper.set_model_props(model, {"preparation": preparation.to_text()})
    onnx.checker.check_model(model)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _build(
    graph: _Graph, members: Sequence[Sequence[Layer]], loss: str | None, preparation: Preparation | None
) -> tuple[int, list[tuple[str, int, list[Any]]]]:
    """Add all nodes; return the type of X, and the name, type and shape of every output."""
    types, to_type = graph.onnx.TensorProto, graph.onnx.helper.np_dtype_to_tensor_dtype
    own = to_type(graph.dtype)
    A = "X"
    if preparation is not None:
        # In float64: a year, or a time in seconds, would lose its relevant digits if rounded before it is shifted.
        shifted = graph.add("Sub", A, graph.constant(preparation.shift, "shift"))
        A = graph.add("Cast", graph.add("Div", shifted, graph.constant(preparation.scale, "scale")), to=own)
    function = LOSSES[loss].probabilities if loss is not None else None
    results = []
    for m, layers in enumerate(members):
        result, prefix = A, f"members.{m}.layers" if len(members) > 1 else "layers"
        for i, (W, b, activation) in enumerate(layers):
            operands = graph.constant(W, f"{prefix}.{i}.weight"), graph.constant(b, f"{prefix}.{i}.bias")
            result = ACTIVATIONS[activation].onnx(graph, graph.add("Gemm", result, *operands, transB=1))
        # ONNX's Softmax, over the last axis, or Sigmoid
        results.append(graph.add(function.capitalize(), result) if function else result)
    A, width = results[0], len(members[0][-1][1])
    if len(members) > 1:  # onnxruntime's Mean knows no float64
        A = graph.add("Div", graph.add("Sum", *results), graph.constant(len(members)))
    taken = types.DOUBLE if preparation is not None else own
    classes = preparation.classes if preparation is not None else None
    if not function and classes is None:
        if preparation is not None:
            scale = graph.constant(np.float64(preparation.target_scale), "target_scale")
            shift = graph.constant(np.float64(preparation.target_shift), "target_shift")
            A = graph.add("Add", graph.add("Mul", graph.add("Cast", A, to=types.DOUBLE), scale), shift)
        graph.add("Identity", A, output="outputs")
        return taken, [("outputs", taken, ["rows", width])]

    name = "probabilities" if function else "outputs"
    P = A
    if classes is not None and width == 1:  # one probability, of the second class
        P, width = graph.add("Concat", graph.add("Sub", graph.constant(1), P), P, axis=1), 2
    P = graph.add("Identity", P, output=name)
    probabilities = (name, own, ["rows", width])
    if function == "sigmoid" and classes is None:  # independent probabilities, of no class
        return taken, [probabilities]
    label = graph.add("ArgMax", P, axis=1, keepdims=0)
    labels = np.arange(width) if classes is None else np.array(classes)  # int64, or text
    if classes is not None:
        label = graph.add("Gather", graph.constant(labels, "classes"), label)
    graph.add("Identity", label, output="label")
    return taken, [("label", types.STRING if labels.dtype.kind == "U" else types.INT64, ["rows"]), probabilities]
