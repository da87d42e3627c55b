"""A model of one's own whose response is known in closed form: linear, quadratic or exponential."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint


class Block(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(self, residual: Tensor) -> Tensor:
        return self.hook_resid_post(self.function(self.hook_resid_pre(residual)))


class CurvedHost(nn.Module):
    """Embeds every token as zero, so that block 1 maps a vector added behind block 0 by `function`
    and the response is `function(θ) - function(0)`."""

    tokenizer = None

    def __init__(self, function: Callable[[Tensor], Tensor], d: int, *, dtype: Any = None) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(
            n_layers=2, d_model=d, n_heads=1, d_head=d, d_vocab=31, model_name="curved"
        )
        self.embed = nn.Parameter(torch.zeros(31, d, dtype=dtype))
        self.blocks = nn.ModuleList([Block(lambda x: x), Block(function)])

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        return {n: m for n, m in self.named_modules() if isinstance(m, HookPoint)}

    def to_tokens(self, text: str, **_: Any) -> Tensor:
        return torch.tensor([[int(word) for word in text.split()]])

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        return_type: str | None = None,
    ) -> Tensor:
        residual = self.embed[ids]
        for block in self.blocks[:stop_at_layer]:
            residual = block(residual)
        return residual


ENDS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
