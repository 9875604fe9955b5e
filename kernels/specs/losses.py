"""The losses: one record each, from which everything that lists losses is generated."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LossSpec:
    """A loss over a batch of outputs.

    Attributes
    ----------
    name : str
        Name of the public function; its gradient is ``<name>_derivative``.
    code : int
        The integer by which compiled code chooses it.
    mean_over_outputs : bool
        Whether it is reported as a mean over all elements; otherwise as a mean over rows of the sum over outputs.
    takes_labels : bool
        Whether targets are class labels (B,) rather than a matrix (B, k).
    counts_correct : bool
        Whether it is a loss for classification, of which an accuracy is reported.
    """

    name: str
    code: int
    mean_over_outputs: bool = False
    takes_labels: bool = False
    counts_correct: bool = False


LOSSES: dict[str, LossSpec] = {
    spec.name: spec
    for spec in (
        LossSpec("mse", 0, mean_over_outputs=True),
        LossSpec("mae", 1, mean_over_outputs=True),
        LossSpec("huber", 2, mean_over_outputs=True),
        LossSpec("cross_entropy", 3, takes_labels=True, counts_correct=True),
        LossSpec("binary_cross_entropy", 4, counts_correct=True),
    )
}
"""Every loss by name, in the order of the codes."""
