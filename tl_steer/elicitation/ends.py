"""Where a search adds and measures, and how long its vectors are, where that was left open."""

from typing import Any

from tl_steer.elicitation.aim import own_ends, own_radius
from tl_steer.elicitation.checkpoint import Saved
from tl_steer.elicitation.places import LENGTHS, scan_contrast
from tl_steer.elicitation.scan import scan
from tl_steer.errors import SettingError
from tl_steer.hook_points.site import Point
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.contrast import Contrast
from tl_steer.objectives.objective import Goal
from tl_steer.radii.inband import AUTO
from tl_steer.radii.rules import RadiusRule


def place(
    model: HookedModel,
    tokens: TokenBatch,
    ends: tuple[Point | None, Point | None],
    radius: float | int | str | RadiusRule,
    saved: Saved | None,
    seed: int,
    maximised: Any,
) -> tuple[Point, Point, float | int | RadiusRule]:
    """Source, target and length, with what was left open found.

    Raises:
        SettingError: hook points that are not named, or only one of them.
    """
    goal = maximised if isinstance(maximised, Goal) else None
    source, target = own_ends(model, *ends) if goal else _named(ends)
    own = own_radius(goal) if goal else AUTO
    length = own if isinstance(radius, str) else radius
    if ends[0] != "auto" or (goal and not isinstance(goal, Contrast)):
        return source, target, length
    if isinstance(goal, Contrast):
        if saved is not None:
            return saved.bank.source.name, target, saved.bank.radius
        lengths = LENGTHS if isinstance(radius, str) else (radius,)
        best = scan_contrast(model, tokens, goal, lengths=lengths, seed=seed).best()
        return best.source, target, best.radius
    if saved is not None:
        return saved.bank.source.name, saved.bank.target.name, length
    pair = scan(model, tokens, read=AUTO, seed=seed).best()
    return pair.source, pair.target, length


def _named(ends: tuple[Point | None, Point | None]) -> tuple[Point, Point]:
    source, target = ends
    if source is None or target is None:
        raise SettingError(
            f"source={source!r}, target={target!r}: expected hook points, such as "
            "'blocks.3.hook_resid_post', or 'auto' for both."
        )
    if (source == "auto") != (target == "auto"):
        raise SettingError(
            f"source={source!r}, target={target!r}: they are looked for together; give both names, "
            "or 'auto' for both."
        )
    return source, target
