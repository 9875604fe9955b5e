"""Variant `parallel`: the bits of `simd` for any number of threads."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnet.kernels.cpu.gemm import dense, parallel
from fastnet.kernels.cpu.gemm import gemm as simd
from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.registry import Variant, find, prepare
from fastnet.kernels.specs.base import Case
from fastnet.kernels.specs.operations import OP_SPECS
from fastnet.kernels.verify import WrongKernelError, check

pytestmark = pytest.mark.compiled
COUNTS = (2, 3, 7, 64)
"""Threads that work is divided for: few, odd, more than CPUs, more than tiles."""
SIZES = (
    (1, 1, 1),  # less than any task
    (7, 8, 17),  # a vector and one
    (37, 93, 41),  # odd everywhere
    (129, 70, 66),  # a row and two columns beyond whole tiles
    (5, 1100, 300),  # two blocks of k, fewer rows than a tile
    (300, 2050, 130),  # three blocks of k
    (513, 257, 65),  # one more than whole tiles on every side
)


@pytest.fixture
def no_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SERIAL_MAX_FLOPS", 0)


@pytest.fixture(params=COUNTS)
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, no_threshold: None) -> int:
    """Work is divided for this many threads, however many there are."""
    num_threads()
    monkeypatch.setattr(parallel, "num_threads", lambda: request.param)
    return int(request.param)


# --------------------------------------------------------------------------------------------------------------- bits


def outputs(operation: str, variant: str, case: Case, dtype: str) -> list[bytes]:
    problem = prepare(operation, case, dtype)
    find(operation, variant)(*problem.arguments)
    results = [problem.arguments[i] for i in problem.results]
    assert not any(np.isnan(result).any() for result in results)
    return [result.tobytes() for result in results]


@pytest.mark.sampled(9)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["nn", "tn", "nt", "tt", "ss"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matmul_has_bits_of_simd(size: tuple[int, ...], layout: str, dtype: str, count: int) -> None:
    case = Case(size, "", layout)
    assert outputs("matmul", "parallel", case, dtype) == outputs("matmul", "simd", case, dtype)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("operation", ["dense_forward", "dense_backward_batch"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layers_have_bits_of_simd(
    operation: str, size: tuple[int, ...], activation: str, dtype: str, count: int
) -> None:
    case = Case(size, "", activation)
    assert outputs(operation, "parallel", case, dtype) == outputs(operation, "simd", case, dtype)


def test_backward_pass_without_dx(count: int) -> None:
    """A dX of no elements is not computed; dW and db are the same."""
    problem = prepare("dense_backward_batch", Case((37, 93, 41), "", "relu"), "float32")
    X, Z, dL_dA, W, activation, dW, db, _ = problem.arguments
    nothing = np.empty((0, 93), np.float32)
    parallel.dense_backward_batch(X, Z, dL_dA, W, activation, dW, db, nothing)
    truth = [np.empty_like(dW), np.empty_like(db)]
    dense.dense_backward_batch(X, Z, dL_dA, W, activation, *truth, nothing)
    assert [dW.tobytes(), db.tobytes()] == [array.tobytes() for array in truth]


@pytest.mark.parametrize("make", [lambda m, n: np.empty((n, m)).T, lambda m, n: np.empty((2 * m, 2 * n))[::2, ::2]])
def test_outputs_of_any_strides(make: Callable[[int, int], Any], count: int) -> None:
    A, B, C = prepare("matmul", Case((129, 70, 66), "", "nn"), "float64").arguments
    simd.matmul(A, B, C)
    D = make(129, 66)
    D[...] = np.nan
    parallel.matmul(A, B, D)
    assert (C == D).all()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("operation", ["matmul", "dense_forward", "dense_backward_batch"])
def test_contract_holds_for_any_number_of_threads(operation: str, count: int) -> None:
    for case in OP_SPECS[operation].cases:
        assert check(Variant(operation, "parallel", getattr(parallel, operation)), case, "float32") <= 1 / 3


# ------------------------------------------------------------------------------------------------------------ mutants


def _lost_rows(A: Any, B: Any, C: Any) -> None:
    """Thirds of the rows, rounded down."""
    third = len(A) // 3
    for i in range(3):
        simd.matmul(A[i * third : (i + 1) * third], B, C[i * third : (i + 1) * third])


def _lost_columns(A: Any, B: Any, C: Any) -> None:
    simd.matmul(A, B[:, : B.shape[1] // 16 * 16], C[:, : B.shape[1] // 16 * 16])


def _overlapping_sum(A: Any, B: Any, C: Any) -> None:
    """K in halves, the middle in both."""
    half = A.shape[1] // 2
    simd.matmul(A[:, : half + 1], B[: half + 1], C)
    C += A[:, half:] @ B[half:]


@pytest.mark.parametrize("wrong", [_lost_rows, _lost_columns, _overlapping_sum])
def test_wrong_divisions_are_rejected(wrong: Callable[..., None]) -> None:
    with pytest.raises(WrongKernelError, match="matmul"):
        check(Variant("matmul", "wrong", wrong), Case((37, 93, 41), "", "nn"), "float32")


def test_dividing_k_would_change_bits() -> None:
    A, B, C = prepare("matmul", Case((37, 93, 41), "", "nn"), "float32").arguments
    parallel.matmul(A, B, C)
    D, E = np.empty_like(C), np.empty_like(C)
    simd.matmul(A[:, :50], B[:50], D)
    simd.matmul(A[:, 50:], B[50:], E)
    assert C.tobytes() != (D + E).tobytes()


# --------------------------------------------------------------------------------------------- when workers take part


def test_small_products_run_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class AskedError(Exception):
        pass

    def refuse() -> int:
        raise AskedError

    monkeypatch.setattr(parallel, "num_threads", refuse)
    for operation in ("matmul", "dense_forward", "dense_backward_batch"):
        option = "nn" if operation == "matmul" else "relu"
        function = getattr(parallel, operation)
        function(*prepare(operation, Case((8, 8, 8), "", option), "float32").arguments)
        with pytest.raises(AskedError):
            function(*prepare(operation, Case((128, 128, 128), "", option), "float32").arguments)


@pytest.mark.skipif(num_threads() == 1, reason="one CPU")
def test_workers_share_the_tasks() -> None:
    """A worker runs some of many slow tasks: otherwise the variant would be right, and as slow as `simd`."""
    A, B = np.ones((1024, 1024), np.float32), np.ones((1024, 1024), np.float32)
    C = np.empty_like(A)
    parallel.matmul(A, B, C)
    for _ in range(20):  # another process may use the other core for a while
        before = time.thread_time(), time.process_time()
        parallel.matmul(A, B, C)
        mine, all_of_us = time.thread_time() - before[0], time.process_time() - before[1]
        if all_of_us > 1.2 * mine:
            return
    pytest.fail("no worker ran a task")
