"""Accuracy of the vector functions, their special values, and that LLVM makes full vectors of them.

Run as a script, with tests/helpers in PYTHONPATH, the file prints what the tests assert; the tests do so for narrower
targets, in processes of their own.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import python_path
from ulp import DTYPES, EXPECTED, MUTANTS, TARGETS, WIDER, WITHOUT_FMA, X86, Array, measure
from ulp import sigmoid as exact_sigmoid

from fastnet.kernels.cpu.elementwise import elementwise
from fastnet.kernels.cpu.vmath import erf, exp, log, sigmoid, tanh
from fastnet.kernels.jit.decorator import jit
from fastnet.kernels.jit.target import target_features

pytestmark = pytest.mark.compiled

BOUND = {
    "exp_nonpositive": 0.95,
    "log": 0.95,
    "tanh": 2.0,
    "sigmoid": 1.8,
    "silu": 3.4,
    "elu": 1.3,
    "softplus": 2.0,
    "mish": 4.0,
}
"""Units in the last place of the result."""


@jit
def loop_product(x: Any, out: Any) -> None:
    """The yardstick: whatever register LLVM chooses for this is the full one."""
    for i in range(x.size):
        out[i] = x[i] * x[i]


FUNCTIONS = (
    exp.exp_nonpositive,
    log.log,
    tanh.tanh,
    sigmoid.sigmoid,
    sigmoid.sigmoid_derivative,
    sigmoid.silu,
    sigmoid.silu_derivative,
    erf.gelu,
    erf.gelu_derivative,
    exp.elu,
    exp.elu_derivative,
    log.softplus,
    log.softplus_derivative,
    sigmoid.mish,
    sigmoid.mish_derivative,
)
LOOPS: dict[str, Callable[[Array, Array], None]] = {
    function.__name__: elementwise(f"test_{function.__name__}", function) for function in FUNCTIONS
}


def apply(name: str, x: Array) -> Array:
    out = np.full(x.shape, np.nan, x.dtype)
    LOOPS[name](x, out)
    return out


# ------------------------------------------------------------------------------------------- accuracy


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOUND)
def test_ulp_bounds(name: str, dtype: str) -> None:
    slack = 0 if np.finfo(np.longdouble).eps < 1e-18 else 1.0  # where longdouble is float64
    slack += 0 if "fma" in target_features() or not X86 else WITHOUT_FMA
    assert measure(lambda x: apply(name, x), name, dtype) <= BOUND[name] + slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("why", "name", "wrong"), MUTANTS, ids=[f"{m[1]}: {m[0]}" for m in MUTANTS])
def test_ulp_check_rejects_wrong_functions(why: str, name: str, wrong: Callable[[Array], Array], dtype: str) -> None:
    assert measure(EXPECTED[name], name, dtype) <= 4 or name in (
        "silu",
        "mish",
    )  # whose tails need a wider dtype
    assert measure(wrong, name, dtype) > 4, why


def _gelu_expected(x: Array) -> tuple[Array, Array]:
    """gelu and its derivative from libm's erfc, in float64."""
    tail = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in x.tolist()])
    bell = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return x * tail, tail + x * bell


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_error(dtype: str) -> None:
    x = np.linspace(-37, 40, 100_001).astype(dtype)
    wide = x.astype(np.float64)
    expected, slope = _gelu_expected(wide)
    spacing = np.spacing(np.abs(expected).astype(dtype)).astype(np.float64)
    # For float64 the expected value has an error too: erfc magnifies its argument's rounding by the argument's square.
    own = 2 * np.finfo(np.float64).eps * (1 + wide**2) * np.abs(expected)
    assert (
        np.abs(apply("gelu", x) - expected) <= np.maximum(4 * spacing, 1e-15 if dtype == "float64" else 1e-7) + own
    ).all()
    assert (np.abs(apply("gelu_derivative", x) - slope) <= 4 * np.finfo(dtype).eps).all()


