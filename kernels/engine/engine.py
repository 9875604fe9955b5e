"""CpuEngine: the backend of compiled kernels, with the workspace of one network at one batch size."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..cpu import activations, dropout, losses, optimizers
from ..cpu.gemm.gemm import gemm
from ..cpu.gemm.microkernel import NV
from ..cpu.threads import parallel_for
from ..cpu.threads.pool import POOL, num_threads
from ..jit.side_by_side import Kernel, compile_side_by_side
from ..jit.target import COMPILES
from ..llvm.builder import LINE, VECTOR
from ..specs.activations import IDENTITY, RELU
from ..specs.batches import GROUP_ROWS, MICRO_BATCH_ROWS
from ..specs.dropout import seed_key
from ..specs.losses import LOSSES, LossSpec
from ..specs.optimizers import OPTIMIZERS
from . import epochs, inference, rng, training_step, weights_task
from .backend import OBJECTIVE, Array, Chunk, Visit, check_interrupt, new_progress, new_totals, results_of, start_epoch
from .bounds import check_data, check_network
from .numpy_engine import NumpyEngine
from .optimizer_state import OptimizerState
from .partition import partition_weights, rows_of_task, scratch_elements
from .plan import (
    CONTEXT,
    WEIGHT_TASK,
    Plan,
    address_of,
    aligned,
    layer_table,
    micro_batch_rows,
    packed_weights_size,
    padded,
    parameter_count,
    rank_share,
)
from .tuner import Tuner

_FIRST_CALL_FLOPS = 1e8
"""Floating-point operations of the first compiled call, before the tuner knows the speed."""

THREAD_FLOPS, SURE_FLOPS = 3_000_000, 500_000_000
"""Micro-batches of fewer floating-point operations than the first stay on one thread, those of at least the second use
all threads. Between them the tuner times both."""

COMPANIONS = (
    Kernel(rng.__name__, "shuffle_rows"),
    Kernel(parallel_for.__name__, "worker_loop"),
    Kernel(parallel_for.__name__, "wake"),
)
"""Kernels that nearly every program that trains needs: they are compiled together with those of the training step."""

LATER = (Kernel(inference.__name__, "predict_rows"), epochs.RUN_EPOCHS, Kernel(inference.__name__, "run"))
"""Kernels that are needed after the first epochs, or at the end of most programs: compiled while training runs."""


class CpuEngine:
    """Trains and evaluates a network at one batch size on compiled kernels; a `Backend`.

    Parameters
    ----------
    parameters : ndarray, shape (P,)
        Written by `train` only.
    layer_sizes : sequence of int
        Inputs, hidden sizes, outputs.
    codes : sequence of int
        Code of an ActivationSpec for every layer.
    loss : str, default "mse"
        A key of `specs.losses.LOSSES`.
    batch_rows : int, default MICRO_BATCH_ROWS
        Rows of a step.
    optimizer : OptimizerState, optional
        Without it `train` computes the gradient and changes nothing.
    uses_order : bool, default False
        Whether `train` will get an order.
    tuner : Tuner, optional
        An earlier engine's tuner, which is used if it is compatible.

    Attributes
    ----------
    plan : Plan
    tuner : Tuner
    """

    def __init__(
        self,
        parameters: Array,
        layer_sizes: Sequence[int],
        codes: Sequence[int],
        loss: str = "mse",
        batch_rows: int = MICRO_BATCH_ROWS,
        optimizer: OptimizerState | None = None,
        uses_order: bool = False,
        tuner: Tuner | None = None,
    ) -> None:
        dtype, spec = parameters.dtype, LOSSES[loss]
        optimizer = optimizer or OptimizerState.none(dtype)
        check_network(parameters, layer_sizes, codes, optimizer)
        lanes = VECTOR // dtype.itemsize
        rows, neurons = micro_batch_rows(batch_rows), sum(layer_sizes[1:])
        uses_order = bool(uses_order)  # the workspace's size depends on it
        self._loss, self._sizes, self._uses_order = spec, layer_sizes, uses_order
        layers, workspace = layer_table(layer_sizes, codes, optimizer.dropout, rows, lanes, NV * lanes)
        flops = 6 * parameter_count(layer_sizes)  # 2 each for forward, dX and dW
        threads = _most_threads(rows * flops)
        self.tuner = Tuner(max(1, int(_FIRST_CALL_FLOPS / flops)), threads, rows * flops < SURE_FLOPS)
        if tuner is not None and tuner.is_compatible(self.tuner):
            self.tuner = tuner
        inputs, targets = workspace, workspace + padded(rows * layer_sizes[0], lanes) * uses_order
        workspace = targets + rows * layer_sizes[-1] * uses_order
        weight_tasks = partition_weights(layer_sizes, dtype.itemsize, threads)
        task_rows = rows_of_task(layer_sizes, dtype.itemsize, rows, threads)
        scratch_size = padded(scratch_elements(layers, weight_tasks, task_rows, dtype.itemsize, rows), LINE)
        self.plan = Plan(
            context=np.zeros((), CONTEXT),
            layers=layers,
            weight_tasks=weight_tasks,
            hyper=optimizer.hyper,
            parameters=parameters,
            gradient=aligned(parameters.size, dtype),
            gradient_sum=aligned(parameters.size if batch_rows > GROUP_ROWS else 0, dtype),
            state=optimizer.state,
            packed_weights=aligned(packed_weights_size(layer_sizes, lanes, NV * lanes), dtype),
            workspace=aligned(workspace, dtype),
            labels=np.empty(rows if uses_order else 0, np.int64),
            row_losses=np.empty(rows),
            row_weights=np.empty(rows, dtype),
            row_norms=np.zeros(neurons),
            squared_weights=np.zeros(neurons),
            correct=np.zeros(rows, np.int64),
            progress=optimizer.progress,
            totals=optimizer.totals,
            objective=np.zeros((), OBJECTIVE),
            scratch=aligned(threads * scratch_size, dtype),
        )
        context, objective = self.plan.context, self.plan.objective
        objective["l2_per_batch"], objective["max_row_loss"] = optimizer.l2_per_batch, optimizer.max_row_loss
        context["optimizer"], context["batch_rows"] = optimizer.code, batch_rows
        context["layer_count"], context["weight_task_count"] = len(layers), len(weight_tasks)
        context["gathered_inputs"], context["gathered_targets"] = inputs, targets
        context["task_rows"], context["scratch_size"], context["flops_per_row"] = task_rows, scratch_size, flops
        context["scratch_threads"], context["ranks"] = threads, 1
        context["l2"], context["clip_norm"] = optimizer.l2, optimizer.clip_norm
        context["dropout_key"] = seed_key(optimizer.seed)
        self._evaluation: Plan | None = None  # the plan of `evaluate`, kept for its next call
        self._address = 0  # of the context of `_bound`
        self._bound: tuple[Array | None, tuple[Array | None, ...]] = (None, (None,) * 5)

    def serves(self, batch_rows: int, uses_order: bool) -> bool:
        """Whether a new engine of this batch size, with or without memory for an order, would be as this one is."""
        context = self.plan.context
        threads = _most_threads(micro_batch_rows(batch_rows) * int(context["flops_per_row"]))
        found = int(context["batch_rows"]), self._uses_order, int(context["scratch_threads"])
        parameters, gradient = self.plan.parameters, self.plan.gradient
        is_as_it_was = (parameters.shape, parameters.dtype) == (gradient.shape, gradient.dtype)  # NumPy allows changes
        return is_as_it_was and found == (batch_rows, uses_order, threads)

    def forget_data(self) -> None:
        """Release the arrays that the last call has read."""
        self._bound = (None, (None,) * len(_DATA))

    def take_part(self, rank: int, ranks: int) -> None:
        """Restrict this engine to a rank's rows of each micro-batch and each W; `run` then returns after each stage.

        Call this before anything else; see `DistributedEngine`.
        """
        plan, context, item = self.plan, self.plan.context, self.plan.parameters.itemsize
        own = []
        for layer, begin, end in plan.weight_tasks.tolist():
            share = rank_share(self._sizes[layer + 1], ranks, VECTOR // item)
            begin, end = max(begin, rank * share), min(end, (rank + 1) * share)
            own += [(layer, begin, end)] if begin < end else []
        self.plan = plan._replace(weight_tasks=np.array(own, WEIGHT_TASK))
        rows = rank_share(len(plan.row_losses), ranks)
        context["task_rows"] = rows_of_task(self._sizes, item, rows, int(context["scratch_threads"]))
        context["rank"], context["ranks"], context["weight_task_count"] = rank, ranks, len(own)

    def _link_kernels(self) -> None:
        """Write the addresses of the kernels that this network needs into the plan, compiling them if necessary.

        This happens at the first use, so that an engine can report its size without compiling anything.
        """
        context, layers, dtype = self.plan.context, self.plan.layers, self.plan.parameters.dtype
        if context["gemm"] != 0:
            return
        self.plan.bind_arrays()
        drops = layers["threshold"] > 0
        codes = layers["activation"].tolist()
        measures = bool(context["l2"] != 0 or self.objective["l2_per_batch"] != 0 or context["clip_norm"] < np.inf)
        kernels = training_kernels(self._loss, int(context["optimizer"]), codes, bool(drops.any()), measures)
        compile_side_by_side(list(kernels.values()), dtype)
        if "dropout" in kernels:
            layers["drop_kernel"][drops] = kernels["dropout"].address(dtype)
        for layer, code in zip(layers, codes, strict=True):
            for field, prefix in (("activate", "activation"), ("derive", "derivative")):
                if (kernel := kernels.get(f"{prefix} {code}")) is not None:
                    layer[field] = kernel.address(dtype)
        for field in ("rows_task", "weights_task", "norms_task", "loss_kernel", "correct_kernel", "update_kernel"):
            if field in kernels:
                context[field] = kernels[field].address(dtype)
        # Last, since it marks all as present: Ctrl-C during the others' compilation would leave addresses of 0 behind.
        context["gemm"] = kernels["gemm"].address(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the workspace, the gradient and everything else that is not data, parameters or state."""
        return sum(array.nbytes for array in self.plan) - self.plan.parameters.nbytes - self.plan.state.nbytes

    @property
    def objective(self) -> Array:
        """The record OBJECTIVE."""
        return self.plan.objective

    # ------------------------------------------------------------------------------------ training

    def train(
        self,
        X: Array,
        y: Array,
        weights: Array | None = None,
        order: Array | None = None,
        rates: Array | None = None,
        first_row: int = 0,
        epoch_rows: int | None = None,
    ) -> None:
        """Train from the epoch's current position to the last row of X; see `Backend.train`."""
        rates = _NO_RATE if rates is None else np.ascontiguousarray(rates, np.float64)
        self._advance(self.plan, True, (X, y, weights, order, rates), first_row, epoch_rows)

    def finish(self) -> None:
        """Do nothing: no step runs once `train` has returned."""

    def results(self, plan: Plan | None = None) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, of the epoch's rows so far; or of another plan's."""
        plan = self.plan if plan is None else plan
        return results_of(plan.progress, plan.totals, self._loss, self._sizes[-1])

    def loss_and_gradient(self, X: Array, y: Array) -> tuple[float, Array]:
        """Return the objective of X and y as one batch, and a copy of its gradient (P,)."""
        totals = self.plan.totals
        start_epoch(self.plan.progress, totals, 0)
        self.train(X, y)
        return float(totals["loss"] / totals["weight"]), self.plan.gradient.copy()

    def loss_divisor(self) -> int:
        """Return the divisor that turns a row's loss, summed over outputs, into the reported one."""
        return self._sizes[-1] if self._loss.mean_over_outputs else 1

    def answers(self, rows: int) -> int:
        """Return the number of answers, correct or not, of some rows; 0 if the loss does not count correct answers."""
        return 0 if not self._loss.counts_correct else rows * (1 if self._loss.takes_labels else self._sizes[-1])

    # ---------------------------------------------------------------------------------- evaluation

    def evaluate(self, chunks: Iterable[Chunk], rows: int, visit: Visit | None = None) -> dict[str, float]:
        """Return the loss, and for classification the accuracy, over chunks of ``rows`` rows in all."""
        if visit is not None:
            raise TypeError("a CpuEngine keeps no outputs to visit; `evaluation.Evaluator` does")
        plan = self._evaluation = self.evaluation_plan() if self._evaluation is None else self._evaluation
        start_epoch(plan.progress, plan.totals, 0)
        for X, y, weights, first_row in chunks:
            self._advance(plan, False, (X, y, weights, None, _NO_RATE), first_row, rows)
        return self.results(plan)

    def evaluation_plan(self) -> Plan:
        """Return a copy of the plan with counters of its own, for micro-batches instead of batches."""
        self._link_kernels()
        counters = {"progress": new_progress(), "totals": new_totals(), "objective": self.plan.objective.copy()}
        plan = self.plan._replace(context=self.plan.context.copy(), **counters)
        plan.context["batch_rows"] = len(plan.row_losses)
        plan.bind_arrays()
        return plan

    def _advance(
        self, plan: Plan, trains: bool, arrays: tuple[Array | None, ...], first_row: int, epoch_rows: int | None
    ) -> None:
        """Call the compiled loop until all rows are processed; a KeyboardInterrupt can come between calls.

        Arguments are those of `bind`.
        """
        address = self.bind(plan, trains, arrays, first_row, epoch_rows)
        progress, context = plan.progress, plan.context
        done, stop = int(progress["done"]), int(context["stop_row"])
        while done < stop:
            before, start = done, time.perf_counter()
            context["stop_row"] = min(stop, before + max(1, self.tuner.rows))
            training_step.run(plan.parameters.dtype, address, self.threads, POOL)
            done = int(progress["done"])
            check_interrupt()
            if trains:
                self.tuner.update(done - before, time.perf_counter() - start)

    @property
    def threads(self) -> int:
        """Threads of the next call: the tuner's choice, if the process may still use that many."""
        threads = self.tuner.threads
        return min(threads, num_threads()) if threads > 1 else 1

    def bind(
        self, plan: Plan, trains: bool, arrays: tuple[Array | None, ...], first_row: int, epoch_rows: int | None
    ) -> int:
        """Write the compiled loop's arguments, for all rows up to the last, into a plan's context; return its address.

        ``arrays``: X, targets, sample weights, order and learning rates.
        """
        self._link_kernels()
        progress, context = plan.progress, plan.context
        X, y, order, rates = arrays[0], arrays[1], arrays[-2], arrays[-1]
        assert X is not None
        assert y is not None
        assert rates is not None
        if X.dtype != plan.parameters.dtype:
            raise ValueError(f"X is of {X.dtype}; expected {plan.parameters.dtype}, as the parameters")
        if order is not None and not self._uses_order:
            raise ValueError("an order arrived; expected none, since this engine has no memory for gathered rows")
        epoch_rows = len(X) if epoch_rows is None else epoch_rows
        stop, dtype = first_row + (len(X) if order is None else epoch_rows), plan.parameters.dtype
        labelled = self._loss.takes_labels and y.ndim == 1
        target: Any = ((), np.int64) if labelled else ((self._sizes[-1],), dtype)
        check_data(arrays, (self._sizes[0],), target, (first_row, int(progress["done"]), epoch_rows))
        if trains and context["epoch_rows"] != epoch_rows:
            self._reserve_scratch(epoch_rows)
        context["trains"], context["takes_labels"] = trains, labelled
        # Look up addresses only of arrays that are others: this takes a third of the time around the compiled call.
        owner, bound = self._bound
        self._bound = (None, bound)  # invalid until all are written, since Ctrl-C may come in between
        for name, array, known in zip(_DATA, arrays, bound, strict=True):
            if array is not known or owner is not context:
                context[name] = address_of(array)
        if owner is not context:
            self._address = address_of(context)
        self._bound = context, arrays
        context["rate_count"], context["first_row"] = len(rates), first_row
        context["epoch_rows"], context["stop_row"] = epoch_rows, stop
        return self._address

    def _reserve_scratch(self, epoch_rows: int) -> None:
        """Enlarge the scratch if the epoch's short micro-batches need more than full ones, so that `gemm` cannot fail.

        A failure would come after the step has changed other weights.
        """
        context, dtype = self.plan.context, self.plan.parameters.dtype
        batch = int(context["batch_rows"])
        full = micro_batch_rows(batch)
        short = {min(batch, epoch_rows) % MICRO_BATCH_ROWS, epoch_rows % batch % MICRO_BATCH_ROWS} - {0, full}
        if epoch_rows % batch >= MICRO_BATCH_ROWS or context["ranks"] > 1:  # their tasks are not the plan's
            short.add(full)
        arguments = self.plan.layers, self.plan.weight_tasks, int(context["task_rows"]), dtype.itemsize
        place = int(context["rank"]), int(context["ranks"])
        needed = padded(max((scratch_elements(*arguments, rows, *place) for rows in short), default=0), LINE)
        if needed > context["scratch_size"]:
            self.plan = self.plan._replace(scratch=aligned(int(context["scratch_threads"]) * needed, dtype))
            context["scratch"], context["scratch_size"] = address_of(self.plan.scratch), needed


