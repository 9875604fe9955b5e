"""What cuda.core has and numba-cuda lacks: a step captured as a graph, and a stream that does not wait for kernels."""

from collections.abc import Callable
from typing import Any

from .device import SIMULATED, cuda


def side_stream() -> tuple[Any, Callable[[], None]]:
    """Return a stream for copies beside kernels, and the function that waits for them.

    Those of ``cuda.stream()`` wait for stream 0, on which the kernels run.
    """
    if SIMULATED:
        stream = cuda.stream()
        return stream, stream.synchronize
    stream = _current_card().create_stream()
    return stream, stream.sync


def _current_card() -> Any:
    """Return the current device as cuda.core knows it."""
    from cuda.core import Device

    card = Device()
    card.set_current()  # cuda.core asks for it, also where Numba has made the card's context current
    return card


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
        cuda.synchronize()
        card = _current_card()
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
