"""A public call that runs out of memory raises MemoryError, and keeps no reference to its arguments."""

import json
import os
import subprocess
import sys

import pytest

OUT_OF_MEMORY = """
import json, resource, weakref
import numpy as np
from fastnet import Network, kernels

def ones(*shape):
    return np.ones(shape, np.float32)

def gaps():
    return ones(600, 1200)[:, ::2]

def square():
    return ones(600, 600)

def labels(count):
    return np.zeros(count, np.int64)

ARGUMENTS = {
    "matmul": lambda: (gaps(), gaps()),
    "dense_forward": lambda: (square(), square(), ones(600), kernels.tanh),
    "dense_backward_batch": lambda: (square(), square(), square(), square(), kernels.tanh_derivative),
    "softmax": lambda: (ones(2, 400_000),),
    "cross_entropy": lambda: (labels(2), ones(2, 400_000)),
    "cross_entropy_derivative": lambda: (labels(2), ones(2, 400_000)),
    "mse": lambda: (ones(400_000, 1), ones(400_000, 1)),
}

def size():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

def run(call, arguments):
    call(*arguments())
    failures = kept = 0
    for spare in range(0, 8 << 20, 1 << 18):
        given = arguments()
        alive = [weakref.ref(array) for array in given if isinstance(array, np.ndarray)]
        resource.setrlimit(resource.RLIMIT_AS, (size() + spare, -1))
        try:
            call(*given)
        except MemoryError:
            failures += 1
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        del given
        kept += sum(array() is not None for array in alive)
    return failures, kept

net = Network([300, 1500, 20])
net.loss = "cross_entropy"
found = {"predict_proba": run(net.predict_proba, lambda: (ones(400, 300), ones(400, 20)))}
for name, arguments in ARGUMENTS.items():
    for variant in kernels.variants(name)[1:]:  # NumPy's BLAS would end the process
        found[f"{name} {variant}"] = run(lambda *given: getattr(kernels, name)(*given, variant=variant), arguments)
print(json.dumps(found))
"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, and reads its size")
def test_no_argument_is_kept() -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-W", "ignore", "-c", OUT_OF_MEMORY]
    for _ in range(2):  # a process that compiles frees much memory, which would serve later calls
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {name: kept for name, (_, kept) in found.items() if kept} == {}
    never = [name for name, (failures, _) in found.items() if failures == 0]
    assert never == ["mse loops"], "which needs no memory"
