"""scikit-learn's MLPClassifier, trained by the kernels of fastnet: one import changes, a pipeline stays as it is."""

import warnings

from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier as Original
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastnet.sklearn import MLPClassifier  # was: from sklearn.neural_network import MLPClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
warnings.simplefilter("ignore", ConvergenceWarning)  # 20 epochs are few

for name, estimator in (("scikit-learn", Original), ("fastnet", MLPClassifier)):
    model = make_pipeline(StandardScaler(), estimator((64,), max_iter=20, random_state=0))
    model.fit(X_train, y_train)
    print(f"{name:13}accuracy {model.score(X_test, y_test):.3f}, loss {model[-1].loss_:.4f} after 20 epochs")
