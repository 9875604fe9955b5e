"""``fastnet train`` under mpiexec: all processes train one network together, and only the first one prints."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""Variables in which launchers tell a process its rank: MPICH and Intel MPI, PMIx, and Open MPI."""

_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Variables in which they tell how many processes they have started; PMIx has none."""


@contextmanager
def only_first_prints() -> Iterator[None]:
    """Silence a block on all processes but the first, as the launcher's variables number them; needs no MPI."""
    if all(os.environ.get(name, "0") == "0" for name in _RANKS):
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def communicator() -> Any:
    """Return MPI.COMM_WORLD if an MPI launcher has started this process, otherwise None.

    Raises
    ------
    ImportError
        If mpi4py is not installed.
    RuntimeError
        If the launcher has started several processes, but mpi4py sees only one because it uses another MPI.
    """
    if not any(name in os.environ for name in _RANKS):
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        raise ImportError("an MPI launcher has started this, which needs mpi4py: pip install mpi4py mpich") from None
    for name in _SIZES:
        size = os.environ.get(name, "1")
        if MPI.COMM_WORLD.size == 1 and size != "1":
            raise RuntimeError(
                f"the launcher has started {size} processes ({name}), but mpi4py, whose MPI is {MPI.get_vendor()[0]}, "
                "sees 1: each would train alone; use the mpiexec of this MPI, or install mpi4py for the launcher's"
            )
    return MPI.COMM_WORLD
