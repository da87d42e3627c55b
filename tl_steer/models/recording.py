"""One forward pass over several edits of one text, with what is wanted read off on the way.

Row 0 is the unsteered model. Attention is reduced as it appears: kept whole, 32 layers of 32 heads
on 512 tokens would fill a gigabyte a row. The last token's row is kept of every head.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.models.hooks import installed, perturbing
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import TokenBatch
from tl_steer.perturbations.perturbation import HookFunction, Hooks, Perturbation

Look = Callable[[int, Float[Tensor, "run head dest src"]], None]


@dataclass
class Heads:
    """The heads whose attention changes most, for each vector, and where the last token of every
    head looks. `change` and `last` start as NaN, and stay so in layers that have no attention."""

    change: Float[Tensor, "vec layer head"]
    last: Float[Tensor, "run layer head pos"]
    most: int
    best: list[list[tuple[float, int, int, Tensor]]] = field(default_factory=list)

    @classmethod
    def of(cls, model: HookedModel, tokens: TokenBatch, n: int, most: int) -> "Heads":
        """For n vectors; the patterns of `most` heads each are kept."""
        layers, heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        last = (n + 1, layers, heads, int(tokens.lengths[0]))
        return cls(
            torch.full((n, layers, heads), torch.nan, dtype=torch.float32, device="cpu"),
            torch.full(last, torch.nan, dtype=torch.half, device="cpu"),
            most,
        )

    def look(self, layer: int, pattern: Float[Tensor, "run head dest src"]) -> None:
        """Total variation from the unsteered row, and the patterns of the heads worth keeping."""
        pattern = pattern.float()
        if pattern.shape[-1] == self.last.shape[-1]:
            self.last[:, layer, : pattern.shape[1]] = pattern[:, :, -1].half().cpu()
        change = 0.5 * (pattern[1:] - pattern[:1]).abs().sum(dim=-1).mean(dim=-1)
        self.change[:, layer, : change.shape[1]] = change.cpu()
        self.best = self.best or [[] for _ in change]
        for v, best in enumerate(self.best):
            for head in change[v].topk(min(self.most, change.shape[1])).indices.tolist():
                both = torch.stack([pattern[0, head], pattern[v + 1, head]]).half().cpu()
                best.append((float(change[v, head]), layer, head, both))
            best.sort(key=lambda found: (-found[0], found[1], found[2]))
            del best[self.most :]

    def last_rows(self) -> Float[Tensor, "vec layer head 2 src"]:
        """The last token's attention of every head, unsteered and steered."""
        before = self.last[:1].expand_as(self.last[1:])
        return torch.stack([before, self.last[1:]], dim=3)

    def kept(self) -> tuple[Int[Tensor, "vec kept 2"], Float[Tensor, "vec kept 2 dest src"]]:
        if not self.best or self.most == 0:
            n = len(self.change)
            empty = torch.zeros(n, 0, 2, 0, 0, dtype=torch.half, device="cpu")
            return torch.zeros(n, 0, 2, dtype=torch.long, device="cpu"), empty
        places = [[[layer, head] for _, layer, head, _ in best] for best in self.best]
        return torch.tensor(places, dtype=torch.long, device="cpu"), torch.stack(
            [torch.stack([both for *_, both in best]) for best in self.best]
        )


@dataclass(frozen=True)
class Recording:
    """What one pass gave. `stream` is the residual stream entering block 0 and leaving each block;
    `attention`, `mlp` and `z` are what blocks computed at the last tokens, as many as were asked
    for."""

    stream: Float[Tensor, "run stream pos d_model"]
    logits: Float[Tensor, "run pos vocabulary"]
    source: Float[Tensor, "run pos width"]
    attention: dict[int, Float[Tensor, "run tail d_model"]]
    mlp: dict[int, Float[Tensor, "run tail d_model"]]
    z: dict[int, Float[Tensor, "run tail _"]]


def record(
    model: HookedModel,
    edits: Perturbation,
    tokens: TokenBatch,
    *,
    look: Look,
    behind: Int[Tensor, " new"] | None = None,
) -> Recording:
    """Run one prompt under every edit; the first edit must be none at all.

    Args:
        look: gets each layer's attention patterns as they appear.
        behind: tokens that stand behind the prompt, as if they had been generated. What blocks
            computed is kept at the prompt's last token and at these.

    Raises:
        ModelError: a residual stream did not show.
    """
    tail = 1 if behind is None else 1 + len(behind)
    n, layers = len(edits), int(model.cfg.n_layers)
    streams = ["blocks.0.hook_resid_pre"] + [f"blocks.{i}.hook_resid_post" for i in range(layers)]
    seen: dict[str, Tensor] = {}

    def keep(name: str, read: Callable[[Tensor], Tensor]) -> tuple[str, HookFunction]:
        def hook(activation: Tensor, hook: object = None) -> None:
            seen[name] = read(activation).detach()

        return name, hook  # type: ignore[return-value]

    def seeing(layer: int) -> tuple[str, HookFunction]:
        def hook(pattern: Tensor, hook: object = None) -> None:
            look(layer, pattern.detach())

        return f"blocks.{layer}.attn.hook_pattern", hook  # type: ignore[return-value]

    hooks: Hooks = [keep(name, lambda x: x.float().cpu()) for name in streams]
    for i in range(layers):
        hooks += [seeing(i)]
        for kind in ("hook_attn_out", "hook_mlp_out", "attn.hook_z"):
            hooks += [keep(f"blocks.{i}.{kind}", lambda x: x[:, -tail:].flatten(2).float().cpu())]
    hooks = [hook for hook in hooks if hook[0] in model.hook_dict]
    source: dict[str, Tensor] = {}

    def at_source(activation: Tensor, hook: object = None) -> None:
        source["now"] = edits.site.read(activation.detach()).float().cpu()

    hooks.append((edits.site.point, at_source))  # type: ignore[arg-type]
    batch = tokens.take([0] * n)
    steering = perturbing(model, edits, rows=torch.arange(n, device="cpu"), tokens=batch)
    with torch.no_grad(), steering, installed(model, hooks):
        logits = model(_grown(batch.ids, behind), return_type="logits")
    missing = [name for name in streams if name not in seen]
    if missing:
        raise ModelError(f"{missing[0]} did not fire in a plain forward pass; views need it.")
    return Recording(
        torch.stack([seen[name] for name in streams], dim=1),
        logits.detach(),
        source["now"],
        *(
            {i: seen[f"blocks.{i}.{kind}"] for i in range(layers) if f"blocks.{i}.{kind}" in seen}
            for kind in ("hook_attn_out", "hook_mlp_out", "attn.hook_z")
        ),
    )


def _grown(ids: Int[Tensor, "run pos"], behind: Int[Tensor, " new"] | None) -> Tensor:
    if behind is None:
        return ids
    return torch.cat([ids, behind.to(ids.device).expand(len(ids), -1)], dim=1)
