"""Checkpoints: a trainer in a file, from which training goes on to the bit as if it had not stopped.

Imports the history, the optimizers and `storage`; knows of the Trainer what it is handed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..history import History
from ..kernels.api import validation
from ..kernels.engine.plan import DONE, PROGRESS_SIZE, ROW, ROWS, TOTALS_SIZE
from ..kernels.specs.base import Array
from ..optimizers import OPTIMIZER_CLASSES, SCHEDULE_CLASSES, Optimizer
from . import storage

SHARE = 0.05
"""Largest share of the time that goes into writing, the first checkpoint and the last excepted."""

SETTINGS = ("loss", "batch_size", "shuffle", "seed", "l2", "clip_norm", "backend", "threads")
"""Attributes of a Trainer that are kept as they are."""

_CLASSES: dict[str, Any] = {**OPTIMIZER_CLASSES, **SCHEDULE_CLASSES}


class CheckpointWriter:
    """Writes checkpoints of one trainer to one file, now and then.

    Parameters
    ----------
    path : str or path-like
        Replaced as a whole each time.
    """

    def __init__(self, path: storage.Path) -> None:
        storage.check_target(path)
        self._path = path
        self._due = 0.0

    def write_if_due(self, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
        """Write after an epoch, unless the last writing was too dear to do it again so soon."""
        if time.monotonic() >= self._due:
            self.write(arrays, metadata)

    def write(self, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
        """Write."""
        start = time.monotonic()
        storage.write(self._path, arrays, {**metadata, "kind": "checkpoint"})
        end = time.monotonic()
        self._due = end + (end - start) * (1 - SHARE) / SHARE


def state_dict(trainer: Any, best: tuple[Array, ...]) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and metadata of a checkpoint: the trainer as it stands, and its best parameters, state and step."""
    arrays, metadata = trainer.network._state_dict()
    arrays |= {"progress": trainer._progress, "totals": trainer._totals, "optimizer.state": trainer._state}
    arrays |= dict(zip(("best.parameters", "best.state", "best.step"), best, strict=True))
    arrays |= {f"history.{name}": np.array(curve) for name, curve in trainer.history.items()}
    settings = {name: getattr(trainer, name) for name in SETTINGS}
    metadata["trainer"] = json.dumps({**settings, "optimizer": _to_json(trainer.optimizer)})
    metadata["curves"] = json.dumps(list(trainer.history))
    return arrays, metadata


def _to_json(value: Any) -> Any:
    """An optimizer or a schedule as plain JSON; numbers as they are."""
    if not dataclasses.is_dataclass(value):
        return value if isinstance(value, (bool, int)) else float(value)
    fields = {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"name": type(value).__name__, **fields}


def _from_json(value: Any) -> Any:
    """What `_to_json` told."""
    if not isinstance(value, dict):
        return value
    fields = {name: _from_json(part) for name, part in value.items() if name != "name"}
    return _CLASSES[value["name"]](**fields)


def settings(shown_path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of a Trainer from a checkpoint's metadata; errors begin with the file's name."""
    try:
        told = json.loads(metadata["trainer"])
        optimizer: Optimizer = _from_json(told["optimizer"])
        return {**{name: told[name] for name in SETTINGS}, "optimizer": optimizer}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{shown_path} describes its trainer otherwise than fastnet does ({error!r:.100})") from None


def history(shown_path: str, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> History:
    """The history of a checkpoint."""
    try:
        names = json.loads(metadata["curves"])
        curves = {name: arrays[f"history.{name}"] for name in names}
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{shown_path} lacks curves of its history") from None
    shapes = {curve.shape for curve in curves.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"{shown_path} has curves of shapes {sorted(shapes)}; expected one length")
    restored = History()
    for row in zip(*(curve.tolist() for curve in curves.values()), strict=True):
        restored.append(dict(zip(curves, row, strict=True)))
    return restored


def load_array(shown_path: str, arrays: Mapping[str, Array], name: str, like: Array) -> Array:
    """An array of a checkpoint that has the shape and dtype of another, and no NaN in it."""
    found = arrays.get(name)
    if found is None or found.shape != like.shape or found.dtype != like.dtype:
        what = "no such array" if found is None else f"shape {found.shape} and dtype {found.dtype}"
        raise ValueError(f"{shown_path}: {name!r} has {what}; expected shape {like.shape} and dtype {like.dtype}")
    try:
        validation.finite(name, found)
    except ValueError as error:
        raise ValueError(f"{shown_path}: {error}") from None
    return found


_MOST = 2**53
"""Steps and rows that no training gets to; more would run over."""


def load_progress(shown_path: str, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """Where the epoch stood: progress and totals."""
    progress = load_array(shown_path, arrays, "progress", np.zeros(PROGRESS_SIZE, np.int64))
    totals = load_array(shown_path, arrays, "totals", np.zeros(TOTALS_SIZE))
    if (
        (progress < 0).any()
        or (progress > _MOST).any()
        or progress[ROW] != progress[DONE]
        or progress[ROW] > max(progress[ROWS], 0)
    ):
        raise ValueError(f"{shown_path}: 'progress' is {progress.tolist()}, which no training leaves behind")
    return progress, totals
