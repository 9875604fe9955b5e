"""Diagnosis: says in one sentence why a variant takes as long as it does, by stated rules over measured facts.

The rules are tried in the order of `RULES`, and the first that applies is what is said. They can name what is seen in
the times, the sizes and the inner loop; they cannot see a cache miss, or a branch that was predicted wrongly.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..messages import counted
from .loop_bounds import Bounds

NEAR_COMPUTE = 0.85
"""At the limit: from this share of it, where the FMA units are."""

NEAR_BANDWIDTH = 0.7
"""From this share of a bandwidth, which is that of reading alone."""

CALL = 0.25
"""Calling it counts from this share of the time."""

LANES = 0.75
"""Lanes count where less than this share of them computes what is wanted."""

FAR = 0.5
"""The inner loop does not explain a time of which it could take less than this share."""


@dataclass(frozen=True)
class Facts:
    """What a diagnosis is made of.

    Attributes
    ----------
    fraction : float
        Share of the limit that binds.
    binds : str
        "compute", or the bandwidth that does, such as "L2 bandwidth".
    level : str
        The smallest cache that holds the arrays, or "memory".
    call_share : float
        Share of the time that the same call takes with sizes of 1.
    lanes_used : float
        Elements of the results, as a share of the lanes of the vectors that hold their rows.
    threads, threads_used : int
        Threads that could compute, and that the variant uses.
    machine_vector_bytes, vector_bytes : int
        Width of the CPU's vectors, and of those of the inner loop; the latter 0 if that is not known.
    loop : Bounds or None
        Of the inner loop; None if it is not known.
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
    """Return one sentence: what a variant's time goes to, and what would make it faster."""
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
"""Each returns a sentence, or nothing where it does not apply; the last one always does."""
