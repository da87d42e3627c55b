"""The one place that knows what a model is.

Any object that meets `HookedModel` will do: HookedTransformer, TransformerBridge (raw or in
compatibility mode), or a model of your own. No class is tested for and no version is looked at.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, _ProtocolMeta, runtime_checkable

import torch
from torch import Tensor, nn

from tl_steer.bank import Bank, Fingerprint, same_model
from tl_steer.errors import ForeignModelError, HookPointError, ModelError
from tl_steer.site import RESIDUAL_STREAM, STAGES, Site


class _ByAttribute(_ProtocolMeta):
    """Asks an object for what it needs. Protocols do that before Python 3.12 only: since then they
    look without calling `__getattr__`, and find no submodule of any torch module."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls is not HookedModel:  # a class of one's own that declares to be one
            return super().__instancecheck__(instance)
        return all(hasattr(instance, name) for name in _NEEDED)


_NEEDED = ("cfg", "hook_dict", "blocks", "__call__", "to_tokens", "parameters")


@runtime_checkable
class HookedModel(Protocol, metaclass=_ByAttribute):
    """What tl_steer needs of a model; TransformerLens's classes have it.

    `cfg` has `n_layers`, `d_model`, `n_heads`, `d_head` and `d_vocab`; `hook_dict` maps names to
    hook points with `add_hook` and `fwd_hooks`; `blocks` are called with the residual stream first.
    Calling the model takes `(ids, attention_mask=, stop_at_layer=, return_type=)`.
    """

    cfg: Any
    hook_dict: Any
    blocks: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def to_tokens(self, *args: Any, **kwargs: Any) -> Any: ...

    def parameters(self, *args: Any, **kwargs: Any) -> Any: ...


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


def resolve(model: HookedModel, name: str, *, target: bool = False) -> Site:
    """Find a hook point by name, and refuse what cannot be steered (or, with `target`, measured).

    Names are looked up here and not by the model: one version of TransformerBridge ignores unknown
    names in silence.

    Raises:
        HookPointError: unknown (with the nearest names), gated off, not a supported kind, or
            `hook_resid_mid` where it is only a view of another hook point.
    """
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
    return Site(name, layer, kind, _width(model, kind))


def _width(model: HookedModel, kind: str) -> int:
    cfg = model.cfg
    return int(cfg.n_heads * cfg.d_head if kind == "attn.hook_z" else cfg.d_model)


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


@contextmanager
def seeded(model: HookedModel, seed: int) -> Iterator[None]:
    """Inside, sampling from the model is fixed by `seed`; the global random state is left as it
    was."""
    devices = [device_of(model)] if device_of(model).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def device_of(model: HookedModel) -> torch.device:
    """Where token ids have to be: the device of the model's first parameter."""
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: HookedModel) -> torch.dtype:
    first = next(iter(model.parameters()), None)
    return torch.float32 if first is None else first.dtype


def model_name(model: HookedModel) -> str:
    return str(getattr(model.cfg, "model_name", "") or type(model).__name__)


@contextmanager
def frozen(model: HookedModel) -> Iterator[None]:
    """Inside: no parameter wants gradients, all modules are in eval mode, autograd is on.

    Afterwards every flag and mode is what it was. Modes are set module by module, because
    `TransformerBridge.train` does more than set them. Works inside `no_grad` and `inference_mode`.
    """
    parameters = [(p, p.requires_grad) for p in model.parameters()]
    modules = list([*model.modules()] if isinstance(model, nn.Module) else [])
    modes = [(m, m.training) for m in modules]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for module in modules:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter, flag in parameters:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


@contextmanager
def without_hooks(model: HookedModel) -> Iterator[None]:
    """The bare model: every hook on a hook point or block is set aside, and put back as it was."""
    # Blocks too: `perturbing` counts how often its block runs, and this run is not the user's.
    points = {id(point): point for point in (*model.hook_dict.values(), *model.blocks)}.values()
    kept = [(point, point._forward_hooks, point._forward_pre_hooks) for point in points]
    try:
        for point, hooks, _ in kept:
            point._forward_hooks, point._forward_pre_hooks = type(hooks)(), type(hooks)()
        yield
    finally:
        for point, hooks, pre_hooks in kept:
            point._forward_hooks, point._forward_pre_hooks = hooks, pre_hooks


