r"""How a fine-tune's activations differ from its base's on clean prompts (see `readings`).

With $\delta_t = h_M(t) - h_B(t)$ at the source for every clean token t of the objective's prompts,
`MeanDifference` is the mean of $\delta$ (activation difference lens, arXiv 2510.13900), and
`CleanComponents` are the principal components of $\delta$ about it.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.hook_points.positions import Positions
from tl_steer.methods.readings import Directions, Reading
from tl_steer.methods.spectra import rounding, top_right
from tl_steer.models.calls import run_to, stop_behind
from tl_steer.models.hooks import capturing
from tl_steer.models.model import device_of
from tl_steer.models.reference import Reference
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.perturbations.sphere import to_sphere

# Activations are sums of many rounded numbers; a difference of less than this many units is none.
_UNITS = 8
_BEHIND_BOS = Positions(bos=False)


@typed_fields
@dataclass(frozen=True)
class MeanDifference(Reading):
    """The mean difference of two models' activations: one direction, both ways. For steering
    vectors.

    Args:
        base: the model that this one was made from, or a `Reference` of it.
        at: over which tokens of the prompts; `Positions(last=1)` for their ends.
        signs: which sides come back.

    Scores: "norm", of the mean difference.

    Wrong to use as evidence of a trigger: on clean prompts a trigger's direction and this one may
    point apart by construction.

    Raises:
        SettingError: settings out of range.
        ModelError: the base is of another size, or nothing differs at the source.
    """

    base: Any
    _: KW_ONLY
    at: Positions = _BEHIND_BOS
    signs: tuple[int, ...] = (1, -1)

    def directions(self, segment: Segment) -> Directions:
        differences, floor = clean_differences(segment, self.base, self.at)
        mean = differences.mean(dim=0, keepdim=True)
        if float(mean.norm()) <= floor / len(differences) ** 0.5:
            raise self.nothing(segment, f"their mean activation at {segment.source}")
        return Directions(to_sphere(mean, 1.0), {"norm": mean.norm(dim=1)})


@typed_fields
@dataclass(frozen=True)
class CleanComponents(Reading):
    """Principal components of the difference of two models' activations, the largest first. For
    steering vectors.

    Args:
        base: the model that this one was made from, or a `Reference` of it.
        at: over which tokens of the prompts.
        top: how many, at most; there are fewer than tokens.
        signs: which sides of each come back, in turn.

    Scores: "variance", along each, per token.

    Raises:
        SettingError: settings out of range.
        ModelError: the base is of another size, or nothing differs at the source.
    """

    base: Any
    _: KW_ONLY
    at: Positions = _BEHIND_BOS
    top: int = 32
    signs: tuple[int, ...] = (1, -1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < 1:
            raise SettingError(f"{self}: expected top >= 1.")

    def directions(self, segment: Segment) -> Directions:
        differences, floor = clean_differences(segment, self.base, self.at)
        values, rows = top_right(differences - differences.mean(dim=0), self.top)
        kept = values > floor
        if not bool(kept.any()):
            raise self.nothing(segment, f"how their activations at {segment.source} vary")
        return Directions(rows[kept], {"variance": values[kept] ** 2 / len(differences)})


def clean_differences(
    segment: Segment, base: Reference, at: Positions
) -> tuple[Float[Tensor, "token width"], float]:
    """h_M - h_B at the source for the chosen tokens, and what rounding may make of nothing (as a
    singular value of them). Runs the base once.

    Raises:
        ModelError: the base is of another size.
        PromptError: a prompt has no such token.
    """
    base.refuse_unlike(segment.model)
    chosen = at.measure(segment.mask, segment.tokens.has_bos)
    own = segment.clean_source
    chosen = chosen.to(own.device)
    other = _clean_source(base, segment).to(own.device)[chosen]
    own = own[chosen]
    precise = torch.promote_types(own.dtype, torch.float32)
    return own.to(precise) - other.to(precise), _UNITS * rounding(own)


def _clean_source(base: Reference, segment: Segment) -> Tensor:
    """The base's activations where the segment has its source, `[batch pos width]`."""
    model, name = base.model, segment.source.point
    tokens, device = segment.tokens, device_of(model)
    tokens = replace(tokens, ids=tokens.ids.to(device), mask=tokens.mask.to(device))
    with base.running(), frozen(model), torch.no_grad(), capturing(model, [name]) as seen:
        run_to(model, tokens, stop_behind(model, segment.source.layer))
    return segment.source.read(seen[name].detach())
