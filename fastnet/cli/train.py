"""The command ``fastnet train``: train a network on a table, or on the bundled digits."""

import argparse
import os
import sys
import time
from typing import Any

import numpy as np

from .. import data, recipe
from ..dataset import split_rows
from ..distributed import ranks_of
from ..io import storage
from ..kernels.jit.announcer import compile_seconds
from ..kernels.specs.activations import ACTIVATIONS
from ..kernels.specs.base import Array
from ..kernels.specs.losses import LOSSES
from ..messages import counted, listed, one_line
from ..trainer import BACKENDS
from . import arguments, figure, results
from .fitting import Data, Member, fit
from .launcher import communicator
from .members import DEFAULT_LOSSES, DIGITS, OPTIMIZERS, RATES, SCHEDULES, checkpoints, count, member_of, resume, settle
from .predict import check_output, read_table, to_json

HELD_OUT = 0.2


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "train",
        help="train a network on a table, or on the bundled digits",
        usage="%(prog)s [FILE --target COLUMN] [options]",
        description="Train a network and print what it was made of, its curves, a diagnosis, and how well it predicts "
        "rows that were held out, beside two other models. Without FILE it learns the 1797 bundled 8x8 images of "
        "handwritten digits.",
        epilog="FILE is a CSV (any separator, encoding and compression that pandas reads), Parquet, Feather or NPZ "
        "(arrays X and the target, y unless --target names another). Columns are numbers, booleans, "
        "categories or dates; gaps are filled in and marked; ids and constants are left out. Text is "
        "classified, and so are whole numbers with at most 20 different values, each at least twice on "
        "average; other numbers are regressed. A fifth of the rows is held out. Of the rest a tenth to a "
        "quarter says after how many epochs the network is best; then one is trained on all of the rest as "
        "long. A model of a table needs pandas, scikit-learn and skops: pip install pandas scikit-learn "
        "skops.",
    )
    parser.set_defaults(run=train)
    add = parser.option
    add("file", "a table: CSV, Parquet, Feather or NPZ", nargs="?", metavar="FILE")
    add("--target", "the column to predict", metavar="COLUMN")
    add("--task", "(default: recognised from the target's values)", choices=tuple(DEFAULT_LOSSES))
    for name, text in (
        ("--drop", "columns to leave out"),
        ("--category", "columns whose values are names, even if they are numbers"),
    ):
        add(name, text, metavar="A,B,...", type=lambda names: [*filter(None, names.split(","))], default=[])
    add("--id", "the column that names a row: it is left out, and predictions copy it", metavar="COLUMN")
    add("--class-weight", "balanced: classes count alike, however rare", choices=["balanced"])
    add(
        "--cv",
        "cross-validate: hold out each of N parts in turn; the model is the mean of N",
        type=arguments.integer,
        metavar="N",
    )
    add("--ensemble", "the mean of N networks of different seeds", type=arguments.integer, metavar="N", default=1)
    sizes, digits = (",".join(map(str, each)) for each in (recipe.HIDDEN, DIGITS["hidden"]))
    hidden = f"sizes of the hidden layers, or none (default: {sizes}; the digits: {digits})"
    add("--hidden", hidden, type=arguments.hidden_sizes, metavar="K,K,...")
    names = ", ".join(f"{name} for {task}" for task, name in recipe.ACTIVATIONS.items())
    add("--activation", f"of the hidden layers (default: {names}; the digits: relu)", choices=list(ACTIVATIONS))
    epochs = f"passes over the data at most (default: {recipe.EPOCHS}; the digits: {DIGITS['epochs']})"
    add("--epochs", epochs, type=arguments.integer, metavar="N")
    add(
        "--patience",
        "stop after N epochs without a better val_loss (default: never)",
        type=arguments.integer,
        metavar="N",
    )
    batch = (
        f"rows per step, full, or auto: about {recipe.BATCH_SIZE}, in equal steps; the digits: {DIGITS['batch_size']}"
    )
    add("--batch-size", batch, type=arguments.batch_size, default="auto", metavar="N")
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in RATES.items())
    of_tables = " or ".join(f"{rate:g} for {task}" for task, rate in recipe.RATES.items())
    rates = f"learning rate at first (default: {rates}; of tables by adam {of_tables})"
    add("--lr", rates, type=arguments.positive, metavar="RATE")
    schedule = "of the learning rate over the epochs (default: cosine; the digits: constant)"
    add("--schedule", schedule, choices=list(SCHEDULES))
    add("--l2", "penalty on squared weights", type=arguments.not_negative, default=0.0, metavar="L2")
    dropout = "share of the hidden layers' outputs that a step drops"
    add("--dropout", dropout, type=arguments.share, default=0.0, metavar="RATE")
    losses = ", ".join(f"{loss} for {task}" for task, loss in DEFAULT_LOSSES.items())
    add("--loss", f"what is minimised (default: {losses})", choices=list(LOSSES))
    smoothing = (
        f"share of a label spread over all classes (default: {recipe.SMOOTHING:g} for cross_entropy; the digits: 0)"
    )
    add("--label-smoothing", smoothing, type=arguments.share, metavar="SHARE")
    add("--optimizer", "how it is minimised", choices=list(OPTIMIZERS), default="adam")
    add("--seed", "of weights, shuffling and held-out rows", type=arguments.seed, default=0, metavar="N")
    add("--backend", "what computes", choices=list(dict.fromkeys(["auto", *BACKENDS])), default="auto")
    add("--threads", "the most threads to use (default: all)", type=arguments.integer, metavar="N")
    checkpoint = "write this file after each epoch (for networks 1, 2, ... of several NAME-1, NAME-2, ... before its "
    checkpoint += "suffix); where it is there, go on from its best epoch"
    add("--checkpoint", checkpoint, metavar="CHECKPOINT")
    add("--out", "write the model to this file", metavar="MODEL")
    add("--plot", "draw the curves to this .png, .svg or .pdf", metavar="IMAGE")
    boosting = "do not fit HistGradientBoosting beside it, which may take longer than the training"
    add("--no-boosting", boosting, dest="boosting", action="store_false")
    add("--json", "print the results, curves included, as JSON, where epochs count from 0", action="store_true")


