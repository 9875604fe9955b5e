"""Reports the results of ``fastnet train``: curves, scores in comparison with two other models, JSON."""

import argparse
import sys
import time
from typing import Any

import numpy as np

from ..fit_session import evaluate_as_in_fit
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from ..messages import counted
from . import textplot
from .fitting import Data, Member

OURS = "this model"


def held_out(
    found: Data, members: list[Member], model: Any, parts: list[tuple[Array, Array]], boosted: bool
) -> tuple[dict[str, Any], float]:
    """Score the networks, overall and by fold, and the baselines on unseen rows; also return the baselines' seconds."""
    from .. import scores

    shift, scale = found.scaling
    y_of_folds, outputs_of_folds, seconds = list[Array](), dict[str, list[Array]](), 0.0
    for fold, (train, held) in enumerate(parts):
        ours = [i for i, member in enumerate(members) if member.fold == fold]
        if not ours:
            continue
        features, fitted = found.X.iloc[held], (found.X.iloc[train], found.y[train])
        start = time.perf_counter()
        data = fitted, features, found.columns.text, len(found.classes or ())
        try:
            others = scores.baseline_outputs(*data, boosted)
        except RuntimeError as refused:  # a limit on processes prevents a thread
            if not boosted or "thread" not in str(refused):
                raise
            print(f"fastnet train: {scores.BOOSTING} is not fitted beside it: {refused}", file=sys.stderr)
            boosted, others = False, scores.baseline_outputs(*data, False)
        seconds += time.perf_counter() - start
        others = {name: out if found.classes else out * scale + shift for name, out in others.items()}
        y_of_folds.append(found.y[held] if found.classes else found.y[held] * scale + shift)
        for name, out in ({OURS: model.outputs_of(features, ours)} | others).items():
            outputs_of_folds.setdefault(name, []).append(out)
    whole = {name: out for name, out in outputs_of_folds.items() if len(out) == len(y_of_folds)}
    y, outputs = np.concatenate(y_of_folds), {name: np.concatenate(out) for name, out in whole.items()}
    result = {"rows": len(y), "scores": {name: scores.scores(y, out) for name, out in outputs.items()}}
    if len(y_of_folds) > 1:
        result["folds"] = {name: [*map(scores.scores, y_of_folds, out)] for name, out in whole.items()}
    mine = outputs.pop(OURS)
    result["verdict"] = {name: scores.compare(y, mine, out, found.balanced) for name, out in outputs.items()}
    if found.classes:
        result["confusion"] = scores.confusion(y, mine)
    return result, seconds


def fitted(members: list[Member]) -> list[str]:
    """Draw the curves of one network, or list several; state which epoch is kept, and the diagnosis."""
    first, kept = members[0].history, [member.kept() for member in members]

    def named(epoch: int | None) -> str:
        return "none" if epoch is None else f"epoch {epoch + 1}"

    if len(members) == 1:
        epoch, value = kept[0]
        refitted = members[0].refitted
        if first.best_epoch is None:
            best = "none: no epoch has a finite loss"
        elif epoch is None:
            best = f"none of {first.epochs}: the network as it was before training is kept, val_loss {value:.4g}"
        elif refitted is None:
            best = f"{named(epoch)} of {first.epochs} is kept: val_loss {value:.4g}"
        else:
            best = f"{named(epoch)} of {first.epochs}: val_loss {value:.4g}; refitted on all rows for "
            best += str(refitted.history.epochs)
        curves = {name: first[name] for name in ("loss", "val_loss") if name in first}
        return [textplot.curves(curves), "", f"best      {best}", f"diagnosis {members[0].diagnosis()}"]
    cells = [["network", "fold", "epochs", "best", "val_loss"]]
    for i, (member, (epoch, value)) in enumerate(zip(members, kept, strict=True), 1):
        cells.append([str(i), str(member.fold + 1), str(member.history.epochs), named(epoch), f"{value:.4g}"])
    return [textplot.table("<>>>>", cells), "", f"diagnosis {members[0].diagnosis()} (network 1)"]


