"""Variant `simd`: activations and their derivatives over vectors.

What changed from `loops`: exp and tanh come from `vmath`, as plain arithmetic or AVX-512 instructions, so that LLVM
vectorises each loop to the full register; `loops` calls libm for one element at a time. At 16384 elements this is 6 to
35 times as fast. What it costs: errors of up to 2 ulp (silu 3.4, gelu 4) instead of libm's 0.6 to 1.

Each activation has kernels of its own, made from the function of its name in `vmath`, or from its spec if `vmath` has
none, so that a network compiles only those that it uses. The caller allocates every output.
"""

import functools
from typing import Any

from numba import types

from ..jit.call_by_address import by_address, kernel_address
from ..jit.decorator import jit
from ..specs.activations import ACTIVATION_BY_CODE, IDENTITY
from .elementwise import elementwise, formula, named
from .vmath import avx512, erf, exp, log, sigmoid, tanh

_VMATH = (exp, log, tanh, sigmoid, erf)


def _vectorisable(name: str) -> Any:
    """Find a scalar function in `vmath` by name; None if there is none."""
    return next((getattr(module, name) for module in _VMATH if hasattr(module, name)), None)


def _function(name: str) -> Any:
    """Return the scalar function from which the kernel of an activation or a derivative is made."""
    return _vectorisable(name) or formula(name)


def _vectors(count: int) -> Any:
    return by_address(lambda real: (types.Array(real, 1, "C"),) * count)


@functools.cache
def activation_kernel(code: int) -> Any:
    """Return the kernel ``(Z, out)`` of an activation: out = f(Z) over vectors of one length.

    It can be called by address, with `apply_activation` as the prototype.
    """
    name = ACTIVATION_BY_CODE[code].name
    return _vectors(2)(avx512.KERNELS.get(name) or elementwise(f"simd_{name}", _function(name)))


@functools.cache
def derivative_kernel(code: int) -> Any:
    """Return the kernel ``(Z, out)`` of an activation's derivative: out = f'(Z) over vectors of one length."""
    spec = ACTIVATION_BY_CODE[code]
    name, from_output = f"{spec.name}_derivative", spec.derivative_from_output
    if from_output is None or _vectorisable(spec.name) is None or _vectorisable(name) is not None:
        return _vectors(2)(elementwise(f"simd_{name}", _function(name)))
    whole, of_output = activation_kernel(code), jit(scalar=True)(from_output)

    def kernel(Z: Any, out: Any) -> None:
        whole(Z, out)
        for i in range(out.size):
            out[i] = of_output(out[i])

    return _vectors(2)(jit(named(f"simd_{name}", kernel)))


@functools.cache
def times_derivative_kernel(code: int) -> Any:
    """Return the kernel ``(A, Z, dZ)`` of an activation: dZ <- dZ * f'(Z) over vectors of one length.

    It reads A if the derivative can be computed from the output, otherwise Z; the other of the two may be any vector.
    Where the derivative is 0, dZ becomes 0, even from infinity. The kernel can be called by address, with
    `times_derivative` as the prototype.
    """
    spec = ACTIVATION_BY_CODE[code]
    from_output = spec.derivative_from_output
    function = _function(f"{spec.name}_derivative") if from_output is None else jit(scalar=True)(from_output)
    from_z = from_output is None

    def kernel(A: Any, Z: Any, dZ: Any) -> None:
        source = Z if from_z else A
        zero = dZ.dtype.type(0)
        for i in range(dZ.size):
            slope = function(source[i])
            dZ[i] = (dZ[i] if slope != zero else zero) * slope

    return _vectors(3)(jit(named(f"simd_times_{spec.name}_derivative", kernel)))


@functools.cache
def activation_address(code: int, dtype: Any) -> int:
    """Return the address of an activation's kernel for a dtype, compiled at the first call."""
    return kernel_address(activation_kernel(code), dtype)


@functools.cache
def derivative_address(code: int, dtype: Any) -> int:
    """Return the address of an activation's `derivative_kernel`, whose prototype is `apply_activation` too."""
    return kernel_address(derivative_kernel(code), dtype)


apply_activation = activation_kernel(IDENTITY)
"""Prototype of the kernels that `activation_kernel` returns, for `call`."""

times_derivative = times_derivative_kernel(IDENTITY)
"""Prototype of the kernels that `times_derivative_kernel` returns, for `call`."""


KERNELS = {
    operation: kernel(spec.code)
    for spec in ACTIVATION_BY_CODE
    if _vectorisable(spec.name) is not None
    for operation, kernel in ((spec.name, activation_kernel), (f"{spec.name}_derivative", derivative_kernel))
}
"""The kernels ``(Z, out)`` by operation, except those that would equal the kernels of `loops`."""
