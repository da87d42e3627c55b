"""A model of one's own that meets `HookedModel`: its blocks are known matrices."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint


class Block(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(self, residual: Tensor) -> Tensor:
        return self.hook_resid_post(self.hook_resid_pre(residual) @ self.matrix.T)


class LinearHost(nn.Module):
    """Embeds tokens at random and multiplies by one matrix a block."""

    tokenizer = None

    def __init__(self, matrices: list[Tensor]) -> None:
        super().__init__()
        d = len(matrices[0])
        self.cfg = SimpleNamespace(
            n_layers=len(matrices), d_model=d, n_heads=1, d_head=d, d_vocab=31, model_name="linear"
        )
        generator = torch.Generator().manual_seed(5)
        self.embed = nn.Parameter(torch.randn(31, d, generator=generator, dtype=matrices[0].dtype))
        self.blocks = nn.ModuleList(Block(m) for m in matrices)

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        points = {n: m for n, m in self.named_modules() if isinstance(m, HookPoint)}
        for name, point in points.items():
            point.name = name
        return points

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
