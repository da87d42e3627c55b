"""Kinds of hook points: what is computed in a block, in which order, and what may be done there.

A kind is the part of a hook point's name behind `blocks.<layer>.`. What it is on a model, how wide
and whether edits reach the rest of the block, is found out by running that model
(`models.points`), so a kind says nothing of it.
"""

from dataclasses import dataclass

from tl_steer.errors import HookPointError, SettingError
from tl_steer.files.signatures import typed


@dataclass(frozen=True)
class HookKind:
    """A kind of hook point.

    Attributes:
        after: the kind that a block computes before it; `None` for what enters the block.
        source: whether it can be edited.
        target: whether effects can be measured there.
    """

    name: str
    after: str | None
    source: bool = True
    target: bool = False


# In the order in which a block computes them; a source must not come after its target.
_known: list[HookKind] = []


@typed
def register(
    name: str, *, after: str | None, source: bool = True, target: bool = False
) -> HookKind:
    """Let a kind of hook point be steered, by its name behind `blocks.<layer>.`.

    The model has to compute with it: `resolve` edits it once, and refuses it where nothing behind
    it in the block moves, where prompts and tokens are not its first two axes, and where it fires
    other than once a pass. A file with such a site can be read only where the kind is registered.

    Args:
        name: as in "mlp.hook_post".
        after: the registered kind that is computed right before it.
        source: whether perturbations may act there.
        target: whether effects may be measured there. Wrong for a point that later ones in the
            block do not depend on, since nothing would move there.

    Raises:
        SettingError: no name of a kind, an unknown `after`, or the name is registered otherwise.
    """
    kind = HookKind(name, after, source, target)
    known = {each.name: each for each in _known}
    if known.get(name, kind) != kind:
        raise SettingError(f"{name!r} is registered already, as {known[name]}.")
    if name in known:
        return kind
    if not name or name.startswith("blocks.") or not (source or target):
        raise SettingError(
            f"register({name!r}, source={source}, target={target}): expected what stands behind "
            "blocks.<layer>., such as 'mlp.hook_post', to be a source, a target or both."
        )
    if after not in known and _known:
        raise SettingError(f"after={after!r}: expected one of {', '.join(known)}.")
    _known.insert(list(known).index(after) + 1 if after in known else 0, kind)
    return kind


def kinds() -> tuple[HookKind, ...]:
    """All that are registered, in the order in which a block computes them."""
    return tuple(_known)


def kind_of(name: str) -> HookKind:
    """A kind by its name.

    Raises:
        HookPointError: nobody has registered it.
    """
    found = next((each for each in _known if each.name == name), None)
    if found is None:
        raise HookPointError(
            f"{name!r} is no kind of hook point that is known; there are "
            f"{', '.join(each.name for each in _known)}. tl_steer.hook_points.register({name!r}, "
            "after=...) makes it one."
        )
    return found


def stage_of(name: str) -> int:
    """Sorts kinds in the order in which a block computes them."""
    return _known.index(kind_of(name))


register("hook_resid_pre", after=None, target=True)
register("attn.hook_q", after="hook_resid_pre")
register("attn.hook_k", after="attn.hook_q")
register("attn.hook_v", after="attn.hook_k")
register("attn.hook_pattern", after="attn.hook_v")
register("attn.hook_z", after="attn.hook_pattern", target=True)
register("hook_attn_out", after="attn.hook_z", target=True)
register("hook_resid_mid", after="hook_attn_out", target=True)
register("mlp.hook_pre", after="hook_resid_mid")
register("mlp.hook_post", after="mlp.hook_pre")
register("hook_mlp_out", after="mlp.hook_post", target=True)
register("hook_resid_post", after="hook_mlp_out", target=True)