GELU = np.array(
    [  # z, gelu(z), gelu'(z), from 60-digit arithmetic
        [-37.0, -2.1184613523340935e-298, -7.838298669418516e-297],
        [-12.5, -4.665705373597142e-35, -5.831668554480156e-34],
        [-6.0, -5.9195258702261885e-09, -3.5468709453902015e-08],
        [-3.25, -0.0018753313877699928, -0.006017381143833479],
        [-1.0, -0.15865525393145705, -0.0833154705876863],
        [-0.75, -0.16997051428265114, 0.0007742782607648957],
        [-0.125, -0.056282721896235885, 0.4007820643017934],
        [-1e-10, -4.999999999601058e-11, 0.49999999992021155],
        [1e-05, 5.0000398942280396e-06, 0.5000079788456078],
        [0.3, 0.1853734266566858, 0.7323277668271099],
        [0.75, 0.5800294857173488, 0.9992257217392351],
        [2.5, 2.4844758366855597, 1.037611085908145],
        [6.0, 5.999999994080474, 1.0000000354687095],
    ]
)


def test_gelu_of_float64_keeps_its_digits_in_the_tail() -> None:
    z, value, slope = GELU.T
    assert (np.abs(apply("gelu", z) - value) <= 4 * np.spacing(np.abs(value))).all()
    assert (np.abs(apply("gelu_derivative", z) - slope) <= 1e-15).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_derivative(dtype: str) -> None:
    x = np.linspace(-100, 100, 100_001).astype(dtype)
    wide = x.astype(WIDER[dtype])
    expected = exact_sigmoid(wide) * exact_sigmoid(-wide)
    subnormal = np.finfo(dtype).smallest_subnormal
    assert (np.abs(apply("sigmoid_derivative", x) - expected) <= 4 * np.finfo(dtype).eps * expected + subnormal).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_derivative(dtype: str) -> None:
    x = np.linspace(-120, 120, 100_001).astype(dtype)
    wide = x.astype(WIDER[dtype])
    expected = exact_sigmoid(wide) * (1 + wide * exact_sigmoid(-wide))
    assert (np.abs(apply("silu_derivative", x) - expected) <= np.finfo(dtype).eps).all()


