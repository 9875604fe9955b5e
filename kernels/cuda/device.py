"""The only place that imports `numba.cuda`: detects a device, or what is missing for one, and sets the flags.

Only modules of `kernels.cuda` import this one, and they are imported at the first call of a CUDA variant, so they do
not slow down the import of fastnet. The package numba-cuda provides `numba.cuda` (the module inside Numba is deprecated
and serves the simulator only); the extra ``cuda12`` or ``cuda13`` installs it.

Flags. Fast math stays off: it flushes denormals and approximates division. FMA contraction is on by default. Link-time
optimization is off, so that the PTX that `ptx_report` reads is what the linker assembles at a launch.

The simulator (``NUMBA_ENABLE_CUDASIM=1``) runs every kernel as Python, with one operating system thread per CUDA
thread: it gives correct results, for tiny inputs.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit.cache import SafeCache, new_cache

try:
    from numba import cuda as cuda  # the other CUDA modules import it from here
except ImportError:  # a Numba without the module, and no numba-cuda
    cuda = None

Array = NDArray[Any]

SIMULATED = bool(int(os.environ.get("NUMBA_ENABLE_CUDASIM", "0") or 0))
"""Whether Numba's simulator stands in for a device."""


@functools.cache
def missing() -> str:
    """Return in one line what keeps CUDA kernels from running here; empty if nothing does."""
    if SIMULATED:
        return ""
    if importlib.util.find_spec("numba_cuda") is None:
        return (
            'numba-cuda is not installed: pip install "numba-cuda[cu12]>=0.30,<0.31", or [cu13] for a driver of CUDA 13'
        )
    try:
        cuda.current_context()
    except Exception as error:  # any error of the driver
        said = " ".join(str(error).split())
        if "library" in said.lower() or "not found" in said.lower():
            return f"the NVIDIA driver is not installed, or is not found ({said[:160]})"
        return f"the driver offers no usable card ({said[:160]})"
    return ""


def require(asked: str = 'variant="cuda"') -> None:
    """Raise an error if there is no device.

    Parameters
    ----------
    asked : str
        The request, as the user wrote it; the message begins with it.

    Raises
    ------
    OSError
        If `missing` reports something.
    """
    if missing():
        raise OSError(f'{asked} cannot run here: {missing()}; "auto" computes on the CPU')


LEAST_CAPABILITY = {"cuda_tf32x3": (8, 0)}
"""Minimum compute capability of the GEMM variants that not every card can run: TF32 came with 8.0."""


def capability() -> tuple[int, int]:
    """Return the compute capability of the card; the simulator reports that of a new one."""
    return (9, 0) if SIMULATED else tuple(cuda.get_current_device().compute_capability)


def too_old(variant: str) -> str:
    """Return a phrase that says that the card is too old for a GEMM variant; "" if it is not."""
    least = LEAST_CAPABILITY.get(variant, (0, 0))
    if least == (0, 0) or capability() >= least:
        return ""
    needed, here = ("{}.{}".format(*each) for each in (least, capability()))
    return f"needs a card of compute capability {needed} or more; this one has {here}"


# ----------------------------------------------------------------------------------------- decorators


