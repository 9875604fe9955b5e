"""Products on tensor cores, in Numba's simulator: as exact as float32, and refused where they cannot run.

`test_cuda.py` runs this file in a process with NUMBA_ENABLE_CUDASIM=1.
"""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from simulator import TENSOR

from fastnet.kernels import matmul
from fastnet.kernels import registry as variants
from fastnet.kernels.cuda import device, gemm_tf32x3, register_tile


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
