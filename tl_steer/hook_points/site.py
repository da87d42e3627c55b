"""Where in a model something happens: a hook point's name, its layer and its width."""

import dataclasses
import operator
import re
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import HookPointError, ShapeError
from tl_steer.files.jsons import fields, text, whole
from tl_steer.hook_points.registry import kind_of, stage_of

_HEAD = re.compile(r"\[(\d+)\]$")
_NAME = re.compile(r"blocks\.(\d+)\.([^\[\]]+)(\[\d+\])?")
PATTERN = "attn.hook_pattern"
"""The kind of attention patterns, whose activations are `[batch head query key]`."""


@dataclass(frozen=True)
class Site:
    """A hook point, or one head of it: the name it was asked for by, its layer, kind and width.

    The name of one head ends in its number, as in "blocks.5.attn.hook_z[3]". `width` is the size of
    everything behind `batch pos`: `d_model` on the residual stream, all heads' values together at
    `attn.hook_z`, one head's at one head.

    Made by hand it is as good as one from `resolve`: whoever runs it checks it against the model.
    """

    name: str
    layer: int
    kind: str
    width: int

    @classmethod
    def from_json(cls, meta: Any) -> "Site":
        """As `dataclasses.asdict` wrote it.

        Raises:
            ValueError: it is something else.
        """
        known = fields(meta, {each.name for each in dataclasses.fields(cls)})
        site = cls(
            text(known["name"]), whole(known["layer"]), text(known["kind"]), whole(known["width"])
        )
        site.refuse_kinds()
        return site

    def refuse_kinds(self) -> None:
        """Raise ValueError for what is no hook point, as a file may say it."""
        text(self.name), whole(self.layer), whole(self.width, least=1)
        there = re.match(r"blocks\.(\d+)\.", self.name)
        if there and there[1] != str(self.layer):
            raise ValueError(
                f"{self.name!r}, {self.kind} of layer {self.layer}, is not a hook point"
            )
        try:
            kind_of(self.kind)
        except HookPointError as error:
            raise ValueError(str(error)) from None

    @property
    def point(self) -> str:
        """The model's name for the hook point, which has all heads."""
        return _HEAD.sub("", self.name)

    @property
    def head(self) -> int | None:
        """The head that is meant; `None` for all that there is."""
        found = _HEAD.search(self.name)
        return int(found[1]) if found else None

    @property
    def order(self) -> tuple[int, int]:
        """Sorts hook points in the order in which a forward pass reaches them."""
        return self.layer, stage_of(self.kind)

    @property
    def writes(self) -> bool:
        """Whether it is the residual stream, or what a part of a block adds to it."""
        return self.is_residual or self.kind in ("attn.hook_z", "hook_attn_out", "hook_mlp_out")

    @property
    def is_residual(self) -> bool:
        return self.kind.startswith("hook_resid_")

    def read(self, activation: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch pos width"]:
        """What a hook gets, as a perturbation sees it: one width, and that of one head alone.

        Of an attention pattern `[batch head query key]` it is all the attention that each head pays
        at a token: 1, where nothing is edited.
        """
        whole = self._whole(activation)
        return whole if self.head is None else whole[..., self._columns]

    def write(
        self, activation: Float[Tensor, "batch *rest"], part: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "batch *rest"]:
        """The activation with `part` in the place of what `read` gave. An attention pattern is
        scaled, row by row."""
        before = self._whole(activation)
        whole = part
        if self.head is not None:
            whole = before.clone()
            whole[..., self._columns] = part
        if self.kind != PATTERN:
            return whole.reshape(activation.shape)
        gain = torch.where(before == 0, 1.0, whole / before)
        return activation * gain.transpose(1, 2)[..., None].to(activation)

    def _whole(self, activation: Tensor) -> Tensor:
        if self.kind == PATTERN:
            return activation.sum(dim=-1).transpose(1, 2)
        return activation.flatten(2)

    @property
    def _columns(self) -> slice:
        assert self.head is not None
        return slice(self.head * self.width, (self.head + 1) * self.width)

    def __str__(self) -> str:
        return self.name


Point: TypeAlias = str | int | SupportsIndex | Site
"""How a hook point is said: its name, the number of a layer (its residual stream behind the block),
or a `Site`."""


def site_at(where: Any, width: int) -> Site:
    """The site of this width that a name, or the number of a layer, says without a model.

    Whoever runs it checks it against the model, as any `Site` made by hand.

    Raises:
        HookPointError: no kind that is registered, in no layer, or one counted from the end.
        ShapeError: what is neither.
    """
    if isinstance(where, Site):
        return where
    name = where if isinstance(where, str) else f"blocks.{_layer(where)}.hook_resid_post"
    found = _NAME.fullmatch(name)
    if found is None:
        raise HookPointError(
            f"{name[:80]!r} names no layer and kind; write 'blocks.7.hook_resid_post', say, or the "
            "layer alone (7)."
        )
    return Site(name, int(found[1]), kind_of(found[2]).name, width)


def _layer(where: Any) -> int:
    try:
        layer = -1 if isinstance(where, bool) else operator.index(where)
    except TypeError:
        raise ShapeError(
            f"The hook point comes first, by its name ('blocks.3.hook_resid_post'), the number of "
            f"a layer or as a Site; got {' '.join(repr(where).split())[:80]}."
        ) from None
    if layer < 0:
        raise HookPointError(
            f"Layer {where} cannot be found without the model: write resolve(model, {where}), or "
            "count from 0."
        )
    return layer
