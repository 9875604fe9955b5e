"""Model files: a network comes back to the bit, PyTorch reads its weights, and a hostile file is an error."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import fastnet
from fastnet import Network
from fastnet.io import storage
from fastnet.kernels.reference import activations as reference

ACTIVATIONS = [activation.name for activation in reference.ACTIVATIONS]
X = np.random.default_rng(0).standard_normal((7, 3))


def network(**options: Any) -> Network:
    net = Network([3, 5, 4, 2], hidden=["tanh", "relu"], output="identity", **{"seed": 3, **options})
    net.parameters[:] += np.linspace(-0.1, 0.1, net.parameters.size)  # biases too
    return net


def prepared() -> Network:
    net = network()
    net.loss = "cross_entropy"
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_model_round_trip_is_bit_identical(dtype: str, tmp_path: Path) -> None:
    net = network(dtype=dtype)
    net.save(tmp_path / "m.safetensors")
    other = fastnet.load(tmp_path / "m.safetensors")
    assert repr(other) == repr(net)
    assert (other.parameters == net.parameters).all()
    assert (other.predict(X) == net.predict(X)).all()
    assert other.loss is None
    other.parameters[:] = 0
    assert (fastnet.load(tmp_path / "m.safetensors").parameters == net.parameters).all()


def test_model_keeps_everything_needed_to_predict(tmp_path: Path) -> None:
    net = prepared()
    net.save(str(tmp_path / "m"))
    other = fastnet.load(str(tmp_path / "m"))
    assert (other.predict_proba(X) == net.predict_proba(X)).all()
    assert other.loss == net.loss


def test_suffixes_of_other_formats_are_refused(tmp_path: Path) -> None:
    net, trainer = network(), fastnet.Trainer(network())
    says = "it would hold {}, but its name says {}; end it in {}"
    onnx = r"ONNX \(to_onnx, and fastnet export MODEL FILE.onnx, write that\)"
    calls: list[tuple[Any, str, str]] = [
        (net.save, "m.ONNX", says.format("safetensors", onnx, ".safetensors$")),
        (fastnet.Ensemble([net]).save, "m.csv", says.format("safetensors", "CSV", ".safetensors$")),
        (lambda path: trainer.fit(X, X[:, :2], 1, checkpoint=path), "m.onnx", says.format("safetensors", onnx, ".")),
        (trainer.history.to_csv, "m.parquet", says.format("CSV", "a table", ".csv$")),
    ]
    for call, name, message in calls:
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(ValueError, match=f"^cannot write .*{name}: {message}"):
                call(path)
    assert not list(tmp_path.iterdir())
    for name in ("m", "m.v2", "m.SAFETENSORS", ".onnx"):
        net.save(tmp_path / name)
        assert repr(fastnet.load(tmp_path / name)) == repr(net)


def test_model_with_nonfinite_parameters_is_not_saved(tmp_path: Path) -> None:
    net = network()
    net.weights[1][2, 1] = np.nan
    with pytest.raises(ValueError, match=r"network.parameters holds NaN at row"):
        net.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


MODULES = {"identity": "Identity", "relu": "ReLU", "leaky_relu": "LeakyReLU", "tanh": "Tanh", "sigmoid": "Sigmoid"}
MODULES |= {"gelu": "GELU", "silu": "SiLU", "elu": "ELU", "softplus": "Softplus", "mish": "Mish"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_model_files_are_exchanged_with_pytorch(activation: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    def sequential() -> Any:
        parts: OrderedDict[str, Any] = OrderedDict()
        for i, (n, k) in enumerate([(3, 5), (5, 2)]):
            parts[str(i)] = torch.nn.Linear(n, k)
            parts[f"activation {i}"] = getattr(torch.nn, MODULES[activation if i == 0 else "identity"])()
        return torch.nn.Sequential(OrderedDict(layers=torch.nn.Sequential(parts)))

    net = Network([3, 5, 2], hidden=activation, seed=1)
    net.biases[0][:] = [0.1, -0.2, 0.3, -0.4, 0.5]
    net.save(tmp_path / "m.safetensors")
    model = sequential()
    model.load_state_dict(load_file(tmp_path / "m.safetensors"))
    with torch.no_grad():
        np.testing.assert_allclose(
            model(torch.tensor(X, dtype=torch.float32)).numpy(), net.predict(X), rtol=1e-5, atol=1e-6
        )

    torch.manual_seed(0)
    model = sequential()
    save_file(model.state_dict(), tmp_path / "torch.safetensors")
    state = safetensors.numpy.load_file(tmp_path / "torch.safetensors")
    for i in range(2):
        net.weights[i][...], net.biases[i][...] = state[f"layers.{i}.weight"], state[f"layers.{i}.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(
            model(torch.tensor(X, dtype=torch.float32)).numpy(), net.predict(X), rtol=1e-5, atol=1e-6
        )
    with pytest.raises(ValueError, match="fastnet did not write it"):
        fastnet.load(tmp_path / "torch.safetensors")


# ------------------------------------------------------------------------------------------ hostile files


def changed(tmp_path: Path, metadata: dict[str, Any], arrays: dict[str, Any] | None = None) -> Path:
    """A model file with another metadata, or arrays; None removes one."""
    prepared().save(tmp_path / "m")
    found, text = storage.read(tmp_path / "m", "model")
    found |= arrays or {}
    text |= metadata
    kept = {name: array for name, array in found.items() if array is not None}
    storage.write(tmp_path / "m", kept, {name: value for name, value in text.items() if value is not None})
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"layer_sizes": None}, "m lacks 'layer_sizes'"),
        ({"layer_sizes": "[3, 5"}, "is not as fastnet writes it"),
        ({"layer_sizes": "[" * 100_000}, "is not as fastnet writes it"),
        ({"layer_sizes": "[3, 5, 4, " + "9" * 5000 + "]"}, "is not as fastnet writes it"),
        ({"layer_sizes": "[3]"}, r"layer sizes are \[3\]; expected at least two"),
        ({"layer_sizes": "[3, 5, 4.0, 2]"}, "expected at least two whole numbers"),
        ({"layer_sizes": "[3, 5, true, 2]"}, "expected at least two whole numbers"),
        ({"layer_sizes": "[3, 5, -4, 2]"}, "expected at least two whole numbers"),
        ({"layer_sizes": "[3, 1000000000000, 4, 2]"}, r"layers.0.weight has shape \(5, 3\)"),
        ({"layer_sizes": "[3, 5, 4, 2, 7]"}, "activations are"),
        (
            {"layer_sizes": "[3, 5, 4, 2, 7]", "activations": '["relu", "relu", "relu", "identity"]'},
            "lacks 'layers.3.weight'",
        ),
        ({"activations": '["relu", "rellu", "identity"]'}, "unknown hidden activation 'rellu'"),
        ({"activations": '["relu", 7, "identity"]'}, "unknown hidden activation 7"),
        ({"activations": '{"relu": 1}'}, "activations are"),
        ({"dtype": "float64"}, "has shape .* and dtype float32"),
        ({"dtype": "object"}, "and dtype float32; its metadata say"),
        ({"seed": "x"}, "is not as fastnet writes it"),
        ({"seed": "-1"}, "seed is -1"),
        ({"loss": "evil"}, "unknown loss 'evil'"),
        ({"kind": "\x1b[2J\n"}, r"holds a \\x1b\[2J\\n; expected a model or ensemble"),
        ({"dtype": "\x1b[2J\n"}, r"and dtype float32; its metadata say \(5, 3\) and \\x1b\[2J\\n$"),
        ({"layer_sizes": '"\\u001b[2J\\n"'}, r"layer sizes are \\x1b\[2J\\n; expected at least two"),
        ({"preparation": "{}"}, "train again with fastnet train FILE --target COLUMN"),
    ],
)
def test_model_rejects_hostile_metadata(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = changed(tmp_path, metadata)
    with pytest.raises(ValueError, match=message) as caught:
        fastnet.load(path)
    assert str(caught.value).startswith(f"{path}")
    assert str(caught.value).isprintable(), "a terminal would obey"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"layers.1.bias": None}, "lacks 'layers.1.bias'"),
        ({"layers.0.weight": np.zeros((3, 5), "float32")}, r"layers.0.weight has shape \(3, 5\) and dtype float32"),
        ({"layers.0.weight": np.zeros((5, 3))}, "dtype float64"),
        ({"layers.0.weight": np.full((5, 3), np.nan, "float32")}, "layers.0.weight holds NaN at row 0, column 0"),
        ({"layers.2.bias": np.array([0, np.inf], "float32")}, "layers.2.bias holds infinity at row 1"),
    ],
)
def test_model_rejects_hostile_arrays(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fastnet.load(changed(tmp_path, {}, arrays))


def test_model_is_not_a_checkpoint(tmp_path: Path) -> None:
    storage.write(tmp_path / "run", {}, {"kind": "checkpoint"})
    with pytest.raises(
        ValueError, match=r"holds a checkpoint; expected a model or ensemble; use fastnet.Trainer.resume\(path\)"
    ):
        fastnet.load(tmp_path / "run")


def test_model_with_flipped_bits_is_rejected(tmp_path: Path) -> None:
    prepared().save(tmp_path / "m")
    content, random = (tmp_path / "m").read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(600):
        flipped = bytearray(content)
        flipped[random.integers(0, len(content))] ^= 1 << random.integers(0, 8)
        (tmp_path / "m").write_bytes(flipped)
        try:
            net = fastnet.load(tmp_path / "m")
        except ValueError:
            refused += 1
        else:  # the bit was one of the checksum's name
            assert (net.parameters == prepared().parameters).all()
    assert refused > 580
