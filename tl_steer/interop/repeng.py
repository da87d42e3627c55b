"""repeng's `ControlVector`: a direction for each block, added at its output.

From one: `Directions.of`. Its GGUF file is that of llama.cpp. Source: repeng 0.4.0, `ControlVector`
and `ControlModule`.
"""

from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed
from tl_steer.interop.directions import directions_of, model_type
from tl_steer.models.model import HookedModel


@typed
def as_control_vector(bank: Bank, *, model: HookedModel | None = None) -> Any:
    """One vector for repeng, to be set with a coefficient of 1 and `normalize=False`.

    Args:
        model: for its type, which repeng compares where vectors are added up.

    Raises:
        SettingError: several vectors, another kind of perturbation, other tokens than all; or
            repeng cannot be imported (0.4.0 names what NumPy 2 has not).
        HookPointError: vectors that are not added to the outputs of blocks.
    """
    layers = directions_of(bank, tool="repeng").layers
    held = {layer: rows[0].numpy() for layer, rows in sorted(layers.items())}
    kind = imported(
        "repeng", install="gguf scikit-learn && pip install --no-deps repeng"
    ).ControlVector
    return kind(model_type=model_type(bank, model), directions=held)
