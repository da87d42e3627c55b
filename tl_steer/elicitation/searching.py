"""One cell of a grid, in whatever process: a search, and what its bank is worth."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import random_bank
from tl_steer.banks.file import BANK_FILE
from tl_steer.elicitation.elicit import elicit
from tl_steer.elicitation.grid_plan import Cell, GridPlan
from tl_steer.elicitation.index import OWN_COLUMNS
from tl_steer.errors import SettingError
from tl_steer.files.text import said
from tl_steer.hook_points.positions import LAST_THREE, Positions
from tl_steer.models.load import load_model
from tl_steer.models.model import HookedModel
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.models.tokens import TokenBatch, chats, tokenize
from tl_steer.radii.rules import radius_of

# What is done with a bank in its cell: the bank, perhaps with further scores, and numbers for the
# index.
After: TypeAlias = Callable[[HookedModel, Bank], tuple[Bank, Mapping[str, float | int]]]


@dataclass(frozen=True, eq=False)
class Found:
    """What came of a cell.

    Attributes:
        numbers: for the index.
        file: the bank's file; `None` where the search failed.
        error: why it did.
    """

    numbers: Mapping[str, float | int]
    file: bytes | None = None
    error: str | None = None


def searcher(plan: GridPlan, after: After | None) -> Callable[[Cell], Found]:
    """What searches cells, with the plan's models loaded."""
    load = partial(load_model, device=plan.device or None, dtype=plan.dtype)
    model = load(plan.model)
    base = load(plan.against) if plan.against else None
    return partial(_search, model, base, plan, after)


def _search(
    model: HookedModel, base: HookedModel | None, plan: GridPlan, after: After | None, cell: Cell
) -> Found:
    try:
        tokens = tokenize(model, chats(model, plan.sets[cell.prompts], raw=plan.raw))
        bank = _bank(model, base, plan, cell, tokens)
        if bank.provenance.unfinished:
            raise KeyboardInterrupt  # `elicit` gives what it has by then
        numbers = measures(model, bank, tokens, plan.random)
        if after is not None:
            bank, further = after(model, bank)
            _refuse_taken(further)
            numbers |= {str(name): float(value) for name, value in further.items()}
        return Found(numbers, BANK_FILE.payload(*bank.contents()))
    except Exception as error:  # of any kind: the other cells go on
        return Found({}, error=said(error, most=2000))


def _bank(
    model: HookedModel, base: HookedModel | None, plan: GridPlan, cell: Cell, tokens: TokenBatch
) -> Bank:
    measured = LAST_THREE if plan.last == 3 else Positions(last=plan.last, bos=False)
    return elicit(
        model,
        tokens,
        cell.source,
        cell.target,
        against=base,
        n=plan.n,
        perturbation=plan.perturbation,
        radius=radius_of(cell.radius),
        method=cell.method,
        divergence=plan.divergence,
        measured=measured,
        seed=cell.seed,
        progress=False,
    )


def _refuse_taken(further: Mapping[str, Any]) -> None:
    taken = sorted(OWN_COLUMNS & {*further})
    if taken:
        raise SettingError(f"after= gives {', '.join(taken)}, which are columns of every index.")


def measures(
    model: HookedModel, bank: Bank, tokens: TokenBatch, random: int
) -> dict[str, float | int]:
    r"""What an index says of a bank.

    `gain` is $\max_i (\|r_i\| / \|h_t\|) / (R / \|h_s\|)$, with r the vectors' responses and
    $\|h\|$ the median clean norm of the residual stream: the share of the target's norm that
    moves, per share of the source's norm. Other than that of `scan` it is measured at the radius
    of the vectors. NaN for kinds whose radius is no norm. `random` is the same of random vectors.
    """
    with frozen(model):
        norm = Segment(model, tokens, bank.source.name, bank.target.name).target_norm()
    numbers: dict[str, float | int] = {
        "vectors": len(bank),
        "length": bank.radius,
        "share": bank.radius_share,
        "objective": float(bank.objective.max()),
        "mean_objective": float(bank.objective.mean()),
        "response": float(bank.responses.norm(dim=1).max()),
        "gain": _gain(bank, norm),
    }
    if random:
        drawn = random_bank(bank, n=random, seed=bank.provenance.seed or 0)
        numbers["random"] = _gain(Bank.from_vectors(model, drawn, prompts=tokens), norm)
    return numbers


def _gain(bank: Bank, norm: float) -> float:
    sizes: torch.Tensor = bank.responses.norm(dim=1)
    share = bank.radius_share
    return float(sizes.max()) / norm / share if norm > 0 and share > 0 else math.nan
