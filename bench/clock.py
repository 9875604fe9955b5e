"""A clock that is set by others: for times that another process tells, or the profiler's own batches."""


class Clock:
    """Tells the sum of the seconds that it was given.

    pytest-benchmark takes it as ``timer``: what it sees between two looks is what was reported in between, without the
    way there and back.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._now += seconds
