"""The kernels of fastnet: arrays in, arrays out.

`api` defines the public functions; `registry.TABLE` lists the variants of each. Nothing here knows about networks or
trainers, and nothing is compiled before its first call.
"""

from typing import TYPE_CHECKING, Any

from .api import activations as _activations
from .api import losses as _losses
from .api import optimizers as _optimizers
from .api.layers import dense_backward_batch, dense_forward, matmul
from .registry import variants

_PUBLIC = {**_activations.PUBLIC, **_losses.PUBLIC, **_optimizers.PUBLIC}

__all__ = ["dense_backward_batch", "dense_forward", "matmul", "variants", *_PUBLIC]

globals().update(_PUBLIC)

if TYPE_CHECKING:  # most functions are generated from their specs

    def __getattr__(name: str) -> Any: ...
