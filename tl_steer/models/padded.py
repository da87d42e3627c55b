"""Prompts of different lengths in one batch of generation, padded on the left.

Some versions of TransformerLens shift the positions of prompts behind padding, or let them see it;
others take a mask and do neither. So each model is asked once.
"""

import weakref
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import SteerError
from tl_steer.files.undo import Scope
from tl_steer.models.bare import fixed_tokens
from tl_steer.models.model import HookedModel, context_of, device_of
from tl_steer.models.rows import continued
from tl_steer.models.state import frozen, listen, without_hooks
from tl_steer.models.tokens import TokenBatch

_NEW = 3
_SHORT = 3  # of the eight fixed tokens
# Relative; rounding is far below, and a shifted or seen token far above.
_TOLERANCE = 0.02
_known: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def left_padded(
    tokens: TokenBatch,
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """The prompts' ids with padding in front, and the mask that says so."""
    width = tokens.ids.shape[1]
    place = torch.arange(width, device=tokens.ids.device) - (width - tokens.lengths)[:, None]
    return tokens.ids.gather(1, place.clamp(min=0)), (place >= 0).long()


def takes_padding(model: HookedModel) -> bool:
    """Whether the model's generation gives a prompt behind padding what it gives it alone."""
    if model not in _known:
        context = context_of(model)
        _known[model] = (context is None or context >= 8 + _NEW) and _asked(model)
    return _known[model]


def _asked(model: HookedModel) -> bool:
    long = fixed_tokens(int(model.cfg.d_vocab), most=8).to(device_of(model))
    short = long[:, :_SHORT]
    behind = torch.nn.functional.pad(short, (long.shape[1] - _SHORT, 0), value=int(long[0, -1]))
    mask = torch.ones_like(long.repeat(2, 1))
    mask[1, : long.shape[1] - _SHORT] = 0
    try:
        together = _seen(model, torch.cat([long, behind]), attention_mask=mask)[:, 1]
        alone = _seen(model, short)[:, 0]
    except torch.OutOfMemoryError:
        raise
    except (SteerError, RuntimeError, TypeError, ValueError, IndexError):
        return False  # it knows no mask
    together = together[: len(alone)]  # it may have ended before
    apart = float((together - alone).norm() / alone.norm())
    return apart <= _TOLERANCE  # and not NaN


def _seen(model: HookedModel, ids: Tensor, **how: Any) -> Tensor:
    """What leaves the last block at the newest token, step by step: [step batch d]."""
    seen: list[Tensor] = []

    def leaving(_m: Any, _i: Any, out: Any) -> None:
        seen.append((out[0] if isinstance(out, tuple) else out)[:, -1].detach().float().cpu())

    last: Any = model.blocks[len(model.blocks) - 1]
    with frozen(model), without_hooks(model), torch.no_grad(), Scope() as scope:
        listen(scope, last, leaving, before=False)
        continued(model, ids, _NEW, **how)
    return torch.stack(seen)