def training_kernels(
    loss: LossSpec, optimizer: int, activations_of_layers: Sequence[int], drops: bool, measures: bool
) -> dict[str, Kernel]:
    """Return the kernels that training a network needs, by field of CONTEXT or by activation, and the loop.

    ``drops``: whether any layer has dropout; ``measures``: whether there is an l2 or the gradient is clipped.
    """
    found = {
        "gemm": Kernel(gemm.__module__, "gemm"),
        "weights_task": Kernel(weights_task.__name__, "weights_task"),
        "rows_task": Kernel(training_step.__name__, "rows_task"),
        "run": Kernel(training_step.__name__, "run"),
        "loss_kernel": Kernel(losses.__name__, "loss_kernel", loss.code),
    }
    if loss.counts_correct:
        found["correct_kernel"] = Kernel(losses.__name__, "correct_kernel", loss.code)
    if optimizer != OPTIMIZERS["none"].code:
        found["update_kernel"] = Kernel(optimizers.__name__, "update_kernel", optimizer)
    for code in activations_of_layers:
        if code not in (IDENTITY, RELU):  # the product applies these two itself
            found[f"activation {code}"] = Kernel(activations.__name__, "activation_kernel", code)
            found[f"derivative {code}"] = Kernel(activations.__name__, "times_derivative_kernel", code)
    if measures:
        found["norms_task"] = Kernel(weights_task.__name__, "norms_task")
    if drops:
        found["dropout"] = Kernel(dropout.__name__, "drop_rows")
    if activations_of_layers[-1] == RELU:
        found[f"derivative {RELU}"] = Kernel(activations.__name__, "times_derivative_kernel", RELU)
    return found


def _most_threads(flops: int) -> int:
    """Return how many threads may work on a micro-batch of ``flops`` floating-point operations."""
    return num_threads() if flops >= THREAD_FLOPS else 1


_DATA = ("X", "targets", "sample_weights", "order", "rates")
"""Fields of the context that hold a call's data, in the order of `CpuEngine._advance`."""

_NO_RATE = np.zeros(1)


CPU: Any = CpuEngine if COMPILES else NumpyEngine
"""The backend "cpu": without compilation (NUMBA_DISABLE_JIT=1) it is NumpyEngine, whose results differ by rounding."""
