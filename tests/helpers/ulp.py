"""Errors of elementwise functions in units in the last place, and wrong functions that the bounds must reject."""

import math
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
DTYPES = ("float32", "float64")
X86 = platform.machine() in ("x86_64", "AMD64")
WITHOUT_FMA = 0.25
"""What may come on top where a product is rounded before it is added."""


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def silu(x: Array) -> Array:
    """In a dtype wide enough for both factors; 0 times infinity is kept away."""
    return np.maximum(x, -1e4) * sigmoid(x)


EXPECTED: dict[str, Callable[[Array], Array]] = {
    "exp_nonpositive": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "silu": silu,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "mish": lambda x: np.maximum(x, -1e4) * np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))),
}
WIDER = {"float32": np.float64, "float64": np.longdouble}


def ulps(result: Array, expected: Array) -> float:
    """Largest error in units in the last place of the expected value; infinite where only one of the two is finite."""
    with np.errstate(over="ignore"):
        rounded = expected.astype(result.dtype)
    exact = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    finite = np.isfinite(result) & np.isfinite(rounded)
    spacing = np.spacing(np.abs(rounded[finite])).astype(expected.dtype)
    error = np.abs(result[finite].astype(expected.dtype) - expected[finite]) / spacing
    return float(error.max(initial=0)) if (exact | finite).all() else math.inf


def sweep(name: str, dtype: str) -> Array:
    """A few 100 000 arguments in the function's domain: float32 every 16411th; float64 at random where it bends."""
    if name == "exp_nonpositive":
        return -np.abs(sweep("", dtype))
    if dtype == "float32":
        return np.arange(0, 2**32, 16411, dtype=np.uint64).astype(np.uint32).view(np.float32)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**64, 50_000, dtype=np.uint64).view(np.float64)  # every magnitude, and NaN
    bits[:4] = [0.0, -0.0, np.inf, -np.inf]
    spans = (0.01, 0.5, 3, 20, 750)
    x = np.concatenate([bits, *(rng.uniform(-span, span, 50_000) for span in spans)])
    return np.concatenate([x, 1 + x[50_000:100_000], np.exp(x[-50_000:] / 1.1)]) if name == "log" else x


def measure(function: Callable[[Array], Array], name: str, dtype: str) -> float:
    x = sweep(name, dtype)
    with np.errstate(all="ignore"):
        return ulps(function(x), EXPECTED[name](x.astype(WIDER[dtype])))


def _forgotten_low(x: Array) -> Array:
    n = np.round(x * x.dtype.type(1.4426950408889634))
    return np.ldexp(np.exp(x - n * x.dtype.type(0.693145751953125)), np.nan_to_num(n).clip(-2000, 2000).astype(int))


def _flushed(x: Array) -> Array:
    y = np.exp(x)
    return np.where(y < np.finfo(x.dtype).tiny, x.dtype.type(0) * y, y)


MUTANTS: list[tuple[str, str, Callable[[Array], Array]]] = [
    ("ln 2 as one number", "exp_nonpositive", _forgotten_low),
    ("no subnormals", "exp_nonpositive", _flushed),
    ("clamped NaN", "exp_nonpositive", lambda x: np.exp(np.where(np.isnan(x), x.dtype.type(89), x))),
    ("three ulp off", "log", lambda x: np.log(x) * (1 + 3 * np.finfo(x.dtype).eps)),
    ("zero as the smallest", "log", lambda x: np.log(np.where(x == 0, np.finfo(x.dtype).tiny, x))),
    ("cancellation near 0", "tanh", lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)),
    ("two thirds of a polynomial", "tanh", lambda x: np.where(abs(x) < 0.1, x - x**3 / 3, np.tanh(x))),
    ("overflow", "sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ("subnormal sigmoid times x", "silu", silu),
    ("0 times infinity", "silu", lambda x: x * sigmoid(x)),
    ("cancellation near 0", "elu", lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)),
    ("small results lost", "softplus", lambda x: np.log(1 + np.exp(x))),
    ("of silu", "mish", silu),
    ("half precision", "sigmoid", lambda x: sigmoid(x).astype(np.float16).astype(x.dtype)),
]
TARGETS = {
    "host": {},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"},
    "sse2, without FMA": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse,+sse2"},
}
