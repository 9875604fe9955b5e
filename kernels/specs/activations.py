"""The activations: one record each, from which everything that lists activations is generated."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ActivationSpec:
    """An elementwise activation and its derivative.

    Attributes
    ----------
    name : str
        Name of the public function; its derivative is ``<name>_derivative``.
    code : int
        The integer by which compiled code chooses it.
    needs_z : bool
        Whether the derivative needs Z; otherwise the output A is enough.
    he_init : bool
        Whether initial weights have He's scale (the ReLU family) rather than Glorot's.
    """

    name: str
    code: int
    needs_z: bool = False
    he_init: bool = False


ACTIVATIONS: dict[str, ActivationSpec] = {
    spec.name: spec
    for spec in (
        ActivationSpec("identity", 0),
        ActivationSpec("relu", 1, he_init=True),
        ActivationSpec("tanh", 2),
        ActivationSpec("sigmoid", 3),
        ActivationSpec("leaky_relu", 4, he_init=True),
        ActivationSpec("gelu", 5, needs_z=True, he_init=True),
        ActivationSpec("silu", 6, needs_z=True, he_init=True),
    )
}
"""Every activation by name, in the order of the codes."""

ACTIVATION_BY_CODE = tuple(ACTIVATIONS.values())
