"""EasySteer: a `SteeringSpec` with the vectors in it, and where they act.

    {"vectors": [{"data": {"version": 1, "kind": "direction", "tensors": {"layer.7": ...}, ...},
                  "scale": 1.0, "apply": {"prompt_window": [-3, null], "generation": "all"}}]}

A request's `"steering"`, or the file of `--steering-config`. Unlike a GGUF file, which it reads as
well, this says the tokens.

Source: EasySteer's vLLM at 6267ca0, `SteeringSpec`, `DirectionVector.to_wire`, `ApplyClause`.
"""

import base64
import hashlib
from typing import Any

from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.jsons import to_text
from tl_steer.hook_points.positions import Positions
from tl_steer.interop.directions import directions_of
from tl_steer.models.model import HookedModel


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """One vector."""
    apply = clause(bank.positions)
    layers = directions_of(bank, tool="EasySteer", positions=(bank.positions,)).layers
    vector = {
        "data": _payload({f"layer.{layer}": rows[0] for layer, rows in layers.items()}),
        "algorithm": "direct",
        "scale": 1.0,
        "normalize": False,
        "apply": apply,
    }
    return to_text({"vectors": [vector]}).encode()


def clause(positions: Positions) -> dict[str, Any]:
    """The tokens, in EasySteer's words.

    Raises:
        SettingError: it has none for them.
    """
    prompts = positions.last != 0
    if (
        not positions.even
        or (prompts and not positions.bos)
        or (positions.start and positions.generated)
        or not (prompts or positions.generated)
    ):
        raise SettingError(
            f"These vectors act on {positions}, which EasySteer cannot say: it knows the last "
            "tokens of a prompt, those from the start-th on, and all that are generated; not which "
            "is a BOS, how strongly, or a start that a short prompt leaves to what is generated."
        )
    found: dict[str, Any] = {"generation": "all"} if positions.generated else {}
    if prompts:
        window = None if positions.last is None else [-positions.last, None]
        found |= {"prompt": "all"} if window is None else {"prompt_window": window}
    if prompts and positions.start:
        found["exclude_prompt_window"] = [0, positions.start]
    return found


def _payload(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """By its hash EasySteer keeps one copy, however many requests bring it."""
    own, held = hashlib.sha256(b"direction:1"), {}
    for name, row in sorted(tensors.items()):
        content = row.contiguous().numpy().tobytes()
        own.update(name.encode() + str(tuple(row.shape)).encode() + content)
        held[name] = {"shape": list(row.shape), "data": base64.b64encode(content).decode()}
    return {
        "version": 1,
        "kind": "direction",
        "tensors": held,
        "extra": {},
        "sha256": own.hexdigest(),
    }