# ------------------------------------------------------------------------------------------------ train


def train(options: argparse.Namespace) -> int:
    """Train on a file, or on the digits, print the results, and return the exit status."""
    options.comm = communicator()
    ranks = ranks_of(options.comm, "cpu", False)
    if ranks.rank > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    with ranks.training():
        found, members, parts = ranks.own("the command line", lambda: _begin(options, ranks))
    start, compiled = time.perf_counter(), compile_seconds()
    status = fit(members, options.epochs, options.patience)
    seconds, compiling = time.perf_counter() - start, compile_seconds() - compiled
    members = [member for member in members if member.history.epochs]
    if not members or ranks.rank > 0:
        return status
    model = _model(found, members, options)
    written = _write(options, model, members, status)  # first: the reader of standard output may have closed it
    beside = options.boosting
    held_out, others = ({}, 0.0) if options.file is None else results.held_out(found, members, model, parts, beside)
    if options.json:
        facts = {"loss": options.loss, "seconds": seconds, "baselines_seconds": others}
        print(to_json(results.facts(found, members, held_out, options) | facts))
        return status
    lines = [*results.fitted(members), *results.said(found, members, parts, held_out, others)]
    share = f", {compiling:.2f} s of it compiling" if compiling else ""
    epochs = sum(history.epochs for member in members for history in member.histories)
    share += ", the refit included" if any(member.refitted is not None for member in members) else ""
    where = members[0].trainer.backend + (f" on {ranks.size} ranks" if ranks.size > 1 else "")
    lines.append(f"time      {seconds:.2f} s for {counted(epochs, 'epoch')}{share}; backend {where}")
    print(*lines, *written, sep="\n")
    return status


def _begin(options: argparse.Namespace, ranks: Any) -> tuple[Data, list[Member], list[tuple[Array, Array]]]:
    """Return the data, the networks to fit, and the training and held-out rows of each part; print a description."""
    _check(options, ranks)
    found = _digits() if options.file is None else _table(options)
    settle(options, found.task)
    if found.task == "regression" and LOSSES[options.loss].probabilities:
        raise ValueError(
            f"{options.loss} is a loss for classes, but this is regression; --task classification takes the target for "
            "classes"
        )
    if options.class_weight and found.task == "regression":
        raise ValueError(
            f"--class-weight is for classes, but {found.target!r} is predicted as a number; leave it out, or give "
            "--task classification"
        )
    if options.label_smoothing and options.loss != "cross_entropy":
        raise ValueError(f"--label-smoothing is for the loss cross_entropy, but it is {options.loss}; leave it out")
    parts = _parts(found, options)
    members = [member_of(found, parts, number, options) for number in range(count(options))]
    for member in members:
        resume(member, options, ranks)
    if not options.json:
        _print(options, _introduction(found, members, parts, options))
    return found, members, parts


