"""What random vectors do on the same prompt: the band that every number is read against."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.inspection.result import Inspection
from tl_steer.views.page import rounded

_TAIL = 0.05  # of the random vectors, left out at either end


def band(
    values: Float[Tensor, "vec *more"],
) -> tuple[Float[Tensor, "*more"], Float[Tensor, "*more"]]:
    """The 5 to 95 % band over the first axis, as (low, high).

    Both ends are values that were measured: the next one outwards where the quantile falls between
    two. So up to 20 vectors give their lowest and highest. NaN is left out; where nothing is left,
    both ends are NaN.
    """
    ordered = values.detach().float().cpu().sort(dim=0).values  # NaN comes last
    known = (~ordered.isnan()).sum(dim=0, keepdim=True)
    last = (known - 1).clamp_min(0).double()
    low = ordered.gather(0, (_TAIL * last).floor().long())
    high = ordered.gather(0, ((1 - _TAIL) * last).ceil().long())
    return low[0], high[0]


def ends(values: Float[Tensor, "vec *more"], digits: int = 3) -> list[Any]:
    """The band as a view's data: [low, high]."""
    return [rounded(end, digits) for end in band(values)]


def kl_band(control: Inspection) -> tuple[float, float]:
    """The band of KL(steered || unsteered) of the next token behind the prompt, in nats."""
    low, high = band(control.kl[:, -1])
    return float(low), float(high)


def told(control: Inspection | None) -> dict[str, Any] | None:
    """How many random vectors there are, and whether the band leaves out its tails."""
    if control is None:
        return None
    n = len(control)
    whole = math.floor(_TAIL * (n - 1)) == 0
    return {"vectors": n, "whole": whole}


def refuse_other(seen: Inspection, control: Inspection | None) -> None:
    """Refuse a control that is not of the same prompt at the same place.

    Raises:
        SettingError: its tokens, source, target or model differ, or it is of the same bank.
    """
    if control is None:
        return
    for name in ("source", "target", "model"):
        own, other = getattr(seen, name), getattr(control, name)
        if own != other:
            raise _not_the_control(f"its {name} is {str(other)[:80]!r}, not {str(own)[:80]!r}")
    if not torch.equal(seen.ids.cpu(), control.ids.cpu()):
        raise _not_the_control(f"its prompt is {control.prompt[:80]!r}, not {seen.prompt[:80]!r}")
    if seen.bank and seen.bank == control.bank:
        raise _not_the_control("it is of the very bank that is shown")


def _not_the_control(why: str) -> SettingError:
    return SettingError(
        f"control= cannot be compared with this inspection: {why}. Inspect random vectors on the "
        "same prompt: inspect(model, random_bank(bank, n=8), prompt)."
    )