# ------------------------------------------------------------------------------------- special values


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: str) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([np.inf, -np.inf, 0.0, -0.0, tiny, -tiny], dtype)
    expected = {
        "log": [np.inf, np.nan, -np.inf, -np.inf, np.log(tiny), np.nan],
        "tanh": [1, -1, 0.0, -0.0, tiny, -tiny],
        "sigmoid": [1, 0, 0.5, 0.5, 0.5, 0.5],
        "sigmoid_derivative": [0, 0, 0.25, 0.25, 0.25, 0.25],
        "gelu_derivative": [1, 0, 0.5, 0.5, 0.5, 0.5],
        "silu_derivative": [1, 0, 0.5, 0.5, 0.5, 0.5],
        "elu": [np.inf, -1, 0, 0, tiny, -tiny],
        "elu_derivative": [1, 0, 1, 1, 1, 1],
        "softplus_derivative": [1, 0, 0.5, 0.5, 0.5, 0.5],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(apply(name, x), np.array(values, dtype), err_msg=name)
    assert np.signbit(apply("tanh", x)).tolist() == [False, True, False, True, False, True]
    np.testing.assert_array_equal(apply("gelu", x)[:4], np.array([np.inf, 0, 0, 0], dtype))
    np.testing.assert_array_equal(apply("silu", x)[:4], np.array([np.inf, 0, 0, 0], dtype))
    np.testing.assert_array_equal(apply("mish", x)[:4], np.array([np.inf, 0, 0, 0], dtype))
    np.testing.assert_allclose(apply("mish_derivative", x), [1, 0, 0.6, 0.6, 0.6, 0.6], rtol=np.finfo(dtype).eps)
    np.testing.assert_array_equal(apply("log", np.ones(1, dtype)), 0)
    np.testing.assert_array_equal(
        apply("exp_nonpositive", np.array([-np.inf, 0.0, -0.0, -tiny], dtype)), np.array([0, 1, 1, 1], dtype)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOOPS)
def test_nan_propagates(name: str, dtype: str) -> None:
    x = np.zeros(100, dtype)
    x[::7] = np.nan
    x[::14] *= -1  # of either sign
    np.testing.assert_array_equal(np.isnan(apply(name, x)), np.isnan(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetries(dtype: str) -> None:
    x = np.random.default_rng(0).uniform(-30, 30, 100_000).astype(dtype)
    np.testing.assert_array_equal(apply("tanh", -x), -apply("tanh", x))
    s = apply("sigmoid", x)
    assert (np.abs(apply("sigmoid", -x) - (1 - s)) <= np.finfo(dtype).eps / 2).all()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOOPS)
def test_bits_do_not_depend_on_position(name: str, dtype: str) -> None:
    """In a vector, in the remainder, in a strided array, backwards."""
    x = (np.random.default_rng(0).standard_normal(300) * 5).astype(dtype)
    x = {"log": np.abs, "exp_nonpositive": lambda x: -np.abs(x)}.get(name, np.copy)(x)
    assert np.isfinite(apply(name, x)).all()
    whole = apply(name, x).tobytes()
    wide = np.zeros((300, 3), dtype)
    wide[:, 1] = x
    assert apply(name, wide[:, 1]).tobytes() == whole
    assert apply(name, x[::-1])[::-1].tobytes() == whole
    assert np.concatenate([apply(name, part) for part in np.split(x, [1, 18, 35, 80])]).tobytes() == whole


# ------------------------------------------------------------------------------------------- vectors


def registers(loop: Any, dtype: str) -> str:
    """Widest register in a compiled loop's hottest part, and "call" where that part calls something."""
    x = np.ones(64, dtype)
    loop(x, x.copy())
    bodies: list[str] = []
    for assembly in loop.inspect_asm().values():
        lines = assembly.splitlines()
        start: dict[str, int] = {}
        for i, line in enumerate(lines):
            if label := re.match(r"(\.\w+):", line):
                start[label[1]] = i
            if (jump := re.search(r"\tj\w+\t(\.\w+)", line)) and jump[1] in start:
                body = "\n".join(lines[start[jump[1]] : i])
                if re.search(r"(mul|fmadd\w*)p[sd]\t", body):
                    bodies.append(body)
    widths = [max((w for w in "xyz" if f"%{w}mm" in body), default="") for body in bodies]
    return max(widths, default="") + (" call" if any("call" in body for body in bodies) else "")


def report() -> dict[str, dict[str, Any]]:
    """What the tests of other targets compare."""
    return {
        dtype: {
            "ulp": {name: measure(lambda x, name=name: apply(name, x), name, dtype) for name in BOUND},
            "registers": {name: registers(loop, dtype) for name, loop in LOOPS.items()},
            "full": registers(loop_product, dtype),
        }
        for dtype in DTYPES
    }


@pytest.mark.exhaustive
@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize("target", TARGETS)
def test_full_vectors_and_ulp_bounds_on_every_target(target: str, tmp_path: Path) -> None:
    # A fresh cache, since a function that comes out of the cache has no assembly to read.
    environment = {**os.environ, **TARGETS[target], "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": python_path()}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    for dtype, found in json.loads(run.stdout).items():
        slack = WITHOUT_FMA if "without FMA" in target else 0
        assert {name: ulp for name, ulp in found["ulp"].items() if not ulp <= BOUND[name] + slack} == {}, dtype
        assert found["full"] == {"avx2": "y", "sse2, without FMA": "x"}.get(target, found["full"])
        assert set(found["registers"].values()) == {found["full"]}, (dtype, found["registers"])


if __name__ == "__main__":
    print(json.dumps(report(), indent=1))
