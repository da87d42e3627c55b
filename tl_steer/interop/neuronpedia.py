"""What Neuronpedia is sent to have a vector there: the JSON body of `POST /api/vector/new`.

    {"modelId": "gemma-2-2b-it", "layerNumber": 14, "hookType": "hook_resid_pre", "vector": [...],
     "vectorDefaultSteerStrength": 40.0, "vectorLabel": "reams"}

Nothing is sent from here and no key is read: look at the file, correct `modelId` to Neuronpedia's
own name of the model, and send it yourself (docs/interop/hub.md).

Source: `VectorRequest.new` of the package neuronpedia 1.2.1, and the checks of the service's own
route: a strength within 300 either way, a label that is not empty.
"""

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.jsons import to_text
from tl_steer.files.text import one_line
from tl_steer.interop.directions import directions_of
from tl_steer.models.model import HookedModel

_STRONGEST = 300.0


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """One vector, of norm 1, with its norm as the strength; of a larger norm where that is above
    300."""
    layers = directions_of(bank, tool="Neuronpedia").layers
    if len(layers) != 1:
        raise SettingError(
            f"Neuronpedia knows one hook point a vector, and this one acts at {len(layers)}. Steer "
            "with tl_steer itself."
        )
    ((block, rows),) = layers.items()
    strength = min(float(rows[0].norm()), _STRONGEST) or 1.0
    # The site knew nothing but inputs of blocks for long, and the last block's output is none.
    last = block == bank.provenance.fingerprint.n_layers - 1
    payload = {
        "modelId": bank.provenance.model.rpartition("/")[2].lower(),
        "layerNumber": block if last else block + 1,
        "hookType": "hook_resid_post" if last else "hook_resid_pre",
        "vector": (rows[0] / strength).tolist(),
        "vectorDefaultSteerStrength": strength,
        "vectorLabel": one_line(bank.labels[0]) or f"vector {bank.numbers[0]}",
    }
    return to_text(payload).encode()
