"""Variant `loops`: the optimizers' updates as compiled loops, made from the rules of their specs.

LLVM vectorises these loops. Each rule has a kernel of its own, so that training compiles only the one it uses. Rules
are elementwise: updating the vectors part by part gives the same bits as updating them at once.
"""

import functools
from collections.abc import Callable
from typing import Any

from numba import types

from ..jit.call_by_address import by_address
from ..jit.decorator import jit
from ..specs.optimizers import OPTIMIZER_BY_CODE, OPTIMIZERS, UPDATES, UpdateSpec, flushed
from .elementwise import named


def _signature(real: Any) -> tuple[Any, ...]:
    vector, hyper = types.Array(real, 1, "C"), types.Array(types.float64, 1, "C")
    return vector, vector, vector, vector, hyper, types.float64, types.intp


@functools.cache
def update_kernel(code: int) -> Any:
    """Return the kernel ``(parameters, gradient, state0, state1, hyper, rate, step)`` of an update rule, in place.

    parameters, gradient, state0, state1 : ndarray, shape (P,)
        Of one float dtype. Unused states may be any vector, such as an empty one.
    hyper : ndarray of float64
        The hyper-parameters, in the order of the rule's spec. A call from Python may pass a tuple.
    rate : float
    step : int
        Counts from 1.

    It can be called by address, with `update` as the prototype.
    """
    spec = OPTIMIZER_BY_CODE[code]
    vectors = spec.state_vectors
    constants_of, rule, store = jit(scalar=True)(spec.constants), jit(scalar=True)(spec.rule), jit(scalar=True)(flushed)

    def kernel(parameters: Any, gradient: Any, state0: Any, state1: Any, hyper: Any, rate: float, step: int) -> None:
        constants = constants_of(hyper, rate, step)
        for i in range(parameters.size):
            g = gradient[i]
            s0 = state0[i] if vectors > 0 else g
            s1 = state1[i] if vectors > 1 else g
            p, s0, s1 = rule(parameters[i], g, s0, s1, constants)
            parameters[i] = store(p)
            if vectors > 0:
                state0[i] = store(s0)
            if vectors > 1:
                state1[i] = store(s1)

    return by_address(_signature)(jit(named(f"update_{spec.name}", kernel)))


update = update_kernel(OPTIMIZERS["sgd"].code)
"""Prototype of the kernels that `update_kernel` returns, for `call`."""


def _operation(spec: UpdateSpec) -> Callable[..., None]:
    """Make the kernel of a public update; compiled code chooses the rule, so that a call from Python pays nothing."""
    kernels = [update_kernel(OPTIMIZERS[name].code) for name in spec.rules]
    count = len(kernels)
    first, second, third = kernels[0], kernels[min(1, count - 1)], kernels[-1]
    choose = jit(scalar=True)(spec.choose)

    def step_of(parameters: Any, gradient: Any, state0: Any, state1: Any, numbers: Any) -> None:
        index, hyper, rate, step = choose(*numbers)
        if count == 1 or index == 0:
            first(parameters, gradient, state0, state1, hyper, rate, step)
        elif index == 1:
            second(parameters, gradient, state0, state1, hyper, rate, step)
        else:
            third(parameters, gradient, state0, state1, hyper, rate, step)

    apply = jit(internal=True)(named(f"{spec.operation}_step", step_of))

    def of_one_state(parameters: Any, gradient: Any, state: Any, *numbers: Any) -> None:
        apply(parameters, gradient, state, state, numbers)

    def of_two_states(parameters: Any, gradient: Any, state0: Any, state1: Any, *numbers: Any) -> None:
        apply(parameters, gradient, state0, state1, numbers)

    return jit(named(spec.operation, of_one_state if len(spec.state) == 1 else of_two_states))


KERNELS = {name: _operation(spec) for name, spec in UPDATES.items()}
"""The public updates by operation."""
