r"""The nearest of many rows in direction, mostly without reading them.

Reading every clean token for every new one is most of what a neighbourhood costs. In an orthonormal
basis whose first axes hold most of what rows differ in, write a row u (of unit length) and a token
c as what lies along these axes and what is left. By the inequality of Cauchy and Schwarz,

$$u \cdot c \le u_\parallel \cdot c_\parallel + |u_\perp| \, |c_\perp|,$$

which is one product with a *sketch*, $[u_\parallel, |u_\perp|]$. The rows with the largest bounds
are compared exactly; where the worst of the k best among these is at least the largest bound of the
others, none of the others can be nearer. Where it is not, all rows are read.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FEW = 128  # rows compared exactly
_SHARE = 8  # of d, that the sketch has axes
# Of squares and of bounds, for what float32 may make of them.
_SLACK, _SQUARES = 1e-5, 1e-6


@dataclass(frozen=True, eq=False)
class Sketch:
    """Rows in short: what lies along a few orthonormal axes, and the length of what is left."""

    axes: Float[Tensor, "d r"]
    rows: Float[Tensor, "r_and_one n"]

    @classmethod
    def of(cls, unit: Float[Tensor, "n d"], r: int) -> "Sketch":
        """One step of subspace iteration, from rows at regular intervals (Halko, Martinsson and
        Tropp 2011, whose start is random): any axes give bounds, good ones tight bounds."""
        exact = unit.cpu().double()  # not every device has them
        start = torch.linspace(0, len(exact) - 1, r, dtype=torch.float32, device="cpu").long()
        axes = torch.linalg.qr(exact[start].T).Q
        axes = torch.linalg.qr(exact.T @ (exact @ axes)).Q.float()
        along = exact @ axes.double()
        left = (exact.square().sum(dim=1) - along.square().sum(dim=1)).clamp_min(0).sqrt()
        rows = torch.cat([along, left[:, None]], dim=1).float().T.contiguous()
        return cls(axes.to(unit.device), rows.to(unit.device))

    def bounds(
        self, centred: Float[Tensor, "token d"], size: Float[Tensor, "token 1"]
    ) -> Float[Tensor, "token n"]:
        """No row's product with a token is larger; `size` is |c|²."""
        along = centred @ self.axes
        left = size * (1 + _SQUARES) - along.square().sum(dim=1, keepdim=True)
        return torch.cat([along, left.clamp_min(0).sqrt()], dim=1) @ self.rows


@dataclass(frozen=True, eq=False)
class Nearest:
    """Finds the k rows with the largest cosines; `sketch` is `None` where there are few rows.

    Attributes:
        rows: of any length, and `inverse`, one over their lengths.
        columns: the same of unit length, as they are read fastest when all are.
    """

    rows: Float[Tensor, "n d"]
    inverse: Float[Tensor, " n"]
    columns: Float[Tensor, "d n"]
    sketch: Sketch | None
    k: int

    @classmethod
    def among(cls, rows: Float[Tensor, "n d"], inverse: Float[Tensor, " n"], k: int) -> "Nearest":
        n, d = rows.shape
        unit = rows * inverse[:, None]
        worth = n > 4 * FEW and k < FEW and d >= _SHARE
        sketch = Sketch.of(unit, d // _SHARE) if worth else None
        return cls(rows, inverse, unit.T.contiguous(), sketch, k)

    def of(self, centred: Float[Tensor, "token d"]) -> Int[Tensor, "token k"]:
        if self.sketch is None:
            return self._of_all(centred)
        size = centred.square().sum(dim=1, keepdim=True)
        bounds, likely = self.sketch.bounds(centred, size).topk(FEW + 1, dim=1)
        likely = likely[:, :FEW]
        found = torch.bmm(self.rows[likely], centred[:, :, None])[:, :, 0] * self.inverse[likely]
        best, places = found.topk(self.k, dim=1)
        near = likely.gather(1, places)
        sure = best[:, -1] >= bounds[:, -1] + _SLACK * size[:, 0].sqrt()
        unsure = [i for i, holds in enumerate(sure.tolist()) if not holds]
        if unsure:
            near[unsure] = self._of_all(centred[unsure])
        return near

    def _of_all(self, centred: Float[Tensor, "token d"]) -> Int[Tensor, "token k"]:
        return (centred @ self.columns).topk(self.k, dim=1).indices