def _check(options: argparse.Namespace, ranks: Any) -> None:
    """Check, before any work, that the options are compatible and that results can be written."""
    of_file = {"--target": options.target, "--task": options.task, "--drop": options.drop, "--id": options.id}
    of_file |= {"--category": options.category, "--class-weight": options.class_weight, "--cv": options.cv}
    of_file |= {"--ensemble": options.ensemble if options.ensemble > 1 else None}
    of_file |= {"--no-boosting": not options.boosting}
    given = [name for name, value in of_file.items() if value]
    if options.file is None and given:
        options.parser.error(f"{' and '.join(given)} {'need' if len(given) > 1 else 'needs'} a FILE to train on")
    others = {"--drop": options.drop, "--category": options.category, "--id": [options.id]}
    named = [name for name, columns in others.items() if options.target is not None and options.target in columns]
    if named:
        advice = "; --task classification takes its numbers for names" if "--category" in named else ""
        options.parser.error(f"{' and '.join(named)} cannot name {options.target!r}, the --target{advice}")
    if options.cv == 1:
        options.parser.error("--cv 1 holds nothing out; expected at least 2 parts")
    if ranks.size > 1 and count(options) > 1:
        options.parser.error(f"{ranks.size} ranks train one network together; leave out --cv and --ensemble")
    outputs = _outputs(options) + checkpoints(options)
    for name in outputs if ranks.rank == 0 else []:
        check_output(name, *([] if options.file is None else [options.file]))
    if len({os.path.realpath(name) for name in outputs}) < len(outputs):
        raise ValueError("--out, --plot and --checkpoint name the same file")
    storage.check_suffix(options.out or "", ".safetensors" if options.file is None else ".skops")
    storage.check_suffix(options.checkpoint or "", ".safetensors")
    if options.plot is not None:
        figure.new_figure(options.plot)


def _outputs(options: argparse.Namespace) -> list[str]:
    return [name for name in (options.out, options.plot) if name is not None]


