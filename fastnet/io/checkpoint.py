"""Checkpoints: a trainer saved in a file. Resumed training gives the same bits as training without interruption."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..history import History
from ..kernels.api import validation
from ..kernels.specs.base import Array
from ..optimizers import OPTIMIZER_CLASSES, SCHEDULE_CLASSES
from ..training_state import TrainingState
from . import model, storage

SHARE = 0.05
"""Largest fraction of the time to spend writing checkpoints, not counting the first and the last."""

SETTINGS = ("loss", "batch_size", "shuffle", "seed", "l2", "clip_norm", "dropout", "backend", "threads")
"""Attributes of a Trainer that a checkpoint stores unchanged."""

_KNOWN: dict[str, Any] = OPTIMIZER_CLASSES | SCHEDULE_CLASSES


class CheckpointWriter:
    """Writes checkpoints of one trainer to one file, spending a limited fraction of the time on it.

    Parameters
    ----------
    path : str or path-like
        Replaced as a whole each time.
    optimizer : Optimizer
        The trainer's optimizer; `check_optimizer` may reject it.
    """

    def __init__(self, path: storage.Path, optimizer: Any) -> None:
        check_optimizer(optimizer)
        storage.check_suffix(path, ".safetensors")
        storage.check_target(path)
        self._path = path
        self._due = 0.0

    def is_there(self) -> bool:
        """Whether the file exists."""
        return os.path.exists(self._path)

    def write_if_due(self, contents: Callable[[], tuple[Mapping[str, Array], Mapping[str, str]]]) -> None:
        """Write the arrays and metadata of ``contents``, unless the last checkpoint is too recent."""
        if time.monotonic() >= self._due:
            self.write(*contents())

    def write(self, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
        """Write a checkpoint now."""
        start = time.monotonic()
        storage.write(self._path, arrays, {**metadata, "kind": "checkpoint"})
        end = time.monotonic()
        self._due = end + (end - start) * (1 - SHARE) / SHARE


def state_dict(trainer: Any, state: TrainingState, best: tuple[Array, ...]) -> tuple[dict[str, Array], dict[str, str]]:
    """Return a checkpoint's arrays and metadata: a Trainer with its state, and the best parameters, state and step."""
    arrays, metadata = model.state_of(trainer.network)
    arrays["progress"] = state.progress.reshape(1).view(np.int64)
    arrays["totals"] = state.totals.reshape(1).view(np.float64)
    arrays["optimizer.state"] = state.vectors
    arrays |= dict(zip(("best.parameters", "best.state", "best.step"), best, strict=True))
    arrays |= {f"history.{name}": np.array(curve) for name, curve in trainer.history.items()}
    settings = {name: getattr(trainer, name) for name in SETTINGS}
    metadata["trainer"] = json.dumps({**settings, "optimizer": _to_json(trainer.optimizer)})
    metadata["curves"] = json.dumps(list(trainer.history))
    return arrays, metadata


def _to_json(value: Any) -> Any:
    """Return an optimizer or a schedule as JSON; numbers are unchanged."""
    if not dataclasses.is_dataclass(value):
        return value if isinstance(value, (bool, int)) else float(value)
    fields = {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"name": type(value).__name__, **fields}


def _from_json(value: Any) -> Any:
    """Make the optimizer or schedule that `_to_json` described."""
    if not isinstance(value, dict):
        return value
    if value["name"] not in _KNOWN:
        raise ValueError(f"its optimizer is of class {str(value['name'])[:40]!r}; there are: {', '.join(_KNOWN)}")
    fields = {name: _from_json(part) for name, part in value.items() if name != "name"}
    return _KNOWN[value["name"]](**fields)


def check_optimizer(optimizer: Any) -> None:
    """Reject an optimizer that `Trainer.resume` could not recreate, because of its own class or its schedule's.

    Raises
    ------
    TypeError
        If a class is not one of fastnet's.
    """
    for value in (optimizer, optimizer.learning_rate, getattr(optimizer.learning_rate, "then", None)):
        if dataclasses.is_dataclass(value) and _KNOWN.get(type(value).__name__) is not type(value):
            raise TypeError(
                f"checkpoint is given, but {type(value).__name__} is a class of your own, which Trainer.resume could "
                f"not make from a file; there are: {', '.join(_KNOWN)}. Train without checkpoint, and "
                "keep the parameters by network.save"
            )


def settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a Trainer from a checkpoint's metadata."""
    try:
        stored = json.loads(metadata["trainer"])
        return {**{name: stored[name] for name in SETTINGS}, "optimizer": _from_json(stored["optimizer"])}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it describes its trainer in a way that fastnet does not write ({error!r:.100})") from None


def load_history(arrays: Mapping[str, Array], metadata: Mapping[str, str], history: History) -> None:
    """Append the epochs of a checkpoint to a history."""
    curves = {name: arrays[f"history.{name}"] for name in storage.parse(metadata, "curves")}
    shapes = {curve.shape for curve in curves.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"it has curves of shapes {sorted(shapes)}; expected one length")
    # NaN in a validation curve means an epoch without validation. All NaN means that the network diverged in epoch 1.
    gaps = {name for name, curve in curves.items() if name.startswith("val_") and not np.isnan(curve).all()}
    for row in zip(*(curve.tolist() for curve in curves.values()), strict=True):
        measured = zip(curves, row, strict=True)
        history.append({name: value for name, value in measured if not (name in gaps and np.isnan(value))})


def load_array(arrays: Mapping[str, Array], name: str, like: Array) -> Array:
    """Return an array of a checkpoint; it must have the shape and dtype of ``like`` and be finite."""
    found = arrays[name]
    if found.shape != like.shape or found.dtype != like.dtype:
        what = f"shape {found.shape} and dtype {found.dtype}"
        raise ValueError(f"{name!r} has {what}; expected shape {like.shape} and dtype {like.dtype}")
    validation.finite(name, found)
    return found


_LARGEST_COUNT = 2**53
"""More steps or rows than any training reaches; larger numbers could overflow."""


def load_state(arrays: Mapping[str, Array], state: TrainingState, best: bool) -> None:
    """Fill a training state from a checkpoint: the latest state, or that at the best parameters."""
    numbers = load_array(arrays, "progress", state.progress.reshape(1).view(np.int64))
    totals = load_array(arrays, "totals", state.totals.reshape(1).view(np.float64))
    progress = numbers.view(state.progress.dtype)[0]
    state.resumed_rows = int(progress["rows"])
    if best:
        progress["step"] = load_array(arrays, "best.step", state.step)[0]
    out_of_range = (numbers < 0).any() or (numbers > _LARGEST_COUNT).any()
    if out_of_range or progress["row"] != progress["done"] or progress["row"] > progress["rows"]:
        raise ValueError(f"'progress' is {numbers.tolist()}, which no training leaves behind")
    state.progress[...], state.totals[...] = progress, totals.view(state.totals.dtype)[0]
    state.vectors[...] = load_array(arrays, "best.state" if best else "optimizer.state", state.vectors)
