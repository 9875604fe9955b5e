"""Export to ONNX: the layers as a graph, and the function that turns their outputs into probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.specs.activations import ACTIVATIONS
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from .storage import Path, check_suffix, replacing

_OPSET, _ML_OPSET, _IR_VERSION = 17, 3, 8  # versions of 2022, which all runtimes in use can read
_MAX_WEIGHT_BYTES = 2**31 - 2**20  # the size limit of a protocol buffer, less some space for the graph

Layer = tuple[Array, Array, str]
Member = Sequence[Layer]


class Graph:
    """The inputs, nodes, constants and outputs of an ONNX graph under construction.

    Parameters
    ----------
    members : sequence of sequences of (W, b, activation)
        The layers of each network that the graph will hold.
    dtype : dtype
        Dtype of the networks.

    Raises
    ------
    ImportError
        If the package onnx is not installed.
    ValueError
        If the networks are larger than an ONNX file.
    """

    def __init__(self, members: Sequence[Member], dtype: np.dtype[Any]) -> None:
        try:
            import onnx
            import onnx.checker
        except ImportError:
            raise ImportError("ONNX export needs the package onnx: pip install onnx") from None
        size = sum(W.nbytes + b.nbytes for layers in members for W, b, _ in layers)
        if size > _MAX_WEIGHT_BYTES:
            raise ValueError(f"this model takes {size / 2**30:.1f} GiB; an ONNX file holds less than 2 GiB")
        self.onnx = onnx
        self.members = members
        self.dtype = dtype
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: list[Any] = []
        self._names: set[str] = set()

    def _new(self, name: str) -> str:
        if name in self._names:
            raise ValueError(f"a column is called {name!r}, as another part of the ONNX model is; rename it")
        self._names.add(name)
        return name

    def _type(self, dtype: Any) -> int:
        kind = np.dtype(dtype)
        if kind.kind == "U":
            return int(self.onnx.TensorProto.STRING)
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(kind))

    def input(self, name: str, dtype: Any, columns: int) -> str:
        """Add an input (rows, columns) and return its name."""
        self._inputs.append(
            self.onnx.helper.make_tensor_value_info(self._new(name), self._type(dtype), ["rows", columns])
        )
        return name

    def output(self, name: str, source: str, dtype: Any, columns: int = 0) -> str:
        """Add an output (rows, columns), or (rows,) if columns is 0, and return its name."""
        shape = ["rows", columns] if columns else ["rows"]
        self._outputs.append(self.onnx.helper.make_tensor_value_info(name, self._type(dtype), shape))
        return self.add("Identity", source, output=name)

    def constant(self, value: Any, name: str = "", dtype: Any = None) -> str:
        """Add a constant, by default of the networks' dtype, and return its name."""
        array = np.asarray(value, self.dtype if dtype is None else dtype, "C")
        name = self._new(name or f"constant_{len(self._constants)}")
        raw = array.dtype.kind != "U"
        values = array.tobytes() if raw else [text.encode() for text in array.ravel().tolist()]
        self._constants.append(
            self.onnx.helper.make_tensor(name, self._type(array.dtype), array.shape, values, raw=raw)
        )
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        output = self._new(output or f"{operator.lower()}_{len(self._nodes)}")
        self._nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def cast(self, x: str, dtype: Any) -> str:
        """Add a conversion."""
        return self.add("Cast", x, to=self._type(dtype))

    def erf(self, x: str) -> str:
        """Add the error function, computed in float32 because onnxruntime supports no other dtype."""
        return self.cast(self.add("Erf", self.cast(x, np.float32)), self.dtype)

    def mean_of_networks(self, inputs: Sequence[str], function: str | None) -> str:
        """Add the networks, each with its input and then the function for probabilities, and return the mean."""
        results = []
        for m, (result, layers) in enumerate(zip(inputs, self.members, strict=True)):
            prefix = f"members.{m}.layers" if len(self.members) > 1 else "layers"
            for i, (W, b, activation) in enumerate(layers):
                operands = self.constant(W, f"{prefix}.{i}.weight"), self.constant(b, f"{prefix}.{i}.bias")
                result = ACTIVATIONS[activation].onnx(self, self.add("Gemm", result, *operands, transB=1))
            # ONNX's Softmax, over the last axis, or Sigmoid
            results.append(self.add(function.capitalize(), result) if function else result)
        if len(results) == 1:
            return results[0]
        return self.add("Div", self.add("Sum", *results), self.constant(len(results)))  # onnxruntime: no float64 Mean

    def write(self, path: Path) -> None:
        """Check the graph and write it as a model.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        helper = self.onnx.helper
        body = helper.make_graph(self._nodes, "fastnet", self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
        model = helper.make_model(body, producer_name="fastnet", opset_imports=opsets, ir_version=_IR_VERSION)
        self.onnx.checker.check_model(model)
        with replacing(path) as file:
            file.write(model.SerializeToString())


def to_onnx(path: Path, members: Sequence[Member], dtype: np.dtype[Any], loss: str | None) -> None:
    """Write the layers of a network, or of several and their mean, as an ONNX model; see `Network.to_onnx`."""
    check_suffix(path, ".onnx")
    graph = Graph(members, dtype)
    function = LOSSES[loss].probabilities if loss is not None else None
    X = graph.input("X", dtype, members[0][0][0].shape[1])
    found, classes = graph.mean_of_networks([X] * len(members), function), len(members[0][-1][1])
    if function == "softmax":
        graph.output("label", graph.add("ArgMax", found, axis=1, keepdims=0), np.int64)
    graph.output("probabilities" if function else "outputs", found, dtype, classes)
    graph.write(path)
