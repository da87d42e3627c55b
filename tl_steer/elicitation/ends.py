"""Where a search adds and measures, and how long its vectors are, where that was left open."""

from typing import Any

from tl_steer.elicitation.aim import own_ends, own_radius
from tl_steer.elicitation.checkpoint import Saved
from tl_steer.elicitation.places import LENGTHS, scan_contrast, shortest
from tl_steer.elicitation.scan import scan
from tl_steer.errors import SettingError
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.contrast import Contrast
from tl_steer.objectives.objective import Goal
from tl_steer.objectives.substitution import Substitution
from tl_steer.radii.inband import AUTO
from tl_steer.radii.rules import RadiusRule


def place(
    model: HookedModel,
    tokens: TokenBatch,
    ends: tuple[str | None, str | None],
    radius: float | int | str | RadiusRule,
    saved: Saved | None,
    seed: int,
    maximised: Any,
) -> tuple[str, str, float | int | RadiusRule]:
    """Source, target and length, with what was left open found.

    Raises:
        SettingError: hook points that are not named, or only one of them.
    """
    if isinstance(maximised, Goal):
        return _of_goal(model, tokens, ends, radius, saved, seed, maximised)
    source, target = _named(ends)
    if source == "auto":
        if saved is not None:
            source, target = saved.bank.source.name, saved.bank.target.name
        else:
            best = scan(model, tokens, read=AUTO, seed=seed).best()
            source, target = best.source, best.target
    return source, target, AUTO if isinstance(radius, str) else radius


def _of_goal(
    model: HookedModel,
    tokens: TokenBatch,
    ends: tuple[str | None, str | None],
    radius: float | int | str | RadiusRule,
    saved: Saved | None,
    seed: int,
    goal: Any,
) -> tuple[str, str, float | int | RadiusRule]:
    """The same for a goal: its own place where none is named, the best of a scan for "auto"."""
    source, target = own_ends(model, *ends)
    if isinstance(goal, Substitution) and isinstance(radius, str):
        found = saved.bank.radius if saved else shortest(model, tokens, goal, source, seed)
        return source, target, found
    if ends[0] != "auto" or not isinstance(goal, Contrast):
        return source, target, own_radius(goal) if isinstance(radius, str) else radius
    if saved is not None:
        return saved.bank.source.name, target, saved.bank.radius
    lengths = LENGTHS if isinstance(radius, str) else (radius,)
    best = scan_contrast(model, tokens, goal, lengths=lengths, seed=seed).best()
    return best.source, target, best.radius


def _named(ends: tuple[str | None, str | None]) -> tuple[str, str]:
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
