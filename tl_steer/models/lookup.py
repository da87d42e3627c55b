"""Hook points by name, and why one cannot be used."""

import difflib
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tl_steer.errors import HookPointError
from tl_steer.files.signatures import refuses
from tl_steer.hook_points.site import RESIDUAL_STREAM, STAGES, Site
from tl_steer.models.linear_map import width_of
from tl_steer.models.model import HookedModel

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
# Each costs a pass over a few tokens, once.
_z_widths: "weakref.WeakKeyDictionary[Any, dict[str, int]]" = weakref.WeakKeyDictionary()


@refuses
def resolve(model: HookedModel, name: str, *, target: bool = False) -> Site:
    """Find a hook point by name, and refuse what cannot be steered (or, with `target`, measured).

    Names are looked up here and not by the model: one version of TransformerBridge ignores unknown
    names in silence.

    Raises:
        HookPointError: unknown (with the nearest names), gated off, not a supported kind, or
            `hook_resid_mid` where it is only a view of another hook point.
    """
    if not isinstance(name, str):
        raise HookPointError(
            f"A hook point is named by a string such as 'blocks.3.hook_resid_post'; got {name!r}."
        )
    points = model.hook_dict
    if name not in points:
        raise HookPointError(_unknown(points, name))
    _refuse_gated(model, name)
    layer, kind = _place(points, name)
    if target and kind not in RESIDUAL_STREAM:
        raise HookPointError(
            f"{name} cannot be a target: responses are measured on the residual stream. "
            f"Use blocks.{layer}.hook_resid_post."
        )
    if kind == "hook_resid_mid" and _is_view(points, name):
        raise HookPointError(
            f"{name} is only a view of another hook point on this model: what is added there "
            "reaches the MLP but not the residual stream behind it. "
            f"Use blocks.{layer}.hook_attn_out to add the same vector, or a hook_resid_pre or "
            "hook_resid_post."
        )
    return Site(name, layer, kind, _width(model, name, kind))


def _width(model: HookedModel, name: str, kind: str) -> int:
    if kind != "attn.hook_z":
        return int(model.cfg.d_model)
    # Configs do not tell: DeepSeek's values are not as wide as its queries, and blocks may differ.
    known: dict[str, int] = {}
    with suppress(TypeError):  # a model that cannot be a key is asked every time
        known = _z_widths.setdefault(model, {})
    if name not in known:
        known[name] = width_of(model, name)
    return known[name]


def _place(points: Mapping[str, Any], name: str) -> tuple[int, str]:
    """Layer and kind. TransformerBridge has several names for one point, so compare the points."""
    parts = name.split(".")
    if len(parts) > 2 and parts[0] == "blocks" and parts[1].isdigit():
        own = ".".join(parts[2:])
        for kind in sorted(STAGES, key=lambda kind: kind != own):
            if points.get(f"blocks.{parts[1]}.{kind}") is points[name]:
                return int(parts[1]), kind
    raise HookPointError(
        f"{name} cannot be steered here. Supported are blocks.<layer>.<kind> with kind one of "
        f"{', '.join(STAGES)}."
    )


def _is_view(points: Mapping[str, Any], name: str) -> bool:
    return any(other != name and point is points[name] for other, point in points.items())


def _refuse_gated(model: HookedModel, name: str) -> None:
    for ending, flag in _GATES.items():
        if name.endswith("." + ending) and not getattr(model.cfg, flag, False):
            raise HookPointError(
                f"{name} exists but never fires, because cfg.{flag} is off: a hook there would do "
                f"nothing in silence. Turn it on with model.set_{flag}(True) to read it; to steer, "
                f"use one of {', '.join(STAGES)}."
            )


def _unknown(points: Mapping[str, Any], name: str) -> str:
    near = difflib.get_close_matches(name, list(points), n=3, cutoff=0.5)
    layers = [int(p.split(".")[1]) for p in points if p.startswith("blocks.")]
    where = f" The model has layers 0 to {max(layers)}." if layers else ""
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return f"There is no hook point {name!r}.{where}{hint}"
