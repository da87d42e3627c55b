"""Perturbations: trainable edits of one hook point, held by us and never put on the model.

A `Perturbation` is an `nn.Module` that holds `vec` edits at once. Every one of its parameters has
the vec axis first. A subclass says three things: how it starts, what it does to activations
(`forward`), and what its constraint is (`project_`). Everything else (choosing tokens, becoming
hooks, being split into rows) is inherited.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_steer.errors import PromptError, SettingError, ShapeError
from tl_steer.files.signatures import refuses
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site

HookFunction: TypeAlias = Callable[..., Tensor]
Hooks: TypeAlias = list[tuple[str, HookFunction]]
Kind = TypeVar("Kind", bound="Perturbation")


class Perturbation(nn.Module):
    """`vec` edits of the hook point `site`; subclass it to define a new kind.

    Args:
        site: the hook point that is edited.
        positions: the tokens that are edited.
    """

    @refuses
    def __init__(self, site: Site, *, positions: Positions = EVERYWHERE) -> None:
        super().__init__()
        if not isinstance(site, Site):
            raise ShapeError(
                f"{type(self).__name__}: its site is {repr(site)[:80]}; expected a Site, as "
                "resolve(model, 'blocks.3.hook_resid_post') gives it."
            )
        self.site = site
        self.positions = positions

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        """Edit a batch; `rows[b]` is the edit that batch row b gets."""
        raise TypeError(f"{type(self).__name__} must define forward(activation, rows)")

    def project_(self) -> None:
        """Bring the parameters back to their constraint, in place (for a vector: its radius).

        Power iteration calls this on gradients as well, so it must depend on direction alone.
        """
        raise TypeError(f"{type(self).__name__} must define project_()")

    def __len__(self) -> int:
        return len(next(self.parameters()))

    def select(self: Kind, rows: slice | list[int]) -> Kind:
        """A perturbation of some of the edits only, with parameters of its own."""
        nested = [name for name, _ in self.named_parameters() if "." in name]
        if nested:
            raise SettingError(
                f"{type(self).__name__} keeps {nested[0]} in a submodule; a perturbation's "
                "parameters must be its own, each with the vec axis first."
            )
        twin = copy.copy(self)
        twin._parameters = {
            name: nn.Parameter(values.detach()[rows].clone())
            for name, values in self.named_parameters()
        }
        return twin

    def hooks(
        self,
        *,
        rows: Int[Tensor, " batch"] | None = None,
        prompt: Bool[Tensor, "batch pos"] | None = None,
    ) -> Hooks:
        """This perturbation as TransformerLens hooks, for `run_with_hooks(fwd_hooks=...)`.

        Args:
            rows: the edit for each batch row; may be left out where there is only one.
            prompt: the prompt tokens to edit, as columns of what is run; needed unless `positions`
                are everywhere. Prompts of different lengths are refused when they run: a hook
                alone cannot tell on which side they are padded, and `perturbing` can.

        Raises:
            SettingError: several edits but no rows, or a choice of tokens but no prompt.
        """
        self.refuse_rows(rows, prompt)
        return [(self.site.name, Edit(self, rows, prompt))]

    def refuse_rows(self, rows: Tensor | None, prompt: Tensor | None) -> None:
        """What `hooks` refuses; for kinds that override it."""
        if rows is None and len(self) != 1:
            raise SettingError(
                f"This holds {len(self)} perturbations, and a hook needs to know which one acts "
                "on each row: pick one first, as in bank[4], or pass rows=."
            )
        if prompt is None and not self.positions.everywhere:
            raise SettingError(
                f"{self.positions} cannot be found without the prompt: pass tokens=tokenize(...) "
                "to perturbing(), or prompt= to hooks()."
            )

    def for_model(self: Kind, model: object) -> Kind:
        """Itself: what is made by hand belongs to no model, so whoever runs it checks the width."""
        return self

    @property
    def maps(self) -> tuple[tuple[str, str], ...]:
        """Linear maps of the model that this edits, as (input, output) hook points; `perturbing`
        and `Segment` check that nothing but a linear map lies between the two."""
        return ()


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

    def __init__(
        self, perturbation: Perturbation, rows: Tensor | None, prompt: Tensor | None
    ) -> None:
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
        edited: Tensor = self.perturbation(flat, self._rows(flat))
        return edited

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


class Packable(Perturbation):
    """A kind that a `Bank` can hold: all parameters of an edit fit into one row of numbers."""

    kind: ClassVar[str]
    mergeable: ClassVar[bool] = True
    radius: float

    def pack(self) -> Float[Tensor, "vec n"]:
        """One row per edit, float32 on the CPU."""
        rows = [values.detach().flatten(1).float().cpu() for values in self.parameters()]
        return torch.cat(rows, dim=1)

    def form(self) -> dict[str, Any]:
        """What `unpack` needs beside the rows; JSON."""
        return {}

    @classmethod
    def packed_width(cls, site: Site, form: Mapping[str, Any]) -> int:
        """How many numbers a row has."""
        raise TypeError(f"{cls.__name__} must define packed_width(site, form)")

    @classmethod
    def neutral(cls, site: Site, form: Mapping[str, Any]) -> Float[Tensor, "one n"]:
        """The row that changes no activation, which stands for the unsteered model beside others:
        zeros. A kind whose zeros do something, as those of a gain, must say its own."""
        width = cls.packed_width(site, form)
        return torch.zeros(1, width, dtype=torch.float32, device="cpu")

    @classmethod
    def unpack(
        cls,
        site: Site,
        rows: Float[Tensor, "vec n"],
        *,
        radius: float | int,
        positions: Positions,
        form: Mapping[str, Any],
    ) -> "Packable":
        """Undo `pack`."""
        raise TypeError(f"{cls.__name__} must define unpack(site, rows, ...)")
