"""One vector from its opposite to twice its strength: a slider over what was measured."""

from typing import Any

import torch

from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.inspection.strength import Strength, Strengths
from tl_steer.views.control import ends
from tl_steer.views.page import rounded
from tl_steer.views.texts import cut
from tl_steer.views.view import View

_RANDOM = 3  # texts of random vectors beside each strength


def strengths(found: Strengths, vector: int) -> View:
    """A slider that moves the text, KL at every token of the prompt and the likeliest next tokens
    together, offline.

    Its track shows where the text leaves the unsteered one and where it turns into gibberish; texts
    of up to three random vectors at the same strength stand beside. One greedy text a strength is
    one sample: read the ends of the band as rough.

    Raises:
        SettingError: the vector was not measured.
    """
    own = found.of(vector)
    steps = sorted([*own, found.unsteered], key=lambda one: one.scale)
    data = {
        "vector": vector,
        "prompt": cut(found.prompt),
        "tokens": [capped(text) for text in found.tokens],
        "unsteered": cut(found.unsteered.text),
        "steps": [_step(found, one) for one in steps],
        "ends": {"forwards": found.ends(vector), "backwards": found.ends(vector, sign=-1)},
        "fluent": rounded(found.fluent, 3),
        "salad": rounded(found.salad, 3),
        "random": len(found.random(found.scales[0])),
    }
    lines = [f"{one.scale:+g}: {number(one.kl[-1])} nats, {cut(one.text)[:60]!r}" for one in own]
    return View("strengths", f"Vector {vector} at several strengths", data, tuple(lines), 820)


def _step(found: Strengths, one: Strength) -> dict[str, Any]:
    random = found.random(one.scale)
    return {
        "scale": one.scale,
        "kl": rounded(one.kl, 3),
        "top": [[capped(word), *rounded(both, 3)] for word, *both in one.top],
        "text": cut(one.text),
        "changed": one.changed,
        "surprise": rounded(one.surprise, 3),
        "repetition": rounded(one.repetition, 3),
        "gibberish": found.gibberish(one) >= 1,
        "band": _kl_band(random),
        "random": [cut(other.text) for other in random[:_RANDOM]],
    }


def _kl_band(random: tuple[Strength, ...]) -> list[Any] | None:
    """Lowest and highest of random vectors at every token, or their 5 to 95 % band."""
    if not random:
        return None
    every = torch.tensor([one.kl for one in random], dtype=torch.float32, device="cpu")
    return ends(every)
