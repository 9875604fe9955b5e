"""How many rows the next compiled call trains, and on how many threads, by how long the calls before it took.

Imports nothing. A call returns after CALL_S, so that Ctrl-C works in long epochs. Whether threads pay off depends on
more than the size of a step: on what else wants the other cores. 64-128-128-10 with batches of 64 gained 1.45 on two
idle cores and 0.73 where another process had the second. So it is tried: for TRIAL_S on all threads, then on one; the
faster runs, and the other is tried again from time to time, for there is no other way to notice that cores have
become free, or busy. Bits depend neither on the threads nor on where calls end.
"""

CALL_S = 0.2
"""Seconds after which a compiled call returns to Python, about."""

TRIAL_S = 0.004
"""Seconds of a trial: some ten times what waking the threads for it may take."""

RUN_S, LONGEST_RUN_S = 0.1, 1.6
"""Seconds until the other is tried again, doubled whenever it is no better: trials end at 0.3% of the time."""

BETTER = 1.05
"""How many times faster a trial must be to change anything: rates waver by 3%."""


class Tuner:
    """Rows and threads of the next call.

    Parameters
    ----------
    rows : int
        Of the first call.
    threads : int
        That there are.
    tries : bool
        Whether one thread is tried too; else it is always all of them.

    Attributes
    ----------
    rows, threads : int
    """

    def __init__(self, rows: int, threads: int, explores: bool) -> None:
        self.rows, self.threads = rows, threads
        self._all = threads
        self._tries = explores and threads > 1
        self._first, self._trial, self._run = True, False, RUN_S
        self._rates: dict[int, float] = {}  # rows a second, by threads
        self._rows, self._seconds = 0.0, 0.0  # of the trial, or of the run's last RUN_S or so
        self._left = TRIAL_S

    def is_compatible(self, other: "Tuner") -> bool:
        """Whether what one has learnt serves the other."""
        return (self._all, self._tries) == (other._all, other._tries)

    def update(self, rows: int, seconds: float) -> None:
        """Take account of a call: its rows and how long it took."""
        seconds = max(seconds, 1e-6)
        time = CALL_S
        if self._tries and self._first:  # in which kernels were compiled or fetched, and threads started
            self._first, time = False, TRIAL_S / 2
        elif self._tries:
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
        """A trial, or a run between two trials, is over."""
        self._rates[self.threads] = self._rows / self._seconds
        self._rows, self._seconds = 0.0, 0.0
        other = self._all if self.threads == 1 else 1
        if not self._trial:
            self._trial, self._left, self.threads = True, TRIAL_S, other
            return
        if self._rates[self.threads] > BETTER * self._rates[other]:
            self._run = RUN_S
        else:
            self.threads = other
        self._trial, self._left = False, self._run
        self._run = min(2 * self._run, LONGEST_RUN_S)
