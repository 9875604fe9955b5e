"""fastnet: dense networks, trained by batch and mini-batch gradient descent with compiled kernels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ensemble import Ensemble, load
    from .history import History
    from .many import fit_many
    from .network import Network
    from .optimizers import SGD, Adam, AdamW, CosineDecay, RMSprop, StepDecay, WarmUp
    from .trainer import Trainer

__version__ = "0.2.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineDecay",
    "Ensemble",
    "History",
    "Network",
    "RMSprop",
    "StepDecay",
    "Trainer",
    "WarmUp",
    "fit_many",
    "load",
]

_MODULES = {"Ensemble": "ensemble", "History": "history", "Network": "network", "Trainer": "trainer"}
_MODULES |= {"fit_many": "many", "load": "ensemble"}
_SUBMODULES = {"data", "kernels", "optimizers", *_MODULES.values()}

if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a name when it is first used: importing Numba and all modules takes 0.4 s."""
        if name in _SUBMODULES:
            return import_module(f".{name}", __name__)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f".{_MODULES.get(name, 'optimizers')}", __name__), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES, *(name for name in globals() if name.startswith("__"))})
