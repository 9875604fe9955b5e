"""fastnet.sklearn against scikit-learn: scores on its bundled data sets, paired over seeds, and times of fit.

    python bench/sklearn_scores.py [--seeds 20] [--threads 1] [--only digits] [--rows 60000] [--no-times]

Scores: default settings, inputs standardised, one 5th of the rows held out by the seed, which also is the random_state
of both. Printed are the mean of each side and of the differences, its standard error, and how many seeds ended with
equal scores. Times: the fastest of several fits of each side, taken in turns, with BLAS and kernels bound to the same
number of threads; epochs and scores are printed beside them. ``--rows`` sets the size of the synthetic data for
784-256-128-10, of which both sides train two epochs; 0 leaves it out.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from fastnet import sklearn as ours

DATA = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "diabetes": datasets.load_diabetes,
    "linnerud": datasets.load_linnerud,
}
REGRESSIONS = ("diabetes", "linnerud")
ROUNDS = 3


def problem(name: str) -> tuple[str, Any, Any]:
    """The estimator's name, X and y, standardised; a constant column stays as it is."""
    X, y = DATA[name](return_X_y=True)
    X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
    if name in REGRESSIONS:
        return "MLPRegressor", X, (y - y.mean(axis=0)) / y.std(axis=0)
    return "MLPClassifier", X, y


def score(name: str, seeds: int, threads: int) -> None:
    """Print a line of paired scores."""
    estimator, X, y = problem(name)
    found = []
    for seed in range(seeds):
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=seed)
        mine = getattr(ours, estimator)(random_state=seed, threads=threads).fit(X_train, y_train)
        theirs = getattr(neural_network, estimator)(random_state=seed).fit(X_train, y_train)
        found.append([model.score(X_test, y_test) for model in (mine, theirs)])
    mine, theirs = np.transpose(found)
    difference = mine - theirs
    error = difference.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else np.nan
    print(
        f"{name:15} {seeds:3} seeds  ours {mine.mean():.6f}  theirs {theirs.mean():.6f}  difference "
        f"{difference.mean():+.1e} +- {error:.1e}  equal {np.sum(np.abs(difference) < 1e-9)}/{seeds}",
        flush=True,
    )


def race(label: str, estimator: str, X: Any, y: Any, threads: int, rounds: int, **options: Any) -> None:
    """Print a line of times."""
    mine = getattr(ours, estimator)(random_state=0, threads=threads, **options)
    theirs = getattr(neural_network, estimator)(random_state=0, **options)
    mine.fit(X[:400], y[:400])  # compiles
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(rounds):
        for side, model in enumerate((mine, theirs)):
            start = time.perf_counter()
            model.fit(X, y)
            seconds[side].append(time.perf_counter() - start)
    ours_s, theirs_s = min(seconds[0]), min(seconds[1])
    print(
        f"{label:32} ours {ours_s:8.4f} s  theirs {theirs_s:8.4f} s  ratio {theirs_s / ours_s:5.2f}  epochs "
        f"{mine.n_iter_} {theirs.n_iter_}  scores {mine.score(X, y):.4f} {theirs.score(X, y):.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="0 leaves the scores out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=DATA, help="one data set")
    parser.add_argument("--rows", type=int, default=60000, help="of the synthetic data; 0 leaves them out")
    parser.add_argument("--no-times", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    names = [chosen.only] if chosen.only else list(DATA)
    with threadpool_limits(chosen.threads):
        for name in names if chosen.seeds > 0 else []:
            score(name, chosen.seeds, chosen.threads)
        if chosen.no_times:
            return
        for name in names:
            estimator, X, y = problem(name)
            race(name, estimator, X, y, chosen.threads, ROUNDS)
            race(f"{name}, sgd", estimator, X, y, chosen.threads, ROUNDS, solver="sgd")
            if len(y) > 50:  # else too few are held out
                race(f"{name}, early stopping", estimator, X, y, chosen.threads, ROUNDS, early_stopping=True)
        if chosen.rows and not chosen.only:
            rng = np.random.default_rng(0)
            X, y = rng.standard_normal((chosen.rows, 784)), rng.integers(0, 10, chosen.rows)
            for dtype in ("float64", "float32"):
                data = X.astype(dtype)
                options = {"hidden_layer_sizes": (256, 128), "max_iter": 2}
                race(f"784-256-128-10, {dtype}", "MLPClassifier", data, y, chosen.threads, 1, **options)


if __name__ == "__main__":
    main()
