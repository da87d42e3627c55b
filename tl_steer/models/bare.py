"""The bare model on a few fixed tokens: what is asked of it before anything is done with it."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.files.undo import Scope
from tl_steer.models.model import HookedModel, context_of, device_of
from tl_steer.models.state import frozen, listen, without_hooks


def fixed_tokens(d_vocab: int, *, most: int | None = None) -> Int[Tensor, "1 eight"]:
    """Eight token ids of that vocabulary, always the same; the first of them where the context
    holds `most`."""
    return ((torch.arange(1, 9, device="cpu") * 7919 + 13) % d_vocab)[None, :most]


def bare_pass(
    model: HookedModel, names: Sequence[str], *, return_type: str | None = None
) -> tuple[dict[str, Tensor], Any]:
    """Run the fixed tokens through the model, its hooks set aside.

    Returns:
        Activations at the hook points `names`, and what the model returned.

    Raises:
        ModelError: a hook point did not fire.
    """
    seen: dict[str, Tensor] = {}
    ids = fixed_tokens(int(model.cfg.d_vocab), most=context_of(model)).to(device_of(model))
    with frozen(model), without_hooks(model), torch.no_grad(), Scope() as scope:
        for name in names:

            def keep(_module: Any, _args: Any, out: Tensor, name: str = name) -> None:
                seen[name] = out

            listen(scope, model.hook_dict[name], keep, before=False)
        out = model(ids, return_type=return_type)
    if missing := [name for name in names if name not in seen]:
        raise ModelError(f"{missing[0]} did not fire in a plain forward pass; tl_steer needs it.")
    return seen, out
