"""One training step, fastnet against NumPy, scikit-learn, PyTorch and JAX.  Prints a table; writes JSON with --json.

    python bench/peers.py [--rounds 5] [--json results.json] [--only 64-128-128-10]

Imports `sides`, which knows how each trains, and `workers`. Needs the extra ``peers``; those that are missing are left
out. Each library runs in a process of its own, all of its threads on as many CPUs as the column says; they measure in
turns, and a figure is the median over the rounds.
"""

import argparse
import json
import statistics
import sys
from typing import Any

from sides import LIBRARIES, NETWORKS, TASKS, installed
from workers import SideError, Worker


def measure(workers: dict[str, Worker], name: str, task: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step, round by round, of all libraries in turns; a peer that fails is left out, with a word."""
    times: dict[str, list[float]] = {library: [] for library in workers}
    for _ in range(rounds):
        for library in list(times):
            try:
                times[library].append(workers[library].seconds(name, task))
            except SideError as error:
                if library == "fastnet":
                    raise
                print(error, file=sys.stderr)
                del times[library]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--libraries", default=",".join(installed()), help=f"of {','.join(LIBRARIES)}")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    libraries = options.libraries.split(",")
    results: list[dict[str, Any]] = []
    for threads in map(int, options.threads.split(",")):
        workers = {library: Worker(library, threads) for library in libraries}
        for task in TASKS:
            print(f"\n{threads} thread{'s' * (threads > 1)}, {task}: microseconds a step (how many times fastnet's)")
            print(f"{'':18}" + "".join(f"{library:>22}" for library in libraries), flush=True)
            for name in options.only:
                times = measure(workers, name, task, options.rounds)
                medians = {library: statistics.median(found) * 1e6 for library, found in times.items()}
                line = f"{name:18}"
                for library in libraries:
                    value = medians.get(library)
                    ratio = value / medians["fastnet"] if value and "fastnet" in medians else float("nan")
                    line += f"{'-':>22}" if value is None else f"{value:13.1f} ({ratio:6.2f})"
                print(line, flush=True)
                results.append({"network": name, "task": task, "threads": threads, "us": medians})
        for worker in workers.values():
            worker.end()
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rounds": options.rounds, "libraries": libraries, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
