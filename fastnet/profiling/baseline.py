"""Saves profiles to a file, and compares them with those of a later run.

The earlier code cannot be timed again in turns with the new code, as bench/compare.py does. The comparison relies on
what both runs have in common instead. Times are multiplied by the FMA peak of the same rounds, so that a slower clock
does not count. The noise is how much equal code differs: NumPy's variant between the two runs, and the parts of each
variant's rounds among themselves. `verdicts` decides.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from .. import __version__
from ..io import storage
from ..kernels.specs.base import Case
from ..messages import counted
from .variants import SETS, Profile
from .verdicts import Verdict, verdict

FORMAT = "fastnet profile 1"

PRODUCTS = ("matmul", "dense_forward", "dense_backward_batch")
THRESHOLDS = dict.fromkeys(PRODUCTS, 0.05)
"""The smallest difference between two processes that counts, by operation; see `OTHERS`."""

OTHERS = 0.1
"""The same for other operations: they are bound by caches, so the placement of memory matters more."""

Runs = dict[str, Any]
"""The content of a file: "hardware", and "profiles" by their keys."""


def save(path: str, profiles: Sequence[Profile], hardware: Mapping[str, Any]) -> None:
    """Write profiles to a JSON file, which is replaced atomically."""
    found = {_key_of(each): {"peaks": each.peaks, "variants": _sets(each)} for each in profiles}
    content = {"format": FORMAT, "fastnet": __version__, "hardware": dict(hardware), "profiles": found}
    with storage.replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def load(path: str, hardware: Mapping[str, Any], keys: Iterable[str] = ()) -> Runs:
    """Read a file that `save` wrote.

    Parameters
    ----------
    path : str
        The file.
    hardware : dict
        Description of this machine.
    keys : iterable of str
        Keys of the profiles that will be compared, as returned by `key`.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is not such a file, was written on another kind of CPU, or lacks one of the profiles.
    """
    with storage.naming_file(path), storage.reading(path) as file:
        found = json.loads(file.read())
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"not a file that --save wrote; expected format {FORMAT!r}")
        if found["hardware"] != dict(hardware):
            raise ValueError(f"measured on {found['hardware']}, and this is {dict(hardware)}: save a baseline here")
        profiles = _object(found, "profiles")
        for name in profiles:
            each = _object(profiles, name)
            for times in (each["peaks"], *_object(each, "variants").values()):
                if not isinstance(times, list) or len(times) != SETS or not all(map(_is_positive, times)):
                    raise ValueError(f"{times!r} are not times; expected {SETS} positive numbers")
        for wanted in keys:
            if wanted not in profiles:
                held = "; ".join(profiles) or "none"
                raise ValueError(f"it has no profile of {wanted}, but of {held}: save a baseline of the same case")
        return dict(found)


def _object(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the JSON object under a name in the file."""
    found = holder[name]
    if not isinstance(found, dict):
        raise ValueError(f"its {name!r} is {found!r}; expected a JSON object")
    return found


def _is_positive(number: object) -> bool:
    return isinstance(number, (int, float)) and 0 < number < math.inf


def compare(profile: Profile, runs: Runs, threshold: float | None = None) -> dict[str, Verdict]:
    """Compare a profile with the same one of an earlier run.

    Parameters
    ----------
    profile : Profile
        The new measurements.
    runs : dict
        The result of `load` for this profile's key.
    threshold : float, optional
        The smallest relative difference that counts; by default that of `THRESHOLDS` or `OTHERS`.

    Returns
    -------
    dict of str to Verdict
        The verdict on each variant in both runs; its ratio is the new time divided by the old time.
    """
    before = runs["profiles"][_key_of(profile)]
    floor = THRESHOLDS.get(profile.operation, OTHERS) if threshold is None else threshold
    old = {name: _work(times, before["peaks"]) for name, times in before["variants"].items()}
    new = {name: _work(times, profile.peaks) for name, times in _sets(profile).items()}
    ratios = {name: [b / a for a, b in zip(old[name], new[name], strict=True)] for name in new if name in old}
    found = {}
    for name, changes in ratios.items():
        equal = [[value / median(values) for value in values] for values in (old[name], new[name])]
        if name != "reference" and "reference" in ratios:
            equal.append(ratios["reference"])
        controls = [max(each, key=lambda ratio: abs(math.log(ratio))) for each in zip(*equal, strict=True)]
        found[name] = verdict(changes, controls, floor)
    return found


def key(operation: str, case: Case, dtype: str, threads: int) -> str:
    """Return the key that identifies a profile in files."""
    return f"{operation} {case} {dtype}, {counted(threads, 'thread')}"


def _key_of(profile: Profile) -> str:
    return key(profile.operation, profile.case, profile.dtype, profile.limits.threads)


def _sets(profile: Profile) -> dict[str, tuple[float, ...]]:
    return {m.variant: m.sets for m in profile.measurements}


def _work(times: Sequence[float], peaks: Sequence[float]) -> list[float]:
    """Return the work that the FMA peak would have done in these times."""
    return [time * peak for time, peak in zip(times, peaks, strict=True)]
