"""History: the curves of a training run. matplotlib is imported only to plot them."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .diagnosis import diagnose
from .hints import Hinting
from .io.storage import Path, check_suffix, replacing
from .optimizers import Optimizer, Schedule

_LOG_FROM = 20.0  # if max / min exceeds this, the scale is logarithmic
_TITLE_WIDTH = 70  # characters that fit into matplotlib's default figure


class History(Hinting, dict[str, list[float]]):
    """Training curves: a mapping from names to lists with one value per epoch. Only training changes it.

    ``history["loss"]`` is a list of floats; so are ``"val_loss"`` if there was validation data, and
    ``"accuracy"`` and ``"val_accuracy"`` for classification. A curve has NaN for epochs in which it was not measured,
    so that the length of every curve is ``epochs``. ``pandas.DataFrame(history)`` has a column for each curve and a row
    for each epoch. Sentences and plots count epochs from 1, indices from 0.

    Attributes
    ----------
    epochs : int
        Epochs trained so far.
    best_epoch : int or None
        The epoch, counted from 0, of the smallest ``val_loss``, or of the smallest ``loss`` if there was
        no validation; the first of equals. None before any finite loss.

    Examples
    --------
    >>> from fastnet import History
    >>> history = History()
    >>> for epoch in range(40):
    ...     history.append({"loss": 1 / (epoch + 1), "val_loss": 0.5 + (epoch - 20) ** 2 / 1000})
    >>> history.best_epoch
    20
    >>> history.diagnosis()[:28]
    'Overfitting since epoch 21: '
    """

    def __init__(self) -> None:
        super().__init__()
        self._epochs = self._validated = 0  # _validated: up to the last epoch that had validation
        self._remarks = ("", "")
        self._constant_loss: float | None = None
        self._kept = ""
        self._title = ""
        self._schedule: Any = None

    def __getitem__(self, name: str) -> list[float]:
        if name not in self:
            raise KeyError(f"no curve {name!r}; there are: {', '.join(self) or 'none yet'}")
        return list(super().__getitem__(name))

    def __iter__(self) -> Iterator[str]:  # without this, dict(history) would share this history's own lists
        return super().__iter__()

    # These return copies of the lists, too.
    values, items, get = Mapping.values, Mapping.items, Mapping.get  # type: ignore[assignment]

    def _refuse(self, *arguments: Any, **named: Any) -> Any:
        raise TypeError("a History is changed by training alone; dict(history) is a copy that you may change")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> Any:
        return History, (), {**vars(self), "curves": dict(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, curve in state.pop("curves").items():
            super().__setitem__(name, curve)
        vars(self).update(state)

    def __repr__(self) -> str:
        last = "".join(f", {name}={curve[-1]:.4g}" for name, curve in self.items())
        best = None if self.best_epoch is None else f"{self.best_epoch} (counted from 0)"
        return f"History(epochs={self.epochs}, best_epoch={best}{last})"

    @property
    def epochs(self) -> int:
        """Epochs trained so far."""
        return self._epochs

    @property
    def monitor(self) -> str:
        """The curve that determines the best epoch: ``"val_loss"`` if there was validation, else ``"loss"``."""
        return "val_loss" if "val_loss" in self else "loss"

    @property
    def best_epoch(self) -> int | None:
        """The best epoch, counted from 0 (sentences and plots count from 1); see the class."""
        curve = self.get(self.monitor, ())
        finite = [(value, epoch) for epoch, value in enumerate(curve) if math.isfinite(value)]
        return min(finite)[1] if finite else None

    def diagnosis(self, baseline: float | None = None) -> str:
        """Describe in words how training went, and what to do next.

        Parameters
        ----------
        baseline : float, optional
            The loss of always predicting the same value, such as the variance of the targets for mse. It distinguishes
            a network that learns nothing from one that learnt everything in its first epoch.

        Returns
        -------
        str
            A sentence or two, for the first verdict that holds; epochs count from 1:

            - constant: in the last `fit` all rows had the same class or target;
            - diverged: the last loss is not finite, or the loss ends above twice its first value;
            - too few epochs to judge by: fewer than 10;
            - overfitting since epoch N: ``val_loss`` ends more than 5% above its lowest, and ``loss`` has not
              risen meanwhile;
            - still falling: ``val_loss``, or ``loss`` if there was no validation, fell by more than 2% over
              the last third of the epochs;
            - underfitting: it no longer falls, and ``loss`` ends less than 10% below the baseline or, without
              one, below its first epoch, or less than 2% below the loss of always predicting the same, which `fit` has
              computed unless X was a memory map;
            - converged since epoch N: none of these.

            If a schedule had lowered the learning rate to less than half of its highest before the curve
            levelled off, the last two say so, since a schedule over more epochs might help.

            If a column of X or y is far from unit scale, all verdicts but constant and too few end by saying so.

            Values are medians over a tenth of the epochs, and a difference counts only if it is also 4
            times as large as the curve's own noise explains.
        """
        rates = [] if self._schedule is None else self._schedule.rates(np.arange(self.epochs + 1)).tolist()
        validation = self.get("val_loss", [])[: self._validated]
        loss = self.get("loss", ())
        return diagnose(loss, validation, baseline, self._remarks, rates, self._constant_loss, self._kept).words

    def plot(self, ax: Any = None) -> Any:
        """Draw ``loss`` and ``val_loss``, with the best epoch marked (needs matplotlib).

        The title names the layer sizes, the loss, the optimizer with its rate or schedule, and the batch size.

        The scale is logarithmic if the largest value is more than 20 times the smallest.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw into; by default those of a new pyplot figure, which ``pyplot.show()`` then shows.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If no value is finite.
        """
        try:
            from matplotlib.ticker import MaxNLocator
        except ImportError:
            raise ImportError("plots need the package matplotlib: pip install matplotlib") from None
        drawn = {name: self[name] for name in ("loss", "val_loss") if name in self}
        values = [value for curve in drawn.values() for value in curve if math.isfinite(value)]
        if not values:
            raise ValueError("there is nothing to plot: no epoch has a finite loss")
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots(figsize=(7, 4.2), layout="constrained")[1]
        for (name, curve), colour in zip(drawn.items(), ("#4477aa", "#cc6644"), strict=False):
            finite = [value if math.isfinite(value) else math.nan for value in curve]
            mark = "o" if self.epochs < 12 else None
            label = {"loss": "loss (training)", "val_loss": "val_loss (validation)"}[name]
            ax.plot(
                range(1, self.epochs + 1), finite, color=colour, label=label, marker=mark, markersize=3, linewidth=1.6
            )
        best = self.best_epoch
        if best is not None:
            value = self[self.monitor][best]
            ax.axvline(best + 1, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            label = f"best: epoch {best + 1}, {self.monitor} {value:.4g}"
            ax.plot([best + 1], [value], "o", color="black", markersize=6, markerfacecolor="none", label=label)
        if min(values) > 0 and max(values) > _LOG_FROM * min(values):
            ax.set_yscale("log")
        elif min(values) >= 0:
            ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        if self.epochs == 1:
            ax.set_xlim(0.5, 1.5)
        ax.set_title(textwrap.fill(self._title, _TITLE_WIDTH), fontsize=10, loc="left")
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss" + (" (log scale)" if ax.get_yscale() == "log" else ""))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return ax

    def to_csv(self, path: Path) -> None:
        """Write all curves to a CSV file, a row for each epoch, from 0 on; values not measured are left empty.

        Parameters
        ----------
        path : str or path-like
            An existing file is replaced as a whole.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If the path has the suffix of another format.
        """
        check_suffix(path, ".csv")
        lines = [",".join(["epoch", *self])]
        for epoch, row in enumerate(zip(*self.values(), strict=True)):
            lines.append(",".join([str(epoch), *("" if math.isnan(value) else repr(value) for value in row)]))
        with replacing(path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())

    def set_remarks(self, constant: str, unscaled: str, constant_loss: float | None = None, kept: str = "") -> None:
        """Store remarks on the data and the best epoch, and the loss of always predicting the same; see `diagnose`."""
        self._remarks, self._constant_loss, self._kept = (constant, unscaled), constant_loss, kept

    def set_run(self, layer_sizes: Sequence[int], loss: str, optimizer: Optimizer, batch_size: int | None) -> None:
        """Store the title of plots and, for diagnoses, the learning rate's schedule, if there is one."""
        rate = optimizer.learning_rate
        self._schedule = rate if isinstance(rate, Schedule) else None
        shown = type(rate).__name__ if isinstance(rate, Schedule) else f"{float(rate):g}"  # a Fraction, too
        short = f"{type(optimizer).__name__}({shown})"
        batch = f"batch size {batch_size}" if batch_size else "full batch"
        self._title = f"{'-'.join(map(str, layer_sizes))}: {loss}, {short}, {batch}"

    def append(self, row: Mapping[str, float]) -> None:
        """Add one epoch, a mapping from names of curves to values."""
        for name in row:
            if name not in self:
                super().__setitem__(name, [math.nan] * self.epochs)
        for name, curve in super().items():
            curve.append(float(row.get(name, math.nan)))
        self._epochs += 1
        self._validated = self._epochs if "val_loss" in row else self._validated

    def truncate(self, epochs: int) -> None:
        """Remove all epochs from number ``epochs`` on."""
        for curve in super().values():
            del curve[epochs:]
        self._epochs, self._validated = epochs, min(epochs, self._validated)
