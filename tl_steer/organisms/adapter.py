"""Read an adapter in PEFT's format and fold it into a model's weights. Needs no peft.

Formula: W ← W + (alpha / r) · B A, Hu et al. 2021 (arXiv 2106.09685), section 4.1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_steer.errors import ModelError
from tl_steer.files.lora import read_lora


@dataclass(frozen=True)
class Adapter:
    """One low-rank change per linear map, by the map's name in the transformers model."""

    scale: float
    down: dict[str, Float[Tensor, "rank d_in"]]
    up: dict[str, Float[Tensor, "d_out rank"]]

    @property
    def rank(self) -> int:
        """Of the first change; all have it."""
        return len(next(iter(self.down.values())))

    def narrowed(self, rank: int, *, scale: float) -> "Adapter":
        """The nearest adapter of a lower rank, written for another scale.

        Formula: each change's truncated singular value decomposition, Eckart and Young 1936.

        Args:
            rank: of the result; not above this adapter's.
            scale: what the result is multiplied with.
        """
        pairs = {name: _nearest(self.up[name], down, rank) for name, down in self.down.items()}
        share = (self.scale / scale) ** 0.5
        down = {name: share * pair[1] for name, pair in pairs.items()}
        return Adapter(scale, down, {name: share * pair[0] for name, pair in pairs.items()})


def read_adapter(folder: Path) -> Adapter:
    """An adapter from PEFT's two files; only plain LoRA of maps whose weights are `[d_out d_in]`.

    Raises:
        ModelError: files that are missing, damaged or of another kind.
    """
    try:
        found = read_lora(folder)
        if found.bias or found.transposed:
            what = "lora_bias" if found.bias else "fan_in_fan_out"
            raise ValueError(f"it is of kind LORA with {what}; expected plain LORA")
    except (OSError, ValueError) as error:
        raise ModelError(f"No whole adapter in {folder}: {error}. Install it anew.") from error
    return Adapter(found.scale, found.down, found.up)


def merge(weights: nn.Module, adapter: Adapter) -> None:
    """Fold an adapter into the weights, in place and in their dtype.

    Wrong to use twice on one model: the change is added twice.

    Raises:
        ModelError: a linear map that the model lacks, or has in another shape; nothing is changed.
    """
    maps = dict(weights.named_modules())
    for name, down in adapter.down.items():
        weight = getattr(maps.get(name), "weight", None)
        shape = (len(adapter.up[name]), down.shape[1])
        if weight is None or tuple(weight.shape) != shape:
            found = None if weight is None else tuple(weight.shape)
            raise ModelError(
                f"The adapter changes {name}, a map of shape {shape}; the model has {found} there. "
                "It was made for another model."
            )
    with torch.no_grad():
        for name, down in adapter.down.items():
            kept: Any = maps[name].weight
            change = adapter.scale * (adapter.up[name].float() @ down.float())
            kept += change.to(kept)


def _nearest(
    up: Float[Tensor, "d_out rank"], down: Float[Tensor, "rank d_in"], rank: int
) -> tuple[Float[Tensor, "d_out less"], Float[Tensor, "less d_in"]]:
    """Factors of the best approximation of `up @ down`, of equal norms."""
    left, between = torch.linalg.qr(up.float())
    right, behind = torch.linalg.qr(down.float().T)
    u, s, vh = torch.linalg.svd(between @ behind.T)
    root = s[:rank].sqrt()
    return left @ u[:, :rank] * root, root[:, None] * (vh[:rank] @ right.T)
