"""docs/extending.md, followed to the letter in a copy of the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
PAGE = (ROOT / "docs" / "extending.md").read_text()

pytestmark = [pytest.mark.compiled, pytest.mark.exhaustive]


def section(title: str) -> str:
    """The text under a heading."""
    return PAGE[PAGE.index(f"## {title}") :].split("\n## ")[0]


def code(title: str) -> list[str]:
    """The Python code under a heading, block by block."""
    return re.findall(r"^```py\n(.*?)^```", section(title), re.M | re.S)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, laid out as it is installed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastnet", tmp_path / "fastnet", ignore=ignored)
    shutil.copytree(ROOT / "kernels", tmp_path / "fastnet" / "kernels", ignore=ignored)
    return tmp_path


def insert(path: Path, text: str, before: str) -> None:
    source = path.read_text()
    assert source.count(before) == 1, f"{path.name} holds {source.count(before)} times {before!r}"
    path.write_text(source.replace(before, text + before))


def run(copy: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(copy / "cache")}
    environment = {**os.environ, **paths, **variables}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy, env=environment, timeout=600)


# -------------------------------------------------------------------------------------- an activation

USE_SOFTSIGN = """
import numpy as np
from fastnet import Network, Trainer
from fastnet.kernels import dense_backward_batch, dense_forward, softsign, softsign_derivative, variants
from fastnet.kernels.registry import OP_SPECS, TABLE
from fastnet.kernels.verify import check

for variant in TABLE:
    if "softsign" in variant.operation:
        for case in OP_SPECS[variant.operation].cases:
            for dtype in ("float32", "float64"):
                assert check(variant, case, dtype) <= 1 / 3, variant
    elif "dense" in variant.operation:
        cases = [case for case in OP_SPECS[variant.operation].cases if case.option == "softsign"]
        assert check(variant, cases[-1], "float64") <= 1 / 3
assert {"reference", "loops"} <= set(variants("softsign"))
assert "Z / (1 + |Z|)" in softsign.__doc__
assert "1 / (1 + |Z|)^2" in softsign_derivative.__doc__

X, y = np.random.default_rng(0).standard_normal((2, 60, 4))
both = []
for backend in ("numpy", "auto"):
    net = Network([4, 8, 4], hidden="softsign", output="softsign", dtype="float64", seed=0)
    Trainer(net, batch_size=16, seed=0, backend=backend).fit(X, y, epochs=3)
    both.append(net.parameters.copy())
np.testing.assert_allclose(*both, rtol=1e-9)
try:
    import onnxruntime
except ImportError:
    print("without onnx")
