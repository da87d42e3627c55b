"""Which tokens: those that a perturbation edits, or those that an objective measures."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_steer.errors import PromptError, SettingError
from tl_steer.files.signatures import typed_fields


@typed_fields
@dataclass(frozen=True)
class Positions:
    """A choice of tokens that stays right in padded batches and during cached generation.

    Args:
        last: only the last `last` tokens of every prompt; `None` means all of them, and 0 none
            (with `generated`: only what comes after the prompt).
        bos: whether a leading BOS token belongs to the choice. Its activations are massive and
            nearly constant, so measured positions leave it out; steering usually includes it.
        generated: whether tokens generated after the prompt belong to it. Measuring ignores this.
    """

    last: int | None = None
    bos: bool = True
    generated: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.last, int) and self.last < 0:
            raise SettingError(f"Positions(last={self.last}): expected 0 or more, or None for all.")

    def refuse_kinds(self) -> None:
        """Raise ValueError where a field holds another kind of value, as one from a file may."""
        whole = self.last is None or type(self.last) is int
        if not whole or not {type(self.bos), type(self.generated)} <= {bool}:
            raise ValueError(f"{self} is no choice of tokens")

    @property
    def everywhere(self) -> bool:
        """True if every token is chosen, so that no prompt needs to be known."""
        return self.last is None and self.bos and self.generated

    def select(
        self, mask: Bool[Tensor, "batch pos"], has_bos: Bool[Tensor, " batch"]
    ) -> Bool[Tensor, "batch pos"]:
        """The chosen tokens of right-padded prompts."""
        chosen = mask.clone()
        if not self.bos:
            chosen[:, 0] &= ~has_bos
        if self.last is not None:
            lengths = mask.sum(dim=1, keepdim=True)
            chosen &= torch.arange(mask.shape[1], device=mask.device) >= lengths - self.last
        return chosen

    def measure(
        self, mask: Bool[Tensor, "batch pos"], has_bos: Bool[Tensor, " batch"]
    ) -> Bool[Tensor, "batch pos"]:
        """`select`, but refuse a prompt that has fewer tokens than are to be measured.

        Raises:
            PromptError: a prompt has no token to measure, or fewer than `last`.
        """
        chosen = self.select(mask, has_bos)
        needed = self.last if self.last else 1
        short = (chosen.sum(dim=1) < needed).nonzero().flatten().tolist()
        if short:
            raise PromptError(
                f"Prompt {short[0]} has {int(chosen[short[0]].sum())} tokens that can be measured "
                f"(padding{'' if self.bos else ' and BOS'} left out), but the objective measures "
                f"{needed}. Use a longer prompt, or measure fewer: measured=Positions(last=1)."
            )
        return chosen

    def to_json(self) -> dict[str, Any]:
        return {"last": self.last, "bos": self.bos, "generated": self.generated}


EVERYWHERE = Positions()
LAST_THREE = Positions(last=3, bos=False)
