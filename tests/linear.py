"""Models of one's own that meet `HookedModel`, with blocks that are known functions."""

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


class LinearBlock(Block):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__(lambda residual: residual @ self.matrix.T)
        self.matrix = nn.Parameter(matrix)


class Host(nn.Module):
    """Embeds tokens by a table and runs blocks."""

    tokenizer = None

    def __init__(self, name: str, embed: Tensor, blocks: list[Block]) -> None:
        super().__init__()
        d_vocab, d = embed.shape
        self.cfg = SimpleNamespace(
            n_layers=len(blocks), d_model=d, n_heads=1, d_head=d, d_vocab=d_vocab, model_name=name
        )
        self.embed = nn.Parameter(embed)
        self.blocks = nn.ModuleList(blocks)

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


class LinearHost(Host):
    """Embeds tokens at random and multiplies by one matrix a block."""

    def __init__(self, matrices: list[Tensor]) -> None:
        generator = torch.Generator().manual_seed(5)
        embed = torch.randn(31, len(matrices[0]), generator=generator, dtype=matrices[0].dtype)
        super().__init__("linear", embed, [LinearBlock(m) for m in matrices])
