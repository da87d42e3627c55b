"""What a search maximises, and how it is climbed where nothing is said of it.

A divergence goes with `METHODS["auto"]`, `radii.AUTO` and named layers; a contrast of two models
with a method, a length and layers of its own.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.elicitation.start import started
from tl_steer.errors import SettingError
from tl_steer.hook_points.positions import EVERYWHERE, LAST_THREE, Positions
from tl_steer.hook_points.site import Point
from tl_steer.methods import Ascent, evaluated
from tl_steer.models.model import HookedModel
from tl_steer.models.segment import Segment
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.contrast import Contrast
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.named import divergence_of
from tl_steer.objectives.objective import Goal
from tl_steer.objectives.probe import probe
from tl_steer.perturbations.additive import Additive
from tl_steer.radii.rules import RadiusRule, ShareOfNorm

# Where a goal is measured: at the token that an answer follows.
ANSWERED = Positions(last=1, bos=False)
# Where a contrast's source is among the blocks.
_DEPTH = 0.55
_TRIED = 8


def aim(divergence: Any, against: Any, measured: Positions) -> tuple[Any, Positions]:
    """What is maximised, a divergence or a `Goal`, and the prompts' tokens at which the bank is
    measured: the one that an answer follows, for a goal.

    Raises:
        SettingError: an unknown name, two things at once, or measured tokens where a goal has its
            own.
        ModelError: `against` is no model.
    """
    divergence = divergence_of(divergence)
    if against is not None:
        if divergence != Displacement():
            raise SettingError(
                f"against= maximises Contrast(against), and divergence={divergence!r} something "
                "else: give one of them, divergence=Contrast(base, ...) for other settings."
            )
        divergence = Contrast(against)
    if not isinstance(divergence, Goal):
        return divergence, measured
    if measured != LAST_THREE:
        raise SettingError(
            f"measured={measured}: {type(divergence).__name__} measures the answer's tokens. "
            "Leave measured= out."
        )
    return divergence, ANSWERED


def refuse_unfit(
    maximised: Any,
    tokens: TokenBatch,
    clean: Float[Tensor, "batch pos width"],
    measured: Positions,
    positions: Positions,
) -> None:
    """Try a divergence on activations like `clean`, where tokens behind the first steered one move
    and no others. A goal knows itself what it can be climbed on.

    Raises:
        NotFiniteError, SettingError, ShapeError: as `probe`.
        PromptError: nothing to measure.
    """
    if not isinstance(maximised, Goal):
        reached = tokens.select(positions).cumsum(dim=1) > 0
        chosen = measured.measure(tokens.mask, tokens.has_bos)
        probe(maximised, clean, chosen, moved=reached & tokens.mask)


def own_method(goal: Goal) -> Ascent:
    """What climbs a goal, where no method is named. A goal's `order`, if it has one, is the score
    by which an iterate is kept."""
    return Ascent(keep=getattr(goal, "order", "objective"))


def own_radius(goal: Goal) -> RadiusRule:
    """How long a goal's vectors are, where that is not said: the `Shortest` of its `lengths`, or
    its `length`, if it has one, times the norm."""
    if hasattr(goal, "lengths"):
        return Shortest(goal)
    return ShareOfNorm(getattr(goal, "length", Contrast.length))


@dataclass(frozen=True)
class Shortest:
    """The first of a goal's lengths (shares of the norm) at which the two best of a few vectors
    reach what is `enough` for it; the longest, where none do."""

    goal: Any

    def __call__(self, segment: Segment, measured: Bool[Tensor, "batch pos"], seed: int) -> float:
        objective, norm = self.goal.on(segment), segment.source_norm()
        for share in self.goal.lengths:
            start = started(Additive, segment, _TRIED, share * norm, seed, EVERYWHERE)
            *_, last = own_method(self.goal)(objective, start)
            found = evaluated(objective, last).value
            if float(found.topk(2).values.mean()) >= self.goal.enough:
                break
        return float(share * norm)


def own_ends(model: HookedModel, source: Point | None, target: Point | None) -> tuple[Point, Point]:
    """Source and target for a goal, where they are not named."""
    n_layers = int(model.cfg.n_layers)
    layer = min(round(_DEPTH * n_layers), n_layers - 1)
    return (
        layer if source is None or source == "auto" else source,
        -1 if target is None or target == "auto" else target,
    )
