"""What a report's first page shows, as JSON has it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.generations import Generations
from tl_steer.files.tables import number
from tl_steer.inspection.result import Inspection
from tl_steer.views.page import rounded
from tl_steer.views.texts import cut, marked


def rows(
    bank: Bank, inspections: Sequence[Inspection], generations: Generations | None
) -> list[dict[str, Any]]:
    found = []
    for i, (near, similar) in enumerate(bank.nearest()):
        row: dict[str, Any] = {
            "vector": bank.numbers[i],
            "label": bank.labels[i],
            "objective": rounded(bank.objective[i]),
            "response": rounded(bank.responses[i].norm()),
            "nearest": bank.numbers[near] if near >= 0 else -1,
            "cosine": rounded(
                torch.tensor(similar, dtype=torch.float32, device="cpu").nan_to_num(0.0), 2
            ),
            "scores": [rounded(values[i]) for values in bank.scores.values()],
        }
        if generations is not None:
            text, base = generations.texts[i][0], generations.unsteered[0]
            row |= {"text": cut(text)[:220], "changed": text != base}
        seen = next((seen for seen in inspections if bank.numbers[i] in seen.vectors), None)
        found.append(row if seen is None else row | _glance(seen, bank.numbers[i]))
    return found


def _glance(seen: Inspection, vector: int) -> dict[str, Any]:
    """What the table shows of an inspection."""
    v = seen.index(vector)
    layer, head, change = seen.strongest_head(v)
    width = -(-len(seen.tokens) // 48)
    kl = [float(part.max()) for part in seen.kl[v].split(width)]
    return {
        "kl": rounded(seen.kl[v, -1]),
        "kls": rounded(torch.tensor(kl, dtype=torch.float32, device="cpu"), 3),
        "growth": rounded(seen.response[v, :, -1], 3),
        "head": f"{layer}.{head}" if layer >= 0 else "",
        "head_change": rounded(torch.tensor(change, dtype=torch.float32, device="cpu"), 3),
        "gained": seen.word(int(seen.gained[v, -1, 0])),
        "lost": seen.word(int(seen.lost[v, -1, 0])),
    }


def controls(control: Generations | None) -> list[dict[str, Any]]:
    if control is None:
        return []
    base = control.unsteered[0]
    return [
        {"pieces": marked(cut(base), cut(row[0])), "changed": row[0] != base}
        for row in control.texts[:16]
    ]


def facts(
    bank: Bank, generations: Generations | None, control: Generations | None
) -> list[list[str]]:
    share = bank.radius_share
    found_facts: list[list[str]] = [
        ["vectors", str(len(bank))],
        ["added at", bank.source.name],
        ["measured at", bank.target.name],
        ["radius", number(bank.radius) + (f" ({share:.3f} of the norm)" if share == share else "")],
    ]
    for name, found in (("texts changed", generations), ("by random vectors", control)):
        if found is not None:
            found_facts.append([name, f"{found.changed()} of {len(found) * len(found.prompts)}"])
    return found_facts


def provenance(bank: Bank) -> list[list[str]]:
    own = bank.provenance
    mark = own.fingerprint
    return [
        ["model", own.model],
        ["size", f"{mark.n_layers} layers, d_model {mark.d_model}, vocabulary {mark.d_vocab}"],
        ["dtype", mark.dtype],
        ["method", own.method or "not recorded"],
        *[[f"setting {name}", str(value)] for name, value in own.settings.items()],
        ["objective", own.divergence],
        ["added at", bank.source.name],
        ["tokens steered", str(dataclasses.asdict(bank.positions))],
        ["measured at", bank.target.name],
        ["tokens measured", str(dataclasses.asdict(own.measured))],
        ["radius", number(bank.radius)],
        ["seed", str(own.seed)],
        ["prompts", f"hash {own.prompts}"],
        *[[f"{name} version", value] for name, value in own.versions.items()],
        *[["note", note] for note in own.notes],
    ]


def prompt(inspections: Sequence[Inspection], generations: Generations | None) -> str:
    if generations is not None:
        return cut(generations.prompts[0])
    return cut(inspections[0].prompt) if inspections else ""
