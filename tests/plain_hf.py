"""Hugging Face models with the weights of the tiny bridges, and steering by hand: no tl_steer."""

import functools
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from conftest import PROMPTS, _hugging_face
from torch import Tensor

IDS = torch.tensor([[0, 8, 12, 33, 10, 64], [0, 73, 4, 47, 15, 16]])


@functools.cache
def hugging_face(kind: str = "llama") -> Any:
    return _hugging_face(kind).eval()


def blocks_of(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@torch.no_grad()
def steered_by_hand(
    layers: Mapping[int, Tensor], *, kind: str = "llama", mask: Tensor | None = None
) -> Tensor:
    """Logits on `IDS` with a vector added behind each of these blocks, at the tokens of `mask`."""
    model, chosen = hugging_face(kind), torch.ones(IDS.shape) if mask is None else mask
    with ExitStack() as undo:
        for layer, row in layers.items():

            def add(_module: Any, _inputs: Any, out: Any, row: Tensor = row) -> Any:
                hidden = out[0] if isinstance(out, tuple) else out
                hidden = hidden + chosen[..., None] * row
                return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

            undo.callback(blocks_of(model)[layer].register_forward_hook(add).remove)
        return model(IDS).logits


@torch.no_grad()
def steered_by_us(model: Any, bank: Any, *, kind: str = "llama") -> Tensor:
    """Logits on `IDS` with the bank's hooks, on the bridge of the same weights."""
    clean = model(IDS)
    torch.testing.assert_close(clean, steered_by_hand({}, kind=kind), rtol=1e-5, atol=1e-5)
    steered = model.run_with_hooks(IDS, fwd_hooks=bank.hooks())
    assert (steered - clean).abs().max() > 0.05
    return steered


def two_blocks(model: Any, vectors: Tensor) -> Any:
    """A bank whose vectors are added behind block 1, and minus half of them behind block 2."""
    import tl_steer as ts
    from tl_steer.perturbations import Additive, MultiSite

    both = MultiSite([Additive(1, vectors), Additive(2, -vectors / 2)])
    return ts.Bank.from_vectors(model, both, prompts=PROMPTS[:1], target=3)
