"""Curves and tables as plain text, for terminals, pipes and log files."""

import math
from collections.abc import Mapping, Sequence

_MARKS = "*o+x"
_LOG_FROM = 20.0  # if max / min exceeds this, the scale is logarithmic
_SQUEEZED = 0.4
"""Outliers are left off the scale if all other values would share less than this fraction of the height."""


def curves(named: Mapping[str, Sequence[float]], width: int = 64, height: int = 12) -> str:
    """Draw curves over the same epochs.

    Parameters
    ----------
    named : mapping of str to sequence of float
        One value per epoch; values that are not finite are left out. Later curves are drawn over earlier ones.
    width, height : int, default 64 and 12
        Size of the drawing in characters, without its axes; at least 2.

    Returns
    -------
    str
        Lines of ASCII text. A few values far above all others are drawn as ``^`` in the first line.
    """
    values = sorted(value for curve in named.values() for value in curve if math.isfinite(value))
    if not values:
        return "(nothing to draw: no value is finite)"
    high, outlying = _scale_end(values, len(named))
    low = values[0]
    scale, inverse = (math.log, math.exp) if _is_logarithmic(low, high) else (float, float)
    span = (scale(high) - scale(low)) or 1.0
    epochs = max(len(curve) for curve in named.values())
    columns = min(width, max(2, epochs))
    grid = [[" "] * columns for _ in range(height)]
    for mark, curve in zip(_MARKS, named.values(), strict=False):
        for column in range(columns):
            epoch = round(column * (epochs - 1) / (columns - 1))
            value = curve[epoch] if epoch < len(curve) else math.nan
            if math.isfinite(value):
                row = round((scale(high) - scale(min(value, high))) / span * (height - 1))
                grid[row][column] = mark if value <= high else "^"
    ticks = {round(i * (height - 1) / 3) for i in range(4)} if low < high else {0}
    labels = {row: f"{inverse(scale(high) - span * row / (height - 1)):.3g}" for row in ticks}
    margin = max(map(len, labels.values()))
    lines = [
        f"{labels.get(i, ''):>{margin}} {'+' if i in labels else '|'}{''.join(row).rstrip()}"
        for i, row in enumerate(grid)
    ]
    lines.append(f"{'':>{margin}} +{'-' * columns}")
    lines.append(f"{'':>{margin}}  {_epoch_ticks(epochs, columns)}  epoch")
    legend = "   ".join(f"{mark} {name}" for mark, name in zip(_MARKS, named, strict=False))
    legend += "   (log scale)" if scale is math.log else ""
    lines.append(f"{'':>{margin}}  {legend}{f'   ^ up to {values[-1]:.3g}' if outlying else ''}")
    return "\n".join(lines)


def _is_logarithmic(low: float, high: float) -> bool:
    return low > 0 and high > _LOG_FROM * low


def _scale_end(values: Sequence[float], curves: int) -> tuple[float, bool]:
    """Return the largest of the sorted values that the scale shows, and whether a few values are above it.

    A few means at most one in 50, or one per curve.
    """
    low, end = values[0], values[-1]
    scale = math.log if _is_logarithmic(low, end) else float
    for count in range(1, max(curves, len(values) // 50) + 1 if len(values) > 3 * curves else 1):
        rest = values[-1 - count]
        if low < rest and scale(rest) - scale(low) < _SQUEEZED * (scale(end) - scale(low)):
            return rest, True
    return end, False


def _epoch_ticks(epochs: int, columns: int) -> str:
    """Return the numbers of the first, middle and last epoch, placed under their columns."""
    last = str(epochs)
    middle = str(1 + round(columns // 2 * (epochs - 1) / max(1, columns - 1)))
    text = f"{'1':<{columns - len(last)}}{last}" if epochs > 1 else "1"
    if columns >= 12:
        place = columns // 2
        text = text[:place] + middle + text[place + len(middle) :]
    return text


def table(alignments: str, rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as lines, with two spaces between columns; a ``<`` or ``>`` per column aligns it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:{align}{width}}}" for align, width in zip(alignments, widths, strict=True)]
    return "\n".join("  ".join(formats).format(*row).rstrip() for row in rows)
