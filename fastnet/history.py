"""History: the curves of a training run.

Imports the standard library only.
"""

import math
from collections.abc import Iterator, Mapping


class History(Mapping[str, list[float]]):
    """Curves of training, a mapping from name to one value an epoch.

    ``history["loss"]`` is a list of floats; so are ``"val_loss"`` where there was validation data, and
    ``"accuracy"`` and ``"val_accuracy"`` for classification. An epoch in which a curve was not measured
    holds NaN, so that all curves are as long as ``epochs``.

    Attributes
    ----------
    epochs : int
        Epochs trained so far.
    best_epoch : int or None
        The epoch, counted from 0, of the smallest ``val_loss``, or of the smallest ``loss`` where there was
        no validation; the first of equals. None before any finite loss.
    """

    def __init__(self) -> None:
        self.epochs = 0
        self._curves: dict[str, list[float]] = {}

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._curves:
            raise KeyError(f"no curve {name!r}; there are: {', '.join(self._curves) or 'none yet'}")
        return list(self._curves[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._curves)

    def __len__(self) -> int:
        return len(self._curves)

    def __repr__(self) -> str:
        last = "".join(f", {name}={curve[-1]:.4g}" for name, curve in self._curves.items())
        return f"History(epochs={self.epochs}, best_epoch={self.best_epoch}{last})"

    @property
    def watched(self) -> str:
        """The curve that tells the best epoch: ``"val_loss"`` where there was validation, else ``"loss"``."""
        return "val_loss" if "val_loss" in self._curves else "loss"

    @property
    def best_epoch(self) -> int | None:
        """See the class."""
        finite = [
            (value, epoch) for epoch, value in enumerate(self._curves.get(self.watched, ())) if math.isfinite(value)
        ]
        return min(finite)[1] if finite else None

    def append(self, row: Mapping[str, float]) -> None:
        """Add an epoch's row."""
        for name in row:
            self._curves.setdefault(name, [math.nan] * self.epochs)
        for name, curve in self._curves.items():
            curve.append(float(row.get(name, math.nan)))
        self.epochs += 1

    def truncate(self, epochs: int) -> None:
        """Forget all epochs from this one on."""
        for curve in self._curves.values():
            del curve[epochs:]
        self.epochs = epochs
