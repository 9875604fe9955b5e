"""Calls from Python of `matmul` and `dense_forward` on small shapes, against NumPy.  Prints a table.

    taskset -c 1 python bench/small_products.py [--repeats 41] [--seconds 0.002] [--dtypes float32,float64]
                                                [--shapes 8,8,8 ...]

A shape is M,K,N; a layer has M rows of K inputs, N outputs and ReLU, which NumPy computes as a product, a sum in place
and a maximum. In each repeat fastnet is called for about ``--seconds``, then NumPy as many times. A line gives the
median over repeats of NumPy's time / ours, its quartiles in brackets, and the median time of a call of each, in
microseconds. Both sides have one thread. ``error`` is the larger one of the two sides, in units of the bound that the
tests hold; both are held to it before they are timed. The last line gives the geometric mean of all medians, and names
those that are below 0.97.
"""

import argparse
from statistics import geometric_mean
from timeit import Timer
from typing import Any, NamedTuple

import numpy as np
from limit_matmul import error, operands
from threadpoolctl import threadpool_limits

from fastnet.kernels import dense_forward, matmul, relu
from fastnet.kernels.cpu.threads.pool import limit_threads
from fastnet.kernels.jit.target import target_cpu, vector_bytes

SHAPES = [
    *((n, n, n) for n in (8, 16, 32, 48, 64)),
    (32, 64, 64),
    (16, 64, 10),
    (1, 64, 64),
    (100, 30, 7),
]
PRODUCTS = {"A B": "nn", "A.T B": "tn", "A B.T": "nt"}
LEVEL = 0.97
"""A cell below this is named as slower than NumPy; `bench/compare.py` flags from 3%, too."""

Shape = tuple[int, int, int]


class Sides(NamedTuple):
    """The same call of both libraries, verified; and the larger error of the two."""

    ours: Timer
    numpys: Timer
    error: float


def verified(name: str, found: float) -> float:
    """Return the error, if it is within the bound."""
    if not found <= 1:  # a NaN is not
        raise ArithmeticError(f"{name} is wrong: its error is {found:.3g} times the bound")
    return found


def product(rng: np.random.Generator, dtype: str, shape: Shape, kind: str, statement: str) -> Sides:
    """Let both libraries run the statement, which makes or fills C."""
    A, B, C = operands(rng, dtype, shape, kind)
    timers, errors = [], []
    for name, multiply in (("fastnet", matmul), ("NumPy", np.matmul)):
        names = {"multiply": multiply, "A": A, "B": B, "C": C.copy()}
        exec(statement, names)
        errors.append(verified(name, error(A, B, names["C"])))
        timers.append(Timer(statement, globals=names))  # no function in between, which would cost both sides the same
    return Sides(timers[0], timers[1], max(errors))


def layer(rng: np.random.Generator, dtype: str, shape: Shape) -> Sides:
    """Let both libraries compute Z = X W^T + b and A = relu(Z)."""
    X, W_transposed, _ = operands(rng, dtype, shape, "nt")
    b = rng.standard_normal(shape[2]).astype(dtype)
    extended = np.column_stack([X, np.ones(len(X), dtype)]), np.vstack([W_transposed, b])  # whose product is Z
    timers, errors = [], []
    for name, statement in (
        ("fastnet", "A, Z = dense_forward(X, W, b, relu)"),
        ("NumPy", "Z = matmul(X, W.T); Z += b; A = maximum(Z, 0)"),
    ):
        names: dict[str, Any] = {"X": X, "W": W_transposed.T, "b": b, "dense_forward": dense_forward, "relu": relu}
        names |= {"matmul": np.matmul, "maximum": np.maximum}
        exec(statement, names)
        if not np.array_equal(names["A"], np.maximum(names["Z"], 0)):
            raise ArithmeticError(f"{name} is wrong: A is not relu(Z)")
        errors.append(verified(name, error(*extended, names["Z"])))
        timers.append(Timer(statement, globals=names))
    return Sides(timers[0], timers[1], max(errors))


def measure(sides: Sides, repeats: int, seconds: float) -> tuple[Any, float, float]:
    """Quartiles of NumPy's time / ours; the medians of both, in microseconds a call."""
    calls = max(1, int(seconds / (sides.ours.timeit(10) / 10)))
    ours, numpys = np.array([[side.timeit(calls) for side in (sides.ours, sides.numpys)] for _ in range(repeats)]).T
    microseconds = 1e6 / calls
    return (
        np.percentile(numpys / ours, [25, 50, 75]),
        float(np.median(ours)) * microseconds,
        float(np.median(numpys)) * microseconds,
    )


def summary(ratios: dict[str, float]) -> str:
    """Give the last line: the mean of all cells, and which of them are slow."""
    slow = [f"{cell} ({ratio:.2f})" for cell, ratio in ratios.items() if ratio < LEVEL]
    mean = f"geometric mean of {len(ratios)} cells {geometric_mean(ratios.values()):.3f}; below {LEVEL}: "
    return mean + ("; ".join(slow) or "none")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=0.002, help="of one side in one repeat")
    parser.add_argument("--dtypes", default="float32,float64")
    parser.add_argument("--shapes", nargs="*", default=[",".join(map(str, shape)) for shape in SHAPES])
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    print(f"{target_cpu()}, vectors of {vector_bytes()} bytes, one thread; NumPy {np.__version__}")
    print(f"{'':39}{'NumPy / ours':>13}{'quartiles':>15}{'ours, us':>10}{'NumPy, us':>11}{'error':>8}")
    ratios = {}
    with threadpool_limits(1), limit_threads(1):
        for dtype in options.dtypes.split(","):
            for text in options.shapes:
                m, k, n = (int(size) for size in text.split(","))
                cells = {
                    f"{name}{ending}": product(rng, dtype, (m, k, n), kind, statement)
                    for name, kind in PRODUCTS.items()
                    for ending, statement in (("", "C = multiply(A, B)"), (" out=", "multiply(A, B, out=C)"))
                }
                cells["dense_forward"] = layer(rng, dtype, (m, k, n))
                for name, sides in cells.items():
                    (low, ratio, high), ours, numpys = measure(sides, options.repeats, options.seconds)
                    ratios[f"{dtype} {text} {name}"] = ratio
                    line = f"{dtype:8} {text:14} {name:14}{ratio:14.2f}   [{low:4.2f}, {high:4.2f}]"
                    print(f"{line}{ours:10.2f}{numpys:11.2f}{sides.error:8.3f}", flush=True)
    print(summary(ratios))


if __name__ == "__main__":
    main()
