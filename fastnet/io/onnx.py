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


def to_onnx(path: Path, members: Sequence[Sequence[Layer]], dtype: np.dtype[Any], loss: str | None) -> None:
    """Write the layers of a network, or of several and their mean, as an ONNX model; see `Network.to_onnx`."""
    try:
        import onnx
        import onnx.checker
    except ImportError:
        raise ImportError("ONNX export needs the package onnx: pip install onnx") from None
    size = sum(W.nbytes + b.nbytes for layers in members for W, b, _ in layers)
    if size > _MAX_WEIGHT_BYTES:
        raise ValueError(f"this model takes {size / 2**30:.1f} GiB; an ONNX file holds less than 2 GiB")
    graph = _Graph(onnx, dtype)
    outputs = _build(graph, members, loss)
    info = onnx.helper.make_tensor_value_info
    inputs, found = (
        [info("X", onnx.helper.np_dtype_to_tensor_dtype(dtype), ["rows", members[0][0][0].shape[1]])],
        [info(*output) for output in outputs],
    )
    body = onnx.helper.make_graph(graph.nodes, "fastnet", inputs, found, list(graph.constants.values()))
    opsets = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(body, producer_name="fastnet", opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _build(graph: _Graph, members: Sequence[Sequence[Layer]], loss: str | None) -> list[tuple[str, int, list[Any]]]:
    """Add all nodes; return the name, type and shape of every output."""
    own = graph.onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
    function = LOSSES[loss].probabilities if loss is not None else None
    results = []
    for m, layers in enumerate(members):
        result, prefix = "X", f"members.{m}.layers" if len(members) > 1 else "layers"
        for i, (W, b, activation) in enumerate(layers):
            operands = graph.constant(W, f"{prefix}.{i}.weight"), graph.constant(b, f"{prefix}.{i}.bias")
            result = ACTIVATIONS[activation].onnx(graph, graph.add("Gemm", result, *operands, transB=1))
        # ONNX's Softmax, over the last axis, or Sigmoid
        results.append(graph.add(function.capitalize(), result) if function else result)
    mean = results[0]
    if len(members) > 1:  # onnxruntime's Mean knows no float64
        mean = graph.add("Div", graph.add("Sum", *results), graph.constant(len(members)))
    name = "probabilities" if function else "outputs"
    graph.add("Identity", mean, output=name)
    outputs = [(name, own, ["rows", len(members[0][-1][1])])]
    if function == "softmax":
        graph.add("ArgMax", name, axis=1, keepdims=0, output="label")
        outputs.insert(0, ("label", graph.onnx.TensorProto.INT64, ["rows"]))
    return outputs
