r"""The singular vectors of a fine-tune's change of weights (see `readings`).

For every map that writes into the residual stream, $W_M - W_B = U S V^\top$ (as y = W x): the
columns of U are where the change writes to. Source: WeightWatch (arXiv 2508.00161), which watches
activations along them; here they are added.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import HookPointError, SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.hook_points.registry import stage_of
from tl_steer.hook_points.site import Site
from tl_steer.methods.readings import Directions, Reading
from tl_steer.methods.spectra import rounding, top_right
from tl_steer.models.segment import Segment
from tl_steer.models.writes import PARTS, writing_map, written_by

# Of as many dimensions as the residual stream, and added to it.
_ON_STREAM = ("hook_attn_out", "hook_mlp_out")


@typed_fields
@dataclass(frozen=True)
class WeightDifference(Reading):
    """Left singular vectors of the change of weights, the largest change first. For steering
    vectors on the residual stream.

    Args:
        base: the model that this one was made from, or a `Reference` of it; loaded the same way.
            Adapters count once they are merged.
        maps: whose output: "attn", "mlp".
        blocks: from how many blocks, the last of them the one that has just written at the source.
        top: singular vectors of each map, at most.
        signs: which sides of each come back, in turn.

    Scores: "singular value" (of the change), "block", and "mlp": 1 where the map is the MLP's.

    Raises:
        SettingError: settings out of range, or no block has written at the source.
        HookPointError: the source is not on the residual stream.
        ModelError: the base is of another size, weights cannot be read, or they do not differ.
    """

    base: Any
    _: KW_ONLY
    maps: Sequence[str] = PARTS
    blocks: int = 5
    top: int = 8
    signs: tuple[int, ...] = (1, -1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "maps", tuple(dict.fromkeys(self.maps)))
        if self.blocks < 1 or self.top < 1 or not self.maps or not {*self.maps} <= {*PARTS}:
            raise SettingError(
                f"{self}: expected blocks >= 1, top >= 1 and maps out of {', '.join(PARTS)}."
            )

    def directions(self, segment: Segment) -> Directions:
        self.base.refuse_unlike(segment.model)
        places = self._places(segment.source)
        found = [self._of_map(segment, layer, part) for layer, part in places]
        rows, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        if not len(rows):
            named = ", ".join(f"blocks.{layer}.{part}" for layer, part in places)
            raise self.nothing(segment, f"the last maps of {named}")
        order = values.argsort(descending=True, stable=True)
        of = [place for place, (own, _) in zip(places, found, strict=True) for _ in own]
        told = {
            "block": [float(layer) for layer, _ in of],
            "mlp": [float(part == "mlp") for _, part in of],
        }
        scores = {
            name: torch.tensor(x, dtype=values.dtype, device=values.device)[order]
            for name, x in told.items()
        }
        return Directions(rows[order], {"singular value": values[order], **scores})

    def _places(self, source: Site) -> list[tuple[int, str]]:
        """The maps that have written at the source, block by block."""
        if not (source.is_residual or source.kind in _ON_STREAM):
            raise HookPointError(
                f"{source} is not on the residual stream, where changed weights write. Use "
                f"blocks.{source.layer}.hook_resid_post."
            )
        places = []
        for part in self.maps:
            last = source.layer - int(written_by(part) > stage_of(source.kind))
            places += [(i, part) for i in range(max(0, last - self.blocks + 1), last + 1)]
        if not places:
            raise SettingError(
                f"No {' or '.join(self.maps)} has written at {source} yet. Choose a later source."
            )
        return sorted(places)

    def _of_map(self, segment: Segment, layer: int, part: str) -> tuple[Tensor, Tensor]:
        """Where the change of one map writes to: unit rows, and the size of each."""
        own = writing_map(segment.model, layer, part)
        other = writing_map(self.base.model, layer, part).to(own.device)
        precise = torch.promote_types(own.dtype, torch.float32)
        values, rows = top_right(own.to(precise) - other.to(precise), self.top)
        kept = values > rounding(own)
        device = segment.clean_source.device
        return rows[kept].to(device), values[kept].to(device)
