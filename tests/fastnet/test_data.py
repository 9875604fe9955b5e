"""The bundled digits are the published ones; splits hold out what they say."""

import hashlib

import numpy as np
import pytest

from fastnet import data


def test_digits_match_the_published_data() -> None:
    X, y = data.digits()
    assert (X.shape, X.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    pixels = X * 16
    assert (pixels == pixels.astype(np.uint8)).all()
    digest = hashlib.sha256(pixels.astype(np.uint8).tobytes() + y.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"  # scikit-learn's load_digits
    X[...] = 0
    assert data.digits()[0].any(), "every call gives arrays of its own"


def test_split_holds_out_a_fraction() -> None:
    X, y = np.arange(20).reshape(10, 2), np.arange(10)
    X_train, X_out, y_train, y_out = data.split(X, y, 0.3, seed=1)
    assert (len(X_train), len(X_out)) == (7, 3)
    assert sorted([*y_train, *y_out]) == list(range(10))
    assert (X_train[:, 0] == 2 * y_train).all()
    assert (X_out[:, 0] == 2 * y_out).all()
    assert (np.diff(y_train) > 0).all()
    assert data.split(X, y, 0.3, seed=1)[3].tolist() == y_out.tolist()
    assert any(data.split(X, y, 0.3, seed=seed)[3].tolist() != y_out.tolist() for seed in range(2, 5))


def test_split_is_checked() -> None:
    with pytest.raises(ValueError, match="the same number of rows"):
        data.split(np.ones((3, 1)), np.ones(4))
    with pytest.raises(ValueError, match="leaves none"):
        data.split(np.ones((1, 1)), np.ones(1))
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match="share is"):
            data.split(np.ones((4, 1)), np.ones(4), share)
