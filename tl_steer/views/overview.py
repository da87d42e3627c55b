"""What a report's first page shows, as JSON has it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.generations import Generations
from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.inspection.result import Inspection
from tl_steer.views.page import rounded
from tl_steer.views.panels import Seen
from tl_steer.views.quotes import Hidden, quoted
from tl_steer.views.texts import cut

_SNIPPET = 220  # characters of text in a row


def prompts(found: Sequence[Any], generations: Generations | None) -> list[str]:
    """Every prompt that something is known of, those with texts first."""
    texts = list(generations.prompts) if generations is not None else []
    return list(dict.fromkeys([*texts, *(one.prompt for one in found)]))


def rows(
    bank: Bank, seen: Sequence[Seen], generations: Generations | None, around: Hidden
) -> list[dict[str, Any]]:
    found = []
    for i, (near, similar) in enumerate(bank.nearest()):
        row: dict[str, Any] = {
            "vector": bank.numbers[i],
            "label": capped(bank.labels[i]),
            "objective": rounded(bank.objective[i]),
            "response": rounded(bank.responses[i].norm()),
            "nearest": bank.numbers[near] if near >= 0 else -1,
            "cosine": rounded(similar, 2) if near >= 0 else None,
            "scores": [rounded(values[i]) for values in bank.scores.values()],
            "seen": {
                str(one.prompt): _glance(one.found, bank.numbers[i])
                for one in seen
                if bank.numbers[i] in one.found.vectors
            },
        }
        if generations is not None:
            row |= _texts(generations, i) | {"quotes": quoted(generations, i, around)}
        found.append(row)
    return found


def most_quoted(control: Generations | None, around: Hidden) -> int | None:
    """The most words in a row of the system prompt that any random vector's text repeats."""
    if control is None:
        return None
    return max((quoted(control, i, around) for i in range(len(control))), default=0)


def _texts(found: Generations, row: int) -> dict[str, Any]:
    """Which prompts' texts change, and the first text that does."""
    texts = found.texts[row]
    changed = [int(text != base) for text, base in zip(texts, found.unsteered, strict=True)]
    first = changed.index(1) if any(changed) else 0
    return {"changed": changed, "first": first, "text": texts[first][:_SNIPPET] if texts else ""}


def _glance(seen: Inspection, vector: int) -> dict[str, Any]:
    """What the table shows of an inspection."""
    v = seen.index(vector)
    layer, head, change = seen.strongest_head(v)
    width = -(-len(seen.tokens) // 48)
    kl = torch.stack([part.max() for part in seen.kl[v].split(width)])
    return {
        "kl": rounded(seen.kl[v, -1]),
        "kls": rounded(kl, 3),
        "growth": rounded(seen.response[v, :, -1], 3),
        "head": f"{layer}.{head}" if layer >= 0 else "",
        "head_change": rounded(change, 3),
        "gained": seen.word(int(seen.gained[v, -1, 0])),
        "lost": seen.word(int(seen.lost[v, -1, 0])),
    }


def texts(
    bank: Bank, generations: Generations | None, control: Generations | None
) -> dict[str, Any]:
    """All texts, to be read and searched: of every vector and of random ones."""
    if generations is None:
        return {"unsteered": [], "vectors": {}, "controls": []}
    return {
        "unsteered": [cut(text) for text in generations.unsteered],
        "vectors": {
            str(number): [cut(text) for text in row]
            for number, row in zip(bank.numbers, generations.texts, strict=True)
        },
        "controls": [[cut(text) for text in row] for row in (control.texts if control else ())],
    }


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
