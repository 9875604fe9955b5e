"""Runs code that uses the thread pool in a process of its own, so that what kills or hangs it harms no other test."""

import os
import subprocess
import sys

PRELUDE = """
import os, sys, time, threading
import numpy as np
from fastnet.kernels import matmul
from fastnet.kernels.cpu.gemm import parallel, gemm as simd
from fastnet.kernels.cpu.threads import pool
from fastnet.kernels.cpu.threads.pool import num_threads
A = np.random.default_rng(0).standard_normal((192, 192)).astype(np.float32)
TRUTH = np.empty_like(A)
simd.matmul(A, A, TRUTH)
def work(times=1):
    for _ in range(times):
        assert matmul(A, A, variant="parallel").tobytes() == TRUTH.tobytes()
    return os.getpid()
"""


def run(code: str, **env: str) -> str:
    """Run in a process of its own and return what it prints; it must end by itself and write no error."""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    errors = [line for line in result.stderr.splitlines() if "compiling kernels" not in line]
    assert (result.returncode, errors) == (0, []), result.stderr
    return result.stdout.strip()
