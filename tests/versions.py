"""Run the tests on several versions of Python, NumPy, Numba and scikit-learn; prints a table of what was run.

    python tests/versions.py                          # every Python found, newest and oldest releases of the ranges
    python tests/versions.py --python 3.13 --newest   # one of them
    python tests/versions.py -- tests/fuzz -x         # other arguments of pytest

Pythons are looked for by uv (which downloads them), then among pyenv's, then on the PATH. The oldest releases are the
lower bounds in pyproject.toml; where there are no wheels of a combination, the table says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.14t")
"""The last one is the free-threaded build."""

NAMED = ("numpy", "numba", "scikit-learn")
WITHOUT_COMPILER = ("pandas", "pyarrow", "polars", "onnx", "onnxruntime", "matplotlib", "scipy")
"""What the tests need besides, from wheels only."""

SAMPLE = ["tests", "-q", "-x", "-p", "no:cacheprovider"]


def find(version: str) -> str | None:
    """Return the path of a Python of a version, such as "3.13" or "3.14t"."""
    if shutil.which("uv"):
        found = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True, check=False)
        if found.returncode or subprocess.run(["uv", "python", "install", version], check=False).returncode == 0:
            found = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    number, threads = version.rstrip("t"), "t" if version.endswith("t") else ""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    pattern = re.compile(re.escape(number) + r"\.\d+" + threads)
    installed = [path / "bin" / "python" for path in sorted(root.glob("*")) if pattern.fullmatch(path.name)]
    return str(installed[-1]) if installed else shutil.which(f"python{version}")


def oldest() -> list[str]:
    """Return the lower bounds of the ranges in pyproject.toml as requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["sklearn"]]
    bounds = [re.match(r"([\w-]+)>=([\d.]+)", requirement) for requirement in declared]
    return [f"{bound[1]}=={bound[2]}.*" for bound in bounds if bound and bound[1] in NAMED]


def run(python: str, pins: list[str], arguments: list[str]) -> tuple[str, str]:
    """Install the package with its tests' requirements and run pytest; return the versions and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # some tests run as another user
        subprocess.run([python, "-m", "venv", folder], check=True)
        own = str(Path(folder, "Scripts" if os.name == "nt" else "bin", "python"))
        pip = ["uv", "pip", "install", "--python", own] if shutil.which("uv") else [own, "-m", "pip", "install"]
        wheels = [f"--only-binary={name}" for name in (*NAMED, *WITHOUT_COMPILER)]
        install = [*pip, "-q", *wheels, "-e", f"{ROOT}[test]", *pins]
        installed = subprocess.run(install, capture_output=True, text=True, check=False)
        if installed.returncode:
            return "", f"not installed: {' '.join(installed.stderr.split())[:160]}"
        ask = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
        versions = subprocess.run([own, "-c", ask, *NAMED], capture_output=True, text=True, check=True).stdout.strip()
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(Path(folder, "cache"))}
        command = [own, "-m", "pytest", *arguments]
        tested = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        print(tested.stdout[-4000:] if tested.returncode else "", file=sys.stderr)
        return versions, (tested.stdout.strip().splitlines() or ["no output"])[-1]


def main() -> int:
    """Run what the command line asks for; return 1 if any tests failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", action="append", help=f"a version; by default {', '.join(PYTHONS)}")
    parser.add_argument("--newest", action="store_true", help="newest releases only")
    parser.add_argument("--oldest", action="store_true", help="oldest releases only")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest")
    chosen = parser.parse_args()
    ranges = [("newest", list[str]())] * (not chosen.oldest) + [("oldest", oldest())] * (not chosen.newest)
    failed = False
    for version in chosen.python or PYTHONS:
        python = find(version)
        if python is None:
            print(f"{version:<6} not found", flush=True)
            continue
        for name, pins in ranges:
            versions, ended = run(python, pins, chosen.pytest or SAMPLE)
            failed |= "failed" in ended or "error" in ended
            print(f"{version:<6} {name:<7} {versions:<50} {ended}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
