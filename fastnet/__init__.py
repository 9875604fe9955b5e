"""fastnet: dense networks, trained by batch and mini-batch gradient descent with compiled kernels."""

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
