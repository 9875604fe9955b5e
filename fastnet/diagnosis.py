"""Diagnosis: describes the curves of a run in words, by stated rules.

The noise of a curve is estimated: sigma is 1.4826 times the median of |x[t] - (x[t-1] + x[t+1]) / 2|, the deviation
from a straight line, over the later half of the curve, divided by sqrt(1.5). Values of a curve are compared as medians
over a tenth of the epochs (3 to 101; for the lowest value, at most 9), whose standard error is about
1.25 sigma / sqrt(number of epochs). A fall is the slope of a least-squares line, with the standard error of that slope.
A rise or fall is reported only if it exceeds both a relevant share of the level and several standard errors.
"""

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from .messages import counted

MIN_EPOCHS = 10
"""Shorter runs are not judged: curved falls over 5 epochs were mistaken for noise around a level."""
RISE = 0.05
"""Overfitting: the validation loss has risen by more than this share above its lowest."""
FALL = 0.02
"""Still falling: the loss fell by more than this share over the last third of the epochs."""
LEARNT = 0.1
"""Underfitting: the loss has levelled off less than this share below where it began, or below the baseline."""
ERRORS = 4.0
"""Differences of fewer standard errors are noise; of fewer than 6, for a difference from the lowest of many values."""
BLOWN_UP = 2.0
"""Diverged: the loss ends above this multiple of its first value."""
SLOW = 0.5
"""If a curve has levelled off only since the learning rate fell below this share of its highest, that may be why."""
SPENT = 0.1
"""A schedule counts as finished once the learning rate is less than this share of its highest."""
LOWEST_WIDTH = 9
"""Most epochs of the medians used to find the lowest value: medians over a tenth of a long run miss it."""
MAX_WIDTH = 101
"""Most epochs of any median. Without this bound, judging 28 000 epochs took 8 s; with it, 0.2 s."""
_CALMER = "Lower the learning rate, or scale the data."
_NEGLIGIBLE = 1e-4  # share of the first value below which a loss counts as zero


class Diagnosis(NamedTuple):
    """The verdict as one word, and as a sentence or two with advice."""

    kind: str
    words: str


