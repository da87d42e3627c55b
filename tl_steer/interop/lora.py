"""What a LoRA folder of PEFT's holds, read without peft: low-rank changes of the maps by which
blocks write into the residual stream, or vectors that are added behind them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tl_steer.banks.bank import Bank
from tl_steer.errors import BankFileError, HookPointError
from tl_steer.files.lora import LoraFiles, read_lora
from tl_steer.files.text import shorten
from tl_steer.interop.directions import Directions, target_behind
from tl_steer.interop.formats import MOST_BYTES
from tl_steer.models.linear_map import departures
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import Prompts, TokenBatch
from tl_steer.models.writes import PARTS, arrives_unchanged, writing_module
from tl_steer.perturbations.adapter import BEFORE_NORM, Adapter, map_names


@dataclass(frozen=True, eq=False)
class LoraFolder:
    """A folder's changes of linear maps, or, where it has biases, what it adds behind them."""

    held: LoraFiles

    def bank(
        self, model: HookedModel, *, prompts: Prompts | TokenBatch, target: int | str | None = None
    ) -> Bank:
        """A bank of one, with what it does on these prompts; see `Directions.bank`.

        Raises:
            HookPointError: other maps than those that write into the stream, of attention's and
                MLP's both, or of another shape than the model's.
        """
        places = _places(model, self.held.down)
        if self.held.bias:
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
        held = self.held
        return Directions({at: held.scale * held.bias[n][None] for (_, at), n in places.items()})

    def _adapter(self, model: HookedModel, places: Mapping[tuple[str, int], str]) -> Adapter:
        parts, layers = {part for part, _ in places}, sorted(layer for _, layer in places)
        names = [name for _, name in sorted(places.items())]
        shapes = {(self.held.down[name].shape, self.held.up[name].shape) for name in names}
        if len(parts) != 1 or len(shapes) != 1:
            raise HookPointError(
                f"This changes {', '.join(map(_short, names[:4]))}; a bank holds changes of "
                "one kind of map, attention's or MLP's, all of one shape."
            )
        site = resolve(model, f"blocks.{layers[0]}.hook_{parts.pop()}_out")
        plain = map_names(site, layers, site.kind)
        output = BEFORE_NORM[site.kind] if departures(model, plain) else None
        reads = torch.stack([self.held.down[name] for name in names])[None]
        scale = self.held.scale
        # A radius is a length, so that the sign is the factors'.
        sign = -1.0 if scale < 0 else 1.0
        writes = sign * torch.stack([self.held.up[name].T for name in names])[None]
        return Adapter(site, reads, writes, layers=layers, radius=abs(scale), output=output)


def read(path: Path) -> LoraFolder:
    """See `interop.read`."""
    try:
        found = read_lora(path, most=MOST_BYTES)
    except OSError as error:
        which, reason = error.filename or path, error.strerror or error
        raise BankFileError(f"{which} cannot be read: {reason}.") from error
    except ValueError as error:
        raise BankFileError(f"{path} holds no plain LoRA: {error}.") from error
    if found.scale == 0:
        raise BankFileError(f"{path} changes nothing: its lora_alpha is 0.")
    for name in found.bias:
        if bool(found.down[name].any()) and bool(found.up[name].any()):
            raise BankFileError(
                f"{path} changes the weights of {_short(name)} and adds a vector behind it; a bank "
                "does either."
            )
    return LoraFolder(found)


def _short(name: str) -> str:
    """A module's name, which a file may make as long as it likes."""
    return shorten(name, 60)


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
            f"This changes {_short(other[0])}; a bank holds changes of the maps that write "
            f"into the residual stream, such as {next(iter(known))}."
        )
    return {known[name]: name for name in names}
