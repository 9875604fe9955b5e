"""The article's own code, as printed; only its line breaks are restored.

From "Batch training and vectorised backpropagation", article 13 of a series on neural networks from
scratch. `relu_derivative` and `dense_forward` are used there but printed in an earlier article; here they
are the one-line equations that it restates (Z = X @ W.T + b).
"""

import re

DEFINITIONS = """
def relu(Z):
    return np.maximum(0, Z)

def mse(y_true, y_pred):
    return np.mean((y_pred - y_true) ** 2)

def mse_derivative(y_true, y_pred):
    return 2 * (y_pred - y_true) / y_true.shape[0]

def dense_backward_batch(X, Z, dL_dA, W, activation_derivative):
    dZ = dL_dA * activation_derivative(Z)
    dW = dZ.T @ X
    db = np.sum(dZ, axis=0)
    dX = dZ @ W
    return dW, db, dX
"""

RESTATED = """
def dense_forward(X, W, b, activation):
    Z = X @ W.T + b
    return activation(Z), Z

def relu_derivative(Z):
    return (Z > 0).astype(Z.dtype)
"""

BATCH_LOOP = """
learning_rate = 0.01
epochs = 500
for epoch in range(epochs):
    # Forward
    A1, Z1 = dense_forward(X, W1, b1, relu)
    A2, Z2 = dense_forward(A1, W2, b2, lambda z: z)
    loss = mse(y, A2)
    # Backward
    dL_dA2 = mse_derivative(y, A2)
    dW2, db2, dA1 = dense_backward_batch(
        A1, Z2, dL_dA2, W2, lambda z: 1.0
    )
    dW1, db1, _ = dense_backward_batch(
        X, Z1, dA1, W1, relu_derivative
    )
    # Update
    W2 -= learning_rate * dW2
    b2 -= learning_rate * db2
    W1 -= learning_rate * dW1
    b1 -= learning_rate * db1
    if epoch % 50 == 0:
        print(f"Epoch {epoch}, Loss: {loss:.4f}")
"""

_MINI_BATCH_HEAD = """
batch_size = 16
for epoch in range(epochs):
    for i in range(0, len(X), batch_size):
        X_batch = X[i:i+batch_size]
        y_batch = y[i:i+batch_size]
        # forward, backward, update (same as above)
"""


def _same_as_above() -> str:
    """The batch loop's body on the batch's rows, one level deeper."""
    body = BATCH_LOOP[BATCH_LOOP.index("    # Forward") : BATCH_LOOP.index("    if epoch")]
    body = re.sub(r"\bX\b", "X_batch", re.sub(r"\by\b", "y_batch", body))
    return re.sub(r"^", "    ", body, flags=re.M)


MINI_BATCH_LOOP = "learning_rate = 0.01\nepochs = 500\n" + _MINI_BATCH_HEAD + _same_as_above()
