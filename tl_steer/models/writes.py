"""The linear maps by which a block writes into the residual stream."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_steer.errors import HookPointError, ModelError
from tl_steer.files.text import said
from tl_steer.files.undo import Scope
from tl_steer.hook_points.registry import stage_of
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.model import HookedModel, context_of, device_of, model_name
from tl_steer.models.state import frozen, listen, without_hooks

# Each part of a block, its last map by TransformerLens's name, and where its output is there.
_LAST = {"attn": ("W_O", "hook_attn_out"), "mlp": ("W_out", "hook_mlp_out")}
# The same map as a module of TransformerBridge.
_MODULE = {"attn": "attn.o", "mlp": "mlp.out"}
PARTS = tuple(_LAST)
_TOLERANCE = 1e-3
# What is added has to stand above the rounding of massive activations, in half precision too.
_LOUD = 100.0


def written_by(part: str) -> int:
    """The stage (`stage_of`) of a block at which a part's output is there."""
    return stage_of(_LAST[part][1])


def writing_map(model: HookedModel, layer: int, part: str) -> Float[Tensor, "d_in d_model"]:
    """The weights of a part's last map, its heads or experts side by side: x is written as x W.

    They are the model's own, not a copy. As TransformerLens has them: in compatibility mode they
    are folded and centred, so compare only models that were loaded alike. Where a norm stands
    behind the map (Gemma-2's post-norms), what reaches the stream is scaled by it, dimension by
    dimension.

    Args:
        part: "attn" or "mlp".

    Raises:
        ModelError: the block has no such map, or not as numbers (quantised weights).
    """
    name = _LAST[part][0]
    try:
        found = getattr(getattr(model.blocks[layer], part), name)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise _none(model, layer, part, f"there is none ({str(error)[:80]})") from None
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise _none(model, layer, part, "it is packed or quantised")
    if found.ndim < 2 or found.shape[-1] != int(model.cfg.d_model):
        raise _none(model, layer, part, f"it has shape {tuple(found.shape)}")
    return found.detach().flatten(0, -2)


def writing_module(model: HookedModel, layer: int, part: str) -> tuple[str, nn.Module]:
    """A part's last map as transformers has it: its name in the model that TransformerBridge wraps,
    and the module.

    Raises:
        ModelError: the model is no TransformerBridge, or the part ends in no single map.
    """
    bridge: Any = model
    try:
        path = f"blocks.{layer}.{_MODULE[part]}"
        name = bridge.adapter.translate_transformer_lens_path(path)
        found = bridge.blocks[layer].get_submodule(_MODULE[part]).original_component
    except (AttributeError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{model_name(model)} does not say which module of transformers writes what {part} of "
            f"block {layer} adds ({said(error, most=120)}): expected a TransformerBridge, and a "
            "part that ends in one linear map (no mixture of experts)."
        ) from error
    return str(name), found


def arrives_unchanged(model: HookedModel, start: str, end: str) -> bool:
    """Whether what is added at one hook point has been added, and nothing else has changed, at
    another behind it. Hooks that are on the model are set aside.

    Raises:
        HookPointError: a point that the model does not have.
    """
    for name in (start, end):
        if name not in model.hook_dict:
            raise HookPointError(f"This model has no hook point {name}.")
    seen: dict[str, Tensor] = {}

    def add(_m: Any, _args: Any, out: Tensor) -> Tensor:
        g = torch.cos(torch.arange(out.shape[-1], device=out.device, dtype=torch.float32))
        added = torch.zeros_like(out)
        added[1] = (_LOUD * g).to(out)
        seen[start] = added
        return out + added

    def keep(_m: Any, _args: Any, out: Tensor) -> None:
        seen[end] = out.detach()

    ids = fixed_tokens(int(model.cfg.d_vocab), most=context_of(model)).to(device_of(model))
    with frozen(model), without_hooks(model), torch.no_grad(), Scope() as scope:
        listen(scope, model.hook_dict[start], add, before=False)
        listen(scope, model.hook_dict[end], keep, before=False)
        model(ids.repeat(2, 1), return_type=None)
    return end in seen and start in seen and _moved_by(seen[end], seen[start])


def _moved_by(out: Tensor, added: Tensor) -> bool:
    moved = (out[1].double() - out[0].double()).flatten(1)
    wanted = added[1].double().flatten(1)
    noise = 8 * torch.finfo(out.dtype).eps * float(out.norm())
    return float((moved - wanted).norm()) <= _TOLERANCE * float(wanted.norm()) + noise


def _none(model: HookedModel, layer: int, part: str, why: str) -> ModelError:
    return ModelError(
        f"blocks.{layer}.{part}.{_LAST[part][0]} of {model_name(model)} cannot be read: expected "
        f"floating-point weights that write into the residual stream, but {why}. Leave that part "
        "or block out."
    )
