"""``fastnet train`` under mpiexec: all of its processes train one network, and the first one prints."""

import os
from typing import Any

_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""Variables by which launchers tell a process its rank: those of MPICH and Intel, of PMIx, and of Open MPI."""


def communicator() -> Any:
    """Return MPI.COMM_WORLD where a launcher of MPI has started this process, otherwise None."""
    if not any(name in os.environ for name in _RANKS):
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        raise ImportError("an MPI launcher has started this, which needs mpi4py: pip install mpi4py mpich") from None
    return MPI.COMM_WORLD
