"""Which tokens: those that a perturbation edits, or those that an objective measures."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import PromptError, SettingError, ShapeError
from tl_steer.files.jsons import plain_json
from tl_steer.files.signatures import typed_fields


@typed_fields
@dataclass(frozen=True, repr=False)
class Positions:
    """A choice of tokens that stays right in padded batches and during cached generation.

    Args:
        last: only the last `last` tokens of every prompt; `None` means all of them, and 0 none
            (with `generated`: only what comes after the prompt).
        bos: whether a leading BOS token belongs to the choice. Its activations are massive and
            nearly constant, so measured positions leave it out; steering usually includes it.
        generated: whether tokens generated after the prompt belong to it. Measuring ignores this.
        start: from which token of the text on, counted from 0 at the prompt's first, whether it
            was in the prompt or came after it.
        weights: how strongly each token is edited, from the text's first on; behind the last
            weight, as strongly as without. Measuring ignores this and `decay`.
        decay: what every generated token is edited by, times that of the token before it.

    The common ones have names: `EVERYWHERE`, `PROMPT` (not what is generated), `GENERATED` (that
    alone), and `LAST_THREE`, where most work measures.
    """

    last: int | None = None
    bos: bool = True
    generated: bool = True
    start: int = 0
    weights: Sequence[float | int] = ()
    decay: float | int = 1

    def __post_init__(self) -> None:
        if isinstance(self.last, int) and self.last < 0:
            raise SettingError(f"Positions(last={self.last}): expected 0 or more, or None for all.")
        if self.start < 0:
            raise SettingError(f"Positions(start={self.start}): expected 0 or more.")
        object.__setattr__(self, "weights", tuple(self.weights))
        if not all(map(math.isfinite, (*self.weights, self.decay))):
            raise SettingError(f"{self}: expected finite weights and decay.")

    @classmethod
    def why_not(cls, value: Any) -> None:
        """Raises how a choice of tokens is written."""
        names = "hook_points.EVERYWHERE, PROMPT, GENERATED or LAST_THREE"
        raise ShapeError(
            f"{repr(value)[:80]} is no choice of tokens; expected Positions(...), such as "
            f"Positions(last=1), or {names}."
        )

    def refuse_kinds(self) -> None:
        """Raise ValueError where a field holds another kind of value, as one from a file may."""
        whole = self.last is None or type(self.last) is int
        flags = {type(self.bos), type(self.generated)} <= {bool}
        numbers = {type(x) for x in (*self.weights, self.decay)} <= {int, float}
        if not whole or not flags or not numbers or type(self.start) is not int:
            raise ValueError(f"{self} is no choice of tokens")

    @property
    def everywhere(self) -> bool:
        """True if every token is chosen alike, so that no prompt needs to be known."""
        return self.last is None and self.bos and self.generated and not self.start and self.even

    @property
    def even(self) -> bool:
        """True if all chosen tokens are edited as strongly."""
        return not self.weights and self.decay == 1

    def weigh(
        self, place: Int[Tensor, "batch run"], length: Int[Tensor, "batch one"]
    ) -> Float[Tensor, "batch run"]:
        """How strongly tokens at these places of their texts are edited, chosen or not.

        Args:
            place: from 0 at a prompt's first token on.
            length: of the prompts; what stands behind was generated.
        """
        known = torch.tensor([*self.weights, 1.0], dtype=torch.float32, device=place.device)
        given = known[place.clamp(0, len(known) - 1)]
        decay = torch.tensor(float(self.decay), dtype=torch.float32, device=place.device)
        return given * decay ** (place - length + 1).clamp(min=0)

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
        return chosen & (torch.arange(mask.shape[1], device=mask.device) >= self.start)

    def along(
        self,
        prompt: Bool[Tensor, "batch pos"],
        behind: Bool[Tensor, "batch pos"],
        has_bos: Bool[Tensor, " batch"],
    ) -> Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"]:
        """The chosen tokens of right-padded prompts with a continuation `behind` each; as strengths
        where these differ."""
        place = torch.arange(prompt.shape[1], device=prompt.device).expand(prompt.shape)
        behind = behind & self.generated & (place >= self.start)
        chosen = self.select(prompt, has_bos) | behind
        length = prompt.sum(dim=1, keepdim=True)
        return chosen if self.even else chosen * self.weigh(place, length)

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

    def __repr__(self) -> str:
        return f"Positions({', '.join(f'{k}={v!r}' for k, v in self.to_json().items())})"

    def to_json(self) -> dict[str, Any]:
        """What differs from `Positions()`, beside the fields that every file has."""
        given, default = (plain_json(dataclasses.asdict(each)) for each in (self, EVERYWHERE))
        return {k: v for k, v in given.items() if k in _ALWAYS or v != default[k]}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> "Positions":
        """Undo `to_json`.

        Raises:
            ValueError, TypeError, SettingError: it is something else.
        """
        names = {each.name for each in dataclasses.fields(cls)}
        if not isinstance(meta, Mapping) or not _ALWAYS <= set(meta) <= names:
            raise ValueError("that is no choice of tokens")
        found = cls(**meta)
        found.refuse_kinds()
        return found


_ALWAYS = {"last", "bos", "generated"}
EVERYWHERE = Positions()
"""Every token, generated ones included."""
PROMPT = Positions(generated=False)
"""Every token of the prompt, and none that is generated."""
GENERATED = Positions(last=0)
"""What is generated, and nothing of the prompt."""
LAST_THREE = Positions(last=3, bos=False)
"""The last three tokens of the prompt and what is generated, without BOS: where objectives look."""
# As command lines call them.
NAMED = {"all": EVERYWHERE, "prompt": PROMPT, "generated": GENERATED}
