"""The hook function of a perturbation: which tokens, which rows, and what they become."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import PromptError, ShapeError
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Site


@runtime_checkable
class Editing(Protocol):
    """What a `Perturbation` is to its hook function."""

    site: Site
    positions: Positions
    strengths: Tensor | None

    def __call__(self, activation: Tensor, rows: Tensor) -> Tensor:
        """`forward`."""


@runtime_checkable
class Passes(Protocol):
    """Knows which tokens a model runs; `lengths` are those of the prompts."""

    lengths: Sequence[int]

    def places(self, shape: Sequence[int]) -> Int[Tensor, "batch run"]:
        """Where in its text every token of this call stands, from 0 on; -1 for padding."""


class Edit:
    """The hook function. Knows how far a cached generation has come, so it is made anew per use.

    Attributes:
        passes: knows which tokens run; without, columns are taken to be those of `prompt`.
        aligned: whether they are known to be, also where prompts differ in length.
    """

    passes: Passes | None = None
    aligned: bool = False

    def __init__(self, perturbation: Editing, rows: Tensor | None, prompt: Tensor | None) -> None:
        self.perturbation, self.rows, self.prompt = perturbation, rows, prompt
        self.calls, self._alone = 0, 0

    def __call__(self, activation: Tensor, hook: object = None) -> Tensor:
        site = self.perturbation.site
        flat = site.read(activation)
        self._refuse_width(flat)
        rows = self._rows(flat)
        edited = self._edited(flat, rows)
        strength = self._strength(flat, rows)
        self.calls += 1
        if strength is not None:
            edited = _at(strength.to(flat.device)[..., None], flat, edited)
        return site.write(activation, edited)

    def _edited(self, flat: Tensor, rows: Tensor) -> Tensor:
        return self.perturbation(flat, rows)

    def _refuse_width(self, flat: Tensor) -> None:
        width = flat.shape[-1]
        if width != self.perturbation.site.width:
            raise ShapeError(
                f"The activation at {self.perturbation.site} has width {width}, but this "
                f"perturbation was made for width {self.perturbation.site.width}."
            )

    def _rows(self, flat: Tensor) -> Tensor:
        batch = flat.shape[0]
        if self.rows is None:
            return torch.zeros(batch, dtype=torch.long, device=flat.device)
        if len(self.rows) != batch:
            raise ShapeError(
                f"The model ran on {batch} rows, but rows= names vectors for {len(self.rows)}."
            )
        return self.rows.to(flat.device)

    def _strength(self, flat: Tensor, rows: Tensor) -> Tensor | None:
        """How much of its edit every token gets, `[batch run or 1]`; `None` for all of it."""
        own, chosen = self.perturbation.strengths, self._chosen(flat)
        if own is None:
            return chosen
        each = own.to(flat.device)[rows][:, None]
        return each if chosen is None else each * chosen

    def _chosen(self, flat: Tensor) -> Tensor | None:
        """How strongly the tokens of this call are edited, 0 where they are not chosen; `None`
        where all are, alike."""
        if self.prompt is None:
            return None
        positions, prompt = self.perturbation.positions, self.prompt.to(flat.device)
        place, length = self._places(flat, prompt), self._lengths(prompt)
        within = (place >= 0) & (place < length)
        asked = prompt.gather(1, place.clamp(0, prompt.shape[1] - 1))
        behind = (place >= length) & (place >= positions.start) & positions.generated
        chosen = torch.where(within, asked, behind)
        told = positions.even or prompt.is_floating_point()
        return chosen if told else chosen * positions.weigh(place, length)

    def _places(self, flat: Tensor, prompt: Tensor) -> Tensor:
        if self.passes is not None:
            return self.passes.places(flat.shape[:2]).to(flat.device)
        if not self.aligned:
            self._refuse_ragged()
        return self._by_length(flat, prompt)

    def _lengths(self, prompt: Tensor) -> Tensor:
        if self.passes is None:
            return torch.full_like(prompt[:, :1], prompt.shape[1], dtype=torch.long)
        return torch.tensor(self.passes.lengths, dtype=torch.long, device=prompt.device)[:, None]

    def _refuse_ragged(self) -> None:
        """A hook alone does not see where padding is. What `Positions` chooses of right-padded
        prompts ends with them, unless it is none of their tokens."""
        assert self.prompt is not None
        last = [row.nonzero().flatten().tolist()[-1:] for row in self.prompt]
        if not self.perturbation.positions.everywhere and any(at != last[0] for at in last):
            raise PromptError(
                "These prompts differ in length, and a hook alone does not see on which side they "
                "are padded: use perturbing(model, ..., tokens=tokenize(...)), which looks at the "
                "ids that are run, or prompts of one length."
            )

    def _by_length(self, flat: Tensor, prompt: Tensor) -> Tensor:
        """A call as long as the prompt is the prompt; a call of one token is a generated one, but
        the first where the prompt is one token long; a longer call is uncached generation."""
        batch, pos = flat.shape[:2]
        if len(prompt) != batch:
            raise ShapeError(
                f"The model ran on {batch} rows, but the prompts given are {len(prompt)}."
            )
        length = prompt.shape[1]
        if pos == 1 and (length > 1 or self.calls > 0):
            at = torch.full((batch, 1), length + self._alone, dtype=torch.long, device=flat.device)
            self._alone += 1
            return at
        if pos < length:
            raise ShapeError(
                f"The model ran on {pos} tokens, but the prompts given have {length}: pass the "
                "prompts that you run."
            )
        self._alone = 0
        return torch.arange(pos, device=flat.device).expand(batch, -1)

    def __repr__(self) -> str:
        return f"{type(self.perturbation).__name__} at {self.perturbation.site}"


def _at(strength: Tensor, flat: Tensor, edited: Tensor) -> Tensor:
    """All of the edit, none of it, or the straight line through both; each exactly."""
    if strength.dtype == torch.bool:
        return torch.where(strength, edited, flat)
    between = flat + strength.to(flat) * (edited - flat)
    whole = torch.where(strength == 1, edited, between)
    return torch.where(strength == 0, flat, whole)
