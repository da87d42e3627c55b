"""What a LoRA folder of PEFT's holds, read without peft: low-rank changes of the maps by which
blocks write into the residual stream, or vectors that are added behind them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import BankFileError, HookPointError
from tl_steer.files.jsons import from_text, real, whole
from tl_steer.files.text import shorten
from tl_steer.interop.directions import Directions, target_behind
from tl_steer.interop.formats import content_of
from tl_steer.models.linear_map import departures
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import Prompts, TokenBatch
from tl_steer.models.writes import PARTS, arrives_unchanged, writing_module
from tl_steer.perturbations.adapter import BEFORE_NORM, Adapter, map_names

_PREFIX, _PAIR, _BIAS = "base_model.model.", ("A.weight", "B.weight"), "B.bias"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What values of the wrong kind raise when they are used.
_BAD = (ValueError, TypeError, KeyError, ArithmeticError, RuntimeError)
# What would make the change another than (alpha / r) B A.
_EXTRAS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "layer_replication")


@dataclass(frozen=True, eq=False)
class LoraFolder:
    """Changes of linear maps, by the maps' names in transformers.

    Attributes:
        scale: alpha / r.
        bias: what is added to a map's output, where that is all; then there are no pairs.
    """

    scale: float
    down: Mapping[str, Float[Tensor, "rank d_in"]]
    up: Mapping[str, Float[Tensor, "d_out rank"]]
    bias: Mapping[str, Float[Tensor, " d_out"]]

    def bank(
        self, model: HookedModel, *, prompts: Prompts | TokenBatch, target: int | str | None = None
    ) -> Bank:
        """A bank of one, with what it does on these prompts; see `Directions.bank`.

        Raises:
            HookPointError: other maps than those that write into the stream, of attention's and
                MLP's both, or of another shape than the model's.
        """
        places = _places(model, self.bias or self.down)
        if self.bias:
            return self._directions(model, places).bank(model, prompts=prompts, target=target)
        edits = self._adapter(model, places)
        behind = target_behind(model, edits.layers[-1]) if target is None else target
        return Bank.from_vectors(model, edits, prompts=prompts, target=behind)

    def _directions(self, model: HookedModel, places: Mapping[tuple[str, int], str]) -> Directions:
        for part, layer in places:
            start, end = f"blocks.{layer}.mlp.hook_out", f"blocks.{layer}.hook_resid_post"
            if part != "mlp" or not arrives_unchanged(model, start, end):
                raise HookPointError(
                    f"This adds a vector behind {places[part, layer]}, and what is added there is "
                    "not added to the block's output as it is; expected the last map of an MLP "
                    "without a norm behind it."
                )
        return Directions({at: self.scale * self.bias[n][None] for (_, at), n in places.items()})

    def _adapter(self, model: HookedModel, places: Mapping[tuple[str, int], str]) -> Adapter:
        parts, layers = {part for part, _ in places}, sorted(layer for _, layer in places)
        names = [name for _, name in sorted(places.items())]
        shapes = {(self.down[name].shape, self.up[name].shape) for name in names}
        if len(parts) != 1 or len(shapes) != 1:
            raise HookPointError(
                f"This changes {', '.join(map(shorten_name, names[:4]))}; a bank holds changes of "
                "one kind of map, attention's or MLP's, all of one shape."
            )
        site = resolve(model, f"blocks.{layers[0]}.hook_{parts.pop()}_out")
        plain = map_names(site, layers, site.kind)
        output = BEFORE_NORM[site.kind] if departures(model, plain) else None
        reads = torch.stack([self.down[name] for name in names])[None]
        writes = torch.stack([self.up[name].T for name in names])[None]
        return Adapter(site, reads, writes, layers=layers, radius=self.scale, output=output)


def read(path: Path) -> LoraFolder:
    """See `interop.read`."""
    try:
        config = dict(from_text(content_of(path / "adapter_config.json", most=1 << 20).decode()))
        tensors = load(content_of(path / "adapter_model.safetensors"))
        rank, scale = whole(config["r"], least=1), real(config["lora_alpha"]) / config["r"]
        _refuse_other_kinds(config)
        found = _by_map(tensors)
        _refuse_shapes(found, rank)
    except BankFileError:
        raise
    except (SafetensorError, *_BAD) as error:
        raise BankFileError(f"{path} holds no plain LoRA: {error}") from error
    biased = any(_BIAS in each for each in found.values())
    if biased:
        bias = {name: each[_BIAS] for name, each in found.items()}
        return LoraFolder(scale, {}, {}, bias)
    down, up = ({name: each[which] for name, each in found.items()} for which in _PAIR)
    return LoraFolder(scale, down, up, {})


def shorten_name(name: str) -> str:
    """A module's name, which a file may make as long as it likes."""
    return shorten(name, 60)


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    extras = [key for key in _EXTRAS if config.get(key)]
    if config.get("peft_type") != "LORA" or extras:
        kind = shorten(str(config.get("peft_type")), 20)
        raise ValueError(f"it is of kind {kind} with {', '.join(extras) or 'no extras'}.")


def _by_map(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, values in tensors.items():
        name, _, which = key.removeprefix(_PREFIX).rpartition(".lora_")
        if which not in (*_PAIR, _BIAS) or values.dtype not in _FLOATS:
            raise ValueError(f"it holds {shorten_name(key)} ({values.dtype}).")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{shorten_name(key)} holds NaN or infinity.")
        found.setdefault(name, {})[which] = values.float()
    return found


def _refuse_shapes(found: Mapping[str, Mapping[str, Tensor]], rank: int) -> None:
    kinds = {frozenset(each) for each in found.values()}
    if kinds not in ({frozenset(_PAIR)}, {frozenset((*_PAIR, _BIAS))}):
        raise ValueError("its maps do not each have A and B, or A, B and a bias.")
    for name, each in found.items():
        down, up, bias = each["A.weight"], each["B.weight"], each.get(_BIAS)
        shapes = down.ndim == up.ndim == 2 and len(down) == up.shape[1] == rank
        if not shapes or (bias is not None and bias.shape != up.shape[:1]):
            raise ValueError(f"the factors of {shorten_name(name)} are of no rank {rank}.")
        if bias is not None and bool(down.any()) and bool(up.any()):
            raise ValueError("it changes weights and adds vectors at once; a bank does either.")


def _places(model: HookedModel, names: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """Part and layer of each map."""
    known = {
        writing_module(model, layer, part)[0]: (part, layer)
        for layer in range(int(model.cfg.n_layers))
        for part in PARTS
    }
    other = [name for name in names if name not in known]
    if other:
        raise HookPointError(
            f"This changes {shorten_name(other[0])}; a bank holds changes of the maps that write "
            f"into the residual stream, such as {next(iter(known))}."
        )
    return {known[name]: name for name in names}
