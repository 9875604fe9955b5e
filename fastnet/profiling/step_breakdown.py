"""Breaks the time of a training step down by kernel.

Each part of a step (forward by layer, loss, backward by layer, weights and update by layer) is the function that the
compiled step calls, with the same shapes. It is repeated on its own, interleaved with whole steps. On its own, a part
finds its arrays in the nearest cache, which it may not within a step: `remainder` is the time that the parts do not
explain, caches and loop included.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..kernels.cpu.threads.pool import limit_threads
from ..kernels.engine import step_breakdown
from ..kernels.engine.backend import Array, start_epoch
from ..kernels.engine.engine import CpuEngine
from ..kernels.engine.optimizer_state import OptimizerState
from ..kernels.engine.plan import address_of
from ..kernels.limits import fma_peak
from ..kernels.specs.activations import IDENTITY
from ..kernels.specs.batches import MICRO_BATCH_ROWS
from ..kernels.specs.losses import LOSSES
from ..kernels.verify import WrongKernelError
from ..network import Network
from ..optimizers import SGD, Adam, Optimizer
from .timing import Spread, batches, interleave, spread

OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(0.01), "adam": Adam(0.001)}
_STEPS = 16  # per epoch, so that work done once per epoch, such as W^T, weighs little
_REPEATED = 4


@dataclass(frozen=True)
class Part:
    """One part of a step.

    Attributes
    ----------
    name, shape : str
        The computation, and its sizes.
    seconds : Spread
    flops : int
        FLOPs of its matrix product; 0 if it has none.
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
        In the order of execution, each timed on its own on one thread.
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
        """Seconds of a step that its parts do not explain; negative if they were slower on their own."""
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
    """Time a training step, and each of its parts on its own.

    Parameters
    ----------
    layer_sizes : sequence of int
        Inputs, hidden sizes (ReLU), outputs (identity).
    batch_size : int, default 128
        Rows, at most 1024: more are processed in micro-batches of that many.
    dtype : str, default "float32"
        float32 or float64.
    loss : str, default "mse"
        For example mse or cross_entropy.
    optimizer : str, default "sgd"
        A key of `OPTIMIZERS`.
    threads : sequence of int, default (1,)
        Numbers of threads on which to time whole steps; the parts run on one.
    seconds : float, default 3.0
        Approximate duration of the measurement.

    Returns
    -------
    StepProfile

    Raises
    ------
    ValueError
        If the batch is larger than a micro-batch.
    WrongKernelError
        If the parts, run one after the other, do not give the bits of the step. Nothing has been timed then.
    """
    if not 1 <= batch_size <= MICRO_BATCH_ROWS:
        raise ValueError(
            f"the batch size is {batch_size}; a step is profiled on 1 to {MICRO_BATCH_ROWS} rows, one micro-batch"
        )
    settings = tuple(layer_sizes), batch_size, dtype, loss, optimizer
    with limit_threads(1):
        work = _Step(*settings)
    work.verify()
    tasks = work.tasks(0.0, _REPEATED)
    sides: dict[Any, Callable[[], float]] = {"limit": partial(fma_peak, dtype, 0.0005), 1: batches(work.epoch)}
    sides |= {task.name: batches(task.call) for task in tasks}
    for count in sorted(set(threads) - {1}):
        with limit_threads(count):
            sides[count] = batches(_Step(*settings).epoch)
    found = {name: spread(times) for name, times in interleave(sides, seconds).items()}
    steps = {name: _times(found[name], _STEPS) for name in found if isinstance(name, int)}
    parts = tuple(Part(t.name, "x".join(map(str, t.dims)), _times(found[t.name], _REPEATED), t.flops) for t in tasks)
    return StepProfile(*settings, steps.pop(1), parts, found["limit"].median, steps)


def _times(seconds: Spread, count: int) -> Spread:
    return Spread(*(value / count for value in seconds))


class _Task(NamedTuple):
    """A part of a step to be timed: its name, the sizes of its product, and a function that runs it."""

    name: str
    dims: tuple[int, ...]
    call: Callable[[], None]

    @property
    def flops(self) -> int:
        return 2 * math.prod(self.dims) if len(self.dims) == 3 else 0


def _run(repeat: Any, dtype: Any, context: Array, layers: Array, *arguments: Any) -> None:
    """Run a repeated part; the argument ``layers`` only keeps alive the table to which the context points."""
    repeat(dtype, address_of(context), *arguments)


