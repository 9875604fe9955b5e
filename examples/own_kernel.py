"""Write a kernel of your own, hold it against NumPy, time it, and let the layers of fastnet call it.

A kernel for one project needs no change of the package: any function of Z serves as an activation of the layers. One
that others should use is registered instead, and then verified and profiled with all others: docs/extending.md.
"""

import time

import numba
import numpy as np

from fastnet.kernels import dense_backward_batch, dense_forward


@numba.vectorize
def softsign(z):
    """z / (1 + |z|), which Numba compiles for arrays of any shape."""
    return z / (1 + abs(z))


@numba.vectorize
def softsign_derivative(z):
    """1 / (1 + |z|)^2."""
    return 1 / (1 + abs(z)) ** 2


rng = np.random.default_rng(0)
X, W, b = rng.normal(size=(256, 64)), rng.normal(size=(128, 64)) / 8, np.zeros(128)

# 1. Hold it against the equations in NumPy.
Z = X @ W.T + b
A, _ = dense_forward(X, W, b, softsign)
np.testing.assert_allclose(A, Z / (1 + np.abs(Z)), rtol=1e-9, atol=1e-12)

# 2. Hold its gradient against central differences of the sum of A.
dW, db, dX = dense_backward_batch(X, Z, np.ones_like(A), W, softsign_derivative)
step = 1e-6
ends = [dense_forward(X, W, b + shift * np.eye(128)[0], softsign)[0].sum() for shift in (step, -step)]
np.testing.assert_allclose(db[0], (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
print("softsign and its derivative agree with NumPy and with central differences")

# 3. Time it, where the machine is quiet.
for name, function in (("NumPy", lambda Z: Z / (1 + np.abs(Z))), ("compiled", softsign)):
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        function(Z)
        times.append(time.perf_counter() - begin)
    print(f"{name:9}{sorted(times)[25] * 1e6:7.1f} us for {Z.size:,} numbers")
