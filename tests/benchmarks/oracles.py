"""What a trigger's own direction, and its own embeddings, are worth to objectives without a base.

No script: `without_base.py` puts it beside what searches found. An oracle that is worth less than
what was found says that the objective is wrong; one that is worth more, that the search is.
"""

import dataclasses
from typing import Any

import torch
from installed import asked, chats, judged
from planted import trigger_direction
from plateau import CleanSpace
from soft_tokens import Slot, mean_norm, value_and_lead, within
from torch.nn.functional import normalize

import tl_steer as ts
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.models.tokens import tokenize
from tl_steer.organisms.prompts import TRIGGER
from tl_steer.organisms.recipes import plant_of


def of_vectors(model: Any, name: str, goal: Any, like: ts.Bank) -> dict[str, Any]:
    """The objective at that direction and at its projection on the clean space, on the prompts that
    were learned on; of how many judged prompts each shows the behaviour."""
    row, basis = (
        trigger_direction(model, like.source.name)[None],
        CleanSpace().of(model, like.source.name),
    )
    rows = torch.cat([row, normalize(row @ basis.T @ basis, dim=1)])
    bank = dataclasses.replace(like[:2], vectors=like.radius * rows)
    with frozen(model):
        tokens = tokenize(model, chats(asked(name)[0]))
        segment = Segment(model, tokens, like.source, like.target)
        value = goal.on(segment)(bank.perturbation(), gradient=False).value
    return {"objective": value.tolist(), "shown": judged(model, name, bank)["shown"]}


def of_tokens(model: Any, name: str, slot: Slot) -> dict[str, Any]:
    """The trigger's own embeddings, no longer than soft tokens may be."""
    weight = slot.embeddings.weight.detach()
    ids = model.tokenizer(TRIGGER, add_special_tokens=False).input_ids
    soft = within(weight[ids][None], mean_norm(weight))
    with torch.no_grad():
        value, lead = value_and_lead(slot, soft)
    shown = judged_tokens(model, name, soft)["shown"]
    return {"objective": value.tolist(), "lead": lead.tolist(), "shown": shown}


def judged_tokens(model: Any, name: str, soft: torch.Tensor) -> dict[str, Any]:
    """Of how many judged prompts soft tokens in them show the behaviour, and what the first ones
    make the model say."""
    plant, (_, texts, n) = plant_of(name), asked(name)
    slot = Slot(model, texts, along=n)
    with torch.no_grad():
        said = [slot.speak(*slot.read(soft, x)).tolist() for x in range(len(texts))]
    lines = [[model.tokenizer.decode(ids) for ids in row] for row in zip(*said, strict=True)]
    shown = [
        sum(plant.shown(text, line) for text, line in zip(texts, row, strict=True)) for row in lines
    ]
    return {"shown": shown, "first": [row[:2] for row in lines[:5]]}
