"""Formats the figures of a profile as rows of text, for the terminal and the HTML page."""

from collections.abc import Mapping

from ..messages import counted
from . import counters
from .timing import Spread
from .variants import Profile
from .verdicts import Verdict

Rows = list[tuple[str, ...]]


def microseconds(seconds: float) -> str:
    """Format a time in microseconds, without the unit."""
    us = seconds * 1e6
    return f"{us:.3f}" if us < 10 else f"{us:.2f}" if us < 1000 else f"{us:.0f}"


def times(seconds: Spread) -> tuple[str, str]:
    """Format a median in microseconds, and its spread."""
    return microseconds(seconds.median), f"{seconds.relative_iqr:.1%}"


def limits(profile: Profile) -> str:
    """Describe the limits of the machine, and the needs of the problem."""
    found = profile.limits
    least = found.seconds(profile.flops, profile.bytes_moved)
    return (
        f"{counted(found.threads, 'thread')}: at most {found.gflops:.0f} GFLOP/s of FMAs, {found.gbps:.0f} GB/s from "
        f"{found.level}; {profile.flops / 1e6:.3g} MFLOP, {profile.bytes_moved / 1e6:.3g} MB, "
        f"{profile.intensity:.2f} FLOP/byte: {profile.binds} binds, {microseconds(least)} us at the limit"
    )


def measurements(profile: Profile) -> Rows:
    """Return headings, and a row for each variant; the first column is text."""
    rows: Rows = [("variant", "time us", "spread", "GFLOP/s", "GB/s", "of limit", "call us", "error")]
    for m in profile.measurements:
        rates = f"{m.gflops:.1f}", f"{m.gbps:.1f}", f"{m.fraction_of_limit:.1%}", microseconds(m.call_s)
        rows.append((m.variant, *times(m.seconds), *rates, f"{m.error_ratio:.3f}"))
    return rows


def diagnoses(profile: Profile) -> list[tuple[str, str]]:
    """Return the diagnosis of each variant, with its hardware events if they were counted."""
    found = [(m.variant, m.diagnosis) for m in profile.measurements]
    found += [(m.variant, f"{counters.describe(m.counts)} a call") for m in profile.measurements if m.counts]
    return [*found, ("", profile.uncounted)] if profile.uncounted else found


def comparison(compared: Mapping[str, Verdict]) -> Rows:
    """Return headings, and a row for each variant in the baseline."""
    rows: Rows = [("against the baseline", "time, as a multiple", "noise", "verdict")]
    return rows + [(name, f"{v.ratio:.3f}", f"+-{v.threshold:.1%}", v.word) for name, v in compared.items()]