def _print(options: argparse.Namespace, text: str) -> None:
    """Print; if there are files to write, go on even if the reader has closed the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        if not _outputs(options):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ------------------------------------------------------------------------------------------------- data


def _digits() -> Data:
    X, y = data.digits()
    return Data(X, y, list(range(10)), "digit", [f"data      {len(X)} bundled 8x8 images of handwritten digits"])


def _table(options: argparse.Namespace) -> Data:
    """Read a table, and infer the types of its columns and its target."""
    from .. import table, table_model  # noqa: F401 - finds packages missing for the model before training

    shown = storage.display_path(options.file)
    if options.target is None and shown.lower().endswith(".npz"):
        options.target = "y"
    frame = read_table(options, options.target or "y")
    if options.target is None:
        raise ValueError(f"{shown}: which column is to be predicted? Name it by --target; there are: {listed(frame)}")
    ids = [] if options.id is None else [options.id]
    table.check_columns([options.target, *options.drop, *options.category, *ids], list(frame.columns), shown)
    with one_line(shown, "cannot be learnt"):
        known, y, classes, reason = table.target_of(frame[options.target], options.task)
    unread = table.unread(frame[options.target], known, "number")
    frame = frame[known].drop(columns=options.target)
    columns = table.Columns.of(frame, [*options.drop, *ids], options.category)
    if not columns.kinds:
        reasons = ", ".join(f"{name} ({why})" for name, why in columns.left_out.items())
        reasons = reasons or "none, it has no other column"
        raise ValueError(f"{shown} has no column to predict {options.target!r} from; left out: {reasons}")
    size = f"{counted(len(known), 'row')}, {counted(frame.shape[1] + 1, 'column')}"
    lines = [f"data      {shown}: {size}", *columns.lines(frame)]
    features, of_columns = columns.parse(frame)
    unread |= of_columns
    lines += [f"unread    {line}" for line in table.unread_lines(unread)]
    if not known.all():
        left_out = counted(int((~known).sum()), "row")
        lines.append(f"gaps      {left_out} left out: {options.target!r} is not known there")
    scaling = (0.0, 1.0)
    if classes is None:
        scaling = table.moments(y, f"{shown}: target {options.target!r}")
        y = (y - scaling[0]) / scaling[1]
        named = ""
    else:
        shares = np.bincount(y) / len(y)
        named = ": " + ", ".join(f"{str(c)[:20]} ({n:.0%})" for c, n in zip(classes[:6], shares, strict=False))
        named += ", ..." * (len(classes) > 6)
    lines.append(
        f"task      {'regression' if classes is None else 'classification'} of {options.target!r}: {reason}{named}"
    )
    if classes and shares.min() < 0.2 / len(classes) and not options.class_weight:
        rare = f"{str(classes[int(shares.argmin())])[:20]!r} is {shares.min():.1%} of the rows"
        lines.append(f"note      classes are imbalanced: {rare}; --class-weight balanced counts them alike")
    balanced = options.class_weight is not None
    return Data(features, y, classes, options.target, lines, columns, scaling, balanced, unread)


def _parts(found: Data, options: argparse.Namespace) -> list[tuple[Array, Array]]:
    """Return the rows to train on and the held-out rows, once or for each fold."""
    if found.columns is None:
        return [split_rows(len(found.y), HELD_OUT, options.seed)]
    from .. import scores

    if options.cv:
        if options.cv > len(found.y) / 2:
            raise ValueError(f"--cv {options.cv} of {len(found.y)} rows leaves too few in each part")
        return scores.folds(found.y, options.cv, options.seed)
    return [scores.split(found.y, HELD_OUT, options.seed)]


# ----------------------------------------------------------------------------------------------- results


def _introduction(
    found: Data, members: list[Member], parts: list[tuple[Array, Array]], options: argparse.Namespace
) -> str:
    """Describe the data, their split, the training and the network."""
    first = members[0]
    chosen, held = len(first.validation[1]), len(parts[0][1])
    rows = f"{first.rows:,} to train on, {chosen:,} choose the best epoch, {held:,} held out"
    where = f"; each of {len(parts)} parts is held out in turn" if len(parts) > 1 else ""
    rate = f"{first.trainer.optimizer}, batch size {first.trainer.batch_size or 'full'}, seed {options.seed}"
    rate += f", dropout {options.dropout:g}" if options.dropout else ""
    rate += f", labels smoothed by {options.label_smoothing:g}" if options.label_smoothing else ""
    lines = [*found.lines, f"rows      {rows}{where}", f"training  {options.loss}, {rate}"]
    if first.prepare_all is not None:
        how = "for as many epochs as the best took"
        if options.schedule == "cosine":  # `recipe.annealed`
            how = "for about as much training as the best took, while the rate falls to 0"
        lines.append(f"refit     at the end, on all {first.rows + chosen:,} rows, {how}")
    if len(members) > 1:
        lines.append(f"networks  {len(members)}, side by side, each on one thread; the model is their mean")
    resumed = [(member.history.epochs, member.checkpoint or "") for member in members if member.history.epochs]
    lines += [f"resumed   from epoch {epoch} of {storage.display_path(path)}" for epoch, path in resumed]
    return "\n".join([*lines, f"\n{first.trainer.network.summary(first.trainer.batch_size)}\n"])


def _model(found: Data, members: list[Member], options: argparse.Namespace) -> Any:
    """Return the model to save: a network, or a model of a table."""
    if found.columns is None:
        return members[0].network
    from ..table_model import TableModel

    parts = [(member.transformer, member.network) for member in members]
    return TableModel(found.columns, found.target, found.classes, found.scaling, parts, options.id)


def _write(options: argparse.Namespace, model: Any, members: list[Member], status: int) -> list[str]:
    """Write the files that the options name; return a line of output for each."""
    shown = {name: storage.display_path(name) for name in _outputs(options)}
    if status == 1:
        for path in shown.values():
            print(f"fastnet train: {path} is not written, since training diverged", file=sys.stderr)
        return []
    if options.out is not None:
        model.save(options.out)
    if options.plot is not None:
        curves = figure.new_figure(options.plot)
        figure.draw([member.history for member in members], curves.add_subplot())
        figure.save_figure(curves, options.plot)
    return [f"{'model' if name == options.out else 'plot':<10}{path}" for name, path in shown.items()]
