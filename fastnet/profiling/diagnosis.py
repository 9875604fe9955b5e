"""Diagnosis: explains a variant's time in one sentence, by applying explicit rules to measured facts.

The rules are tried in the order of `RULES`, and the first that applies gives the sentence. They can recognise causes
that show in the times, the sizes and the inner loop, but not cache misses or mispredicted branches.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..messages import counted
from .loop_bounds import Bounds

NEAR_COMPUTE = 0.85
"""Fraction of the FMA peak from which a variant counts as at the limit, if the limit is compute."""

NEAR_BANDWIDTH = 0.7
"""The same for a bandwidth; it is lower because the measured bandwidth is that of reads only."""

CALL = 0.25
"""Fraction of the time from which call overhead counts as the cause."""

LANES = 0.75
"""Idle vector lanes count as the cause if a smaller fraction of the lanes computes results."""

FAR = 0.5
"""The inner loop does not explain the time if its bound is less than this fraction of it."""


@dataclass(frozen=True)
class Facts:
    """The facts on which a diagnosis is based.

    Attributes
    ----------
    fraction : float
        Fraction of the binding limit that is reached.
    binds : str
        The binding limit: "compute", or a bandwidth such as "L2 bandwidth".
    level : str
        The smallest cache that holds the arrays, or "memory".
    call_share : float
        Time of the same call with sizes of 1, as a fraction of the time.
    lanes_used : float
        Elements of the results, as a fraction of the lanes of the vectors that hold their rows.
    threads, threads_used : int
        Threads that are available, and threads that the variant uses.
    machine_vector_bytes, vector_bytes : int
        Vector width of the CPU, and of the inner loop; the latter is 0 if unknown.
    loop : Bounds or None
        Bounds of the inner loop; None if unknown.
    """

    fraction: float
    binds: str
    level: str
    call_share: float = 0.0
    lanes_used: float = 1.0
    threads: int = 1
    threads_used: int = 1
    machine_vector_bytes: int = 32
    vector_bytes: int = 0
    loop: Bounds | None = None


def diagnose(facts: Facts) -> str:
    """Return one sentence that says where a variant's time goes, and what would make it faster."""
    return next(said for rule in RULES if (said := rule(facts)))


def _at_the_limit(facts: Facts) -> str:
    if facts.binds == "compute" and facts.fraction >= NEAR_COMPUTE:
        return f"at the limit: {facts.fraction:.0%} of what the FMA units can do; only fewer operations would be faster"
    return ""


def _waits_for_memory(facts: Facts) -> str:
    if facts.binds != "compute" and facts.fraction >= NEAR_BANDWIDTH:
        return f"waits for {facts.level}: {facts.fraction:.2f} of its bandwidth; only fewer bytes would be faster"
    return ""


def _call_overhead(facts: Facts) -> str:
    if facts.call_share >= CALL:
        return f"call overhead is {min(1.0, facts.call_share):.0%} of the time; more work in each call would share it"
    return ""


def _threads(facts: Facts) -> str:
    if facts.threads_used < facts.threads:
        return f"computes on {facts.threads_used} of {facts.threads} threads"
    return ""


def _vectors(facts: Facts) -> str:
    width, machine = facts.vector_bytes, facts.machine_vector_bytes
    if not 0 < width < machine:
        return ""
    if width <= 8:
        return f"not vectorised: it computes on single numbers of {width} bytes, where a vector holds {machine}"
    return f"uses vectors of {width} bytes, of the {machine} that this CPU has"


def _lanes(facts: Facts) -> str:
    if facts.vector_bytes > 8 and facts.lanes_used < LANES:
        idle, width = 1 - facts.lanes_used, facts.vector_bytes
        return f"{idle:.0%} of the lanes masked or left over: the rows do not fill their vectors of {width} bytes"
    return ""


def _beyond_the_loop(facts: Facts) -> str:
    if facts.loop is None or facts.binds != "compute" or facts.fraction >= FAR * facts.loop.ceiling:
        return ""
    reached = f"{facts.fraction:.0%} of the limit, where its inner loop allows {facts.loop.ceiling:.0%}"
    if facts.level == "L1":
        return f"{reached}: the time goes to what surrounds the loop, such as edges, packing and short loops"
    return f"{reached}: it waits for data from {facts.level}; blocks that stay in a nearer cache would help"


def _loop(facts: Facts) -> str:
    """Name the resource that an iteration of the inner loop takes longest for."""
    if facts.loop is None:
        return ""
    counts, cycles, name = facts.loop.counts, facts.loop.cycles, facts.loop.binding
    count = counts["arithmetic"]
    arithmetic = counted(count, "floating-point instruction")
    if name in ("loads", "stores") and 2 * counts["stores"] >= count:
        moved = f"{counts['loads']} loads and {counts['stores']} stores for {arithmetic}"
        if facts.binds == "compute":
            return (
                f"bound by L1: each FMA loads and stores C ({moved}); a register tile would keep the sums in registers"
            )
        return f"bound by L1: {moved}"
    if name == "loads":
        return f"bound by loads: {counts['loads']} for {arithmetic}; a tile of several rows would use each number again"
    if name == "stores":
        return f"bound by stores: {counts['stores']} for {arithmetic}"
    if name == "address chain":
        return (
            f"the chain of address additions is as long as the FMAs: {cycles[name]:.0f} cycles for {arithmetic}; "
            "more base registers, or packed panels, would shorten it"
        )
    if name == "sum chain":
        return (
            f"each sum waits for the one before: {cycles[name]:.0f} cycles for {arithmetic}, which could take "
            f"{cycles['arithmetic']:.1f}; more independent sums would fill them"
        )
    if name == "instructions":
        return f"bound by instructions: {counts[name]} for {arithmetic}; a larger tile would need fewer for each"
    if name == "divisions":
        return f"bound by divisions and square roots: {counts[name]}, of some 5 cycles each"
    if facts.binds != "compute":
        return f"bound by its arithmetic, not by memory: {arithmetic} in its loop"
    return ""


def _rest(facts: Facts) -> str:
    reached = f"{facts.fraction:.0%} of the limit"
    if facts.loop is None:
        return f"{reached}; without an inner loop to read, no rule says more"
    return f"{reached}; the inner loop itself could reach it: the rest is edges, packing, and data from {facts.level}"


RULES: tuple[Callable[[Facts], str], ...] = (
    _at_the_limit,
    _waits_for_memory,
    _call_overhead,
    _threads,
    _vectors,
    _lanes,
    _beyond_the_loop,
    _loop,
    _rest,
)
"""Each rule returns a sentence, or "" if it does not apply; the last one always applies."""
