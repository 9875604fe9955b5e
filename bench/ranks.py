"""Training over ranks of one thread each, against one process of as many threads, on one machine.  Prints a table.

    mpiexec -n 2 python bench/ranks.py [--rounds 9] [--epochs 2]

In each round both train the same network for some epochs, in turns; the ratio is the median over rounds. At the end
their parameters are compared to the bit. Plain SGD, mse, ReLU, float32, shuffled. In brackets is what the model of
`many_machines.py` predicts, for a core for each rank and each thread.
"""

import argparse
import statistics
import time

import many_cores
import many_machines
import numpy as np
from limit_epoch import NETWORKS
from mpi4py import MPI

from fastnet import SGD, Network, Trainer

NAMES = ("784-256-128-10", "512-1024-1024-10")


def wait_for_all(comm: MPI.Intracomm) -> None:
    """Wait for all ranks, and leave the cores to those that still compute."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=2)
    options, comm = parser.parse_args(), MPI.COMM_WORLD
    if comm.rank == 0:
        columns = f"{comm.size} ranks x 1 thread", f"1 rank x {comm.size} threads", "ratio"
        print(f"{'us a step':<20}{'batch':>7}{columns[0]:>20}{columns[1]:>20}{columns[2]:>14}", flush=True)
    for name in NAMES:
        sizes, batch, rows = NETWORKS[name]
        rng = np.random.default_rng(0)
        X, y = (rng.standard_normal((rows, k)).astype("float32") for k in (sizes[0], sizes[-1]))
        together = Trainer(Network(sizes), optimizer=SGD(1e-3), batch_size=batch, threads=1, comm=comm)
        alone = Trainer(Network(sizes), optimizer=SGD(1e-3), batch_size=batch, threads=comm.size)
        times = []
        for _ in range(options.rounds + 1):
            seconds = []
            for trainer in (together, alone):
                wait_for_all(comm)
                start = time.perf_counter()
                if trainer is together or comm.rank == 0:
                    trainer.fit(X, y, options.epochs, progress=False)
                seconds.append((time.perf_counter() - start) / options.epochs / -(-rows // batch))
            times.append(seconds)
        if comm.rank == 0:
            assert together.network.parameters.tobytes() == alone.network.parameters.tobytes(), "bits differ"
            ours, theirs = (statistics.median(column) * 1e6 for column in zip(*times[1:], strict=True))
            ratio = statistics.median(a / b for b, a in times[1:])
            model = many_machines.seconds(sizes, batch, comm.size, many_machines.MEMORY, cores=1) * 1e6
            model_of_threads = many_cores.regions(sizes, batch, comm.size) * 1e6
            cells = [f"{ours:.0f} ({model:.0f})", f"{theirs:.0f} ({model_of_threads:.0f})"]
            said = f"{ratio:.2f} ({model_of_threads / model:.2f})"
            print(f"{name:<20}{batch:>7}{cells[0]:>20}{cells[1]:>20}{said:>14}", flush=True)


if __name__ == "__main__":
    main()
