"""Perturbations: trainable edits of one hook point, held by us and never put on the model.

A `Perturbation` is an `nn.Module` that holds `vec` edits at once. Every one of its parameters has
the vec axis first. A subclass says three things: how it starts, what it does to activations
(`forward`), and what its constraint is (`project_`). Everything else (choosing tokens, becoming
hooks, being split into rows) is inherited.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_steer.errors import SettingError, ShapeError
from tl_steer.files.signatures import refuses
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.perturbations.edit import Edit

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
