"""Makes the networks that ``fastnet train`` fits: their default settings, and the rows that each trains on."""

import argparse
import os
from dataclasses import replace
from typing import Any

import numpy as np

from .. import recipe
from ..dataset import constant_loss, split_rows
from ..io import storage
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from ..network import Network
from ..optimizers import OPTIMIZER_CLASSES, CosineDecay, Schedule, StepDecay, WarmUp
from ..trainer import Trainer
from .fitting import Data, Member

OPTIMIZERS: dict[str, Any] = {name.lower(): made for name, made in OPTIMIZER_CLASSES.items()}
RATES = {name: 0.1 if name == "sgd" else made().learning_rate for name, made in OPTIMIZERS.items()}
"""Default learning rate of each optimizer."""
DEFAULT_LOSSES = {"regression": "mse", "classification": "cross_entropy"}
"""Default loss of each task."""
SCHEDULES: dict[str, Any] = {
    "constant": lambda rate, epochs: rate,
    "cosine": CosineDecay,
    "step": lambda rate, epochs: StepDecay(rate, epochs / 3),
    "warmup": lambda rate, epochs: WarmUp(max(1, epochs / 20), CosineDecay(rate, epochs)),
}
"""The learning rate over the epochs: constant; to 0 along a cosine; a tenth after each third; warm-up, then cosine."""

DIGITS: dict[str, Any] = {"hidden": [128], "activation": "relu", "epochs": 30, "batch_size": 32, "schedule": "constant"}
"""Default options for the digits."""


def settle(options: argparse.Namespace, task: str) -> None:
    """Fill in the options that were not given, from the recipe for tables or the defaults for the digits."""
    options.loss = options.loss or DEFAULT_LOSSES[task]
    if options.file is None:
        defaults = DIGITS | {"lr": RATES[options.optimizer], "label_smoothing": 0.0}
    else:
        smoothing = recipe.SMOOTHING if options.loss == "cross_entropy" else 0.0
        defaults = {"hidden": recipe.HIDDEN, "activation": recipe.ACTIVATIONS[task], "epochs": recipe.EPOCHS}
        defaults |= {"batch_size": "auto", "schedule": "cosine", "label_smoothing": smoothing}
        defaults["lr"] = recipe.RATES[task] if options.optimizer == "adam" else RATES[options.optimizer]
    for name, value in defaults.items():
        if getattr(options, name) == ("auto" if name == "batch_size" else None):
            setattr(options, name, value)
    options.patience = options.patience or options.epochs


def count(options: argparse.Namespace) -> int:
    """Return the number of networks to train."""
    return int((options.cv or 1) * options.ensemble)


def checkpoints(options: argparse.Namespace) -> list[str]:
    """Return the checkpoint file of each network; several networks get -1, -2, ... before the suffix."""
    stem, suffix = os.path.splitext(options.checkpoint or "")
    several = [f"{stem}-{i + 1}{suffix}" for i in range(count(options))]
    return [] if options.checkpoint is None else [options.checkpoint] if len(several) == 1 else several


def member_of(found: Data, parts: list[tuple[Array, Array]], number: int, options: argparse.Namespace) -> Member:
    """Make network ``number`` for the training rows of its part; some are set aside to choose the best epoch."""
    fold, seed = number // options.ensemble, options.seed + number % options.ensemble
    rows = parts[fold][0]
    if found.columns is None:
        kept, chosen = split_rows(len(rows), 0.1, seed)
    else:
        from .. import scores

        kept, chosen = scores.split(found.y[rows], min(0.25, max(0.1, 250 / len(rows))), seed)
    transformer, trainer, (own, validation) = _prepared(found, seed, options, None, rows[kept], rows[chosen])
    member = Member(trainer, own, validation, constant_loss(options.loss, *own[1:]), fold, transformer)
    if found.columns is not None:
        member.prepare_all = lambda epochs: _prepared(found, seed, options, epochs, rows)
    if options.checkpoint is not None:
        member.checkpoint = checkpoints(options)[number]
    return member


