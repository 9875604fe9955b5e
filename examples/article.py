"""From the network that one writes in NumPy to fastnet: the same numbers three times.

A network with one hidden layer is trained by batch gradient descent: first with four functions in NumPy, then with the
kernels of the same names in fastnet, then by a Network and a Trainer.
"""

import numpy as np

from fastnet import SGD, Network, Trainer, kernels

RATE, EPOCHS = 0.05, 200

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (200, 5))  # (B, n): one sample a row
y = np.sin(X[:, :1]) + X[:, 1:2] * X[:, 2:3]  # (B, 1)
start = Network([5, 8, 1], hidden="relu", dtype="float64", seed=0)  # only its initial weights are used at first


# --- in NumPy --------------------------------------------------------------------------------------------------


def dense_forward(X, W, b, activation):
    """Return A = activation(Z) and Z = X W^T + b, both (B, k)."""
    Z = X @ W.T + b
    return activation(Z), Z


def dense_backward_batch(X, Z, dL_dA, W, activation_derivative):
    """Return the gradients with respect to W (k, n), b (k,) and X (B, n)."""
    dZ = dL_dA * activation_derivative(Z)
    return dZ.T @ X, dZ.sum(axis=0), dZ @ W


def relu(Z):
    """max(0, Z)."""
    return np.maximum(0, Z)


def relu_derivative(Z):
    """1 where Z is above 0, else 0."""
    return (Z > 0).astype(Z.dtype)


def mse(y_true, y_pred):
    """Return the mean squared error over the batch."""
    return np.mean((y_pred - y_true) ** 2)


def mse_derivative(y_true, y_pred):
    """Return its gradient: dividing by the batch size here averages all gradients that follow."""
    return 2 * (y_pred - y_true) / len(y_true)


def train(forward, backward, activation, derivative, loss, loss_derivative):
    """Run batch gradient descent with these functions; return the loss of each epoch."""
    (W1, W2), (b1, b2) = ([array.copy() for array in arrays] for arrays in (start.weights, start.biases))
    losses = []
    for _ in range(EPOCHS):
        A1, Z1 = forward(X, W1, b1, activation)
        A2, Z2 = forward(A1, W2, b2, lambda z: z)
        losses.append(loss(y, A2))
        dW2, db2, dA1 = backward(A1, Z2, loss_derivative(y, A2), W2, lambda z: 1.0)
        dW1, db1, _ = backward(X, Z1, dA1, W1, derivative)
        for parameter, gradient in ((W1, dW1), (b1, db1), (W2, dW2), (b2, db2)):
            parameter -= RATE * gradient
    return losses


in_numpy = train(dense_forward, dense_backward_batch, relu, relu_derivative, mse, mse_derivative)

# --- the same loop with compiled kernels: only the functions are exchanged -----------------------------------------

with_kernels = train(
    kernels.dense_forward,
    kernels.dense_backward_batch,
    kernels.relu,
    kernels.relu_derivative,
    kernels.mse,
    kernels.mse_derivative,
)

# --- a Network and a Trainer: the loop is compiled too -----------------------------------------------------------

trainer = Trainer(start, loss="mse", optimizer=SGD(RATE), batch_size=None, shuffle=False)  # None: the full batch
with_trainer = trainer.fit(X, y, epochs=EPOCHS)["loss"]

print("epoch       NumPy     kernels     Trainer")
for epoch in range(0, EPOCHS, 40):
    print(f"{epoch + 1:5}  {in_numpy[epoch]:.8f}  {with_kernels[epoch]:.8f}  {with_trainer[epoch]:.8f}")
np.testing.assert_allclose(with_kernels, in_numpy, rtol=1e-9)
np.testing.assert_allclose(with_trainer, in_numpy, rtol=1e-9)
print("All three agree to 9 digits.")

# Mini-batches need one argument: 16 rows a step, in another order each epoch.
mini = Trainer(Network([5, 8, 1], seed=0), optimizer=SGD(RATE), batch_size=16).fit(X, y, epochs=EPOCHS)
print(f"Batches of 16 reach {mini['loss'][-1]:.5f} in the same {EPOCHS} epochs; the full batch {in_numpy[-1]:.5f}.")
