"""Calls of kernels by address: conversions, exceptions, and the choice of the kernel at run time."""

from typing import Any

import numpy as np
import pytest
from numba import types

from fastnet.kernels.jit.call_by_address import by_address, call, kernel_address
from fastnet.kernels.jit.decorator import jit

pytestmark = pytest.mark.compiled

DTYPES = ["float32", "float64"]


def _signature(real: Any) -> tuple[Any, ...]:
    return types.Array(real, 1, "C"), real, types.int64


@by_address(_signature)
@jit(internal=True)
def _add(values: Any, x: float, count: int) -> None:
    for i in range(count):
        values[i] += x


@by_address(_signature)
@jit(internal=True)
def _multiply(values: Any, x: float, count: int) -> None:
    if count > values.size:
        raise IndexError("count is larger than the array")
    for i in range(count):
        values[i] *= x


@jit
def _apply(address: int, values: Any, x: float, count: int) -> None:
    call(_add, address, values.dtype, (values, x, count))


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_is_chosen_by_its_address(dtype: str) -> None:
    """Both kernels have one signature, so that either is the other's prototype."""
    values = np.arange(5, dtype=dtype)
    _apply(kernel_address(_add, np.dtype(dtype)), values, 1.0, 4)
    _apply(kernel_address(_multiply, np.dtype(dtype)), values, 2.0, 3)
    assert values.tolist() == [2, 4, 6, 4, 4]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arguments_are_converted_to_the_registered_types(dtype: str) -> None:
    values = np.zeros(3, dtype)
    _apply(kernel_address(_add, np.dtype(dtype)), values, np.float32(0.5), np.int8(3))
    assert values.tolist() == [0.5, 0.5, 0.5]


def test_exceptions_propagate() -> None:
    values = np.ones(3)
    with pytest.raises(IndexError, match="count is larger than the array"):
        _apply(kernel_address(_multiply, np.dtype("float64")), values, 2.0, 4)
    assert values.tolist() == [1, 1, 1]


def test_address_is_the_same_for_every_call() -> None:
    assert kernel_address(_add, np.dtype("float32")) == kernel_address(_add, np.dtype("float32"))
    assert kernel_address(_add, np.dtype("float32")) != kernel_address(_add, np.dtype("float64"))
