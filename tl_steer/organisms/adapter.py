"""Read an adapter in PEFT's format and fold it into a model's weights. Needs no peft.

Formula: W ← W + (alpha / r) · B A, Hu et al. 2021 (arXiv 2106.09685), section 4.1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from tl_steer.errors import ModelError
from tl_steer.files.jsons import from_text, real, whole

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


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
    """An adapter from PEFT's two files.

    Only plain LoRA: no DoRA, no rank-stabilised scale, no rank of its own for some maps.

    Raises:
        ModelError: files that are missing, damaged or of another kind.
    """
    try:
        config = from_text((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        scale = real(config["lora_alpha"]) / whole(config["r"], least=1)
    except Exception as error:
        # The reader of safetensors has no error of its own for all that can be wrong in a file.
        raise ModelError(f"No whole adapter in {folder}: {error!r}. Install it anew.") from error
    _refuse_other_kinds(folder, config)
    down = {_map_of(name, _A): t for name, t in tensors.items() if name.endswith(_A)}
    up = {_map_of(name, _B): t for name, t in tensors.items() if name.endswith(_B)}
    paired = down.keys() == up.keys() and len(down) + len(up) == len(tensors)
    paired = paired and all(
        t.ndim == up[name].ndim == 2 and len(t) == up[name].shape[1] == config["r"]
        for name, t in down.items()
    )
    floats = all(t.dtype in _FLOATS and bool(t.isfinite().all()) for t in tensors.values())
    if not down or not paired or not floats:
        raise ModelError(
            f"The adapter in {folder} is damaged: expected finite pairs lora_A, lora_B and nothing "
            f"else, got {len(down)} and {len(up)} among {len(tensors)} tensors. Install it anew."
        )
    return Adapter(scale, down, up)


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


def _map_of(tensor: str, ending: str) -> str:
    return tensor.removeprefix(_PREFIX).removesuffix(ending)


def _refuse_other_kinds(folder: Path, config: dict[str, Any]) -> None:
    odd = [
        key
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
        if config.get(key)
    ]
    if config.get("peft_type") != "LORA" or odd:
        raise ModelError(
            f"The adapter in {folder} is of kind {config.get('peft_type')} with "
            f"{', '.join(odd) or 'no extras'}; expected plain LORA."
        )
