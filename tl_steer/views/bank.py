"""Views of a whole bank: which vectors are alike, and which were chosen."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank, largest
from tl_steer.banks.generations import Generations
from tl_steer.banks.selection import Selection
from tl_steer.errors import SettingError
from tl_steer.files.text import capped
from tl_steer.perturbations.sphere import cosines
from tl_steer.views.page import rounded
from tl_steer.views.plane import clusters, of_texts, plane
from tl_steer.views.view import View

_MAPPED = 200
# What a map holds of a text. And how far apart members of a cluster may be: responses have to agree
# by half, and texts share a quarter of what is in them, which chance does not.
_SHOWN, _APART = 240, {"response": 0.5, "text": 0.75}


def bank_map(
    bank: Bank, *, generations: Generations | None = None, title: str = "Map of the bank"
) -> View:
    """Which vectors are alike: on a plane, in clusters, and as cosines of all pairs.

    On the plane, vectors are as far apart as their responses are, $1 - |\\cos|$, or as their texts
    are (`plane.of_texts`), as far as two dimensions can show it; the page says how far that is. The
    sign is left out, as everywhere in a bank: a vector and its opposite are one finding, though
    they say different things, and by text they lie apart. In the matrices (directions, and
    responses, in clustered order) signs are kept. Two vectors at right angles can have the same
    effect: where the right one is bright and the left one is not, the bank holds one behaviour
    twice. Banks of more than 200 vectors show the 200 of largest objective.

    Args:
        generations: texts under the bank's vectors, for what each dot says and for the map by text.

    Raises:
        SettingError: generations that lack vectors of the bank.
    """
    data = map_data(bank, generations)
    lines = [f"{len(data['order'])} of {len(bank)} vectors", *_most_alike(bank)]
    for found in data["planes"]:
        lines.append(f"by {found['name']}: {len(found['clusters'])} clusters")
    return View("bank_map", title, data, tuple(lines), 1000)


def map_data(bank: Bank, generations: Generations | None = None) -> dict[str, Any]:
    rows = torch.tensor(largest(bank, _MAPPED), dtype=torch.long, device="cpu")
    responses = cosines(bank.responses[rows].double())
    directions = cosines(bank.vectors[rows].double())
    measured = not bool(responses.isnan().any())
    order = clustered(responses if measured else directions)
    numbers = [bank.numbers[i] for i in rows[order].tolist()]
    said = None if generations is None else _texts(generations, numbers)
    planes = []
    if measured and numbers:
        planes.append(_plane("response", _apart(responses[order][:, order])))
    if said and generations is not None:
        planes.append(_plane("text", of_texts([*said, generations.unsteered]), len(numbers)))
    return {
        "order": numbers,
        "directions": rounded(directions[order][:, order], 2),
        "responses": rounded(responses[order][:, order], 2) if measured else None,
        "labels": [capped(bank.labels[i]) for i in rows[order].tolist()],
        "objective": rounded(bank.objective[rows[order]], 3),
        "texts": None if said is None or generations is None else _shown(said, generations),
        "planes": planes,
        "total": len(bank),
    }


def _most_alike(bank: Bank) -> list[str]:
    """The pair of most alike responses, where any two were measured."""
    known = [
        (alike, row, near)
        for row, (near, alike) in enumerate(bank.nearest())
        if near >= 0 and not math.isnan(alike)
    ]
    if not known:
        return []
    alike, a, b = max(known, key=lambda each: each[0])
    pair = f"{bank.numbers[a]} and {bank.numbers[b]}"
    return [f"most alike in effect: {pair}, |cosine| {alike:.2f}"]


def _apart(similar: Float[Tensor, "vec vec"]) -> Float[np.ndarray, "vec vec"]:
    found: np.ndarray = (1 - similar.abs()).clamp(0, 1).fill_diagonal_(0.0).cpu().numpy()
    return found


def _plane(
    name: str, distances: Float[np.ndarray, "n n"], vectors: int | None = None
) -> dict[str, Any]:
    """Points, clusters, and what a reader has to know of them. What comes behind the first
    `vectors` is placed, too, and is in no cluster."""
    n = len(distances) if vectors is None else vectors
    points, share = plane(distances)
    return {
        "name": name,
        "points": rounded(points[:n]),
        "unsteered": rounded(points[n]) if n < len(points) else None,
        "share": share,
        "clusters": [
            {"members": list(found.members), "representative": found.representative}
            for found in clusters(distances[:n, :n], apart=_APART[name])
        ],
    }


def _texts(generations: Generations, numbers: Sequence[int]) -> list[tuple[str, ...]]:
    rows = {number: row for row, number in enumerate(generations.numbers)}
    if missing := [number for number in numbers if number not in rows]:
        raise SettingError(
            f"The generations have no vectors {missing[:8]}: pass those of the whole bank."
        )
    return [generations.texts[rows[number]] for number in numbers]


def _shown(said: Sequence[Sequence[str]], generations: Generations) -> list[str]:
    """Of every vector the first text that it changed, or the first."""
    found = []
    for own in said:
        pairs = zip(own, generations.unsteered, strict=False)
        changed = [text for text, unsteered in pairs if text != unsteered]
        text = (changed or list(own) or [""])[0]
        found.append(capped(text, _SHOWN))
    return found


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
