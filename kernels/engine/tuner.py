"""Chooses rows and threads for the next compiled call from the times of previous calls.

A call returns after about CALL_S, so that Ctrl-C works in long epochs. Whether threads pay off depends on the size of a
step and on what else runs on the other cores (docs/performance-notes/engine.md), so the tuner measures: TRIAL_S on all
threads, then the same on half of them, and so on while that is faster. It keeps the fastest count. From time to time it
retries that count's neighbours among 1, 2, 4, ..., all; without these trials it could not notice that cores have become
free or busy.
Results depend neither on the threads nor on where calls end.
"""

CALL_S = 0.2
"""Approximate seconds after which a compiled call returns to Python."""

TRIAL_S = 0.004
"""Seconds of a trial: about ten times the longest time that waking the threads takes."""

RUN_S, LONGEST_RUN_S = 0.1, 1.6
"""Seconds until the next trial, initially and at most. They double after each trial that changes nothing, so that
trials finally take 0.3% of the time."""

BETTER = 1.05
"""A trial must be this many times faster to change the number of threads; rates vary by 3%."""


class Tuner:
    """Rows and threads of the next call.

    Parameters
    ----------
    rows : int
        Rows of the first call.
    threads : int
        Number of threads available.
    explores : bool
        Whether fewer threads are tried too; otherwise calls always run on all threads.

    Attributes
    ----------
    rows, threads : int
        What the next call should use; rows >= 1.
    """

    def __init__(self, rows: int, threads: int, explores: bool) -> None:
        self.rows, self.threads = rows, threads
        self._counts = sorted({threads, *(1 << i for i in range(threads.bit_length()) if 1 << i <= threads)})
        self._at, self._direction = len(self._counts) - 1, -1  # index of the count in use; where to look next
        self._explores = explores and threads > 1
        self._first, self._trial, self._run = True, False, RUN_S
        self._rates: dict[int, float] = {}  # rows per second by number of threads
        self._rows, self._seconds = 0.0, 0.0  # of the trial, or of about the last RUN_S of the run
        self._left = TRIAL_S

    def is_compatible(self, other: "Tuner") -> bool:
        """Whether the state of one tuner is valid for the other: same threads, same exploration."""
        return (self._counts, self._explores) == (other._counts, other._explores)

    def update(self, rows: int, seconds: float) -> None:
        """Record a call: the rows it processed and the seconds it took."""
        seconds = max(seconds, 1e-6)
        time = CALL_S
        if self._explores and self._first:  # not representative: it compiled or loaded kernels and started threads
            self._first, time = False, TRIAL_S / 2
        elif self._explores:
            self._rows += rows
            self._seconds += seconds
            self._left -= seconds
            if self._left <= 0:
                self._end_trial()
            elif self._seconds > 2 * RUN_S:
                self._rows, self._seconds = self._rows / 2, self._seconds / 2
            time = min(CALL_S, max(TRIAL_S / 2, self._left))
        self.rows = max(1, int(rows * time / seconds))

    def _end_trial(self) -> None:
        """End a trial, or the run between two trials, and choose the number of threads that comes next."""
        self._rates[self.threads] = self._rows / self._seconds
        self._rows, self._seconds = 0.0, 0.0
        if self._trial:
            kept = self._counts[self._at]
            if self._rates[self.threads] > BETTER * self._rates[kept]:
                self._at, self._run = self._at + self._direction, RUN_S
                if 0 <= self._at + self._direction < len(self._counts):  # go on in the same direction
                    self.threads, self._left = self._counts[self._at + self._direction], TRIAL_S
                    return
            self._direction = -self._direction
            self.threads, self._trial, self._left = self._counts[self._at], False, self._run
            self._run = min(2 * self._run, LONGEST_RUN_S)
            return
        if not 0 <= self._at + self._direction < len(self._counts):
            self._direction = -self._direction
        self.threads, self._trial, self._left = self._counts[self._at + self._direction], True, TRIAL_S
