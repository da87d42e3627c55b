"""Views of a whole bank: which vectors are alike, and which were chosen."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank, largest
from tl_steer.banks.selection import Selection
from tl_steer.files.text import capped
from tl_steer.perturbations.sphere import cosines
from tl_steer.views.page import rounded
from tl_steer.views.view import View

_MAPPED = 200


def bank_map(bank: Bank, *, title: str = "Map of the bank") -> View:
    """Which vectors are alike: cosines of directions and of responses, in clustered order.

    Two vectors at right angles can have the same effect: where the right map is bright and the left
    one is not, the bank holds one behaviour twice. Banks of more than 200 vectors show the 200 of
    largest objective.
    """
    data = map_data(bank)
    similar = cosines(bank.responses.double()).abs().fill_diagonal_(0)
    lines = [f"{len(data['order'])} of {len(bank)} vectors"]
    if len(bank) > 1 and not bool(similar.isnan().all()):
        at = int(similar.nan_to_num(0.0).argmax())
        a, b = divmod(at, len(bank))
        pair = f"{bank.numbers[a]} and {bank.numbers[b]}"
        lines.append(f"most alike in effect: {pair}, |cosine| {float(similar[a, b]):.2f}")
    return View("bank_map", title, data, tuple(lines), 560)


def map_data(bank: Bank) -> dict[str, Any]:
    rows = torch.tensor(largest(bank, _MAPPED), dtype=torch.long, device="cpu")
    responses = cosines(bank.responses[rows].double())
    directions = cosines(bank.vectors[rows].double())
    measured = not bool(responses.isnan().any())
    order = clustered(responses if measured else directions)
    return {
        "order": [bank.numbers[i] for i in rows[order].tolist()],
        "directions": rounded(directions[order][:, order], 2),
        "responses": rounded(responses[order][:, order], 2) if measured else None,
        "labels": [capped(bank.labels[i]) for i in rows[order].tolist()],
        "total": len(bank),
    }


def clustered(similar: Float[Tensor, "vec vec"]) -> list[int]:
    """Rows ordered so that neighbours are alike, whatever their sign (average linkage)."""
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    if len(similar) < 3:
        return list(range(len(similar)))
    away = (1 - similar.abs()).clamp(0, 1).nan_to_num(1.0)
    pairs = squareform(((away + away.T) / 2).fill_diagonal_(0.0).numpy(), checks=False)
    order = leaves_list(optimal_leaf_ordering(linkage(pairs, method="average"), pairs))
    return [int(i) for i in np.asarray(order)]


def selection_scores(found: Selection, *, title: str = "Selected vectors") -> View:
    """What the winners scored on the prompts that chose them and on held-out ones, beside the best
    random vectors and the unsteered model. Points far under the diagonal were luck."""
    data: dict[str, Any] = {
        "winners": [
            [called, float(found.validation[i]), float(found.held_out[i]), capped(found.labels[i])]
            for i, called in enumerate(found.numbers)
        ],
        "random": [
            [float(a), float(b)]
            for a, b in zip(found.random_validation, found.random_held_out, strict=True)
        ],
        "unsteered": [float(found.unsteered_validation), float(found.unsteered_held_out)],
    }
    lines = [f"{len(data['winners'])} winners"]
    return View("selection_scores", title, data, tuple(lines), 460)
