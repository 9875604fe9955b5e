"""The rules of the source tree: who may import whom, where Numba's flags are set, sizes, and the public names.

Each rule compares the violations found with a set of known ones, which may only shrink: an entry that no longer applies
fails as well.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from processes import ROOT

import fastnet
import fastnet.data

LAYERS = (
    {"specs"},
    {"jit"},
    {"llvm"},
    {"limits", "reference", "cpu"},
    {"cuda"},
    {"registry"},
    {"verify", "engine"},
    {"api"},
    {"__init__"},
)
"""Sub-packages and modules of kernels/, the lowest first: each may import those of lower layers only."""

UPWARD = {("cuda", "engine")}
"""The CUDA backend fills the records that the engine package defines; nothing in the engine package imports it."""

MAX_LINES = 450
MAX_PARAMETERS = 8

# ------------------------------------------------------------------------------------- known violations

TOO_LONG: set[str] = set()
TOO_MANY_PARAMETERS: set[str] = {"fastnet.kernels.engine.optimizer_state.__init__"}
TYPED_POINTERS: set[str] = {"fastnet.kernels.cuda.register_tile"}
UNDERSCORED: set[str] = set()

# ------------------------------------------------------------------------------------------ the modules


def module_name(path: Path) -> str:
    """The name of a module as it is installed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    installed = ("fastnet", *parts) if parts[0] == "kernels" else parts
    return ".".join(installed).removesuffix(".__init__")


PATHS = {module_name(path): path for folder in ("fastnet", "kernels") for path in sorted((ROOT / folder).rglob("*.py"))}
KERNELS = [name for name in PATHS if name.startswith("fastnet.kernels")]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(PATHS[name].read_text())


