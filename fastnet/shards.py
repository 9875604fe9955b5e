"""Datasets of which each rank of a communicator has, or reads, its own rows."""

from __future__ import annotations

import copy
import zlib
from typing import Any

import numpy as np

from .dataset import Dataset, check_total, row_weights
from .kernels.specs.base import Array
from .network import Network


class ShardedDataset(Dataset):
    """A dataset that consists of the rows of rank 0, then those of rank 1, and so on.

    It is read in chunks, as a memory map is: each rank contributes its own rows of a chunk, and receives all. All ranks
    must make it and read it alike.

    Parameters
    ----------
    ranks : Ranks
        See `distributed`.
    network, loss, X, y, weights, prefix
        As for `Dataset`, with this rank's rows.
    """

    def __init__(
        self, ranks: Any, network: Network, loss: str, X: Any, y: Any, weights: Any = None, *, prefix: str = ""
    ) -> None:

        def checked() -> tuple[Dataset, Array | None]:
            own = Dataset(network, loss, X, y, prefix=prefix)
            return own, None if weights is None else row_weights(weights, own.rows)

        own, own_weights = ranks.own(f"the {prefix}shards", checked)
        network_of = f"{network.layer_sizes} {network.dtype}"
        everyone = ranks.agree(f"the {prefix}shards", value=(own.rows, own_weights, network_of))
        rows, weights_of, networks = zip(*everyone, strict=True)
        for rank, other in enumerate(networks):
            if other != networks[0]:  # rows would have different sizes in bytes
                raise _difference(f"the network: {networks[0]} on rank 0, {other} on rank {rank}")
        self.__dict__.update(own.__dict__)
        self._ranks, self._own, self._ends = ranks, own, np.cumsum(rows)
        self.rows, self.mapped = int(self._ends[-1]), True
        missing = sum(each is None for each in weights_of)
        if missing and missing < len(weights_of):
            raise ValueError(f"sample_weight is missing on {missing} of {len(rows)} ranks; expected it on all or none")
        self._weights = None if missing else check_total(np.concatenate(weights_of))

    def sample(self) -> tuple[Array, Array, Array | None]:
        """Return `Dataset.sample`, after checking that all ranks will read the same rows: nothing else has, so far."""
        chosen = None if self._chosen is None else zlib.crc32(self._chosen.tobytes())
        if len({*self._ranks.agree("the rows", value=(self.rows, chosen))}) > 1:
            raise _difference("the rows that they train on, by seed or validation_split")
        return super().sample()

    def _read(self, places: Array) -> tuple[Array, Array]:
        """Return rows of X and y, from the ranks that have them."""
        owner = np.searchsorted(self._ends, places, "right")
        me = self._ranks.rank
        mine = places[owner == me] - (self._ends[me - 1] if me else 0)
        return _gathered(self._ranks, self._own, mine, owner)


class DividedDataset(Dataset):
    """A dataset of which every rank has the same arrays, or memory maps of the same file.

    If all ranks have a memory map, each reads, converts and checks an equal share of a chunk's rows, and receives the
    others. All ranks must make it and read it alike.

    Parameters
    ----------
    ranks : Ranks
        See `distributed`.
    network, loss, X, y, weights, prefix
        As for `Dataset`.
    """

    def __init__(
        self, ranks: Any, network: Network, loss: str, X: Any, y: Any, weights: Any = None, *, prefix: str = ""
    ) -> None:
        where = f"the {prefix}data"
        self._whole: Dataset = ranks.own(where, lambda: Dataset(network, loss, X, y, weights, prefix=prefix))
        self.__dict__.update(self._whole.__dict__)
        facts = self.mapped, self._X.shape, self._y.shape, network.layer_sizes, network.dtype.name
        everyone = ranks.agree(where, value=facts)
        self._ranks = ranks
        self._divides = self.mapped and all(other == facts for other in everyone)
        self.mapped = any(other[0] for other in everyone)  # all must train the same chunks, or they would wait forever

    def _read(self, places: Array) -> tuple[Array, Array]:
        """Return rows of X and y, of which this rank reads a share."""
        if not self._divides:
            return super()._read(places)
        owner = np.arange(len(places)) * self._ranks.size // len(places)
        return _gathered(self._ranks, self._whole, places[owner == self._ranks.rank], owner)

    def sample(self) -> tuple[Array, Array, Array | None]:
        """Return `Dataset.sample`, read by this rank alone, since the ranks compare their samples."""
        alone = copy.copy(self)
        alone._divides = False
        return Dataset.sample(alone)


def _difference(what: str) -> ValueError:
    """Return the error for ranks that differ."""
    return ValueError(f"the ranks differ in {what}; run the same program with the same arguments on every rank")


def _gathered(ranks: Any, own: Dataset, mine: Array, owner: Array) -> tuple[Array, Array]:
    """Gather rows of X and y, of which each rank reads its own, in the order in which ``owner`` lists their ranks."""
    # A rank without rows of its own still reads one, for dtype and shape.
    places = mine if len(mine) else np.arange(1)
    X, y = (array[: len(mine)] for array in ranks.own("the data", lambda: own._read(places)))
    soft = any(ranks.agree("the targets", value=y.ndim == 2))
    if soft and y.ndim == 1:  # one-hot rows were converted to labels here, but not on all ranks
        y = np.eye(own._network.layer_sizes[-1], dtype=own._network.dtype)[y]
    return ranks.gather_rows(X, owner), ranks.gather_rows(y, owner)