def said(
    found: Data, members: list[Member], parts: list[tuple[Array, Array]], held_out: dict[str, Any], seconds: float
) -> list[str]:
    """Describe how well the held-out rows are predicted, and how long the baselines took."""
    if not held_out:
        trainer, held = members[0].trainer, parts[0][1]
        if LOSSES[trainer.loss].takes_labels:
            accuracy = evaluate_as_in_fit(trainer, found.X[held], found.y[held])["accuracy"]
        else:
            accuracy = float(np.mean(trainer.network.predict(found.X[held]).argmax(axis=1) == found.y[held]))
        return [f"accuracy  {accuracy:.2%} of {counted(len(held), 'held-out image')}"]
    table, names = held_out["scores"], list(held_out["scores"][OURS])
    cells = [[f"{counted(held_out['rows'], 'held-out row')}", *names]]
    cells += [[name, *(f"{row[key]:.4g}" for key in names)] for name, row in table.items()]
    lines = ["", textplot.table("<" + ">" * len(names), cells)]
    if "folds" in held_out:
        cells = [[f"{len(held_out['folds'][OURS])} folds, mean +- std", *names]]
        for name, folds in held_out["folds"].items():
            columns = [[fold[key] for fold in folds] for key in names]
            cells.append([name, *map(_mean_and_spread, columns)])
        lines += ["", textplot.table("<" + ">" * len(names), cells)]
    for name, verdict in held_out["verdict"].items():
        if verdict != "ahead" and not name.startswith("Hist"):
            auc = table[OURS].get("auc", 0.0)
            ranks = f"; its probabilities still rank rows (AUC {auc:.3f})" if auc > 0.6 else ": do not rely on it"
            lines.append(f"warning   this model is no better than the {name}{ranks}")
        elif name.startswith("Hist"):
            how = {"ahead": "less good", "even": "as good, within the noise", "behind": "better"}[verdict]
            measure = " by balanced accuracy" if found.balanced else ""
            lines.append(f"beside    {name}, fitted on the same rows in {seconds:.2f} s, is {how}{measure}")
    if found.classes and len(found.classes) <= 10:
        labels = [str(name)[:12] for name in found.classes]
        body = [[label, *map(str, row)] for label, row in zip(labels, held_out["confusion"], strict=True)]
        lines += ["", textplot.table("<" + ">" * len(labels), [["true \\ predicted", *labels], *body])]
    return [*lines, ""]


def _mean_and_spread(values: list[float]) -> str:
    mean, spread = np.mean(values), np.std(values, ddof=1)
    return f"{mean:.4g} +- {0 if spread < 1e-12 * abs(mean) else spread:.2g}"  # equal scores may differ by rounding


def facts(found: Data, members: list[Member], held_out: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the results for --json."""
    first, kept = members[0], [member.kept() for member in members]
    result = {"file": options.file, "task": found.task, "target": found.target, "classes": found.classes}
    if found.columns is not None:
        result |= {"columns": found.columns.kinds, "left_out": found.columns.left_out, "unread": found.unread}
    result |= {"rows": first.rows, "validation_rows": len(first.validation[1]), "seed": options.seed}
    result |= {"layer_sizes": first.trainer.network.layer_sizes, "optimizer": str(first.trainer.optimizer)}
    result |= {"epochs": first.history.epochs, "best_epoch": kept[0][0], "diagnosis": first.diagnosis()}
    result |= {"backend": first.trainer.backend, "held_out": held_out, "history": dict(first.history)}
    networks = [
        {"fold": m.fold, "epochs": m.history.epochs, "best_epoch": k, "val_loss": v, "refitted": m.refitted is not None}
        for m, (k, v) in zip(members, kept, strict=True)
    ]
    return result | {"networks": networks}
