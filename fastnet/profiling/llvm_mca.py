"""Port pressure and latency of an inner loop, simulated by llvm-mca if that program is installed.

llvm-mca is part of LLVM's tools (Debian: the package llvm). It models the CPU by LLVM's tables and assumes that all
loads hit L1.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

_ITERATIONS = 100


@dataclass(frozen=True)
class Simulation:
    """Result of llvm-mca for a loop.

    Attributes
    ----------
    cycles : float
        Cycles of an iteration, dependency chains included.
    ports : dict of str to float
        Cycles for which an iteration occupies each port, the busiest first.
    """

    cycles: float
    ports: dict[str, float]

    def sentence(self, shown: int = 4) -> str:
        """Describe the result and the busiest ports."""
        ports = ", ".join(f"{name} {cycles:.2f}" for name, cycles in list(self.ports.items())[:shown])
        return f"{self.cycles:.2f} cycles an iteration; busiest ports: {ports}"


def simulate(assembly: str, cpu: str) -> Simulation | None:
    """Simulate a loop on a CPU that LLVM names; None if llvm-mca is missing, or rejects the loop or the name."""
    program = shutil.which("llvm-mca")
    if program is None:
        return None
    command = [program, f"-mcpu={cpu}", f"-iterations={_ITERATIONS}", "-json"]
    done = subprocess.run(command, input=assembly, capture_output=True, text=True, check=False, timeout=60)
    try:
        return parse(json.loads(done.stdout)) if done.returncode == 0 else None
    except (ValueError, KeyError, IndexError, TypeError):  # output of another version
        return None


def parse(answer: dict[str, Any]) -> Simulation:
    """Read llvm-mca's JSON."""
    region = answer["CodeRegions"][0]
    cycles = region["SummaryView"]["TotalCycles"] / region["SummaryView"]["Iterations"]
    # If a resource has several units, a byte after the name holds the unit's number.
    names = [re.sub(r"[\0-\x1f]", lambda unit: str(ord(unit[0])), name) for name in answer["TargetInfo"]["Resources"]]
    pressure = region["ResourcePressureView"]["ResourcePressureInfo"]
    instructions = len(region["Instructions"])
    used: dict[str, float] = {}
    for each in pressure:
        if each["InstructionIndex"] < instructions:  # that index holds their sum
            name = names[each["ResourceIndex"]]
            used[name] = used.get(name, 0.0) + each["ResourceUsage"]
    return Simulation(cycles, dict(sorted(used.items(), key=lambda port: -port[1])))
