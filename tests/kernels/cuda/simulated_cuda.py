"""The CUDA kernels in Numba's simulator; `test_cuda.py` runs this file in a process with NUMBA_ENABLE_CUDASIM=1.

The simulator is the one inside Numba: it is deprecated there, but needs nothing installed, and numba-cuda would bring
some 70 MB. Tiles shrink to 16 x 16 x 4 and 8 x 8 x 2 with two elements a load.
"""

import gc
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from itertools import zip_longest
from operator import is_
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numba.cuda.simulator import kernelapi

from fastnet import SGD, Adam, AdamW, CosineDecay, Network, RMSprop, Trainer, WarmUp, dataset
from fastnet.kernels import matmul
from fastnet.kernels import registry as variants
from fastnet.kernels.cuda import arguments, device, gemm_tf32x3, register_tile, steps
from fastnet.kernels.cuda import counters as cuda_counters
from fastnet.kernels.cuda import engine as cuda_engine
from fastnet.kernels.cuda import launch as cuda_launch
from fastnet.kernels.cuda import variants as cuda_variants
from fastnet.kernels.cuda.device import SIMULATED, cuda
from fastnet.kernels.cuda.launch import GEMM_VARIANTS, launch
from fastnet.kernels.registry import CUDA_VARIANTS, OP_SPECS, Case, Variant
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.kernels.specs.losses import LOSSES
from fastnet.kernels.specs.optimizers import OPTIMIZERS
from fastnet.kernels.verify import WrongKernelError, check
from fastnet.optimizers import OPTIMIZER_CLASSES

assert SIMULATED, "run by test_cuda.py"


