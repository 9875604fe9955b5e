"""The specs: what is generated from them agrees, and a spec with a mistake is found."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnet.kernels
from fastnet import Network
from fastnet.kernels.api import activations as api
from fastnet.kernels.cpu import activations as simd
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.registry import OP_SPECS, TABLE, Variant, variants
from fastnet.kernels.specs.activations import ACTIVATION_BY_CODE, ACTIVATIONS, FORMULAS, ActivationSpec
from fastnet.kernels.specs.base import Case
from fastnet.kernels.verify import WrongKernelError, check

NAMES = list(ACTIVATIONS)
Z = np.concatenate([np.linspace(-30, 30, 2001), [-1e-3, 1e-3]])


def test_codes_are_positions() -> None:
    assert [spec.code for spec in ACTIVATION_BY_CODE] == list(range(len(ACTIVATIONS)))
    assert [spec.name for spec in ACTIVATION_BY_CODE] == NAMES == list(dict.fromkeys(NAMES))
    assert [activation.name for activation in reference.ACTIVATIONS] == NAMES
    assert [function.__name__ for function in api.FUNCTIONS] == NAMES


def test_page_of_activations_is_generated() -> None:
    """Where it fails, copy the expected table into docs/activations.md."""
    root = next(folder for folder in Path(__file__).resolve().parents if (folder / "docs").is_dir())
    rows = [
        f"| `{spec.name}` | {spec.equation} | {spec.derivative_equation} | {'Z' if spec.needs_z else 'A'} "
        f"| {'He' if spec.he_init else 'Glorot'} | {spec.source} |".replace("|Z|", "abs(Z)")
        for spec in ACTIVATION_BY_CODE
    ]
    head = "| name | A = f(Z) | f'(Z) | training keeps | initial weights | source |\n|---|---|---|---|---|---|\n"
    assert head + "\n".join(rows) + "\n" in (root / "docs" / "activations.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_activation_spec_is_complete(name: str) -> None:
    """Public functions with docstrings, an oracle, a formula, variants, and a network of it."""
    spec = ACTIVATIONS[name]
    for operation, equation in ((name, spec.equation), (f"{name}_derivative", spec.derivative_equation)):
        function = getattr(fastnet.kernels, operation)
        assert function.__name__ == operation
        assert operation in fastnet.kernels.__all__
        assert function.__doc__.startswith(f"{equation}, elementwise.")
        for part in ("Parameters\n", "Returns\n", "Raises\n", "variant : str"):
            assert part in function.__doc__
        assert callable(getattr(reference, operation))
        assert operation in FORMULAS
        assert operation in OP_SPECS
        assert {"reference", "loops"} <= set(variants(operation))
    assert Network([2, 3, 2], hidden=name, output=name).summary()


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name", [name for name, f in FORMULAS.items() if {*f.__code__.co_names} & {"exp", "tanh", "erfc"}]
)
def test_functions_that_call_libm_have_vector_code(name: str) -> None:
    assert "simd" in variants(name)


@pytest.mark.parametrize("spec", ACTIVATION_BY_CODE, ids=NAMES)
def test_formulas_agree_with_the_oracle(spec: ActivationSpec) -> None:
    """The functions of one number, in plain Python."""
    expected = getattr(reference, spec.name)(Z), getattr(reference, f"{spec.name}_derivative")(Z)
    np.testing.assert_allclose([spec.function(z) for z in Z], expected[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose([spec.derivative(z) for z in Z], expected[1], rtol=1e-12, atol=1e-14)
    if spec.derivative_from_output is not None:
        from_output = [spec.derivative_from_output(a) for a in expected[0]]
        np.testing.assert_allclose(from_output, expected[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("spec", ACTIVATION_BY_CODE, ids=NAMES)
def test_largest_slope(spec: ActivationSpec) -> None:
    """An error of Z grows by no more, and a bound would be too loose if it were much more."""
    steepest = np.abs(getattr(reference, f"{spec.name}_derivative")(np.linspace(-5, 5, 20_001))).max()
    assert steepest <= spec.max_slope + 1e-9
    assert spec.max_slope <= max(1.0, 1.01 * steepest)


def test_mish_of_the_oracle_is_its_definition() -> None:
    """Which the oracle writes otherwise, for small results to keep their digits."""
    np.testing.assert_allclose(reference.mish(Z), Z * np.tanh(np.log1p(np.exp(Z))), rtol=1e-12)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", ACTIVATION_BY_CODE, ids=NAMES)
def test_kernels_that_training_calls(spec: ActivationSpec, dtype: str) -> None:
    """dZ <- dZ * f'(Z), reading A or Z alone; where f' is 0 the gradient is 0, infinite ones too."""
    rng = np.random.default_rng(0)
    z = (rng.standard_normal(1000) * 5).astype(dtype)
    a, d = np.empty_like(z), rng.standard_normal(1000).astype(dtype)
    simd.activation_kernel(spec.code)(z, a)
    expected = d * getattr(reference, f"{spec.name}_derivative")(z.astype(np.float64))
    unused = np.full_like(z, np.nan)
    arrays = (unused, z) if spec.needs_z else (a, unused)
    simd.times_derivative_kernel(spec.code)(*arrays, d)
    np.testing.assert_allclose(d, expected, rtol=0, atol=20 * np.finfo(dtype).eps * np.abs(expected).max())
    if spec.name == "relu":
        d = np.array([np.inf, -np.inf, np.nan, -1.0], dtype)
        simd.times_derivative_kernel(spec.code)(np.zeros(4, dtype), unused[:4], d)
        assert d.tobytes() == np.zeros(4, dtype).tobytes()


# ------------------------------------------------------------------------------------------ mutants


def _with(spec: ActivationSpec, **changes: Any) -> ActivationSpec:
    return dataclasses.replace(spec, **changes)


MUTANTS = [
    ("sign", _with(ACTIVATIONS["softplus"], function=lambda z: math.log1p(math.exp(z)) - max(z, 0.0))),
    ("of tanh", _with(ACTIVATIONS["sigmoid"], function=math.tanh)),
    ("derivative of relu", _with(ACTIVATIONS["elu"], derivative=ACTIVATIONS["relu"].derivative)),
    ("z for a", _with(ACTIVATIONS["tanh"], derivative_from_output=ACTIVATIONS["tanh"].derivative)),
]


@pytest.mark.parametrize(("why", "wrong"), MUTANTS, ids=[f"{spec.name}: {why}" for why, spec in MUTANTS])
def test_wrong_spec_is_found(why: str, wrong: ActivationSpec) -> None:
    with pytest.raises(AssertionError):
        test_formulas_agree_with_the_oracle(wrong)


@pytest.mark.parametrize("name", ["sigmoid", "elu"])
def test_kernel_of_a_wrong_formula_is_rejected(name: str) -> None:
    """As `loops` would compute it; the right formula passes in the same way."""

    def kernel(function: Any) -> Any:
        def fill(Z: Any, out: Any) -> None:
            out[...] = [function(z) for z in Z.tolist()]

        return fill

    case = Case((65,), "odd")
    check(Variant(name, "right", kernel(ACTIVATIONS[name].function)), case, "float64")
    with pytest.raises(WrongKernelError, match=name):
        check(Variant(name, "wrong", kernel(ACTIVATIONS[name].derivative)), case, "float64")


def test_every_row_of_the_table_has_a_spec() -> None:
    assert {variant.operation for variant in TABLE} == set(OP_SPECS)
