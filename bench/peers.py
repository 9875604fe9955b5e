"""Training steps and predictions, fastnet against other libraries.  Prints tables; writes JSON with --json.

    python bench/peers.py [--rounds 5] [--json results.json] [--only 64-128-128-10]

Imports `sides` and `predictions`, which know how each library trains and predicts, and `workers`. Needs the extra
``peers``; those that are missing are left out. Each library runs in a process of its own, all of its threads on as many
CPUs as the column says; they measure in turns, and a figure is the median over the rounds.
"""

import argparse
import json
import math
import statistics
import sys
from typing import Any

import predictions
from sides import NETWORKS, TASKS, installed
from workers import SideError, Worker


def measure(workers: dict[str, Worker], name: str, task: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step or prediction, round by round, of all libraries in turns.

    A peer that fails is left out, with a word.
    """
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


def _span(times: list[float], ours: list[float]) -> list[float]:
    """Give the lowest and the highest of the rounds' ratios to fastnet's time."""
    ratios = [time / own for time, own in zip(times, ours, strict=True)]
    return [round(min(ratios), 3), round(max(ratios), 3)]


def _cell(us: dict[str, float], library: str) -> str:
    if library not in us:
        return f"{'-':>22}"
    return f"{us[library]:13.1f} ({us[library] / us.get('fastnet', math.nan):6.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    names = list(dict.fromkeys([*NETWORKS, *predictions.NETWORKS]))
    parser.add_argument("--only", nargs="*", default=names, choices=names, metavar="NETWORK")
    known = tuple(dict.fromkeys(installed() + predictions.installed()))
    parser.add_argument("--libraries", default=",".join(known), help="by default all that are installed")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    groups = ((TASKS, NETWORKS, installed()), (predictions.TASKS, predictions.NETWORKS, predictions.installed()))
    results: list[dict[str, Any]] = []
    for threads in map(int, options.threads.split(",")):
        for tasks, networks, able in groups:
            libraries = [library for library in able if library in options.libraries.split(",")]
            workers = {library: Worker(library, threads) for library in libraries}
            for task in tasks:
                print(f"\n{threads} thread{'s' * (threads > 1)}, {task}: microseconds (how many times fastnet's)")
                print(f"{'':18}" + "".join(f"{library:>22}" for library in libraries), flush=True)
                for name in (name for name in networks if name in options.only):
                    times = measure(workers, name, task, options.rounds)
                    medians = {library: statistics.median(found) * 1e6 for library, found in times.items()}
                    print(f"{name:18}" + "".join(_cell(medians, library) for library in libraries), flush=True)
                    spans = {library: _span(found, times["fastnet"]) for library, found in times.items()}
                    of = {"network": name, "task": task, "threads": threads}
                    results.append({**of, "us": medians, "spans": spans})
            for worker in workers.values():
                worker.end()
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rounds": options.rounds, "libraries": installed(), "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
