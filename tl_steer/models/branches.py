"""The last residual stream of many texts that begin alike, in one pass of one long row.

A model reads a prompt once for every continuation behind it. Under causal attention that is the
same work each time, so the texts share it where a model's blocks can be called with a mask of our
own (`Packed` does the same for segments). Here no pass over all texts is made first: how the blocks
are called is learned on one of them, and that one is what the result is checked against.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.models.calls import Call, Calls, entering_first, recording, run_to, with_axes
from tl_steer.models.hooks import capturing
from tl_steer.models.model import HookedModel
from tl_steer.models.packed import (
    CANNOT_PACK,
    LONGEST as LONGEST,
    Packing,
    packing_of,
    with_mask,
    worth_packing,
)
from tl_steer.models.tokens import TokenBatch

_ROWS = 16


def last_stream(model: HookedModel, tokens: TokenBatch) -> Float[Tensor, "batch pos d_model"]:
    """Activations at the last block's `hook_resid_post`; at padding, whatever stands there.

    Texts that share their beginning share the work for it where that saves something and the
    model allows it. The model must be `frozen`, and nothing may steer it.
    """
    packing = packing_of(tokens)
    if worth_packing(packing):
        try:
            return _packed(model, tokens, packing)
        except CANNOT_PACK:
            pass  # blocks that take other arguments; apart, they are called as they always are
    return _apart(model, tokens)


def last_point(model: HookedModel) -> str:
    """The hook point whose activations the final norm reads."""
    return f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"


def _apart(model: HookedModel, tokens: TokenBatch) -> Tensor:
    name, found = last_point(model), []
    # Few at a time: a model may make logits of every token, asked for or not.
    for rows in torch.arange(len(tokens), device=tokens.ids.device).split(_ROWS):
        part = TokenBatch(
            tokens.ids[rows], tokens.mask[rows], tokens.has_bos[rows], ("",) * len(rows)
        )
        with capturing(model, [name]) as seen:
            run_to(model, part, None)
        found.append(seen[name].detach())
    return torch.cat(found)


def _packed(model: HookedModel, tokens: TokenBatch, packing: Packing) -> Tensor:
    longest = tokens.take([int(tokens.lengths.argmax())])
    calls, clean = _learned(model, longest)
    stream = packing.pack(entering_first(model, tokens))
    for layer, call in calls.items():
        packed = with_mask(call, packing, longest.ids.shape, stream.dtype)
        stream = packed(model.blocks[layer], stream, 1)
    out = packing.unpack(stream.to(clean.device)[None])[0]
    _refuse_apart(out[int(tokens.lengths.argmax()), : clean.shape[1]], clean[0])
    return out


def _learned(model: HookedModel, one: TokenBatch) -> tuple[dict[int, Call], Tensor]:
    """How the blocks are called, and what leaves the last of them."""
    calls: Calls = {}
    name = last_point(model)
    with recording(model, calls, {}), capturing(model, [name]) as seen:
        run_to(model, one, None)
    calls, _ = with_axes(model, calls, one, None)
    return dict(sorted(calls.items())), seen[name].detach()


def _refuse_apart(found: Float[Tensor, "pos d"], clean: Float[Tensor, "pos d"]) -> None:
    off = float((found.double() - clean.double()).norm())
    tolerance = 1e-4 if clean.dtype in (torch.float32, torch.float64) else 0.05
    if not off <= tolerance * float(clean.double().norm()):
        raise ModelError("Texts in one row do not give what they give apart.")
