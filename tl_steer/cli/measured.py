"""All that a report shows of a bank on prompts, measured."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tl_steer as ts
from tl_steer.models.model import HookedModel
from tl_steer.views.quotes import hidden, quoted

# Random vectors beside the bank's: enough for a band, and few of each whose texts are read.
_RANDOM, _READ = 8, 3


@dataclass(frozen=True)
class Measured:
    """What `report` takes, of one bank."""

    inspections: list[Any]
    control_inspections: list[Any]
    generations: Any
    control: Any
    strengths: list[Any]
    continuations: list[Any]

    def beside(self) -> dict[str, Any]:
        """All but the inspections, by the names that `report` has for them."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if name != "inspections"}


def measure(
    model: HookedModel,
    bank: ts.Bank,
    prompts: Sequence[Any],
    *,
    rows: list[int],
    deep: int,
    tokens: int,
    scale: float = 1.0,
    positions: Any = None,
) -> Measured:
    """Run the prompts under a bank and under random vectors.

    Args:
        rows: the vectors to look inside the model under.
        deep: how many of them, on the first prompt, at seven strengths and token by token as well.
        tokens: how many each text has.
    """
    random = ts.random_bank(bank, n=_RANDOM)
    at: dict[str, Any] = {"scale": scale, "positions": positions}
    steered, control = (
        ts.generate(model, each, prompts, max_new_tokens=tokens, **at) for each in (bank, random)
    )
    seen = [ts.inspect(model, bank, prompt, vectors=rows, **at) for prompt in prompts]
    # Those that repeat the system prompt are looked at first.
    around = hidden(seen)
    first = sorted(rows, key=lambda row: -quoted(steered, row, around))[:deep]
    looked = prompts[:1] if first else []
    length: dict[str, Any] = {"vectors": first, "max_new_tokens": tokens}
    strengths, continuations = ts.inspection.strengths, ts.inspection.continuations
    few = random[:_READ]
    return Measured(
        seen,
        [ts.inspect(model, random, prompt, **at) for prompt in prompts],
        steered,
        control,
        [strengths(model, bank, p, control=few, positions=positions, **length) for p in looked],
        [continuations(model, bank, p, **length, **at) for p in looked],
    )
