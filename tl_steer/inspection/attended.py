"""Where the last tokens of a text look, steered beside unsteered: one row a token and head.

Of every token the heads that change most are kept, and the mean over all heads; a model's other
rows are gone as soon as the next layer has been seen.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Attended:
    """Rows of attention at the last `tail` tokens of a text of `src` tokens, of which the unsteered
    run is row 0 and the steered one row 1. `most` heads are kept for each token.

    Attributes:
        change: total variation between the two rows of the heads kept, largest first.
        places: their layers and heads.
        rows: their attention, unsteered and steered (half precision).
    """

    tail: int
    src: int
    most: int
    change: Float[Tensor, "tail kept"] | None = None
    places: Int[Tensor, "tail kept 2"] | None = None
    rows: Float[Tensor, "tail kept 2 src"] | None = None
    _sum: list[Tensor] = field(default_factory=list)
    _heads: int = 0

    def look(self, layer: int, pattern: Float[Tensor, "run head dest src"]) -> None:
        """Take what is wanted of one layer; of one that does not look at every token, nothing."""
        if pattern.shape[-1] != self.src:
            return
        rows = pattern[:2, :, -self.tail :].float().cpu().permute(2, 1, 0, 3)
        change = 0.5 * (rows[:, :, 1] - rows[:, :, 0]).abs().sum(dim=-1)
        heads = torch.arange(rows.shape[1], device="cpu")
        places = torch.stack([torch.full_like(heads, layer), heads], dim=1)
        self._sum = [rows.sum(dim=1) + (self._sum[0] if self._sum else 0)]
        self._heads += rows.shape[1]
        self._keep(change, places.expand(self.tail, -1, -1), rows.half())

    def _keep(self, change: Tensor, places: Tensor, rows: Tensor) -> None:
        if self.change is not None and self.places is not None and self.rows is not None:
            change = torch.cat([self.change, change], dim=1)
            places = torch.cat([self.places, places], dim=1)
            rows = torch.cat([self.rows, rows], dim=1)
        best = change.topk(min(self.most, change.shape[1]), dim=1)
        at = best.indices[..., None]
        self.change = best.values
        self.places = places.gather(1, at.expand(-1, -1, 2))
        self.rows = rows.gather(1, at[..., None].expand(-1, -1, *rows.shape[2:]))

    def mean(self) -> Float[Tensor, "tail 2 src"]:
        """Over all heads of all layers; NaN for a model that shows no attention."""
        if not self._sum:
            shape = (self.tail, 2, self.src)
            return torch.full(shape, torch.nan, dtype=torch.half, device="cpu")
        return (self._sum[0] / self._heads).half()

    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """`places`, `change` and `rows`; of no heads where none showed."""
        if self.change is None or self.places is None or self.rows is None:
            none = torch.zeros(self.tail, 0, dtype=torch.float32, device="cpu")
            places = torch.zeros(self.tail, 0, 2, dtype=torch.long, device="cpu")
            rows = torch.zeros(self.tail, 0, 2, self.src, dtype=torch.half, device="cpu")
            return places, none, rows
        return self.places, self.change, self.rows
