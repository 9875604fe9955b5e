"""fastnet: dense networks, trained by batch and mini-batch gradient descent with compiled kernels."""

from .history import History
from .network import Network, load
from .optimizers import SGD, Adam, AdamW, CosineDecay, RMSprop, StepDecay, WarmUp
from .trainer import Trainer

__version__ = "0.2.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineDecay",
    "History",
    "Network",
    "RMSprop",
    "StepDecay",
    "Trainer",
    "WarmUp",
    "load",
]
