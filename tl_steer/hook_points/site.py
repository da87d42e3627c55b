"""Where in a model something happens: a hook point's name, its layer and its width."""

import re
from dataclasses import dataclass

from tl_steer.files.jsons import text, whole

# The order in which a block computes its hook points; a source must not come after its target.
STAGES = {
    "hook_resid_pre": 0,
    "attn.hook_z": 1,
    "hook_attn_out": 2,
    "hook_resid_mid": 3,
    "hook_mlp_out": 4,
    "hook_resid_post": 5,
}
RESIDUAL_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


@dataclass(frozen=True)
class Site:
    """A hook point: the name it was asked for by, its layer, its kind and its width.

    `width` is the size of everything behind `batch pos`: `d_model` on the residual stream, and
    as many as all heads' values at `attn.hook_z`, whose two last axes are read as one.
    """

    name: str
    layer: int
    kind: str
    width: int

    def refuse_kinds(self) -> None:
        """Raise ValueError for what is no hook point, as a file may say it."""
        text(self.name), whole(self.layer), whole(self.width, least=1)
        there = re.match(r"blocks\.(\d+)\.", self.name)
        if self.kind not in STAGES or (there and there[1] != str(self.layer)):
            raise ValueError(
                f"{self.name!r}, {self.kind} of layer {self.layer}, is not a hook point"
            )

    @property
    def order(self) -> tuple[int, int]:
        """Sorts hook points in the order in which a forward pass reaches them."""
        return self.layer, STAGES[self.kind]

    @property
    def is_residual(self) -> bool:
        return self.kind in RESIDUAL_STREAM

    def __str__(self) -> str:
        return self.name