else:
    net.to_onnx("softsign.onnx")
    session = onnxruntime.InferenceSession("softsign.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"X": X})[0], net.predict(X), rtol=1e-6)
print("right")
"""


@pytest.fixture
def with_softsign(copy: Path) -> Path:
    functions, record, oracle = code("Add an activation")
    specs = copy / "fastnet" / "kernels" / "specs" / "activations.py"
    text = specs.read_text()
    table = re.search(r"^ACTIVATIONS = .*?^\)$", text, re.M | re.S)
    assert table
    record = textwrap.indent(record.rstrip(), " " * 4)
    specs.write_text(f"{text[: table.start()]}{functions}\n\n{table[0][:-1]}{record},\n){text[table.end() :]}")
    insert(
        copy / "fastnet" / "kernels" / "reference" / "activations.py", oracle + "\n\n", "class Activation(NamedTuple)"
    )
    return copy


def test_added_activation_needs_a_spec_and_an_oracle(with_softsign: Path) -> None:
    result = run(with_softsign, "-c", USE_SOFTSIGN)
    assert result.returncode == 0, result.stderr
    assert "right" in result.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("return z / (type(z)(1) + abs(z))", "return z / (type(z)(1) + z)"),
        ("return q * q", "return q"),
    ],
)
def test_added_wrong_formula_is_rejected(with_softsign: Path, right: str, wrong: str) -> None:
    specs = with_softsign / "fastnet" / "kernels" / "specs" / "activations.py"
    assert right in specs.read_text()
    specs.write_text(specs.read_text().replace(right, wrong))
    result = run(with_softsign, "-c", USE_SOFTSIGN)
    assert "WrongKernelError" in result.stderr


# ----------------------------------------------------------------------------------------- a variant


@pytest.fixture
def with_mine(copy: Path) -> Path:
    (variant,) = code("Add a variant of a kernel")
    (line,) = re.findall(r"^    \*_variant\(.*\n", section("Add a variant of a kernel"), re.M)
    kernels = copy / "fastnet" / "kernels"
    (kernels / "cpu" / "mine.py").write_text(variant)
    registry = kernels / "registry.py"
    text = registry.read_text()
    end = text.index("\n)\n", text.index("\n_ALL:")) + 1
    text = text[:end] + line + text[end:]
    imports = re.search(r"^from \.cpu import .*$", text, re.M)
    assert imports
    registry.write_text(text.replace(imports[0], f"{imports[0]}, mine", 1))
    return copy


def profile(copy: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the page's command, without the picture, timed briefly."""
    found = re.search(
        r"^fastnet (profile kernel matmul --shape .*--variants .*) --asm --plot roofline.png$", PAGE, re.M
    )
    assert found
    return run(copy, "-m", "fastnet", *shlex.split(found[1]), "--seconds", "0.02", "--no-compile-stats", *more)


def test_added_variant_is_profiled(with_mine: Path) -> None:
    result = profile(with_mine, "--variants", "reference,mine")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^mine +[\d.]+ +[\d.]+% ", result.stdout, re.M)


def test_added_wrong_variant_is_rejected(with_mine: Path) -> None:
    mine = with_mine / "fastnet" / "kernels" / "cpu" / "mine.py"
    lines = mine.read_text().rstrip().splitlines()
    assert "for i in range(whole" in lines[-4]
    mine.write_text("\n".join(lines[:-4]))
    result = profile(with_mine, "--variants", "reference,mine", "--shape", "37,20,30")
    assert (result.returncode, result.stdout) == (1, "")
    assert "matmul, variant mine" in result.stderr
    assert "elements are wrong, first at (36, 0)" in result.stderr


# ------------------------------------------------------------------------------------ a CUDA variant

CUDA_TITLE = "A CUDA variant of matmul"


@pytest.fixture
def with_pair(copy: Path) -> Path:
    (module,) = code(CUDA_TITLE)
    in_launch, in_registry = re.findall(r'^    "cuda_pair": .*\n', section(CUDA_TITLE), re.M)
    kernels = copy / "fastnet" / "kernels"
    (kernels / "cuda" / "pair.py").write_text(module)
    insert(kernels / "cuda" / "launch.py", in_launch, '    "cuda": _fast,\n')
    insert(kernels / "cuda" / "launch.py", "from .pair import cuda_pair\n", "\nTILES: ")
    insert(kernels / "registry.py", in_registry, '    "cuda": tuple(OP_SPECS),\n')
    return copy


def simulate(copy: Path) -> subprocess.CompletedProcess[str]:
    """Run the page's check in the simulator."""
    (program,) = re.findall(r"^NUMBA_ENABLE_CUDASIM=1 python -c '\n(.*?)'$", section(CUDA_TITLE), re.M | re.S)
    return run(copy, "-c", program, NUMBA_ENABLE_CUDASIM="1")


def test_added_cuda_variant_is_checked(with_pair: Path) -> None:
    result = simulate(with_pair)
    assert result.returncode == 0, result.stderr
    shares = [line.split() for line in result.stdout.splitlines()]
    assert [operation for operation, _ in shares] == ["matmul", "dense_forward", "dense_backward_batch"]
    assert all(float(share) <= 1 / 3 for _, share in shares)


def test_added_wrong_cuda_variant_is_rejected(with_pair: Path) -> None:
    pair = with_pair / "fastnet" / "kernels" / "cuda" / "pair.py"
    right = "if m + SIDE < rows:"
    assert right in pair.read_text()
    pair.write_text(pair.read_text().replace(right, "if m + SIDE < rows - 1:"))
    result = simulate(with_pair)
    assert "WrongKernelError: matmul, variant cuda_pair" in result.stderr
