"""Export to ONNX: the layers as a graph, and the function that makes probabilities of their outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.specs.activations import ACTIVATIONS
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
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
        """Add a constant of the network's dtype and return its name."""
        array = np.asarray(value, self.dtype, "C")
        name = name or f"constant_{len(self.constants)}"
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        self.constants[name] = self.onnx.helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)
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


def to_onnx(path: Path, layers: Sequence[Layer], dtype: np.dtype[Any], loss: str | None) -> None:
    """Write layers as an ONNX model; see `Network.to_onnx`."""
    try:
        import onnx
        import onnx.checker
    except ImportError:
        raise ImportError("ONNX export needs the package onnx: pip install onnx") from None
    size = sum(W.nbytes + b.nbytes for W, b, _ in layers)
    if size > _MAX_WEIGHT_BYTES:
        raise ValueError(f"this network takes {size / 2**30:.1f} GiB; an ONNX file holds less than 2 GiB")
    graph = _Graph(onnx, dtype)
    outputs = _build(graph, layers, loss)
    info = onnx.helper.make_tensor_value_info
    inputs, found = (
        [info("X", onnx.helper.np_dtype_to_tensor_dtype(dtype), ["rows", layers[0][0].shape[1]])],
        [info(*output) for output in outputs],
    )
    body = onnx.helper.make_graph(graph.nodes, "fastnet", inputs, found, list(graph.constants.values()))
    opsets = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(body, producer_name="fastnet", opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _build(graph: _Graph, layers: Sequence[Layer], loss: str | None) -> list[tuple[str, int, list[Any]]]:
    """Add all nodes; return the name, type and shape of every output."""
    own = graph.onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
    A = "X"
    for i, (W, b, activation) in enumerate(layers):
        weight, bias = graph.constant(W, f"layers.{i}.weight"), graph.constant(b, f"layers.{i}.bias")
        A = ACTIVATIONS[activation].onnx(graph, graph.add("Gemm", A, weight, bias, transB=1))
    function = LOSSES[loss].probabilities if loss is not None else None
    name = "probabilities" if function else "outputs"
    P = graph.add(function.capitalize(), A) if function else A  # ONNX's Softmax, over the last axis, or Sigmoid
    graph.add("Identity", P, output=name)
    outputs = [(name, own, ["rows", len(layers[-1][1])])]
    if function == "softmax":
        graph.add("ArgMax", name, axis=1, keepdims=0, output="label")
        outputs.insert(0, ("label", graph.onnx.TensorProto.INT64, ["rows"]))
    return outputs