_SKETCH = 16


def fingerprint(model: HookedModel) -> Fingerprint:
    """What the model makes of seven fixed tokens, at three depths, in 48 numbers.

    The residual stream is centred and scaled to unit norm first, so weight folding, centring and
    the model class make no difference, while fine-tuning does. Hooks on the model are set aside.
    """
    n_layers, vocabulary = int(model.cfg.n_layers), int(model.cfg.d_vocab)
    ids = (torch.arange(1, 9) * 7919 + 13) % vocabulary
    names = [f"blocks.{i}.hook_resid_post" for i in sorted({0, n_layers // 2, n_layers - 1})]
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), frozen(model), without_hooks(model), torch.no_grad():
        handles = [
            model.hook_dict[name].register_forward_hook(
                lambda _m, _i, out, name=name: seen.__setitem__(name, out)
            )
            for name in names
        ]
        try:
            model(ids[None].to(device_of(model)), return_type=None)
        finally:
            for handle in handles:
                handle.remove()
    signature: list[float] = []
    for name in names:
        if name not in seen:
            raise ModelError(f"{name} did not fire in a plain forward pass; tl_steer needs it.")
        signature += _sketch(seen[name][0, 1:].double().cpu())
    return Fingerprint(
        signature=tuple(round(x, 7) for x in signature),
        d_model=int(model.cfg.d_model),
        n_layers=n_layers,
        d_vocab=vocabulary,
        dtype=str(dtype_of(model)).removeprefix("torch."),
    )


def _sketch(residual: Tensor) -> list[float]:
    """[pos d_model] -> 16 numbers, by a fixed projection that needs no random generator."""
    centred = residual - residual.mean(dim=-1, keepdim=True)
    unit = torch.nn.functional.normalize(centred, dim=-1)
    d = unit.shape[-1]
    angles = torch.outer(torch.arange(1, _SKETCH + 1), torch.arange(d)) * (math.pi * 0.6180339887)
    return [float(x) for x in (unit @ torch.cos(angles).double().T).mean(dim=0)]


def check_fits(model: HookedModel, bank: Bank) -> None:
    """Refuse a bank that was made for another model.

    Raises:
        ForeignModelError: with the reason and the way round it.
    """
    here, there = fingerprint(model), bank.provenance.fingerprint
    if same_model(here, there):
        return
    for name in ("d_model", "n_layers", "d_vocab"):
        if getattr(here, name) != getattr(there, name):
            reason = f"it has {name} {getattr(there, name)}, this one {getattr(here, name)}"
            break
    else:
        reason = "the same tokens give other residual streams"
    raise ForeignModelError(
        f"This bank was made on {bank.provenance.model}, which is not this model "
        f"({model_name(model)}): {reason}. If you know that its vectors make sense here (a "
        "fine-tune, say), use ts.adopt(bank, model)."
    )


def adopt(bank: Bank, model: HookedModel) -> Bank:
    """Declare that a bank made on another model is to be used on this one; the bank says so from
    then on. Widths and hook points must still fit.

    Raises:
        HookPointError: the model lacks the bank's hook points or has them at another width.
    """
    import dataclasses

    for name in ("source", "target"):
        site: Site = getattr(bank, name)
        here = resolve(model, site.name, target=name == "target")
        if here.width != site.width:
            raise HookPointError(
                f"{site} is {here.width} wide on this model and {site.width} in the bank."
            )
    provenance = dataclasses.replace(
        bank.provenance,
        fingerprint=fingerprint(model),
        notes=(*bank.provenance.notes, f"adopted by {model_name(model)}"),
    )
    return dataclasses.replace(bank, provenance=provenance)
