"""What a page asks of the model: a prompt under a mixture, as texts or inspected."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import random_bank
from tl_steer.banks.generate import sampling_of, texts_by_row
from tl_steer.inspection.inspect import inspect
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row
from tl_steer.models.state import seeded
from tl_steer.models.tokens import TokenBatch, chats, refuse_beyond_context, tokenize
from tl_steer.monitoring.alert import Alert
from tl_steer.serving.asked import Asked
from tl_steer.serving.mixture import mixture
from tl_steer.serving.worker import Job
from tl_steer.views.panels import VIEWS
from tl_steer.views.view import View

# In the order of the batch: the mixture, a random vector of its length, and the model as it is.
ROWS = ("steered", "random", "unsteered")


def steering(model: HookedModel, bank: Bank, asked: Asked) -> Callable[[Job], None]:
    """A job that continues a prompt under a mixture, under a random vector of the same length and
    unsteered, in one batch, and tells of the texts as they grow."""

    def work(job: Job) -> None:
        mix, strength = mixture(bank, asked.mix)
        both = mix.merge(random_bank(mix, n=1, seed=asked.seed))
        edits = both.perturbation().used(strength, None).beside_unsteered()
        tokens = _tokens(model, asked)
        refuse_beyond_context(model, tokens, asked.tokens, knob="tokens")

        def heard(rows: list[Row], texts: list[str]) -> None:
            job.refuse_stopped()
            job.tell({"texts": {ROWS[r.vector]: t for r, t in zip(rows, texts, strict=True)}})

        job.heard = lambda alert: job.tell({"alert": of_row(alert)})
        sampling = sampling_of(asked.temperature)
        with torch.no_grad(), seeded(model, asked.seed):
            done = texts_by_row(model, edits, tokens, asked.tokens, sampling, heard=heard)
        job.tell({"texts": {ROWS[row.vector]: text for row, text in done.items()}})

    return work


def inspecting(model: HookedModel, bank: Bank, asked: Asked) -> Callable[[Job], None]:
    """A job that inspects a prompt under a mixture, and tells of the report's own views of it."""

    def work(job: Job) -> None:
        mix, strength = mixture(bank, asked.mix)
        seen = inspect(model, mix, _tokens(model, asked), scale=strength)
        made = (view(seen, seen.vectors[0]) for view in VIEWS.values())
        job.tell({"views": [_shown(view, seen.vectors[0]) for view in made]})

    return work


def _tokens(model: HookedModel, asked: Asked) -> TokenBatch:
    return tokenize(model, chats(model, [asked.prompt], raw=not asked.chat))


def of_row(alert: Alert) -> dict[str, Any]:
    """An alert, and under which of the texts it was raised."""
    return {
        "of": ROWS[alert.batch_row],
        "kind": alert.kind,
        "vector": alert.vector,
        "label": alert.label,
        "p_value": alert.p_value,
    }


def _shown(view: View, number: int) -> dict[str, Any]:
    # What is inspected is no vector of the bank, whatever number it has.
    title = view.title.replace(f"vector {number}", "this mixture")
    return as_json(dataclasses.replace(view, title=title))


def as_json(view: View) -> dict[str, Any]:
    """A view as the page draws it."""
    return {"kind": view.kind, "title": view.title, "data": view.data}
