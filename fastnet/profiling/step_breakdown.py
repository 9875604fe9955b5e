"""A training step, kernel by kernel: where its time goes.

Imports `network`, `optimizers`, `timing`, and of the kernels `engine`, `parts` and `limits`. Each part of a step
(forward by layer, loss, backward by layer, weights and update by layer) is the epoch's own function at its own shapes,
run over and over by itself, in turns with whole steps. Alone, a part finds its arrays in the nearest cache, which in a
step it may not: `remainder` is what the parts do not explain, caches and loop included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..kernels.cpu.threads.pool import limit_threads
from ..kernels.engine import step_breakdown
from ..kernels.engine.engine import Engine, OptimizerState, start_epoch
from ..kernels.engine.plan import ACTIVATION, LOSS, MICRO_BATCH_ROWS, STEP, A, K, N, X, address
from ..kernels.limits import fma_peak
from ..kernels.specs.base import Array
from ..kernels.specs.codes import CROSS_ENTROPY, IDENTITY
from ..kernels.verify import WrongKernelError
from ..network import Network
from ..optimizers import SGD, Adam, Optimizer
from .timing import Spread, batches, interleave, spread

OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(0.01), "adam": Adam(0.001)}
_STEPS = 16  # of an epoch, so that what an epoch does once, such as W^T, weighs little
_REPEATED = 4


@dataclass(frozen=True)
class Part:
    """One part of a step.

    Attributes
    ----------
    name, shape : str
        What is computed, and on what.
    seconds : Spread
    flops : int
        Of its product; 0 for what is none.
    """

    name: str
    shape: str
    seconds: Spread
    flops: int


@dataclass(frozen=True)
class StepProfile:
    """A step and its parts.

    Attributes
    ----------
    layer_sizes : tuple of int
    batch_size : int
    dtype, loss, optimizer : str
    step : Spread
        Seconds of a step of a whole epoch on one thread.
    parts : tuple of Part
        In their order, each by itself on one thread.
    gflops : float
        This machine's limit for one thread, measured in the same minutes.
    threaded : dict of int to Spread
        Seconds of a step on more threads.
    """

    layer_sizes: tuple[int, ...]
    batch_size: int
    dtype: str
    loss: str
    optimizer: str
    step: Spread
    parts: tuple[Part, ...]
    gflops: float
    threaded: dict[int, Spread]

    @property
    def remainder(self) -> float:
        """Seconds of a step that its parts do not explain; below 0 where they were slower by themselves."""
        return self.step.median - sum(part.seconds.median for part in self.parts)


def profile_step(
    layer_sizes: Sequence[int],
    batch_size: int = 128,
    dtype: str = "float32",
    loss: str = "mse",
    optimizer: str = "sgd",
    threads: Sequence[int] = (1,),
    seconds: float = 3.0,
) -> StepProfile:
    """Time a step of training, and each of its parts by itself.

    Parameters
    ----------
    layer_sizes : sequence of int
        Inputs, hidden sizes (ReLU), outputs (identity).
    batch_size : int, default 128
        Rows, at most 1024: more are worked through in slices of that many.
    dtype : str, default "float32"
        float32 or float64.
    loss : str, default "mse"
        mse or cross_entropy, say.
    optimizer : str, default "sgd"
        A key of `OPTIMIZERS`.
    threads : sequence of int, default (1,)
        Numbers of threads to time whole steps on; the parts are on one.
    seconds : float, default 3.0
        About how long to time.

    Returns
    -------
    StepProfile

    Raises
    ------
    ValueError
        If the batch is larger than a slice.
    WrongKernelError
        If the parts, one after the other, do not give the bits of the step. Nothing has been timed then.
    """
    if not 1 <= batch_size <= MICRO_BATCH_ROWS:
        raise ValueError(
            f"the batch size is {batch_size}; a step is profiled on 1 to {MICRO_BATCH_ROWS} rows, one slice"
        )
    work = _Step(tuple(layer_sizes), batch_size, dtype, loss, optimizer)
    work.verify()
    named = work.parts(0.0)
    sides: dict[Any, Callable[[], float]] = {"limit": partial(fma_peak, dtype, 0.0005), 1: batches(work.epoch)}
    sides |= {part[0]: batches(part[3]) for part in named}
    for count in sorted(set(threads) - {1}):
        with limit_threads(count):
            sides[count] = batches(_Step(work.sizes, batch_size, dtype, loss, optimizer, "parallel").epoch)
    found = {name: spread(times) for name, times in interleave(sides, seconds).items()}
    steps = {name: _times(found[name], 1 / _STEPS) for name in found if isinstance(name, int)}
    timed = tuple(Part(name, shape, _times(found[name], 1 / _REPEATED), flops) for name, shape, flops, _ in named)
    one = steps.pop(1)
    return StepProfile(
        work.sizes, batch_size, dtype, loss, optimizer, one, timed, found["limit"].median, dict(steps.items())
    )


def _times(seconds: Spread, factor: float) -> Spread:
    return Spread(*(value * factor for value in seconds))


class _Step:
    """A network, a batch over and over, and the engine that trains on it."""

    def __init__(
        self, sizes: tuple[int, ...], rows: int, dtype: str, loss: str, optimizer: str, variant: str = "simd"
    ) -> None:
        rng = np.random.default_rng(0)
        self.sizes, self.rows, self.dtype = sizes, rows, np.dtype(dtype)
        self.network = Network(sizes, dtype=dtype)
        self.X: Array = rng.standard_normal((_STEPS * rows, sizes[0])).astype(dtype)
        self.y: Array = rng.standard_normal((_STEPS * rows, sizes[-1])).astype(dtype)
        if loss == "cross_entropy":
            self.y = rng.integers(0, sizes[-1], _STEPS * rows)
        elif loss == "binary_cross_entropy":
            self.y = (self.y > 0).astype(dtype)
        how = OPTIMIZERS[optimizer]
        self.state = np.zeros((how.spec.state_vectors, self.network.parameters.size), dtype)
        self.engine: Engine = self.network._engine(
            loss, rows, variant, OptimizerState(how.spec.code, self.state, *how.hyper[:4])
        )

    def train(self, steps: int, rate: float) -> None:
        """So many steps from the first batch on."""
        plan = self.engine.plan
        start_epoch(plan.progress, plan.totals, 0)
        self.engine.train(self.X[: steps * self.rows], self.y[: steps * self.rows], rates=np.array([rate]))

    def epoch(self) -> None:
        """All batches, at a rate of 0: the same work, and parameters that stay."""
        self.train(_STEPS, 0.0)

    def parts(self, rate: float, times: int = _REPEATED) -> list[tuple[str, str, int, Callable[[], None]]]:
        """Name, shape, operations and a function of every part, in a step's order, for the batch trained on last."""
        plan, rows, dtype = self.engine.plan, self.rows, self.dtype
        book, layers, item = plan.book, plan.layers, self.dtype.itemsize
        work, last = address(plan.workspace), len(plan.layers) - 1
        inputs = [int(book[X]), *(work + int(offset) * item for offset in layers[:-1, A])]
        found: list[tuple[str, str, int, Callable[[], None]]] = []
        one, two = step_breakdown.one_layer(book, 1), step_breakdown.one_layer(book, 2)
        for i, (n, k) in enumerate(layers[:, [N, K]].tolist()):
            call = partial(step_breakdown.repeat_forward, dtype, one, layers[i : i + 1], inputs[i], rows, times)
            found.append((f"forward {i + 1}", f"{rows}x{n}x{k}", 2 * rows * n * k, call))
        truths = 0 if book[LOSS] == CROSS_ENTROPY else rows
        call = partial(step_breakdown.repeat_loss, dtype, book, layers, truths, rows, times)
        found.append(("loss", f"{rows}x{self.sizes[-1]}", 0, call))
        for i in range(last, 0, -1):
            n, k = layers[i, [N, K]].tolist()
            pair = layers[i - 1 : i + 1].copy()
            if i < last:
                pair[1, ACTIVATION] = IDENTITY  # its dZ is there already
            call = partial(step_breakdown.repeat_backward, dtype, two, pair, rows, times)
            found.append((f"backward {i + 1}", f"{rows}x{k}x{n}", 2 * rows * n * k, call))
        for i, (n, k) in enumerate(layers[:, [N, K]].tolist()):
            numbers = np.flatnonzero(plan.tasks[:, 0] == i)
            call = partial(step_breakdown.repeat_weights, dtype, book, numbers, inputs[0], rows, rate, times)
            found.append((f"weights {i + 1}", f"{k}x{rows}x{n}", 2 * rows * n * k, call))
        return found

    def verify(self) -> None:
        """Hold the parts, in order, against a step: the same bits."""
        progress, parameters = self.engine.plan.progress, self.network.parameters
        start, results = parameters.copy(), []
        for by_parts in (True, False):
            self.train(1, 0.0)  # W^T of the parameters at the start; compiles
            parameters[:] = start
            self.state[:], progress[STEP] = 0, 0
            self.engine.plan.workspace[:] = np.nan  # what a part leaves out must not be there from before
            if by_parts:
                for *_, call in self.parts(0.01, 1):
                    call()
            else:
                self.train(1, 0.01)
            results.append(parameters.copy())
            parameters[:] = start
        self.state[:] = 0
        self.train(1, 0.0)
        if results[0].tobytes() != results[1].tobytes() or results[0].tobytes() == start.tobytes():
            wrong = int(np.sum(results[0] != results[1]))
            raise WrongKernelError(f"a step's parts do not make the step: {wrong} of {start.size} parameters differ")
