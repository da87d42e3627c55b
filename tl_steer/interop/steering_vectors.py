"""steering-vectors' `SteeringVector`: an activation for each block, added at its output.

From one: `Directions.of`. It has no files. Source: steering-vectors 0.12.2.
"""

from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed
from tl_steer.interop.directions import directions_of


@typed
def as_steering_vector(bank: Bank) -> Any:
    """One vector for steering-vectors, to be applied with a multiplier of 1.

    Raises:
        SettingError: several vectors, another kind of perturbation, other tokens than all; or
            steering-vectors is not installed.
        HookPointError: vectors that are not added to the outputs of blocks.
    """
    layers = directions_of(bank, tool="steering-vectors").layers
    held = {layer: rows[0].clone() for layer, rows in sorted(layers.items())}
    package = imported(
        "steering_vectors", install="scikit-learn && pip install --no-deps steering-vectors"
    )
    return package.SteeringVector(layer_activations=held)
