"""Is a commit slower than another?  Both measured in turns, on the same machine, in the same minutes.

    python bench/compare.py main                # the working tree against a commit
    python bench/compare.py HEAD~3 HEAD -k matmul --dtypes float32,float64

A file of one session set against a file of another (pytest-benchmark's ``--benchmark-compare``) also compares the
machine's moods: on one that is shared, medians an hour apart differed by a third. So here three processes take turns,
call by call: the old commit, the new one, and the old one once more. What the two old ones differ by is noise, and is
what a difference must exceed; `fastnet.profiling.verdicts` says by how much. All three are replaced by new ones several
times, since a process has its own rng with the placement of memory.

Each commit is taken from git into a folder of its own and run by this interpreter, so both have the same NumPy and
Numba. Exit status 1 where anything became slower.
"""

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from fastnet.profiling.verdicts import Verdict, verdict

ROOT = Path(__file__).parent.parent
WORKING_TREE = "the working tree"

# What a side's process runs: of the package under test it uses the table only, by its present names or, of commits
# before the sub-packages, by its former ones.
SIDE = """
import json, sys, time
import numpy as np
import importlib
try:
    table = importlib.import_module("fastnet.kernels.registry")
    check = importlib.import_module("fastnet.kernels.verify").check
    specs, serial = table.OP_SPECS, {"backend": "cpu", "threads": 1}
except ImportError:
    table = importlib.import_module("fastnet.kernels.variants")
    check, specs, serial = table.check, table.CONTRACTS, {"backend": "serial"}
from fastnet import SGD, Network, Trainer

def kernel(operation, variant, dtype, dims, option):
    spec = specs[operation]
    cases = (*getattr(spec, "bench_cases", getattr(spec, "benches", ())), *spec.cases)
    case = next(c for c in cases if list(c.dims) == dims and c.option == option)
    record = next(v for v in table.TABLE if (v.operation, v.name) == (operation, variant))
    check(record, case, dtype)
    arguments = table.prepare(operation, case, dtype).arguments
    return lambda: record.function(*arguments)

def epoch(sizes, batch, dtype):
    rng = np.random.default_rng(0)
    X, y = (rng.standard_normal((8 * batch, size)).astype(dtype) for size in (sizes[0], sizes[-1]))
    how = {"optimizer": SGD(1e-3), "batch_size": batch, "shuffle": False}
    trainer = Trainer(Network(sizes, dtype=dtype), **how, **serial)
    return lambda: trainer.fit(X, y, epochs=1, progress=False)

calls, counts = {}, {}
for line in sys.stdin:
    key, kind, arguments = json.loads(line)
    try:
        if key not in calls:
            call = calls[key] = {"kernel": kernel, "epoch": epoch}[kind](*arguments)
            call()
            start = time.perf_counter(); call(); took = time.perf_counter() - start
            counts[key] = max(1, round(0.001 / max(took, 1e-7)))
        call, count = calls[key], counts[key]
        call()
        times = []
        for _ in range(4):
            start = time.perf_counter()
            for _ in range(count):
                call()
            times.append(time.perf_counter() - start)
        print(json.dumps(min(times) / count), flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)
"""

Bench = tuple[str, str, list[Any]]

# ------------------------------------------------------------------------------------------ two commits