def device(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call, without fast math, whatever flags the CPU uses.

    Parameters
    ----------
    function : callable
        Plain Python over scalars, device arrays and tuples.

    Returns
    -------
    dispatcher
        Callable from kernels and device functions only; in the simulator a Python function.
    """
    return cuda.jit(device=True)(function)  # without fastmath, whatever flags the CPU uses


def by_code(functions: dict[int, Callable[..., Any]]) -> Any:
    """Make ``(code, *arguments) -> functions[code](*arguments)``, where any other code gets the last function.

    Parameters
    ----------
    functions : dict of int to callable
        Plain functions with the same number of arguments and the same result type.

    Returns
    -------
    dispatcher
        A device function: a chain of comparisons, which NVVM inlines into its callers.
    """
    (_, last), *others = reversed(functions.items())
    last = device(last)
    chain = device(lambda code, *arguments: last(*arguments))
    for code, function in others:
        chain = _choice(code, device(function), chain)
    return chain


def _choice(own: int, function: Any, others: Any) -> Any:
    """Return a device function that calls ``function`` if its first argument is ``own``, else ``others``."""

    @device
    def choose(code: int, *arguments: Any) -> Any:
        """Call one or the other."""
        return function(*arguments) if code == own else others(code, *arguments)

    return choose


def register_limit(threads: int, blocks: int) -> int:
    """Return the most registers per thread with which ``blocks`` blocks of ``threads`` threads can share an SM.

    Source: the CUDA C++ Programming Guide's table of technical specifications: 65536 registers per SM, 255 per thread;
    and Nsight Compute's occupancy calculator: a warp gets them in units of 256, so a thread in units of 8.
    """
    return min(255, 65536 // (threads * blocks) // 8 * 8)


def kernel(threads: int, blocks: int = 1) -> Callable[[Callable[..., Any]], Any]:
    """Make the decorator of a kernel, which registers it in CUDA_KERNELS under its name.

    Parameters
    ----------
    threads : int
        Threads of every block that it will be launched with.
    blocks : int, default 1
        Blocks that should share an SM. Both limit the registers that ptxas may allocate: see `register_limit`.

    Returns
    -------
    callable
        Decorator, which returns Numba's dispatcher; it compiles at the first launch.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        """Register the function in CUDA_KERNELS, and return its dispatcher."""
        if SIMULATED:
            made = cuda.jit(function)
            made.extensions.append(SimpleNamespace(prepare_args=_simulated_tuples))
        else:
            # In one call: numba-cuda 0.30.4 forgets the lto of ``cuda.jit(lto=False)(function)``, and links with it.
            made = cuda.jit(function, max_registers=register_limit(threads, blocks), lto=False)
            function.__qualname__ = function.__name__  # unique also for kernels of a factory; it names the cache file
            made._cache = new_cache(function, _cuda_cache())
        CUDA_KERNELS[function.__name__] = (function, made, threads, blocks)
        return made

    return decorate


@functools.cache
def _cuda_cache() -> Any:
    """Return the class of a CUDA kernel's cache: numba-cuda's, with the safety of the CPU's.

    It stores PTX and machine code under the signature and the card's compute capability, so it needs a card when a
    kernel is loaded or saved, at its first launch.
    """

    class CudaCache(SafeCache, cuda.dispatcher.CUDACache):  # type: ignore[misc]
        """The cache of a kernel for CUDA."""

        def _index_key(self, sig: Any, codegen: Any) -> Any:
            """Identify a kernel by signature, toolkit, compute capability, and the release that compiled it."""
            return *super()._index_key(sig, codegen), importlib.metadata.version("numba-cuda")

    return CudaCache


def _simulated_tuples(kind: Any, value: Any, **options: Any) -> tuple[Any, Any]:
    """Convert the arrays of a tuple to the simulator's arrays in kernels, which the simulator itself does not do."""
    if isinstance(value, tuple):
        fake, make = cuda.simulator.kernel, getattr(value, "_make", tuple)
        seen = fake.FakeWithinKernelCUDAArray
        value = make(seen(item) if isinstance(item, fake.FakeCUDAArray) else item for item in value)
    return kind, value


CUDA_KERNELS: dict[str, tuple[Callable[..., Any], Any, int, int]] = {}
"""Every kernel by name: its Python function, its dispatcher, threads per block, blocks that should share an SM."""


def enqueue(kernel: Any, grid: int | tuple[int, ...], threads: int, *arguments: Any, stream: Any = 0) -> None:
    """Launch a kernel; the call does not wait for it.

    Parameters
    ----------
    kernel : dispatcher
        A result of `kernel`.
    grid : int or tuple of int
        Blocks, in one to three dimensions.
    threads : int
        Threads of a block.
    *arguments
        Arguments of the kernel.
    stream : stream or graph builder, default 0
        The stream to launch on. ``kernel[grid, threads, stream]`` of numba-cuda keeps the stream, and all that it owns,
        in a cache of 128 launches, and warns about the small grids of small problems; this function does neither.
    """
    if SIMULATED:
        kernel[grid, threads](*arguments)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Grid size.*")
        configured = type(kernel).configure.__wrapped__(kernel, grid, threads, stream)  # the function below the cache
    configured(*arguments)


# -------------------------------------------------------------------------------------------- arrays


@contextlib.contextmanager
def _enough_memory(size: int, purpose: str) -> Iterator[None]:
    """Turn the driver's out-of-memory error into a MemoryError.

    Parameters
    ----------
    size : int
        Bytes that the body of the ``with`` statement allocates.
    purpose : str
        What the memory is for, and what to do instead; the message ends with it.

    Raises
    ------
    MemoryError
        If they do not fit on the card. Other errors pass through.
    """
    try:
        yield
    except Exception as error:  # the driver's own class, which moves from version to version
        if "memory" not in str(error).lower():
            raise
        raise MemoryError(f"the GPU has no memory left for {size >> 20} MiB of {purpose} ({error})") from None


def send(array: Array) -> Any:
    """Copy an array to the device.

    Parameters
    ----------
    array : ndarray
        Of any shape and dtype, not empty. Its strides are kept if it is contiguous in either order.

    Returns
    -------
    device array
        A copy, in C order if the array was contiguous in neither order.

    Raises
    ------
    MemoryError
        If it does not fit on the card.
    """
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    with _enough_memory(array.nbytes, "this array; call the kernel for parts of it"):
        return cuda.to_device(array)


def empty(size: int, dtype: Any, purpose: str = "workspace; call the kernel for parts") -> Any:
    """Allocate an uninitialised vector on the device.

    Parameters
    ----------
    size : int
        Elements; at least one is allocated, since CUDA rejects empty arrays.
    dtype : dtype
    purpose : str
        Ends the message of the error.

    Returns
    -------
    device array, shape (max(1, size),)

    Raises
    ------
    MemoryError
        If it does not fit on the card.
    """
    with _enough_memory(size * np.dtype(dtype).itemsize, purpose):
        return cuda.device_array(max(1, size), dtype)


def on_host(function: Callable[..., None], results: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """Call a device variant with host arrays: send the arguments, and fetch the results into the host's arrays.

    Parameters
    ----------
    function : callable
        A value of `variants.VARIANTS`.
    results : tuple of int
        Positions of the arguments that it fills; negative ones count from the end.
    arguments : tuple
        Arrays of any strides, and numbers. Empty arrays stay on the host.

    Raises
    ------
    OSError
        If there is no device.
    MemoryError
        If the arrays do not fit on the card.
    """
    require()
    filled = {i % len(arguments) for i in results}  # row by row, as the kernels write
    arrays = [np.ascontiguousarray(a) if i in filled else a for i, a in enumerate(arguments)]
    sent = [send(a) if isinstance(a, np.ndarray) and a.size else a for a in arrays]
    function(*sent)
    for i in filled:
        if arguments[i].size:
            arguments[i][...] = sent[i].copy_to_host()
