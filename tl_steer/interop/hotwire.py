"""hotwire-vllm: a folder of vectors that its server preloads, and the requests that name them.

    vector-4.pt          [layers d_model]; row n is added at the output of block n
    requests.json        {"vector-4": [{"id": "vector-4", "layer": 7, "scale": 1.0}]}

`HOTWIRE_VECTORS` names the folder, and a request's `"vllm_xargs": {"hotwire": text}` a vector of
it. The tokens are said by the request, so that one of requests.json has to be sent as it is.

Source: hotwire-vllm 0.1.2, `SteerState.load_store` and `slot_for`, `_fill_slot_map`.
"""

import io
from typing import Any

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.files.jsons import to_text
from tl_steer.hook_points.positions import EVERYWHERE, GENERATED
from tl_steer.interop.directions import directions_of
from tl_steer.models.model import HookedModel


def write(bank: Bank, model: HookedModel | None) -> dict[str, bytes]:
    """All vectors, a file each, called by their numbers."""
    found = directions_of(bank, tool="hotwire", positions=(EVERYWHERE, GENERATED), many=True)
    names = [f"vector-{number}" for number in bank.numbers]
    where = {"scale": 1.0} | ({} if found.positions == EVERYWHERE else {"decode_only": True})
    requests: dict[str, list[dict[str, Any]]] = {
        name: [{"id": name, "layer": layer} | where for layer in sorted(found.layers)]
        for name in names
    }
    files = {
        f"{name}.pt": _saved({layer: rows[k] for layer, rows in found.layers.items()})
        for k, name in enumerate(names)
    }
    return files | {"requests.json": to_text(requests).encode()}


def _saved(rows: dict[int, Tensor]) -> bytes:
    """One vector as `torch.save` writes it, the one form that hotwire reads: zeros where it is not
    added, so that a request for another layer changes nothing."""
    first = next(iter(rows.values()))
    matrix = torch.zeros(max(rows) + 1, len(first), dtype=torch.float32, device="cpu")
    for layer, row in rows.items():
        matrix[layer] = row
    file = io.BytesIO()
    torch.save(matrix, file)
    return file.getvalue()