def _prepared(
    found: Data, seed: int, options: argparse.Namespace, epochs: int | None, *parts: Array
) -> tuple[Any, Trainer, list[tuple[Any, ...]]]:
    """Make a transformer fitted on the first part of the rows, a trainer, and X, y and any weights of each part."""
    if found.columns is None:
        transformer, inputs = None, [found.X[part] for part in parts]
    else:
        transformer = found.columns.transformer(found.X.iloc[parts[0]])
        inputs = [transformer.transform(found.X.iloc[part]) for part in parts]
    y, outputs = found.y, 1
    if found.classes is not None:
        outputs = len(found.classes)
        if options.label_smoothing or not LOSSES[options.loss].takes_labels:
            y = recipe.smoothed(y, outputs, options.label_smoothing)
    of_rows = [y]
    if options.class_weight:
        counts = np.bincount(found.y[parts[0]], minlength=outputs)
        of_rows.append((len(parts[0]) / outputs / np.maximum(counts, 1))[found.y])
    net = Network([inputs[0].shape[1], *options.hidden, outputs], hidden=options.activation, seed=seed)
    batch, extra = options.batch_size, dict[str, float]()
    if found.columns is not None:
        net.weights[-1][...] = 0  # so that the untrained network predicts the same for all rows
        batch = recipe.even_batch(len(parts[0])) if batch == "auto" else batch
        extra = {"beta2": recipe.BETA2} if options.optimizer == "adam" else {}
    optimizer = OPTIMIZERS[options.optimizer](
        SCHEDULES[options.schedule](options.lr, epochs or options.epochs), **extra
    )
    run = {"seed": seed, "backend": options.backend, "l2": options.l2, "dropout": options.dropout, "comm": options.comm}
    run["threads"] = options.threads if count(options) == 1 else 1
    trainer = Trainer(net, options.loss, optimizer, batch, **run)
    return transformer, trainer, [(X, *(of[part] for of in of_rows)) for X, part in zip(inputs, parts, strict=True)]


def resume(member: Member, options: argparse.Namespace, ranks: Any) -> None:
    """Resume from the checkpoint if its file exists; ValueError if it is of another network, other options or data."""
    path = member.checkpoint
    if path is None or not ranks.on_first("the command line", lambda: os.path.exists(path)):
        return
    ours, shown = member.trainer, storage.display_path(path)
    member.trainer = Trainer.resume(path, best=True, threads=ours.threads, comm=options.comm)
    for name in ("layer_sizes", "activations", "seed"):
        there, here = getattr(member.trainer.network, name), getattr(ours.network, name)
        if there != here:
            raise ValueError(
                f"{shown} is the checkpoint of another network: its {name} "
                f"{'are' if name != 'seed' else 'is'} {there}, not {here}; remove it, or name another file"
            )
    for name in ("loss", "optimizer", "batch_size", "l2", "dropout"):
        there, here = getattr(member.trainer, name), getattr(ours, name)
        if name == "optimizer" and _differs_in_epochs(there, here):
            raise ValueError(
                f"{shown} was trained with another --epochs, for which its schedule is made: {there.learning_rate}, "
                f"not {here.learning_rate}; give the same --epochs, remove it, or name another file (with --schedule "
                "constant a run can be made longer)"
            )
        if there != here:
            raise ValueError(
                f"{shown} was trained with another {name.replace('_', ' ')}: {there}, not {here}; give the same "
                "options, remove it, or name another file"
            )
    best = member.history.best_epoch
    was_trained = not np.array_equal(member.trainer.network.parameters, ours.network.parameters)
    if best is not None and was_trained and not np.isclose(member.kept()[1], member.history["val_loss"][best], 1e-4):
        raise ValueError(
            f"{shown} is the checkpoint of a run on other rows, or with another --label-smoothing or --class-weight: "
            "the network may have learnt those that are held out now; remove it, or name another file"
        )


def _differs_in_epochs(there: Any, here: Any) -> bool:
    """Return whether two optimizers differ only in the number of epochs of their schedules."""
    old, new = there.learning_rate, here.learning_rate
    if old == new or type(old) is not type(new) or not isinstance(old, Schedule):
        return False
    return bool(old.learning_rate == new.learning_rate and replace(there, learning_rate=new) == here)