class _Allocations(dict[Any, Any]):
    """A block's shared arrays. Numba looks one up, then stores it: in between, no other thread may do so as well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def get(self, place: Any, default: Any = None) -> Any:
        """Return the array of a place in the source; without one, its place is taken until it is stored."""
        if (found := super().get(place)) is None:
            self._lock.acquire()
            if (found := super().get(place)) is not None:
                self._lock.release()
        return found

    def __setitem__(self, place: Any, array: Any) -> None:
        super().__setitem__(place, array)
        self._lock.release()


_simulated = kernelapi.FakeCUDAShared.__init__


def _with_lock(shared: Any, size: int) -> None:
    _simulated(shared, size)
    shared._allocations = _Allocations()


kernelapi.FakeCUDAShared.__init__ = _with_lock

PRODUCTS = (
    (1, 1, 1),  # the smallest
    (0, 3, 2),  # no rows
    (3, 0, 2),  # an empty sum is 0, and of its empty factors no 16 bytes can be read
    (3, 2, 0),  # no columns
    (8, 2, 8),  # exactly one tile, one step of the sum
    (9, 4, 10),  # one row and two columns beyond a tile; two steps, so both halves of shared memory
    (17, 7, 9),  # odd everywhere: no load of 16 bytes is aligned
    (18, 6, 34),  # whole vectors, and enough blocks for the larger tile, whose second step has two terms
    (17, 7, 33),  # the same without vectors
)
LAYOUTS = ("nn", "tn", "nt", "tt", "ss")
SIMPLE = ("cuda_naive", "cuda_tiled")
"""Variants without vectors and double buffers, for which one size and one activation are enough."""
TENSOR = "cuda_tf32x3"
"""The variant whose smallest tile is 64 x 32, and whose threads wait for one another often, so it gets few cases."""


def _cases(variant: Variant) -> list[Case]:
    if variant.name == TENSOR and variant.operation == "matmul":
        small = [Case((9, 4, 10), "a part of a tile", layout) for layout in LAYOUTS]
        return [*small, Case((65, 9, 34), "one row and two columns beyond a tile, two steps", "nt")]
    sizes = [(9, 4, 10)] if variant.name in SIMPLE else PRODUCTS
    if variant.operation == "matmul":
        return [Case(dims, "see PRODUCTS", layout) for dims in sizes for layout in LAYOUTS]
    chosen = [Case(dims, "see PRODUCTS", "relu") for dims in sizes]
    if variant.name in SIMPLE:
        return chosen
    if variant.name == TENSOR:
        return [Case((9, 4, 10), "a part of a tile", "tanh")]
    if variant.operation == "dense_forward":
        return chosen + [Case((9, 4, 10), "every activation", name) for name in ACTIVATIONS]
    if variant.operation == "dense_backward_batch":
        return chosen + [Case((13, 5, 9), "a sum in three parts", name) for name in ("gelu", "tanh", "relu-first")]
    cases = OP_SPECS[variant.operation].cases
    return [case for case in cases if np.prod(case.dims) <= 700]


CHECKS = [(variant, case) for variant in CUDA_VARIANTS for case in _cases(variant)]


@pytest.mark.parametrize(("variant", "case"), CHECKS, ids=lambda p: p.name if isinstance(p, Variant) else str(p))
def test_variant_meets_its_contract(variant: Variant, case: Case) -> None:
    for dtype in variant.dtypes:
        share = check(variant, case, dtype)
        assert share <= 1 / 3, f"{variant.operation}, {variant.name}: right kernels use under a third of the bound"


def test_every_operation_has_a_cuda_variant() -> None:
    assert {variant.operation for variant in CUDA_VARIANTS if variant.name == "cuda"} == set(OP_SPECS)
    assert set(variants.variants("matmul")[-len(GEMM_VARIANTS) :]) == set(GEMM_VARIANTS)
    assert all(variant.device == "cuda" for variant in CUDA_VARIANTS)


def test_public_function_by_name() -> None:
    A, B = np.arange(6.0).reshape(2, 3), np.eye(3)
    np.testing.assert_array_equal(matmul(A, B, variant="cuda"), A)
    np.testing.assert_array_equal(matmul(A.T[::-1], A[:, ::2], variant="cuda"), A.T[::-1] @ A[:, ::2])
    for out in (np.empty((2, 3), order="F"), np.empty((3, 2)).T, np.empty((4, 6))[::2, ::2]):
        np.testing.assert_array_equal(matmul(A, B, out=out, variant="cuda"), A)


def test_a_batch_larger_than_a_part_of_a_memory_map_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "PART_BYTES", 1)
    X = np.memmap(tmp_path / "X", np.float32, "w+", shape=(1100, 2))
    trainer = Trainer(Network([2, 1]), batch_size=None, backend="cuda", shuffle=False)
    with pytest.raises(ValueError, match="takes a batch as one piece, and 1100 rows do not fit a part"):
        trainer.fit(X, np.zeros(1100), epochs=1)


# ------------------------------------------------------------------------------------------- mutants

_right_args = arguments.gemm_args


def _args(**changes: Any) -> Any:
    """`gemm_args` with changed arguments: each a function of (sizes, rest)."""

    def made(sizes: Any, a: Any, b: Any, c: Any, dtype: Any, **rest: Any) -> Any:
        sizes = changes["sizes"](sizes) if "sizes" in changes else sizes
        rest |= {name: value(rest) for name, value in changes.items() if name in rest}
        return _right_args(sizes, a, b, c, dtype, **rest)

    return made


LAYER_CASE = Case((9, 4, 10), "crosses a tile", "relu")
MUTANTS = [
    (
        "last step of the sum dropped",
        "matmul",
        Case((9, 4, 10), "two steps", "nn"),
        {"sizes": lambda s: (*s[:2], s[2] - 2)},
    ),
    ("last row dropped", "matmul", Case((9, 4, 10), "crosses a tile", "nn"), {"sizes": lambda s: (s[0] - 1, *s[1:])}),
    ("bias missing", "dense_forward", LAYER_CASE, {"bias": lambda rest: -1}),
    ("activation missing", "dense_forward", LAYER_CASE, {"code": lambda rest: 0}),
    ("Z not stored", "dense_forward", LAYER_CASE, {"z": lambda rest: -1}),
    (
        "parts too short",
        "dense_backward_batch",
        Case((13, 5, 9), "parts", "relu"),
        {"split": lambda rest: rest["split"] - 1},
    ),
    ("parts in one place", "dense_backward_batch", Case((13, 5, 9), "parts", "relu"), {"split_step": lambda rest: 0}),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # "parts in one place" adds up memory that nothing was stored in
@pytest.mark.parametrize("variant", GEMM_VARIANTS)
@pytest.mark.parametrize(("name", "operation", "case", "changes"), MUTANTS, ids=[mutant[0] for mutant in MUTANTS])
def test_wrong_kernels_are_rejected(
    name: str, operation: str, case: Case, changes: dict[str, Any], variant: Any
) -> None:
    variant = next(v for v in CUDA_VARIANTS if v.operation == operation and v.name == variant)
    with (
        mock.patch.object(cuda_variants, "gemm_args", _args(**changes)),
        pytest.raises(WrongKernelError, match=operation),
    ):
        check(variant, case, variant.dtypes[-1])


def test_a_lost_part_is_rejected() -> None:
    variant = next(v for v in CUDA_VARIANTS if v.operation == "dense_backward_batch" and v.name == "cuda")
    launch = cuda_variants.enqueue

    def lossy(kernel: Any, grid: Any, threads: int, parts: Any, count: int, *rest: Any) -> None:
        count -= 1 if kernel is cuda_variants.reduce_kernel else 0
        launch(kernel, grid, threads, parts, count, *rest)

    with mock.patch.object(cuda_variants, "enqueue", lossy), pytest.raises(WrongKernelError):
        check(variant, Case((13, 5, 9), "parts", "relu"), "float64")


@pytest.mark.parametrize("variant", GEMM_VARIANTS)
def test_long_sums_are_cut(variant: str) -> None:
    """In parts of N rows at most, and the parts in groups."""
    assert cuda_variants.splits_for("float32", 9, 5, 1 << 24) == 1 << 14
    chosen = next(v for v in CUDA_VARIANTS if v.operation == "dense_backward_batch" and v.name == variant)
    with (
        mock.patch.object(cuda_variants, "MICRO_BATCH_ROWS", 2),
        mock.patch.object(steps, "MICRO_BATCH_ROWS", 2),
        mock.patch.object(steps, "GROUP_PARTS", 3),
    ):
        assert cuda_variants.splits_for("float32", 9, 5, 13) == 7
        check(chosen, Case((13, 5, 9), "seven parts in three groups", "relu"), chosen.dtypes[-1])
        softmax = next(v for v in CUDA_VARIANTS if v.operation == "softmax")
        check(softmax, Case((3, 7), "four parts of a row"), "float64")


@pytest.mark.parametrize("variant", ["cuda_tiled", "cuda"])
def test_a_missing_barrier_is_noticed(variant: Any) -> None:
    """The simulator starts a block's threads one by one: without barriers the first reads what nobody has written."""
    variant = next(v for v in CUDA_VARIANTS if v.operation == "matmul" and v.name == variant)
    with (
        mock.patch("numba.cuda.simulator.kernel.BlockThread.syncthreads", return_value=None),
        pytest.raises(WrongKernelError, match="matmul"),
    ):
        check(variant, Case((33, 31, 33), "so long that threads run side by side", "nn"), "float64")


