"""The CUDA variants in Numba's simulator: their contracts, and wrong kernels that the checks reject.

`test_cuda.py` runs this file in a process with NUMBA_ENABLE_CUDASIM=1.
"""

from typing import Any
from unittest import mock

import numpy as np
import pytest
from simulator import TENSOR

from fastnet.kernels import matmul
from fastnet.kernels import registry as variants
from fastnet.kernels.cuda import arguments, steps
from fastnet.kernels.cuda import variants as cuda_variants
from fastnet.kernels.cuda.launch import GEMM_VARIANTS, launch
from fastnet.kernels.registry import CUDA_VARIANTS, OP_SPECS, Case, Variant
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.kernels.verify import WrongKernelError, check

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


# ------------------------------------------------------------------------------------------------------------ mutants

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


# ----------------------------------------------------------------------------------------------------------- refusals


def test_more_rows_than_a_grid_has_are_refused() -> None:
    args = _right_args((4 * 65535 + 1, 1, 1), (0, 1, 1), (0, 1, 1), (0, 1), np.float64)
    with pytest.raises(ValueError, match=r'variant "cuda_naive" takes at most 262140 rows at a time, got 262141'):
        launch("cuda_naive", args, [np.empty(1)] * 4)


def test_an_unknown_variant_is_refused() -> None:
    args = _right_args((1, 1, 1), (0, 1, 1), (0, 1, 1), (0, 1), np.float64)
    with pytest.raises(ValueError, match=f"unknown variant 'cuda_fast' .*; there are: {', '.join(GEMM_VARIANTS)}$"):
        launch("cuda_fast", args, [np.empty(1)] * 4)
