"""The linear maps by which a block writes into the residual stream."""

from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.hook_points.registry import stage_of
from tl_steer.models.model import HookedModel, model_name

# Each part of a block, its last map by TransformerLens's name, and where its output is there.
_LAST = {"attn": ("W_O", "hook_attn_out"), "mlp": ("W_out", "hook_mlp_out")}
PARTS = tuple(_LAST)


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


def _none(model: HookedModel, layer: int, part: str, why: str) -> ModelError:
    return ModelError(
        f"blocks.{layer}.{part}.{_LAST[part][0]} of {model_name(model)} cannot be read: expected "
        f"floating-point weights that write into the residual stream, but {why}. Leave that part "
        "or block out."
    )