def test_an_unaligned_load_is_noticed() -> None:
    """What a card would answer with an error: the twins of the 16-byte loads assert it."""
    from fastnet.kernels.cuda.register_tile import loader

    with pytest.raises(AssertionError, match="not aligned"):
        loader(4)(np.zeros(8), 2)


# -------------------------------------------------------------------------------------- tensor cores


def _tensor_error(A: Any, B: Any) -> float:
    """Return the worst error of a product on tensor cores, as a multiple of that of NumPy's in float32."""
    true = A.astype(np.float64) @ B
    found, plain = (np.abs(C - true).max() for C in (matmul(A, B, variant=TENSOR), A @ B))
    return float(found / plain)


FACTORS = [np.random.default_rng(7).standard_normal(shape).astype(np.float32) for shape in ((33, 24), (24, 20))]


def test_tensor_cores_are_as_exact_as_float32() -> None:
    """To three times NumPy's error; TF32 alone is off by hundreds of times it."""
    split = gemm_tf32x3.split_tf32

    def single(values: Any) -> Any:
        return split(values)[: len(values)] + (np.float32(0),) * len(values)

    assert _tensor_error(*FACTORS) < 3
    with mock.patch.object(gemm_tf32x3, "split_tf32", single):
        assert _tensor_error(*FACTORS) > 100


def _swapped(factor: int, first: int, second: int) -> Any:
    """`mma_operands` with two operands of C (0), A (1) or B (2) exchanged."""
    right = register_tile.mma_operands

    def operands(tm: int, tn: int) -> Iterator[Any]:
        for places in right(tm, tn):
            wrong = places[factor]
            wrong[first], wrong[second] = wrong[second], wrong[first]
            yield places

    return operands