def imports_of(name: str, node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the module and the name that each import below a node binds; a module imported whole as (module, "")."""
    package = name if PATHS[name].name == "__init__.py" else name.rpartition(".")[0]
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from ((alias.name, "") for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - each.level + 1] if each.level else []
            source = ".".join([*base, *([each.module] if each.module else [])])
            for alias in each.names:
                whole = f"{source}.{alias.name}"
                yield (whole, "") if whole in PATHS else (source, alias.name)


def imported(name: str) -> set[str]:
    return {module for module, _ in imports_of(name, tree(name))}


def area(name: str) -> str:
    """The sub-package or module directly below kernels/."""
    return [*name.split("."), "__init__"][2]


# ---------------------------------------------------------------------------------------------- imports


def test_kernels_never_import_the_rest_of_fastnet() -> None:
    for name in KERNELS:
        upper = {other for other in imported(name) if other.split(".")[0] == "fastnet" and other not in KERNELS}
        assert not upper, f"{name} imports {upper}"


def test_nothing_imports_tests_benchmarks_or_a_top_level_kernels() -> None:
    for name in PATHS:
        assert not {other for other in imported(name) if other.split(".")[0] in ("tests", "bench", "kernels")}, name


def test_kernels_import_lower_layers_only() -> None:
    layer = {member: i for i, members in enumerate(LAYERS) for member in members}
    assert {area(name) for name in KERNELS} == set(layer)
    upward = set()
    for name in KERNELS:
        for other in imported(name) & set(KERNELS):
            if area(other) != area(name) and layer[area(other)] >= layer[area(name)]:
                upward.add((area(name), area(other)))
    assert upward == UPWARD


def test_no_module_imports_itself_through_others() -> None:
    done = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in imported(name) & set(PATHS):
                visit(other, (*path, name))
            done.add(name)

    for name in PATHS:
        visit(name, ())


def test_names_with_an_underscore_stay_in_their_module() -> None:
    found = set()
    for name in PATHS:
        modules = set()
        for each in ast.walk(tree(name)):
            if isinstance(each, ast.ImportFrom) and (each.level or (each.module or "").startswith("fastnet")):
                modules |= {alias.asname or alias.name for alias in each.names if imports_module(name, each, alias)}
                private = {alias.name for alias in each.names if re.match(r"_(?!_)", alias.name)}
                found |= {f"{name}: {private_name}" for private_name in private}
        for each in ast.walk(tree(name)):
            if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id in modules:
                found |= {f"{name}: {each.value.id}.{each.attr}"} if re.match(r"_(?!_)", each.attr) else set()
    assert found == UNDERSCORED


def imports_module(name: str, statement: ast.ImportFrom, alias: ast.alias) -> bool:
    """Whether one name of a statement is a module of fastnet."""
    one = ast.ImportFrom(statement.module, [alias], statement.level)
    return any(bound == "" for _, bound in imports_of(name, one))


def test_training_reaches_the_kernels_through_the_engine() -> None:
    for name in ("fastnet.network", "fastnet.optimizers", "fastnet.trainer"):
        cpu = {other for other in imported(name) if other.startswith("fastnet.kernels.cpu.")}
        assert cpu <= {"fastnet.kernels.cpu.threads.pool"}, name


def test_scikit_learn_and_pandas_are_imported_by_these_modules_only() -> None:
    found = {
        name
        for name in PATHS
        if {other.split(".")[0] for other in imported(name)} & {"sklearn", "scipy", "pandas", "skops"}
    }
    assert found == {
        "fastnet.sklearn",
        "fastnet.sklearn_additions",
        "fastnet.sklearn_session",
        "fastnet.table",
        "fastnet.table_file",
        "fastnet.table_model",
        "fastnet.tabular",
        "fastnet.scores",
    }


def test_numba_cuda_is_imported_by_the_cuda_package_only() -> None:
    """`device` imports it; the modules that need what lies below it import that."""
    whole, parts = set(), set()
    for name in PATHS:
        for module, bound in imports_of(name, tree(name)):
            whole |= {name} if (module, bound) in (("numba", "cuda"), ("numba.cuda", "")) else set()
            parts |= {name} if module.startswith(("numba.cuda.", "cuda.")) else set()
    assert whole == {"fastnet.kernels.cuda.device"}
    assert parts <= {f"fastnet.kernels.cuda.{name}" for name in ("register_tile", "ptx_report", "graph")}


def test_the_cuda_package_is_imported_when_asked_for() -> None:
    for name in PATHS:
        if not name.startswith("fastnet.kernels.cuda"):
            at_import = [each for each in tree(name).body if isinstance(each, ast.ImportFrom)]
            early = {module for each in at_import for module, _ in imports_of(name, each) if ".kernels.cuda" in module}
            assert early <= {"fastnet.kernels.cuda.device"}, name


# ------------------------------------------------------------------------------------------- the sources


def test_sub_packages_are_empty_and_installed() -> None:
    packages = {PATHS[name].parent for name in PATHS}
    assert {folder for folder in packages if not (folder / "__init__.py").exists()} == set()
    names = {".".join(module_name(folder / "__init__.py").split(".")) for folder in packages}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == names
    filled = {name for name in names if (PATHS[name].read_text()).strip()}
    assert filled == {"fastnet", "fastnet.kernels"}


def test_numbas_flags_are_set_in_one_place_for_each_target() -> None:
    flags = re.compile(r"\b(njit|fastmath|error_model|nogil|cache=True)\b")
    found = {name for name in PATHS if flags.search(PATHS[name].read_text())}
    assert found <= {
        "fastnet.kernels.jit.decorator",
        "fastnet.kernels.jit.numba_internals",
        "fastnet.kernels.cuda.device",
    }
    text = PATHS["fastnet.kernels.jit.decorator"].read_text()
    assert not re.search(r"\"(nnan|ninf|fast|reassoc)\"", text)


def test_llvm_pointers_are_opaque() -> None:
    typed = re.compile(r"\.as_pointer\(\)|\.pointee\b|\bPointerType\([^)]")
    assert {name for name in PATHS if typed.search(PATHS[name].read_text())} == TYPED_POINTERS


def test_modules_are_short_and_say_what_they_are() -> None:
    assert {name for name in PATHS if PATHS[name].read_text().count("\n") > MAX_LINES} == TOO_LONG
    undocumented = {name for name in PATHS if PATHS[name].stat().st_size and not ast.get_docstring(tree(name))}
    assert undocumented == set()


def test_functions_take_few_parameters() -> None:
    """All but those whose signature users see: operations, public classes and scikit-learn's estimators."""
    public = {*fastnet.__all__, *fastnet.kernels.__all__}
    found = set()
    for name in PATHS:
        classes = [each for each in ast.walk(tree(name)) if isinstance(each, ast.ClassDef)]
        seen = [each for each in classes if each.name in public or name in ("fastnet.sklearn", "fastnet.tabular")]
        methods = {method for each in seen for method in each.body}
        for each in ast.walk(tree(name)):
            if isinstance(each, ast.FunctionDef) and each.name not in public and each not in methods:
                a = each.args
                every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
                count = sum(parameter is not None and parameter.arg != "self" for parameter in every)
                found |= {f"{name}.{each.name}"} if count > MAX_PARAMETERS else set()
    assert found == TOO_MANY_PARAMETERS


# ----------------------------------------------------------------------------------------- public names


def test_public_names() -> None:
    assert set(fastnet.__all__) == {
        "SGD",
        "Adam",
        "AdamW",
        "CosineDecay",
        "Ensemble",
        "History",
        "Network",
        "RMSprop",
        "StepDecay",
        "Trainer",
        "WarmUp",
        "fit_many",
        "load",
    }
    assert all(hasattr(fastnet, name) for name in fastnet.__all__)
    assert all(hasattr(fastnet.kernels, name) for name in fastnet.kernels.__all__)
    assert callable(fastnet.kernels.variants)


def test_a_public_name_is_imported_when_it_is_asked_for() -> None:
    code = (
        "import fastnet, sys\n"
        "assert not {'numba', 'numpy', 'fastnet.kernels'} & set(sys.modules)\n"
        "assert set(fastnet.__all__) <= set(dir(fastnet))\n"
        "assert not {'Any', 'import_module'} & set(dir(fastnet))\n"
        "assert issubclass(fastnet.trainer.DivergenceWarning, Warning)\n"
        "assert 'data' in dir(fastnet) and len(fastnet.data.digits()) == 2\n"
        "assert fastnet.kernels.relu(-1.0, variant='reference') == 0\n"
        "fastnet.NoSuchName"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "module 'fastnet' has no attribute 'NoSuchName'" in result.stderr


def test_kernels_contain_nothing_that_needs_the_passes_left_out() -> None:
    """Numba's frontend would say no more than that a function has no type; from Python 3.12 on, some would compile."""
    kinds = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.With)
    found, kernels = [], 0
    for module, path in PATHS.items():
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or not any(
                re.match(r"jit\b", ast.unparse(decorator)) for decorator in function.decorator_list
            ):
                continue
            kernels += 1
            inside = (node for statement in function.body for node in ast.walk(statement))
            found += [f"{module}.{function.name}, line {node.lineno}" for node in inside if isinstance(node, kinds)]
    assert kernels > 100
    assert not found, f"{found}: see docs/extending.md"


def test_type_checkers_find_misspelt_names() -> None:
    """A `__getattr__` that they see would give the package every name there is."""
    tree = ast.parse(Path(fastnet.__file__).read_text())
    assert "__getattr__" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_version_is_the_distributions() -> None:
    assert metadata.version("fastnet-jit") == fastnet.__version__


@pytest.mark.parametrize("module", [fastnet, fastnet.kernels, fastnet.data], ids=lambda m: m.__name__)
def test_public_functions_are_documented(module: object) -> None:
    for name in getattr(module, "__all__", ["digits", "split"]):
        assert (getattr(module, name).__doc__ or "").strip(), name