class _Step:
    """A network, data that repeat one batch, and the engine that trains on them."""

    def __init__(self, sizes: tuple[int, ...], rows: int, dtype: str, loss: str, optimizer: str) -> None:
        rng = np.random.default_rng(0)
        self.sizes, self.rows, self.dtype = sizes, rows, np.dtype(dtype)
        self.network = Network(sizes, dtype=dtype)
        self.X: Array = rng.standard_normal((_STEPS * rows, sizes[0])).astype(dtype)
        self.y: Array = rng.standard_normal((_STEPS * rows, sizes[-1])).astype(dtype)
        if LOSSES[loss].takes_labels:
            self.y = rng.integers(0, sizes[-1], _STEPS * rows)
        elif LOSSES[loss].unit_targets:
            self.y = (self.y > 0).astype(dtype)
        rule = OPTIMIZERS[optimizer]
        self.state = np.zeros((rule.spec.state_vectors, self.network.parameters.size), dtype)
        state = OptimizerState(rule.spec.code, self.state, rule.hyper)
        self.engine = CpuEngine(self.network.parameters, sizes, self.network.activation_codes, loss, rows, state)

    def train(self, steps: int, rate: float) -> None:
        """Run ``steps`` training steps, from the first batch on."""
        plan = self.engine.plan
        start_epoch(plan.progress, plan.totals, 0)
        self.engine.train(self.X[: steps * self.rows], self.y[: steps * self.rows], rates=np.array([rate]))

    def epoch(self) -> None:
        """Train on all batches at a learning rate of 0: the same work without changing the parameters."""
        self.train(_STEPS, 0.0)

    def tasks(self, rate: float, times: int) -> list[_Task]:
        """Return the parts, in order, for the batch trained on last; each is repeated ``times`` times."""
        plan, rows, dtype = self.engine.plan, self.rows, self.dtype
        layers, sizes = plan.layers, list(pairwise(self.sizes))
        X = int(plan.context["X"])
        inputs = [X, *(address_of(plan.workspace) + layers["output"][:-1] * dtype.itemsize)]
        step: dict[str, float] = {"start": 0, "rows": rows, "inputs": X, "is_first": 1, "is_last": 1}
        step |= {"rate": rate, "gradient_scale": 1.0, "step_l2": 0.0}
        found: list[_Task] = []

        def add(name: str, dims: tuple[int, ...], table: Array, repeat: Any, *arguments: Any) -> None:
            context = plan.context.copy()
            for field, value in {**step, "layers": address_of(table), "layer_count": len(table)}.items():
                context[field] = value
            found.append(_Task(name, dims, partial(_run, repeat, dtype, context, table, *arguments, times)))

        rows_part, weights_part = step_breakdown.repeat_rows, step_breakdown.repeat_weights
        for i, ((n, k), x) in enumerate(zip(sizes, inputs, strict=True)):
            add(f"forward {i + 1}", (rows, n, k), layers[i : i + 1], rows_part, step_breakdown.FORWARD, x)
        add("loss", (rows, self.sizes[-1]), layers, rows_part, step_breakdown.LOSS, 0)
        for i in range(len(sizes) - 1, 0, -1):
            (n, k), pair = sizes[i], layers[i - 1 : i + 1].copy()
            if i < len(sizes) - 1:
                pair["activation"][1] = IDENTITY  # its dZ has been computed already
            add(f"backward {i + 1}", (rows, k, n), pair, rows_part, step_breakdown.BACKWARD, 0)
        for i, (n, k) in enumerate(sizes):
            tasks = np.flatnonzero(plan.weight_tasks["layer"] == i)
            add(f"weights {i + 1}", (k, rows, n), layers, weights_part, tasks)
        return found

    def verify(self) -> None:
        """Check that the parts, run in order, give the bits of a step."""
        progress, parameters = self.engine.plan.progress, self.network.parameters
        start, results = parameters.copy(), []
        for by_parts in (True, False):
            parameters[:] = start
            self.train(1, 0.0)  # computes W^T of the initial parameters; compiles
            self.state[:] = progress["step"] = 0
            self.engine.plan.workspace[:] = np.nan  # so that earlier results cannot hide what a part fails to compute
            if by_parts:
                for task in self.tasks(0.01, 1):
                    task.call()
            else:
                self.train(1, 0.01)
            results.append(parameters.copy())
        if results[0].tobytes() != results[1].tobytes() or results[0].tobytes() == start.tobytes():
            wrong = int(np.sum(results[0] != results[1]))
            raise WrongKernelError(f"a step's parts do not make the step: {wrong} of {start.size} parameters differ")
