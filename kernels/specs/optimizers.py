"""The optimizers' update rules: one record each, from which everything that lists them is generated."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerSpec:
    """An update rule, elementwise over the parameters.

    Attributes
    ----------
    name : str
    code : int
        The integer by which compiled code chooses it.
    state_vectors : int
        State vectors, each as long as the parameters.
    hyperparameters : tuple of str
        Names, in the order of the float64 vector that update kernels take; the learning rate is apart.
    """

    name: str
    code: int
    state_vectors: int
    hyperparameters: tuple[str, ...] = ()


OPTIMIZERS: dict[str, OptimizerSpec] = {
    spec.name: spec
    for spec in (
        OptimizerSpec("none", 0, 0),  # leaves the gradient and changes nothing
        OptimizerSpec("sgd", 1, 0),
        OptimizerSpec("momentum", 2, 1, ("momentum",)),
        OptimizerSpec("nesterov", 3, 1, ("momentum",)),
        OptimizerSpec("adam", 4, 2, ("beta1", "beta2", "epsilon", "weight_decay")),
    )
}
"""Every update rule by name, in the order of the codes."""
