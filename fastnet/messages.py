"""Wording that messages of several modules share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .io import storage


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which agrees with it: 1 row, 1,234 rows."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listed(names: Iterable[Any]) -> str:
    """Join names for a message; after 8 only their number."""
    every = [repr(str(name)[:40]) for name in names]
    return ", ".join(every[:8]) + (f" and {len(every) - 8:,} more" if len(every) > 8 else "")


@contextmanager
def one_line(path: storage.Path, doing: str = "cannot be read") -> Iterator[None]:
    """Turn whatever other libraries raise over a file into a ValueError of one line that names it."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        said = (
            " ".join(str(error).removeprefix("Error tokenizing data. ").removeprefix("C error: ").split())[:300]
            or type(error).__name__
        )
        shown = storage.display_path(path)
        raise ValueError(said if said.startswith(shown) else f"{shown} {doing}: {said}") from None


_TRAINING = "Trainer(network, loss=..., optimizer=...).fit(X, y) trains a network"
_INSTEAD = {
    "Network": {
        **dict.fromkeys(("fit", "train", "compile"), _TRAINING),
        **dict.fromkeys(("evaluate", "score"), "Trainer(network, loss=...).evaluate(X, y) measures a network"),
        **dict.fromkeys(("to", "cuda"), 'Trainer(network, backend="cuda") trains on a GPU'),
        "load": "fastnet.load(path) reads what save has written",
    },
    "Trainer": {
        **{name: f"write trainer.network.{name}" for name in ("predict", "predict_proba", "predict_labels")},
        "save": "trainer.network.save(path) keeps the model, fit(X, y, checkpoint=path) all that Trainer.resume needs",
        "load": "Trainer.resume(path) reads a checkpoint",
        "train": "fit(X, y) trains",
    },
}


class Hinting:
    """Base of classes that know the names that other libraries have for what they do."""

    if not TYPE_CHECKING:  # which shall know no more attributes than there are

        def __getattr__(self, name: str) -> Any:
            hints = [_INSTEAD.get(kind.__name__, {}).get(name) for kind in type(self).__mro__]
            hint = next(filter(None, hints), "")
            said = f"{type(self).__name__!r} object has no attribute {name!r}{hint and f': {hint}'}"
            raise AttributeError(said, name=name, obj=self)