class _Curve:
    """A curve without gaps, its smoothed values and its noise."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = list(values)
        count = len(self.values)
        self.width = min(max(3, count // 10), MAX_WIDTH)
        self.smooth = self.medians(self.width)
        self.end = self.smooth[-1]
        later = self.values[min(count // 2, max(0, count - 8)) :]
        bends = [abs(later[t] - (later[t - 1] + later[t + 1]) / 2) for t in range(1, len(later) - 1)]
        self.sigma = 1.4826 * median(bends) / math.sqrt(1.5)
        self.floor = max(_NEGLIGIBLE * abs(self.values[0]), 1e-300)

    def medians(self, width: int) -> list[float]:
        """Return running medians; windows at the ends are shifted, not shortened, or the last would be noise."""
        last = len(self.values) - width
        starts = (min(max(0, t - width // 2), last) for t in range(len(self.values)))
        return [median(self.values[start : start + width]) for start in starts]

    def error(self, count: int) -> float:
        """Return the standard error of a median over ``count`` epochs."""
        return 1.25 * self.sigma / math.sqrt(count)

    def level(self, value: float) -> float:
        """Return the level by which differences from a value are divided."""
        return max(abs(value), self.floor)

    def fall(self) -> tuple[float, int]:
        """Return the fall of a line through the last third, as a share of its level (0 if noise), and its epochs."""
        tail = self.values[-max(6, len(self.values) // 3) :]
        count, middle, mean = len(tail), (len(tail) - 1) / 2, fmean(tail)
        spread = sum((t - middle) * (t - middle) for t in range(count))
        slope = sum((t - middle) * (value - mean) for t, value in enumerate(tail)) / spread
        rests = [value - mean - slope * (t - middle) for t, value in enumerate(tail)]
        rest = sum(r * r for r in rests) / max(1, count - 2)  # r ** 2 would raise where r * r is inf
        few = count / max(1, count - 2)  # with few epochs, the scatter underestimates the noise
        if abs(slope) <= few * ERRORS * max(self.sigma, math.sqrt(rest)) / math.sqrt(spread):
            return 0.0, count
        return -slope * (count - 1) / self.level(mean - slope * middle), count


def diagnose(
    loss: Sequence[float],
    validation: Sequence[float],
    baseline: float | None = None,
    remarks: tuple[str, str] = ("", ""),
    rates: Sequence[float] = (),
    constant_loss: float | None = None,
    kept: str = "",
) -> Diagnosis:
    """Judge a run by its curves.

    Parameters
    ----------
    loss, validation : sequence of float
        One value per epoch, NaN where none was measured. Validation may be shorter, or empty; a NaN as its last value
        means divergence. Only epochs after the last non-finite loss are judged.
    baseline : float, optional
        The loss of always predicting the same value; underfitting is measured against it, or else against the first
        epoch.
    remarks : tuple of str, optional
        Sentences about the data: that all targets are the same; that columns are unscaled, and what to do about it. The
        latter ends every verdict but "too short".
    rates : sequence of float, optional
        The learning rate at the start of each epoch, and at the end of the last; empty if it is constant.
    constant_loss : float, optional
        The loss of always predicting the same value, where it is known but no baseline given. It becomes the baseline
        of a run that ends less than 2% below it: such a run has not converged, however far its first epoch was above.
    kept : str, optional
        What has been done with the best epoch, a sentence without its stop; replaces the advice to stop there.

    Returns
    -------
    Diagnosis
        The first verdict that holds:

        - constant: all targets are the same;
        - diverged: the last epoch's loss is not finite, or the loss ends above twice its first value;
        - too short: fewer than 10 epochs;
        - overfitting: validation ends more than 5% above its lowest, while the loss has not risen since;
        - falling: validation (or the loss, if there is none) fell by more than 2% over the last third of the epochs;
        - underfitting: it has levelled off, with both it and the loss less than 10% (or 4 sigma) below the baseline;
        - converged: none of these; since the epoch from which it stays within 2% of its end, or within noise.

        If a schedule had lowered the rate to less than half of its highest by the epoch from which the curve is level,
        the last two verdicts say so: more epochs might help.
    """
    epochs = len(loss)
    if not epochs:
        return Diagnosis("untrained", "No epoch has been trained yet.")
    constant, unscaled = remarks
    if constant:
        return Diagnosis("constant", constant)
    calmer = unscaled or _CALMER
    measured = [*validation, *[math.nan] * (epochs - len(validation))]
    lost = len(validation) == epochs > 1 and math.isnan(measured[-1]) and all(map(math.isfinite, measured[:-1]))
    if not math.isfinite(loss[-1]) or math.isinf(measured[-1]) or lost:
        return Diagnosis("diverged", f"Diverged in epoch {epochs}: the loss is no longer finite. {calmer}")
    first = max((t + 1 for t in range(epochs) if not math.isfinite(loss[t])), default=0)
    if epochs - first < MIN_EPOCHS:
        few = f"Only {counted(epochs - first, 'epoch')}: too few to judge by."
        return Diagnosis("too short", f"{few} Train for at least {MIN_EPOCHS}.")
    train = _Curve(loss[first:])
    if train.end > BLOWN_UP * train.level(loss[first]):
        words = f"Diverged: the loss has risen from {loss[first]:.3g} in epoch {first + 1} to {train.end:.3g}. {calmer}"
        return Diagnosis("diverged", words)
    judged = [t for t in range(first, epochs) if math.isfinite(measured[t])]
    validated = len(judged) >= MIN_EPOCHS and judged[-1] == epochs - 1
    if not validated:
        return _levelled("loss", train, range(first, epochs), (train, baseline, unscaled, constant_loss), rates)
    curve = _Curve([measured[t] for t in judged])
    overfitting = _overfitting(train, curve, judged, first, (unscaled, kept))
    return overfitting or _levelled("val_loss", curve, judged, (train, baseline, unscaled, constant_loss), rates)


def _overfitting(
    train: _Curve, curve: _Curve, epochs: Sequence[int], first: int, remarks: tuple[str, str]
) -> Diagnosis | None:
    unscaled, kept = remarks
    width = min(curve.width, LOWEST_WIDTH)
    medians = curve.medians(width)
    lowest = min(range(len(epochs)), key=medians.__getitem__)
    low, rise = medians[lowest], curve.end - medians[lowest]
    error = math.hypot(curve.error(width), curve.error(curve.width))
    since = train.smooth[epochs[lowest] - first]
    rose = rise > RISE * curve.level(low) and rise > 1.5 * ERRORS * error
    if not rose or lowest >= len(epochs) - curve.width or train.end > since + ERRORS * train.error(train.width):
        return None
    best = min(range(len(epochs)), key=curve.values.__getitem__)  # the smoothed lowest may be some epochs from it
    low = curve.values[best]
    words = (
        f"Overfitting since epoch {epochs[best] + 1}: val_loss has risen by {(curve.end - low) / curve.level(low):.0%} "
        f"since, from {low:.3g} to {curve.end:.3g}, while loss has not. "
    )
    words += f"{kept}; to do better," if kept else "Stop there (patience does), or"
    words += " use more data, l2, dropout or a smaller network."
    return Diagnosis("overfitting", f"{words} {unscaled}".rstrip())


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _levelled(
    name: str,
    curve: _Curve,
    epochs: Sequence[int],
    of_training: tuple[_Curve, float | None, str, float | None],
    rates: Sequence[float],
) -> Diagnosis:
    train, baseline, unscaled, constant_loss = of_training
    highest = max(rates, default=0)
    shares = [rate / highest for rate in rates]
    fall, count = curve.fall()
    if fall > FALL:
        words = f"Still falling: {name} fell by {fall:.0%} over the last {count} epochs, to {curve.end:.3g}."
        if shares and shares[-1] < SPENT:
            lowered = f"the schedule has lowered the learning rate to {_percent(shares[-1])} of its highest"
            return Diagnosis("falling", f"{words} Train anew for longer: {lowered}. {unscaled}".rstrip())
        return Diagnosis("falling", f"{words} Train longer. {unscaled}".rstrip())
    reach = max(FALL * curve.level(curve.end), 3 * curve.error(1))
    # The first medians are over the same epochs, so the values themselves are compared there.
    near = [*curve.values[: curve.width], *curve.smooth[curve.width :]]
    away = [t for t, value in enumerate(near) if abs(value - curve.end) > reach]
    since, lowered = epochs[min(away[-1] + 1, len(epochs) - 1)] if away else epochs[0], ""
    if shares and max(shares[since:]) < SLOW:
        lowered = f"by then the schedule had lowered the learning rate to {_percent(shares[since])} of its highest "
        lowered += (
            f"({_percent(shares[-1])} at the end): training anew, with a schedule over more epochs, may still help."
        )
    lower, end = min(("loss", train.end), (name, curve.end), key=lambda each: each[1])  # dropout raises loss alone
    if baseline is None and constant_loss and end > (1 - FALL) * constant_loss:
        baseline = constant_loss
    start = train.values[0] if baseline is None else baseline
    if start - end <= max(LEARNT * start, 0.0 if baseline else ERRORS * train.sigma):
        against = "its first epoch's" if baseline is None else "that of always predicting the same"
        share = 1 - end / start if start > 0 else 0.0
        where = f"{share:.0%} below {against}" if share > 0 else f"not below {against}"
        advice = unscaled or "Use a larger network, inputs that say more, or another learning rate."
        if lowered and not unscaled:
            advice = f"But {lowered} Or use a larger network, or inputs that say more."
        words = f"Underfitting: {lower} has levelled off at {end:.3g}, {where} ({start:.3g}). {advice}"
        return Diagnosis("underfitting", words)
    words = f"Converged: {name} has stayed near {curve.end:.3g} since epoch {since + 1}"
    words += f", but {lowered}" if lowered else ". More epochs will hardly help."
    return Diagnosis("converged", f"{words} {unscaled}".rstrip())