@pytest.mark.parametrize(
    ("name", "factor", "first", "second"),
    [
        ("rows of A for terms", 1, 1, 2),
        ("rows of A", 1, 0, 1),
        ("terms of B", 2, 0, 1),
        ("rows of C for columns", 0, 1, 2),
        ("columns of C", 0, 0, 1),
    ],
)
def test_a_wrong_fragment_is_noticed(name: str, factor: int, first: int, second: int) -> None:
    with mock.patch.object(register_tile, "mma_operands", _swapped(factor, first, second)):
        assert not _tensor_error(*FACTORS) < 1e4, name


def test_tensor_cores_take_float32_only() -> None:
    with pytest.raises(TypeError, match=r'^variant "cuda_tf32x3" takes float32, got float64; use variant="cuda"$'):
        matmul(np.eye(2), np.eye(2), variant=TENSOR)


def test_tensor_cores_are_refused_on_an_older_card(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TENSOR in variants.variants("matmul")
    monkeypatch.setattr(device, "capability", lambda: (7, 5))
    assert TENSOR not in variants.variants("matmul")
    assert variants.variants("matmul")[-1] == "cuda"
    said = (
        '^variant "cuda_tf32x3" needs a card of compute capability 8.0 or more; this one has 7.5; use variant="cuda"$'
    )
    with pytest.raises(OSError, match=said):
        matmul(np.eye(2, dtype="float32"), np.eye(2, dtype="float32"), variant=TENSOR)


# ------------------------------------------------------------------------------------- the trajectory

ROWS, BATCH, SIZES = 20, 9, [5, 9, 3]  # batches of 9, 9 and 2 rows: beyond a tile, and a short one
X = np.random.default_rng(0).standard_normal((ROWS, SIZES[0]))


def _targets(loss: str) -> Any:
    if LOSSES[loss].takes_labels:
        return np.arange(ROWS) % SIZES[-1]
    values = np.sin(np.arange(float(ROWS * SIZES[-1]))).reshape(ROWS, -1)
    return (values > 0).astype(float) if LOSSES[loss].unit_targets else values


Run = tuple[str, Any, str, bool, dict[str, Any]]
"""Loss, optimizer, hidden activation, whether one block runs the epoch, and other options."""

CHOSEN: list[Run] = [
    ("mse", SGD(0.05), "relu", False, {}),
    ("mae", SGD(0.05, momentum=0.9), "tanh", True, {"l2": 0.1}),
    ("huber", SGD(WarmUp(2, 0.05), momentum=0.9, nesterov=True), "gelu", False, {"clip_norm": 0.1}),
    ("cross_entropy", Adam(), "silu", False, {"weighted": True}),
    ("cross_entropy", Adam(CosineDecay(0.01, 4)), "sigmoid", True, {"weighted": True}),
    ("cross_entropy", SGD(0.05), "relu", True, {"soft": True}),
    ("cross_entropy", Adam(), "tanh", False, {"soft": True, "weighted": True}),
    ("binary_cross_entropy", AdamW(0.01), "leaky_relu", True, {"clip_norm": 0.05, "l2": 0.01, "shuffle": False}),
    ("huber", AdamW(0.01), "identity", True, {"clip_norm": 0.5}),
    ("log_cosh", RMSprop(0.01), "mish", False, {}),
    ("mse", SGD(0.05), "tanh", True, {"dropout": 0.4, "seed": 2**63}),
    ("cross_entropy", Adam(), "relu", False, {"dropout": (0.3,)}),
]


def _not_chosen() -> Iterator[Run]:
    """Yield runs with every loss, optimizer and activation that CHOSEN lacks."""
    losses, optimizers, activations = ({run[i] for run in CHOSEN} for i in range(3))
    classes = {type(optimizer) for optimizer in optimizers}
    missing = (
        [name for name in LOSSES if name not in losses],
        [kind for kind in OPTIMIZER_CLASSES.values() if kind not in classes],
        [name for name in ACTIVATIONS if name not in activations],
    )
    for i, (loss, optimizer, hidden) in enumerate(zip_longest(*missing)):
        yield loss or "mse", (optimizer or SGD)(learning_rate=0.01), hidden or "tanh", i % 2 == 1, {}


RUNS = [*CHOSEN, *_not_chosen()]


def _trainer(backend: str, loss: str, optimizer: Any, hidden: str, **options: Any) -> Trainer:
    network = Network(SIZES, hidden=hidden, dtype="float64", seed=1)
    return Trainer(network, loss=loss, optimizer=optimizer, batch_size=BATCH, backend=backend, **options)


def _resident(flag: bool) -> Any:
    return mock.patch.object(cuda_engine, "RESIDENT_FLOPS", 10**9 if flag else 0)


@pytest.mark.parametrize(("loss", "optimizer", "hidden", "resident", "options"), RUNS, ids=lambda p: str(p)[:40])
def test_ten_steps_as_on_the_cpu(
    loss: str, optimizer: Any, hidden: str, resident: bool, options: dict[str, Any]
) -> None:
    options = dict(options)
    weights = np.linspace(0, 1, ROWS) if options.pop("weighted", False) else None
    y = np.random.default_rng(0).dirichlet(np.ones(SIZES[-1]), ROWS) if options.pop("soft", False) else _targets(loss)
    ours, truth = (_trainer(backend, loss, optimizer, hidden, **options) for backend in ("cuda", "cpu"))
    with _resident(resident):
        ours.fit(X, y, epochs=4, sample_weight=weights, validation_data=(X[:4], _targets(loss)[:4]))
    truth.fit(X, y, epochs=4, sample_weight=weights, validation_data=(X[:4], _targets(loss)[:4]))
    assert set(ours.history) == set(truth.history)
    for name, curve in truth.history.items():
        np.testing.assert_allclose(ours.history[name], curve, rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(ours.network.parameters, truth.network.parameters, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours._state.vectors, truth._state.vectors, rtol=1e-9, atol=1e-13)
    assert ours._state.progress == truth._state.progress


def test_every_loss_optimizer_and_activation_is_run() -> None:
    assert {run[0] for run in RUNS} == set(LOSSES)
    assert {type(run[1]) for run in RUNS} == set(OPTIMIZER_CLASSES.values())
    assert {run[1].spec.name for run in RUNS} | {"none"} == set(OPTIMIZERS)
    assert {run[2] for run in RUNS} == set(ACTIVATIONS)
    assert {run[3] for run in RUNS} == {False, True}


def test_a_wrong_step_is_noticed() -> None:
    """A trajectory that forgets the last part of dW is not the CPU's."""
    ours, truth = (_trainer(backend, "mse", SGD(0.05), "relu") for backend in ("cuda", "cpu"))
    truth.fit(X, _targets("mse"), epochs=1)
    lay_out = cuda_engine.CudaEngine._lay_out

    def short(self: Any, *arguments: Any) -> None:
        lay_out(self, *arguments)
        self._sums["parts"] -= 1

    with _resident(False), mock.patch.object(cuda_engine.CudaEngine, "_lay_out", short):
        ours.fit(X, _targets("mse"), epochs=1)
    assert not np.allclose(ours.network.parameters, truth.network.parameters, rtol=1e-6)


@pytest.mark.parametrize("resident", [True, False])
def test_dropout(resident: bool) -> None:
    """Another layer's mask is not the CPU's; an engine that trains evaluates with the whole network."""

    def trained(backend: str) -> Trainer:
        network = Network([5, 9, 4, 3], hidden="tanh", dtype="float64", seed=1)
        trainer = Trainer(network, "mse", SGD(0.05), BATCH, backend=backend, dropout=(0.4, 0.2))
        with _resident(resident):
            trainer.fit(X, _targets("mse"), epochs=1)
        return trainer

    lay_out, truth = cuda_engine.CudaEngine._lay_out, trained("cpu")

    def wrong(self: Any, *arguments: Any) -> None:
        lay_out(self, *arguments)
        self._drops["layer"][1:] += 1

    np.testing.assert_allclose(trained("cuda").network.parameters, truth.network.parameters, rtol=1e-9, atol=1e-13)
    with mock.patch.object(cuda_engine.CudaEngine, "_lay_out", wrong):
        assert not np.allclose(trained("cuda").network.parameters, truth.network.parameters, rtol=1e-6)
    with _resident(resident):
        training, measuring = (trained("cuda")._build(BATCH, train) for train in (True, False))
        inputs = X.astype(np.float64), _targets("mse")
        found, expected = (engine.evaluate([(*inputs, None, 0)], len(X)) for engine in (training, measuring))
    assert found == expected


def test_every_product_has_its_own_parts() -> None:
    """A wide layer's gradient is not kept in as many parts as that of a small one."""
    found = []

    def parts(dtype: Any, rows: int, columns: int, depth: int) -> int:
        return 2 if (rows, columns) == (9, 5) else 3

    with _resident(False), mock.patch.object(cuda_engine, "splits_for", parts):
        ours, truth = (_trainer(backend, "mse", SGD(0.05), "relu", clip_norm=0.1) for backend in ("cuda", "cpu"))
        step = cuda_engine.CudaEngine._step

        def watched(self: Any, *arguments: Any) -> None:
            found.append((*self._sums["parts"], *(args.split for args in self._backwards[-2:])))
            step(self, *arguments)

        with mock.patch.object(cuda_engine.CudaEngine, "_step", watched):
            ours.fit(X, _targets("mse"), epochs=2)
    truth.fit(X, _targets("mse"), epochs=2)
    assert set(found) == {(2, 3, 5, 3)}
    np.testing.assert_allclose(ours.network.parameters, truth.network.parameters, rtol=1e-9, atol=1e-13)


def test_same_bits_from_run_to_run() -> None:
    runs = []
    for _ in range(2):
        trainer = _trainer("cuda", "mse", Adam(), "tanh")
        with _resident(False):
            trainer.fit(X, _targets("mse"), epochs=1)
        runs.append(trainer.network.parameters)
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("resident", [True, False])
def test_nothing_crosses_the_bus_inside_an_epoch(resident: bool) -> None:
    """No copy is made while steps run: the device array's own copies are forbidden then."""
    trainer = _trainer("cuda", "cross_entropy", Adam(), "relu")
    array, step, steps = type(cuda.to_device(np.zeros(1))), cuda_engine.CudaEngine._step, []

    def refused(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a copy inside an epoch")

    def watched(self: Any, count: int, *rest: Any) -> None:
        steps.append(count)
        with mock.patch.object(array, "copy_to_host", refused), mock.patch.object(array, "copy_to_device", refused):
            step(self, count, *rest)

    with _resident(resident), mock.patch.object(cuda_engine.CudaEngine, "_step", watched):
        trainer.fit(X, _targets("cross_entropy"), epochs=1)
    assert sum(steps) == 3


def test_interrupted_and_taken_up_again() -> None:
    """After the first step; the rest of the epoch is the next fit's."""
    whole, iter_chunks = (_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    step = cuda_engine.CudaEngine._step
    calls = []

    def interrupted(self: Any, *arguments: Any) -> None:
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        step(self, 1, *arguments[1:])

    with _resident(True):
        whole.fit(X, _targets("mse"), epochs=1)
        with mock.patch.object(cuda_engine.CudaEngine, "_step", interrupted), pytest.raises(KeyboardInterrupt):
            iter_chunks.fit(X, _targets("mse"), epochs=1)
        assert iter_chunks._state.progress["row"] == BATCH
        iter_chunks.fit(X, _targets("mse"), epochs=1)
    np.testing.assert_array_equal(iter_chunks.network.parameters, whole.network.parameters)
    assert iter_chunks.history["loss"] == whole.history["loss"]


def test_an_interruption_while_results_are_written_counts_nothing_twice() -> None:
    """Ctrl-C right after the epoch's results are the host's: the engine finishes once more."""
    ours, truth = (_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    settle, calls = cuda_counters._settle, []

    def interrupted(*arguments: Any) -> None:
        settle(*arguments)
        calls.append(0)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with mock.patch.object(cuda_counters, "_settle", interrupted), pytest.raises(KeyboardInterrupt):
        ours.fit(X, _targets("mse"), epochs=1)
    assert len(calls) == 2
    ours.fit(X, _targets("mse"), epochs=1)  # of which nothing is left to train
    truth.fit(X, _targets("mse"), epochs=1)
    assert ours._state.totals == truth._state.totals
    assert ours.history["loss"] == truth.history["loss"]
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)


def _mapped(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """X as a memory map, whose parts have BATCH rows."""
    monkeypatch.setattr(dataset, "PART_BYTES", 1)
    monkeypatch.setattr(dataset, "MICRO_BATCH_ROWS", BATCH)
    mapped = np.memmap(path / "X", np.float64, "w+", shape=X.shape)
    mapped[...] = X
    return mapped


def test_parts_of_a_memory_map_take_turns_in_fixed_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is copied on a stream of its own, while steps over the part before it may run, and to the same vectors."""
    ours, truth = (_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    said: list[str] = []
    seen: list[Any] = []
    array, step = type(cuda.to_device(np.zeros(1))), cuda_engine.CudaEngine._step
    copy = array.copy_to_device

    def copied(self: Any, host: Any, stream: Any = 0) -> None:
        said.extend(["copy"] * (stream != 0))
        copy(self, host, stream)

    def stepped(self: Any, count: int, arrays: Any, trains: bool) -> None:
        said.append("steps")
        seen.append(arrays)
        step(self, count, arrays, trains)

    with _resident(False):
        truth.fit(X, _targets("mse"), epochs=2)
        with (
            mock.patch.object(array, "copy_to_device", copied),
            mock.patch.object(cuda_engine.CudaEngine, "_step", stepped),
            mock.patch.object(cuda, "synchronize", mock.Mock(side_effect=lambda: said.append("wait"))),
        ):
            ours.fit(_mapped(tmp_path, monkeypatch), _targets("mse"), epochs=2)
    part = ["copy", "copy", "steps"]
    assert said == ["wait", *part * 3, "wait", *part * 3, "wait"]  # the first time, before the buffers are allocated
    assert all(all(map(is_, seen[0], each)) for each in seen), "a captured step would not serve all parts"
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)
    assert dict(ours.history) == dict(truth.history)


def test_a_half_is_overwritten_after_the_steps_that_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of each half is recorded after the launches over its part, and waited for before the next copy to it."""
    said: list[str] = []
    array, step = type(cuda.to_device(np.zeros(1))), cuda_engine.CudaEngine._step
    copy = array.copy_to_device

    class Event:
        made = 0

        def __init__(self) -> None:
            self.half, Event.made = Event.made, Event.made + 1

        def record(self) -> None:
            said.append(f"record {self.half}")

        def synchronize(self) -> None:
            said.append(f"wait {self.half}")

    def copied(self: Any, host: Any, stream: Any = 0) -> None:
        said.extend(["copy"] * (stream != 0))
        copy(self, host, stream)

    def stepped(*arguments: Any) -> None:
        said.append("steps")
        step(*arguments)

    mapped = _mapped(tmp_path, monkeypatch)
    with (
        mock.patch.object(cuda, "event", Event),
        mock.patch.object(array, "copy_to_device", copied),
        mock.patch.object(cuda_engine.CudaEngine, "_step", stepped),
    ):
        _trainer("cuda", "mse", Adam(), "tanh").fit(mapped, _targets("mse"), epochs=2)
    part = "wait {0}|copy|copy|steps|record {0}".format
    assert said == "|".join(map(part, (1, 0, 1, 0, 1, 0))).split("|")


def test_an_interruption_between_parts_keeps_whole_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, truth = (_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    parts = dataset.Dataset.iter_chunks

    def cut(self: Any, *arguments: Any) -> Any:
        yield next(parts(self, *arguments))
        raise KeyboardInterrupt

    mapped = _mapped(tmp_path, monkeypatch)
    with mock.patch.object(dataset.Dataset, "iter_chunks", cut), pytest.raises(KeyboardInterrupt):
        ours.fit(mapped, _targets("mse"), epochs=1)
    assert ours._state.progress["row"] == BATCH
    ours.fit(mapped, _targets("mse"), epochs=1)
    truth.fit(X, _targets("mse"), epochs=1)
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)


def test_parts_are_evaluated_as_the_whole() -> None:
    y = _targets("cross_entropy")
    engine = _trainer("cuda", "cross_entropy", Adam(), "relu")._build(BATCH)
    parts = [(X[i : i + BATCH], y[i : i + BATCH], None, i) for i in range(0, ROWS, BATCH)]
    assert engine.evaluate(parts, ROWS) == engine.evaluate([(X, y, None, 0)], ROWS)


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_is_freed_with_its_engine(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at once, where it fails; cuda.core is simulated: a builder collects launches, a graph repeats them."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    closed = []
    launches = {module: module.enqueue for module in (cuda_engine, cuda_launch)}

    class Graph:
        def __init__(self, taken: Any) -> None:
            self.taken = taken
            alive.add(self)

        def launch(self, stream: Any) -> None:
            for kernel, given in self.taken:
                launches[cuda_engine](kernel, *given)

    class Builder:
        def __init__(self) -> None:
            self.taken: Any = []
            alive.add(self)

        def begin_building(self) -> None:
            pass

        def end_building(self) -> Any:
            if fails:
                raise RuntimeError("no graphs here")
            return self

        def complete(self) -> Graph:
            return Graph(self.taken)

        def close(self) -> None:
            closed.append(True)

    def enqueued(kernel: Any, *arguments: Any, stream: Any = 0) -> None:
        if isinstance(stream, Builder):
            stream.taken.append((kernel, arguments))
        else:
            launches[cuda_engine](kernel, *arguments)

    core: Any = types.ModuleType("cuda.core")
    core.Device = lambda: types.SimpleNamespace(
        set_current=lambda: None, default_stream=0, create_graph_builder=Builder
    )
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    for module in launches:
        monkeypatch.setattr(module, "enqueue", enqueued)
    ours, truth = (_trainer("cuda", "mse", SGD(0.05), "relu", shuffle=False) for _ in range(2))
    with _resident(False):
        truth.fit(X, _targets("mse"), epochs=1)
        engine = ours._build(BATCH, train=True)
        engine.launch_mode = "graph"
        engine.train(X, _targets("mse"), rates=np.array([0.05]))
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)
    assert closed == [True]
    gc.collect()
    assert (engine.launch_mode, len(alive)) == (
        ("stream (RuntimeError while capturing: no graphs here)", 0) if fails else ("graph", 1)
    )
    del engine
    gc.collect()
    assert not alive


def test_evaluate_and_resume(tmp_path: Any) -> None:
    trainer = _trainer("cuda", "mse", SGD(0.05, momentum=0.9), "relu")
    trainer.fit(X, _targets("mse"), epochs=1, checkpoint=tmp_path / "run.safetensors")
    again = Trainer.resume(tmp_path / "run.safetensors", backend="cpu")
    assert trainer.evaluate(X, _targets("mse"))["loss"] == pytest.approx(again.evaluate(X, _targets("mse"))["loss"])


FULL = mock.Mock(side_effect=RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] ..."))


def test_a_batch_that_does_not_fit_is_refused() -> None:
    trainer, allocate = _trainer("cuda", "mse", SGD(0.05), "relu"), cuda.device_array

    def small_ones(size: int, dtype: Any) -> Any:
        return FULL() if size > 4 * trainer.network.parameters.size else allocate(size, dtype)

    with (
        mock.patch.object(cuda, "device_array", small_ones),
        pytest.raises(
            MemoryError, match=r"no memory left for 0 MiB of batches of 9 rows; use a smaller batch_size .*OUT_OF"
        ),
    ):
        trainer.fit(X, _targets("mse"), epochs=1)


def test_data_that_do_not_fit_are_refused() -> None:
    allocate = cuda.device_array

    def all_but_x(size: int, dtype: Any) -> Any:
        return FULL() if size == X.size else allocate(size, dtype)

    trainer = _trainer("cuda", "mse", SGD(0.05), "relu")
    with mock.patch.object(cuda, "device_array", all_but_x), pytest.raises(MemoryError, match=r"of X; train on parts"):
        trainer.fit(X, _targets("mse"), epochs=1)


def test_an_array_that_does_not_fit_is_refused() -> None:
    with (
        mock.patch.object(cuda, "to_device", FULL),
        pytest.raises(MemoryError, match=r"no memory left .* of this array"),
    ):
        matmul(np.eye(2), np.eye(2), variant="cuda")


def test_more_rows_than_a_grid_has_are_refused() -> None:
    args = _right_args((4 * 65535 + 1, 1, 1), (0, 1, 1), (0, 1, 1), (0, 1), np.float64)
    with pytest.raises(ValueError, match=r'variant "cuda_naive" takes at most 262140 rows at a time, got 262141'):
        launch("cuda_naive", args, [np.empty(1)] * 4)


def test_an_unknown_variant_is_refused() -> None:
    args = _right_args((1, 1, 1), (0, 1, 1), (0, 1, 1), (0, 1), np.float64)
    with pytest.raises(ValueError, match=f"unknown variant 'cuda_fast' .*; there are: {', '.join(GEMM_VARIANTS)}$"):
        launch("cuda_fast", args, [np.empty(1)] * 4)
