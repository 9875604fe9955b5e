"""A step captured as a CUDA graph: its launches become one."""

from collections.abc import Callable
from typing import Any

from .device import cuda


class CapturedStep:
    """An executable graph of some launches; freed with this object.

    Parameters
    ----------
    launches : callable
        ``(stream) -> None``: launches kernels, compiled before, on a stream, here the builder of the graph. What they
        read and write must live as long as this object.

    Raises
    ------
    Exception
        What an older numba-cuda or driver raises. The builder and its stream are closed then.
    """

    def __init__(self, launches: Callable[[Any], None]) -> None:
        from cuda.core import Device

        cuda.synchronize()
        card = Device()
        card.set_current()  # cuda.core asks for it, also where Numba has made the card's context current
        self._stream = card.default_stream
        builder = card.create_graph_builder()
        try:
            builder.begin_building()
            launches(builder)
            self._graph = builder.end_building().complete()
        finally:
            builder.close()

    def launch(self) -> None:
        """Launch the graph after all launches before, without waiting for it."""
        self._graph.launch(self._stream)