def unpack(commit: str, folder: Path) -> Path:
    """Lay a commit's package out as it is installed; the folder to import it from."""
    if commit == WORKING_TREE:
        source = ROOT
    else:
        source = folder / "source"
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
        if archive.returncode != 0:
            raise SystemExit(f"compare.py: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(source, filter="data")
    shutil.copytree(source / "fastnet", folder / "fastnet", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(source / "kernels", folder / "fastnet" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class Side:
    """A process that measures one commit."""

    def __init__(self, folder: Path) -> None:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, "1"), "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
        environment["NUMBA_CACHE_DIR"] = str(folder / "cache")  # that goes with it: the user's would keep every commit
        self._process = subprocess.Popen(
            [sys.executable, "-c", SIDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def seconds(self, bench: Bench) -> float | str:
        """Give the seconds of a call, or what went wrong."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(bench) + "\n")
        self._process.stdin.flush()
        answer: float | str = json.loads(self._process.stdout.readline() or '"its process has ended"')
        return answer

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()


def bench_cases(pattern: str, dtypes: list[str], variant_names: list[str]) -> list[Bench]:
    """What is compared: every operation's benchmarks of these variants that both commits have, and epochs."""
    from fastnet.kernels.registry import OP_SPECS, TABLE

    found: list[Bench] = []
    for variant in TABLE:
        for case in OP_SPECS[variant.operation].bench_cases:
            for dtype in dtypes:
                best_variant = variant.name == "loops" and not any(
                    (v.operation, v.name) == (variant.operation, "simd") for v in TABLE
                )
                large = OP_SPECS[variant.operation].flops(*case.dims) > 3e8
                if (variant.name in variant_names or ("simd" in variant_names and best_variant)) and not large:
                    key = f"{variant.operation} {variant.name} {case} {dtype}"
                    found.append(
                        (key, "kernel", [variant.operation, variant.name, dtype, list(case.dims), case.option])
                    )
    for sizes, batch in (([13, 64, 64, 1], 32), ([64, 128, 10], 32), ([784, 256, 128, 10], 128)):
        for dtype in dtypes:
            key = f"epoch {'-'.join(map(str, sizes))} batch {batch} {dtype}"
            found.append((key, "epoch", [sizes, batch, dtype]))
    return [bench for bench in found if all(word in bench[0] for word in pattern.split())]


def measure(
    old: Path, new: Path, chosen: list[Bench], processes: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """For each benchmark and set of processes: new over old, and old over old, medians over rounds.

    A turn is four batches of a millisecond, of which the shortest counts: others take the core away in the longer ones.
    """
    changes: dict[str, list[float]] = {bench[0]: [] for bench in chosen}
    controls: dict[str, list[float]] = {bench[0]: [] for bench in chosen}
    for number in range(processes):
        sides = [Side(old), Side(new), Side(old)]
        ratios: dict[str, list[tuple[float, float]]] = {bench[0]: [] for bench in chosen}
        rng = random.Random(number)
        for i in range(rounds):  # the outer loop: a disturbance of seconds then meets one round of many benchmarks
            for bench in chosen:
                order = rng.sample((0, 1, 2), 3)  # a fixed one met the scheduler's time slices: 1.5 for equal code
                times = [side.seconds(bench) for side in (sides[place] for place in order)]
                wrong = [time for time in times if isinstance(time, str)]
                if wrong and wrong[0].startswith(("StopIteration", "KeyError")):
                    continue  # one of the commits has no such benchmark
                if wrong:
                    raise SystemExit(f"compare.py: {bench[0]}: {wrong[0]}")
                by_side = dict(zip(order, times, strict=True))
                first, second, again = (float(by_side[place]) for place in range(3))
                ratios[bench[0]].append((second / ((first + again) / 2), again / first))
            print(f"\rset {number + 1} of {processes}, round {i + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        for side in sides:
            side.end()
        for key, pairs in ratios.items():
            if pairs:
                changes[key].append(statistics.median(pair[0] for pair in pairs))
                controls[key].append(statistics.median(pair[1] for pair in pairs))
    print(file=sys.stderr)
    return changes, controls


def compare_cold_starts(old: str, new: str, pairs: int) -> int:
    """Time the first training of a process with an empty cache, and the second, in turns; print medians and ratios."""
    command = [sys.executable, "-m", "fastnet", "train", "--epochs", "1"]
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = {"old": unpack(old, Path(folder, "old")), "new": unpack(new, Path(folder, "new"))}
        for i in range(pairs):
            for name in ("old", "new") if i % 2 else ("new", "old"):
                cache = Path(folder, f"cache-{name}-{i}")
                environment = {**os.environ, "PYTHONPATH": str(sides[name]), "PYTHONSAFEPATH": "1"}
                environment["NUMBA_CACHE_DIR"] = str(cache)
                for start in ("cold", "warm"):
                    begin = time.perf_counter()
                    subprocess.run(command, check=True, capture_output=True, env=environment)
                    times.setdefault((start, name), []).append(time.perf_counter() - begin)
    for start in ("cold", "warm"):
        before, after = times[start, "old"], times[start, "new"]
        ratios = sorted(b / a for a, b in zip(before, after, strict=True))
        print(
            f"{start}: {statistics.median(before):.2f} s -> {statistics.median(after):.2f} s, ratio of pairs "
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", nargs="?", default=WORKING_TREE, help="another (default: the working tree)")
    parser.add_argument("-k", default="", metavar="WORDS", help="only benchmarks whose names hold all these words")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--variants", dest="variant_names", default="simd")
    parser.add_argument("--cold", type=int, metavar="N", help="instead, pairs of whole first runs with an empty cache")
    parser.add_argument("--processes", type=int, default=4, help="sets of processes")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each set")
    options = parser.parse_args()
    if options.cold:
        return compare_cold_starts(options.old, options.new, options.cold)
    chosen = bench_cases(options.k, options.dtypes.split(","), options.variant_names.split(","))
    if not chosen:
        parser.error(f"-k {options.k!r} leaves nothing to compare")
    with tempfile.TemporaryDirectory() as folder:
        old = unpack(options.old, Path(folder, "old"))
        new = unpack(options.new, Path(folder, "new"))
        changes, controls = measure(old, new, chosen, options.processes, options.rounds)
    print(f"{options.new} against {options.old}: time as a multiple, noise of equal code, and what exceeds it")
    found: list[Verdict] = []
    for key, change in changes.items():
        if not change:
            print(f"{key:<60}    only in one of the commits")
            continue
        found.append(verdict(change, controls[key]))
        mark = "" if found[-1].word == "same" else f"  {found[-1].word.upper()}"
        print(f"{key:<60}{found[-1].ratio:>8.3f}  +-{found[-1].threshold:.3f}{mark}")
    slower = sum(each.word == "slower" for each in found)
    print(f"{slower} slower, {sum(each.word == 'faster' for each in found)} faster, of {len(found)}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
