"""Steered text beside unsteered text, and how text changes with the radius."""

import dataclasses
import warnings
from typing import Any

from tl_steer.banks.generations import Generations
from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.radii.band import Dose, DoseResponse, quantile
from tl_steer.views.view import View

_PROMPTS, _VECTORS, _LENGTH = 24, 256, 2000


def generations(found: Generations, *, title: str = "Generations") -> View:
    """Every continuation beside the unsteered one, with the words that differ marked.

    At most 24 prompts, 256 vectors and 2,000 characters each are shown; the view says what is left
    out. One greedy text per prompt is one sample of what a vector does.
    """
    data = generations_data(found)
    lines = [f"{found.changed()} of {len(found) * len(found.prompts)} continuations changed"]
    shown = min(len(found), _VECTORS), min(len(found.prompts), _PROMPTS)
    if shown != (len(found), len(found.prompts)):
        lines.append(
            f"{shown[0]} of {len(found)} vectors, {shown[1]} of {len(found.prompts)} prompts"
        )
    return View("generations", title, data, tuple(lines), min(200 + 60 * len(found), 900))


def generations_data(found: Generations) -> dict[str, Any]:
    return {
        "prompts": [cut(text) for text in found.prompts[:_PROMPTS]],
        "unsteered": [cut(text) for text in found.unsteered[:_PROMPTS]],
        "labels": [capped(label) for label in found.labels[:_VECTORS]],
        "numbers": list(found.numbers[:_VECTORS]),
        "texts": [[cut(text) for text in row[:_PROMPTS]] for row in found.texts[:_VECTORS]],
        "vectors": len(found),
        "settings": {name: str(value) for name, value in found.settings.items()},
    }


def cut(text: str) -> str:
    return text if len(text) <= _LENGTH else text[:_LENGTH] + " …"


def dose_response(found: DoseResponse, *, title: str = "Dose and response") -> View:
    """What vectors do as they grow: next-token divergence, surprise and changed texts over the
    radius, beside random vectors, with the band between paraphrase and gibberish.

    Lines are medians over vectors and prompts, the shade their quartiles.
    """
    data = dose_data(found)
    radii = ", ".join(number(radius) for radius in found.radii)
    lines = (f"radii {radii} at {found.source}", f"{len(found.doses)} doses")
    return View("dose_response", title, data, lines, 620)


def dose_data(found: DoseResponse) -> dict[str, Any]:
    groups = [("vectors", False, 1), ("opposites", False, -1), ("random", True, None)]
    curves = []
    for name, control, sign in groups:
        points = [
            _point(found, radius, found.at(radius, control=control, sign=sign))
            for radius in found.radii
            if found.at(radius, control=control, sign=sign)
        ]
        if points:
            curves.append({"name": name, "points": points})
    return {
        "source": found.source,
        "norm": found.norm,
        "fluent": found.fluent,
        "salad": found.salad,
        "curves": curves,
        "band": _band(found) if found.doses else None,
        "texts": _samples(found),
    }


def _band(found: DoseResponse) -> dict[str, Any] | None:
    """Radii between paraphrase and gibberish; the view says itself where there are none."""
    if not found.at(found.radii[0]):  # random vectors alone
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dataclasses.asdict(found.band())


def _point(found: DoseResponse, radius: float, doses: tuple[Dose, ...]) -> dict[str, Any]:
    def spread(values: list[float]) -> list[float]:
        return [quantile(values, part) for part in (0.25, 0.5, 0.75)]

    return {
        "radius": radius,
        "share": radius / found.norm,
        "kl": spread([dose.kl for dose in doses]),
        "surprise": spread([dose.surprise for dose in doses]),
        "repetition": spread([dose.repetition for dose in doses]),
        "changed": sum(dose.changed for dose in doses) / len(doses),
    }


def _samples(found: DoseResponse) -> list[dict[str, Any]]:
    """The text of middling surprise at every radius, to read along."""
    out = []
    for radius in found.radii:
        doses = sorted(found.at(radius, sign=1), key=lambda dose: dose.surprise)
        if doses:
            middle = doses[len(doses) // 2]
            out.append({"radius": radius, "vector": middle.vector, "text": cut(middle.text)})
    return out
