"""The only place that imports `numba.cuda`: whether a device is here, what is missing where none is, the flags.

Only modules of `kernels.cuda` import this one, and they are imported at the first call of a CUDA variant, so that
importing fastnet costs no more for them. The package numba-cuda provides `numba.cuda` (the module
inside Numba is deprecated and serves the simulator only); ``pip install "fastnet-jit[cuda12]"`` or ``[cuda13]`` brings
it.

Flags. Fast math stays off: it flushes denormals and approximates division. FMA contraction is on by default. The
CPU's flags are in `_jit`; nothing is shared, since there is neither a cache key nor a vector width to agree on.

The simulator (``NUMBA_ENABLE_CUDASIM=1``) runs every kernel as Python, one thread of the operating system for a CUDA
thread: right answers for tiny inputs.
"""

import contextlib
import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from numba import cuda as cuda  # the other CUDA modules import it from here
except ImportError:  # a Numba without the module, and no numba-cuda
    cuda = None

Array = NDArray[Any]

SIMULATED = bool(int(os.environ.get("NUMBA_ENABLE_CUDASIM", "0") or 0))
"""Whether Numba's simulator stands in for a device."""


@functools.cache
def missing() -> str:
    """What keeps CUDA kernels from running here, in one line; empty where nothing does."""
    if SIMULATED:
        return ""
    if importlib.util.find_spec("numba_cuda") is None:
        return 'numba-cuda is not installed: pip install "fastnet-jit[cuda12]", or [cuda13] for a driver of CUDA 13'
    try:
        cuda.current_context()
    except Exception as error:  # whatever the driver says
        said = " ".join(str(error).split())
        if "library" in said.lower() or "not found" in said.lower():
            return f"the NVIDIA driver is not installed, or is not found ({said[:160]})"
        return f"the driver offers no usable card ({said[:160]})"
    return ""


def require(asked: str = 'variant="cuda"') -> None:
    """Refuse to go on without a device, saying what is missing."""
    if missing():
        raise OSError(f"{asked} cannot run here: {missing()}; the CPU's can, such as auto")


# ----------------------------------------------------------------------------------------- decorators


def device(function: Callable[..., Any]) -> Any:
    """Code that kernels call."""
    return cuda.jit(device=True)(function)  # without fastmath, whatever flags the CPU uses


def by_code(functions: dict[int, Callable[..., Any]]) -> Any:
    """Make ``(code, *arguments) -> functions[code](*arguments)``, where a code that is none of them gets the last.

    A chain of comparisons, which NVVM inlines into its callers.
    """
    (_, last), *others = reversed(functions.items())
    last = device(last)
    chain = device(lambda code, *arguments: last(*arguments))
    for code, function in others:
        chain = _choice(code, device(function), chain)
    return chain


def _choice(own: int, function: Any, others: Any) -> Any:
    @device
    def choose(code: int, *arguments: Any) -> Any:
        return function(*arguments) if code == own else others(code, *arguments)

    return choose


def register_limit(threads: int, blocks: int) -> int:
    """Registers a thread may have, so that so many blocks of so many threads share an SM's 65536."""
    return min(255, 65536 // (threads * blocks) // 8 * 8)


def kernel(threads: int, blocks: int = 1) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a kernel that is launched with so many threads a block, of which so many blocks share an SM.

    That bounds the registers that ptxas allots.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        CUDA_KERNELS[function.__name__] = (function, threads, blocks)
        if not SIMULATED:
            return cuda.jit(max_registers=register_limit(threads, blocks), lto=False)(function)
        simulated = cuda.jit(function)
        simulated.extensions.append(SimpleNamespace(prepare_args=_simulated_tuples))
        return simulated

    return decorate


def _simulated_tuples(kind: Any, value: Any, **options: Any) -> tuple[Any, Any]:
    """Give a kernel the arrays of a tuple as arrays of a kernel, which the simulator leaves out."""
    if isinstance(value, tuple):
        fake, make = cuda.simulator.kernel, getattr(value, "_make", tuple)
        seen = fake.FakeWithinKernelCUDAArray
        value = make(seen(item) if isinstance(item, fake.FakeCUDAArray) else item for item in value)
    return kind, value


CUDA_KERNELS: dict[str, tuple[Callable[..., Any], int, int]] = {}
"""Every kernel by name: its Python function, threads a block, and blocks that are to share an SM."""

# -------------------------------------------------------------------------------------------- arrays


@contextlib.contextmanager
def _enough_memory(size: int, purpose: str) -> Iterator[None]:
    """Where so many bytes do not fit the card, a MemoryError that says for what they were."""
    try:
        yield
    except Exception as error:  # the driver's own class, which moves from version to version
        if "memory" not in str(error).lower():
            raise
        raise MemoryError(f"the GPU has no memory left for {size >> 20} MiB of {purpose} ({error})") from None


def send(array: Array) -> Any:
    """Copy an array to the device; its strides too where it is contiguous in either order."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    with _enough_memory(array.nbytes, "this array; call the kernel for parts of it"):
        return cuda.to_device(array)


def empty(size: int, dtype: Any, purpose: str = "workspace; call the kernel for parts") -> Any:
    """An uninitialised vector on the device; of no elements there is none, so at least one."""
    with _enough_memory(size * np.dtype(dtype).itemsize, purpose):
        return cuda.device_array(max(1, size), dtype)


def on_host(function: Callable[..., None], results: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """Call a device variant with host arrays: what comes in is sent, and the results are fetched."""
    require()
    with quiet():
        filled = {i % len(arguments) for i in results}  # row by row, as the kernels write
        arrays = [np.ascontiguousarray(a) if i in filled else a for i, a in enumerate(arguments)]
        sent = [send(a) if isinstance(a, np.ndarray) and a.size else a for a in arrays]
        function(*sent)
        for i in filled:
            if arguments[i].size:
                arguments[i][...] = sent[i].copy_to_host()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Numba's warning of grids that do not fill a card: small problems have small grids."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Grid size.*")
        yield
