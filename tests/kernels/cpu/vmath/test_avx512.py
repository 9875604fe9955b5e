"""tanh and sigmoid of whole arrays: accuracy, special values, and the same bits wherever an element lies.

Run as a script, with tests/helpers in PYTHONPATH, the file prints what the tests assert; the tests do so for targets
without AVX-512, in processes of their own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import python_path
from ulp import DTYPES, EXPECTED, MUTANTS, TARGETS, WITHOUT_FMA, X86, measure

from fastnet.kernels.cpu.activations import activation_kernel
from fastnet.kernels.cpu.vmath import avx512
from fastnet.kernels.jit.target import target_features
from fastnet.kernels.specs.activations import ACTIVATIONS

pytestmark = pytest.mark.compiled

Array = Any
BOUND = {"tanh": 1.95, "sigmoid": 1.8}
"""Units in the last place of the result, on every target."""


WHOLE: dict[str, Callable[[Array, Array], None]] = {
    name: activation_kernel(ACTIVATIONS[name].code) for name in ("tanh", "sigmoid")
}


def apply(name: str, x: Array) -> Array:
    out = np.full(x.shape, np.nan, x.dtype)
    WHOLE[name](x, out)
    return out


def report() -> dict[str, dict[str, float]]:
    """Largest errors in ulp."""
    return {
        dtype: {name: measure(lambda x, name=name: apply(name, x), name, dtype) for name in WHOLE} for dtype in DTYPES
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WHOLE)
def test_ulp_bounds(name: str, dtype: str) -> None:
    slack = 0 if np.finfo(np.longdouble).eps < 1e-18 else 1.0  # where longdouble is float64
    slack += 0 if "fma" in target_features() or not X86 else WITHOUT_FMA
    assert measure(lambda x: apply(name, x), name, dtype) <= BOUND[name] + slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("why", "name", "wrong"),
    [mutant for mutant in MUTANTS if mutant[1] in WHOLE],
    ids=[f"{mutant[1]}: {mutant[0]}" for mutant in MUTANTS if mutant[1] in WHOLE],
)
def test_ulp_bounds_reject_wrong_functions(why: str, name: str, wrong: Callable[[Array], Array], dtype: str) -> None:
    assert measure(wrong, name, dtype) > BOUND[name] + 1, why


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WHOLE)
def test_ulp_bounds_where_table_entries_meet(name: str, dtype: str) -> None:
    """Both sides of every border between two entries of a table, and of 1, 2^k, and where exponentials end."""
    near = np.float64 if dtype == "float64" else np.float32
    borders = [
        np.log(2) / 32 * np.arange(-64, 65),
        np.log(2) / 64 * np.arange(-64, 65),
        np.arange(64, 200) / 64 - 2.0**-7,
        np.arange(64, 200) / 64,
        2.0 ** np.arange(-20, 20),
        np.array([88.7, -87.3, -103.9, 709.7, -708.3, -745.1, 9.01, 19.06]),
    ]
    x = np.concatenate(borders).astype(near)
    x = (x[:, None] * (1 + np.arange(-40, 41) * np.finfo(near).eps).astype(near)).ravel()
    with np.errstate(all="ignore"):
        expected = EXPECTED[name](x.astype(np.float64 if dtype == "float32" else np.longdouble))
        rounded = expected.astype(near)
        error = np.abs(apply(name, x).astype(expected.dtype) - expected) / np.spacing(np.abs(rounded)).astype(
            expected.dtype
        )
    assert error[np.isfinite(rounded)].max() <= BOUND[name] + 0.3
    np.testing.assert_array_equal(np.isinf(apply(name, x)), np.isinf(rounded))


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: str) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, np.nan, np.finfo(dtype).max, np.finfo(dtype).min], dtype)
    expected = {
        "tanh": [1, -1, 0.0, -0.0, tiny, -tiny, np.nan, 1, -1],
        "sigmoid": [1, 0, 0.5, 0.5, 0.5, 0.5, np.nan, 1, 0],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(apply(name, x), np.array(values, dtype), err_msg=name)
    assert np.signbit(apply("tanh", x)[:6]).tolist() == [False, True, False, True, False, True]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WHOLE)
def test_bits_do_not_depend_on_position_and_nothing_else_is_written(name: str, dtype: str) -> None:
    """In any length, from any element on, in place; 48 and 24 elements are processed side by side."""
    x = np.abs(np.random.default_rng(0).standard_normal(300) * 5).astype(dtype)
    whole = apply(name, x)
    assert np.isfinite(whole).all()
    for size in (0, 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 47, 48, 49, 100):
        for start in (0, 3):
            part = np.full(size + 2, np.nan, dtype)
            WHOLE[name](x[start : start + size], part[1:-1])
            assert part[1:-1].tobytes() == whole[start : start + size].tobytes()
            assert np.isnan(part[[0, -1]]).all()
    WHOLE[name](x, x)
    assert x.tobytes() == whole.tobytes()


@pytest.mark.skipif(not avx512.HAVE_AVX512, reason="the target has no AVX-512")
def test_expected_instructions(tmp_path: Path) -> None:
    # In a process with a fresh cache, since a function that comes out of the cache has no assembly to read.
    program = (
        f"import numpy as np, {Path(__file__).stem} as t\n"
        "for name in t.WHOLE:\n"
        "    x = np.ones(64, np.float64); t.WHOLE[name](x, x.copy())\n"
        "    print(name, *t.WHOLE[name].inspect_asm().values())\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": python_path(Path(__file__).parent)}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    for instruction in ("vscalefpd", "vperm"):
        assert instruction in run.stdout
    assert "vgather" not in run.stdout


@pytest.mark.exhaustive
@pytest.mark.skipif(not X86, reason="names x86 targets")
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "host"])
def test_ulp_bounds_without_avx512(target: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **TARGETS[target],
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": python_path(Path(__file__).parent),
    }
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    slack = WITHOUT_FMA if "without FMA" in target else 0
    for dtype, found in json.loads(run.stdout).items():
        assert set(found) == set(WHOLE)
        assert {name: ulp for name, ulp in found.items() if not ulp <= BOUND[name] + slack} == {}, dtype


if __name__ == "__main__":
    print(json.dumps(report(), indent=1))
