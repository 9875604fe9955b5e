"""Features of cuda.core that numba-cuda lacks: CUDA graphs of steps, and a stream that does not wait for kernels."""

from collections.abc import Callable
from typing import Any

from .device import SIMULATED, cuda


def side_stream() -> tuple[Any, Callable[[], None]]:
    """Return a stream for copies that overlap with kernels, and the function that waits for these copies.

    Streams of ``cuda.stream()`` wait for stream 0, on which the kernels run.
    """
    if SIMULATED:
        stream = cuda.stream()
        return stream, stream.synchronize
    stream = _current_card().create_stream()
    return stream, stream.sync


def _current_card() -> Any:
    """Return the current device as an object of cuda.core."""
    from cuda.core import Device

    card = Device()
    card.set_current()  # cuda.core requires this even if Numba has made the device's context current
    return card


class CapturedStep:
    """An executable CUDA graph of some launches; freed with this object.

    Parameters
    ----------
    launches : callable
        ``(stream) -> None``: launches kernels, already compiled, on a stream, here the graph builder. The arrays that
        they read and write must live as long as this object.

    Raises
    ------
    Exception
        Whatever an older numba-cuda or driver raises; the builder and its stream are closed first.
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
        """Launch the graph after all earlier launches, without waiting for it."""
        self._graph.launch(self._stream)
