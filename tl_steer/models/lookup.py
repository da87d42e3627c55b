"""Hook points by name, by layer or by site, and why one cannot be used."""

import difflib
import operator
import re
from collections.abc import Mapping
from typing import Any

from tl_steer.errors import HookPointError, ShapeError
from tl_steer.files.signatures import refuses
from tl_steer.hook_points.registry import kind_of, kinds
from tl_steer.hook_points.site import Point, Site
from tl_steer.models.model import HookedModel
from tl_steer.models.points import heads_at, width_at

# A hook point that exists but never fires unless this is set on the model's config.
_GATES = {
    "attn.hook_result": "use_attn_result",
    "hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
# Where these are the same point as that, the block's MLP is made of experts, and the name misleads.
_NOT_NEURONS = {"mlp.hook_pre": "mlp.hook_in", "mlp.hook_post": "mlp.hook_out"}
_HEAD = re.compile(r"(.+)\[(-?\d+)\]")


@refuses
def resolve(
    model: HookedModel, where: Point, *, head: int | None = None, target: bool = False
) -> Site:
    """Find a hook point, and refuse what cannot be steered (or, with `target`, measured).

    Args:
        where: a name ("blocks.7.attn.hook_z", or "blocks.7.attn.hook_z[3]" for one head), the
            number of a layer, which means its `hook_resid_post` (negative ones count from the
            end), or a `Site`, which is checked against the model.
        head: one head of `attn.hook_q`, `hook_k`, `hook_v` or `hook_z`.
        target: whether effects are to be measured there.

    Names are looked up here and not by the model: one version of TransformerBridge ignores unknown
    names in silence. The first time that a point off the residual stream is asked for, the model
    runs on a few tokens (`models.points`).

    Raises:
        HookPointError: unknown (with the nearest names), gated off, not a registered kind, one
            that the model shows and does not compute with, or `hook_resid_mid` where it is only a
            view of another hook point.
        ShapeError: a `Site` of another width than the model's.
    """
    if isinstance(where, Site):
        found = resolve(model, where.name, head=head, target=target)
        return found if head is not None else _as_made(found, where)
    name, head = _said(model, where, head)
    points = model.hook_dict
    if name not in points:
        raise HookPointError(_unknown(points, name))
    _refuse_gated(model, name)
    layer, kind = _place(points, name)
    _refuse_use(points, name, layer, kind, target=target)
    width = _width(model, f"blocks.{layer}.{kind}", kind, target=target)
    if head is None:
        return Site(name, layer, kind, width)
    n = _heads(model, name, layer, kind, width)
    if not -n <= head < n:
        raise HookPointError(f"{name} has heads 0 to {n - 1} on this model; got head {head}.")
    return Site(f"{name}[{head % n}]", layer, kind, width // n)


def _said(model: HookedModel, where: Any, head: Any) -> tuple[str, int | None]:
    """A name and a head, from a name with a head or the number of a layer."""
    if not isinstance(where, str):
        return _behind_layer(model, where), _whole(head)
    found = _HEAD.fullmatch(where)
    if found is None:
        return where, _whole(head)
    if head is not None:
        raise HookPointError(f"{where!r} names a head, and head={head} another; leave one out.")
    return found[1], int(found[2])


def _whole(head: Any) -> int | None:
    if head is None:
        return None
    try:
        return operator.index(head)
    except TypeError:
        raise HookPointError(f"head={head!r}: expected the number of a head.") from None


def _behind_layer(model: HookedModel, where: Any) -> str:
    try:
        layer = None if isinstance(where, bool) else operator.index(where)
    except TypeError:
        layer = None
    n = int(model.cfg.n_layers)
    if layer is None:
        raise HookPointError(
            "A hook point is named by a string such as 'blocks.3.hook_resid_post', or by the "
            f"number of a layer; got {where!r}."
        )
    if not -n <= layer < n:
        raise HookPointError(f"There is no layer {layer}. The model has layers 0 to {n - 1}.")
    return f"blocks.{layer % n}.hook_resid_post"


def _as_made(found: Site, made: Site) -> Site:
    """A site that was made by hand, or for another model, if it is the model's own."""
    if (found.layer, found.kind) != (made.layer, made.kind):
        raise HookPointError(
            f"{made.name} is {found.kind} of layer {found.layer} on this model, but its Site says "
            f"{made.kind} of layer {made.layer}."
        )
    if found.width != made.width:
        raise ShapeError(
            f"{made} is {found.width} wide on this model, but its Site was made for width "
            f"{made.width}."
        )
    return found


def _width(model: HookedModel, name: str, kind: str, *, target: bool) -> int:
    if kind.startswith("hook_resid_"):
        return int(model.cfg.d_model)
    return width_at(model, name, edited=not target)


def _heads(model: HookedModel, name: str, layer: int, kind: str, width: int) -> int:
    if not kind.startswith("attn."):
        raise HookPointError(
            f"{name} has no heads; those of attention are at blocks.{layer}.attn.hook_z, hook_q, "
            "hook_k and hook_v."
        )
    return heads_at(model, f"blocks.{layer}.{kind}", width)


def _place(points: Mapping[str, Any], name: str) -> tuple[int, str]:
    """Layer and kind. TransformerBridge has several names for one point, so compare the points."""
    parts = name.split(".")
    names = [kind.name for kind in kinds()]
    if len(parts) > 2 and parts[0] == "blocks" and parts[1].isdigit():
        own = ".".join(parts[2:])
        # Last the names that mislead: another of that point is meant.
        for kind in sorted(names, key=lambda kind: (kind != own, kind in _NOT_NEURONS)):
            if points.get(f"blocks.{parts[1]}.{kind}") is points[name]:
                return int(parts[1]), kind
    if "embed" in name:
        raise HookPointError(
            f"{name} cannot be steered here: it lies before the blocks. Tokens enter the first "
            "block, positions added, at blocks.0.hook_resid_pre; steer there."
        )
    raise HookPointError(
        f"{name} cannot be steered here. Supported are blocks.<layer>.<kind> with kind one of "
        f"{', '.join(names)}, and what tl_steer.hook_points.register makes one."
    )


def _refuse_use(
    points: Mapping[str, Any], name: str, layer: int, kind: str, *, target: bool
) -> None:
    known = kind_of(kind)
    if target and not known.target:
        measured = ", ".join(each.name for each in kinds() if each.target)
        raise HookPointError(
            f"{name} cannot be a target: responses are measured at one of {measured}. "
            f"Use blocks.{layer}.hook_resid_post."
        )
    if not target and not known.source:
        raise HookPointError(f"{name} cannot be a source: its kind is registered as a target.")
    if kind == "hook_resid_mid" and _is_view(points, name):
        raise HookPointError(
            f"{name} is only a view of another hook point on this model: what is added there "
            "reaches the MLP but not the residual stream behind it. "
            f"Use blocks.{layer}.hook_attn_out to add the same vector, or a hook_resid_pre or "
            "hook_resid_post."
        )
    whole = points.get(f"blocks.{layer}.{_NOT_NEURONS.get(kind, '')}")
    if whole is not None and whole is points[name]:
        raise HookPointError(
            f"{name} has no neurons on this model: it is the MLP's own input or output, as where "
            f"it is made of experts. Use blocks.{layer}.hook_mlp_out."
        )


def _is_view(points: Mapping[str, Any], name: str) -> bool:
    return any(other != name and point is points[name] for other, point in points.items())


def _refuse_gated(model: HookedModel, name: str) -> None:
    for ending, flag in _GATES.items():
        if name.endswith("." + ending) and not getattr(model.cfg, flag, False):
            raise HookPointError(
                f"{name} exists but never fires, because cfg.{flag} is off: a hook there would do "
                f"nothing in silence. Turn it on with model.set_{flag}(True) to read it; to steer, "
                f"use one of {', '.join(kind.name for kind in kinds())}."
            )


def _unknown(points: Mapping[str, Any], name: str) -> str:
    kind = next((k.name for k in kinds() if name in _short(k.name)), None)
    if kind is not None:
        layer = " or the layer alone (7)" * (kind == "hook_resid_post")
        return f"{name!r} names no layer: write 'blocks.7.{kind}'{layer}, say."
    if name.removeprefix("-").isdigit():
        return f"{name!r} is a string; the number of a layer is written without quotes: {name}."
    if name in ("embed", "pos_embed"):
        return f"{name!r} lies before the blocks: steer at 'blocks.0.hook_resid_pre'."
    near = difflib.get_close_matches(name, list(points), n=3, cutoff=0.5)
    layers = [int(p.split(".")[1]) for p in points if p.startswith("blocks.")]
    where = f" The model has layers 0 to {max(layers)}." if layers else ""
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return f"There is no hook point {name!r}.{where}{hint}"


def _short(kind: str) -> tuple[str, ...]:
    """A kind without its block: in full, without the module, and as `get_act_name` takes it."""
    last = kind.split(".")[-1]
    return kind, last, last.removeprefix("hook_")
