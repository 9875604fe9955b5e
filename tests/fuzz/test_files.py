"""Hostile files: whatever a file holds, it loads as a sound object or is refused by one line that names it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import trials

import fastnet
from fastnet import Adam, Network, Trainer, table, table_file
from fastnet.io import storage
from fastnet.messages import one_line

JSON = [
    None,
    True,
    -1,
    0,
    1,
    2**63,
    2**200,
    1e308,
    float("nan"),
    "",
    "F32",
    "x" * 5000,
    [],
    [[]],
    {},
    [-1, 5],
    [0, 2**62],
]


def mutated(rng: np.random.Generator, value: Any, depth: int = 0) -> Any:
    """Return a JSON value with something in it replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85 and depth < 4:
        name, copy = list(value)[rng.integers(len(value))], dict(value)
        if rng.random() < 0.15:
            del copy[name]
        elif rng.random() < 0.1:
            copy[name * 2] = copy[name]
        else:
            copy[name] = mutated(rng, value[name], depth + 1)
        return copy
    if isinstance(value, list) and value and rng.random() < 0.7 and depth < 4:
        i = int(rng.integers(len(value)))
        return [*value[:i], mutated(rng, value[i], depth + 1), *value[i + 1 :]]
    if isinstance(value, str) and value[:1] in "[{" and rng.random() < 0.8:  # JSON in the metadata
        try:
            return json.dumps(mutated(rng, json.loads(value), depth))
        except ValueError:
            return value
    return JSON[rng.integers(len(JSON))]


def hostile(rng: np.random.Generator, content: bytes) -> bytes:
    """Return a safetensors file with a changed header, changed bytes or another length."""
    kind, end = rng.random(), 8 + int.from_bytes(content[:8], "little")
    if kind < 0.6:
        header = json.loads(content[8:end])
        header["__metadata__"].pop("checksum", None)  # which would refuse all that follows
        for _ in range(rng.integers(1, 4)):
            header = mutated(rng, header)
        start = json.dumps(header).encode()
        return len(start).to_bytes(8, "little") + start + content[end:]
    if kind < 0.8:
        changed = bytearray(content)
        for _ in range(rng.integers(1, 30)):
            changed[rng.integers(len(changed))] = int(rng.integers(256))
        return bytes(changed)
    if kind < 0.9:
        return content[: rng.integers(len(content))]
    claimed = int(rng.choice([0, 1, 8, 2**31, 2**40, 2**63 - 1]))
    return claimed.to_bytes(8, "little") + content[8:]


def refusal_is_one_line(error: Exception, name: str) -> None:
    assert "\n" not in str(error)
    assert name in str(error), error


def sound(network: Network) -> None:
    assert network.parameters.size == sum(W.size + b.size for W, b in zip(network.weights, network.biases, strict=True))
    assert np.isfinite(network.parameters).all()
    assert np.isfinite(network.predict(np.zeros((2, network.layer_sizes[0])))).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_hostile_models(tmp_path: Path) -> None:
    net = Network([3, 5, 2], hidden="tanh")
    net.loss = "cross_entropy"
    path = tmp_path / "model.safetensors"
    net.save(path)
    content, refused, loaded = path.read_bytes(), 0, 0
    for _, rng in trials("hostile model files", 600, 0.05):
        path.write_bytes(hostile(rng, content))
        try:
            sound(fastnet.load(path))
            loaded += 1
        except (ValueError, OSError) as error:
            refusal_is_one_line(error, "model.safetensors")
            refused += 1
    assert refused > 100
    assert loaded > 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_hostile_checkpoints(tmp_path: Path) -> None:
    path, rng = tmp_path / "run.safetensors", np.random.default_rng(0)
    X, y = rng.random((20, 3)), rng.random((20, 2))
    Trainer(Network([3, 4, 2]), optimizer=Adam(), batch_size=5).fit(X, y, 2, checkpoint=path)
    content, refused = path.read_bytes(), 0
    for _, trial in trials("hostile checkpoints", 400, 0.05):
        path.write_bytes(hostile(trial, content))
        try:
            ours = Trainer.resume(path)
        except (ValueError, OSError) as error:
            refusal_is_one_line(error, "run.safetensors")
            refused += 1
            continue
        sound(ours.network)
        if ours.backend != "cuda" and ours.network.layer_sizes == (3, 4, 2) and ours.loss in ("mse", "mae", "huber"):
            ours.fit(X, y, 1)
    assert refused > 100


CELLS = [
    "1",
    "-2.5",
    "1e308",
    "1e999",
    "nan",
    "",
    " 3 ",
    "red",
    '"a,b"',
    '"',
    "'",
    "=1+1",
    "0x10",
    "1_000",
    "\x00",
    "é",
    "\uff11",
    "-",
]


def test_hostile_tables(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for _, rng in trials("hostile CSV files", 600, 0.05):
        columns, rows = int(rng.integers(1, 6)), int(rng.integers(0, 12))
        lines = [",".join(f"c{i}" for i in range(columns))]
        for _ in range(rows):
            width = columns if rng.random() < 0.9 else int(rng.integers(0, 8))
            odd = rng.random() < 0.3
            lines.append(",".join(str(rng.choice(CELLS)) if odd else f"{rng.normal():.3g}" for _ in range(width)))
        text = (
            str(rng.choice(["\n", "\r\n", "\r"]))
            .join(lines)
            .encode(str(rng.choice(["utf-8", "utf-16", "latin-1"])), "replace")
        )
        if rng.random() < 0.2:
            text = bytes(rng.integers(0, 256, int(rng.integers(0, 200)), np.uint8))
        path.write_bytes(text)
        try:
            frame = table_file.read(path)
            table.check_columns(["c0"], list(frame.columns), str(path))
            with one_line(path):
                known, y, _, _ = table.target_of(frame["c0"])
                features = frame[known].drop(columns="c0")
                columns = table.Columns.of(features)
                inputs = columns.transformer(columns.features(features)).transform(columns.features(features))
        except (ValueError, OSError) as error:
            refusal_is_one_line(error, "table.csv")
        else:
            assert np.isfinite(inputs).all()
            assert len(inputs) == len(y) >= 1


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "junk"
    for _, rng in trials("files of random bytes", 200, 0.01):
        start = [b"", b"PK\x03\x04", b"\x80\x04", b"\x93NUMPY", (16).to_bytes(8, "little") + b"{"][rng.integers(5)]
        path.write_bytes(start + bytes(rng.integers(0, 256, int(rng.integers(0, 300)), np.uint8)))
        for read in (fastnet.load, Trainer.resume, lambda p: storage.read(p, "model")):
            with pytest.raises(ValueError, match="junk") as error:
                read(path)
            refusal_is_one_line(error.value, "junk")
    assert math.isfinite(len(path.read_bytes()))
