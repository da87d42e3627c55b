"""The hook function of a perturbation: which tokens, which rows, and what they become."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_steer.errors import PromptError, ShapeError
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Site


@runtime_checkable
class Editing(Protocol):
    """What a `Perturbation` is to its hook function."""

    site: Site
    positions: Positions

    def __call__(self, activation: Tensor, rows: Tensor) -> Tensor:
        """`forward`."""


@runtime_checkable
class Passes(Protocol):
    """Knows which tokens a model runs."""

    def chosen(
        self, prompt: Bool[Tensor, "batch pos"], generated: bool, shape: Sequence[int]
    ) -> Bool[Tensor, "batch run"]:
        """A choice among the prompts' tokens, as columns of what is run now."""


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
        self.calls = 0

    def __call__(self, activation: Tensor, hook: object = None) -> Tensor:
        # `attn.hook_z` is [batch pos head d_head]; a perturbation sees one width.
        flat = activation.flatten(2)
        self._refuse_width(flat)
        edited = self._edited(flat)
        chosen = self._chosen(flat)
        self.calls += 1
        if chosen is not None:
            edited = torch.where(chosen[..., None], edited, flat)
        return edited.reshape(activation.shape)

    def _edited(self, flat: Tensor) -> Tensor:
        return self.perturbation(flat, self._rows(flat))

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

    def _chosen(self, flat: Tensor) -> Tensor | None:
        """Which tokens of this call are edited; `None` for all."""
        if self.prompt is None:
            return None
        generated = self.perturbation.positions.generated
        if self.passes is not None:
            return self.passes.chosen(self.prompt.to(flat.device), generated, flat.shape[:2])
        if not self.aligned:
            self._refuse_ragged()
        return self._by_length(flat, generated)

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

    def _by_length(self, flat: Tensor, generated: bool) -> Tensor:
        """A call as long as the prompt is the prompt; a call of one token is a generated one, but
        the first where the prompt is one token long; a longer call is uncached generation."""
        assert self.prompt is not None
        batch, pos = flat.shape[:2]
        if len(self.prompt) != batch:
            raise ShapeError(
                f"The model ran on {batch} rows, but the prompts given are {len(self.prompt)}."
            )
        prompt = self.prompt.to(flat.device)
        length = prompt.shape[1]
        if pos == 1 and (length > 1 or self.calls > 0):
            return torch.full((batch, 1), generated, device=flat.device, dtype=torch.bool)
        if pos < length:
            raise ShapeError(
                f"The model ran on {pos} tokens, but the prompts given have {length}: pass the "
                "prompts that you run."
            )
        after = torch.full((batch, pos - length), generated, device=flat.device, dtype=torch.bool)
        return torch.cat([prompt, after], dim=1)

    def __repr__(self) -> str:
        return f"{type(self.perturbation).__name__} at {self.perturbation.site}"
