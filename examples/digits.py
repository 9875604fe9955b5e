"""Learn the bundled handwritten digits, keep the best epoch, save the network, and predict with the file."""

import tempfile
from pathlib import Path

import fastnet.data
from fastnet import Adam, Network, Trainer, load

X, y = fastnet.data.digits()  # (1797, 64) pixels from 0 to 1, and (1797,) labels from 0 to 9
X_train, X_test, y_train, y_test = fastnet.data.split(X, y, share=0.2, seed=0)

net = Network([64, 128, 10], hidden="relu", seed=0)
print(net.summary())
trainer = Trainer(net, loss="cross_entropy", optimizer=Adam(0.001), batch_size=32)
history = trainer.fit(X_train, y_train, epochs=60, validation_split=0.1, patience=10)
print(history.diagnosis())
print("of rows that were not trained on:", trainer.evaluate(X_test, y_test))

path = Path(tempfile.mkdtemp(), "digits.safetensors")
net.save(path)
probabilities = load(path).predict_proba(X_test[:3])
for row, label in zip(probabilities, y_test, strict=False):
    print(f"a {label} is taken for a {row.argmax()}, with probability {row.max():.3f}")
