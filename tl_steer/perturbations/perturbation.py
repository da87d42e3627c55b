"""Perturbations: trainable edits of one hook point, held by us and never put on the model.

A `Perturbation` is an `nn.Module` that holds `vec` edits at once. Every one of its parameters has
the vec axis first. A subclass says two things: what it does to activations (`forward`), and what
its constraint is (`project_`). Everything else (choosing tokens, strengths, becoming hooks, being
split into rows, starting at random, becoming rows of a bank) is inherited, and may be overridden.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_steer.errors import SettingError, ShapeError
from tl_steer.files.signatures import refuses
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.perturbations.edit import Edit
from tl_steer.perturbations.form import fill, form_of, shapes_in
from tl_steer.perturbations.sphere import random_on_sphere

HookFunction: TypeAlias = Callable[..., Tensor]
"""`(activation, hook) -> activation`, as TransformerLens calls it."""
Hooks: TypeAlias = list[tuple[str, HookFunction]]
"""`[(name of a hook point, function)]`: what `run_with_hooks(fwd_hooks=)` takes."""
Kind = TypeVar("Kind", bound="Perturbation")
Scale: TypeAlias = float | int | Sequence[float | int] | Float[Tensor, " vec"]
"""How strongly edits act where they are used: one number, or one for each."""
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


def factors_of(scale: Scale, n: int) -> Float[Tensor, " n"]:
    """A scale as one number for each of `n` edits.

    Raises:
        SettingError: not one finite number, or one for each edit.
    """
    factors = torch.as_tensor(scale, dtype=torch.float32, device="cpu")
    if factors.shape not in ((), (n,)) or not bool(factors.isfinite().all()):
        raise SettingError(
            f"scale={str(scale)[:80]}: expected a finite number, or one for each of the {n} edits."
        )
    return factors.expand(n)


class Perturbation(nn.Module):
    """`vec` edits of the hook point `site`; subclass it to define a new kind, and register it
    (`perturbations.register`) for banks to hold it.

    Args:
        site: the hook point that is edited. The kinds that are made of vectors take its name
            ("blocks.3.hook_resid_post") or the number of a layer as well, and are as wide as their
            vectors; whoever runs them checks that against the model.
        radius: what `project_` keeps: a norm, as a rule.
        positions: the tokens that are edited.

    Attributes:
        kind: the name that it was registered by; "" until then.
        radius_is_norm: whether `radius` is the norm of what is added at the hook point, or
            thereabouts. If so, radius rules find one, and banks know its share of the residual
            norm; if not, "auto" stands for 1, and doses are multiples of it.
        strengths: how much of its edit each row gets, as `scaled` sets it; `None` is all of it.
    """

    kind: ClassVar[str] = ""
    radius_is_norm: ClassVar[bool] = True
    strengths: Float[Tensor, " vec"] | None = None

    @refuses
    def __init__(
        self, site: Site, *, radius: float | int = 1.0, positions: Positions = EVERYWHERE
    ) -> None:
        super().__init__()
        if not isinstance(site, Site):
            raise ShapeError(
                f"{type(self).__name__}: its site is {repr(site)[:80]}; expected a Site, as "
                "resolve(model, 'blocks.3.hook_resid_post') gives it."
            )
        self.site = site
        self.radius = float(radius)
        self.positions = positions

    @classmethod
    def random(
        cls: type[Kind],
        site: Site,
        n: int,
        *,
        radius: float | int,
        generator: torch.Generator,
        positions: Positions = EVERYWHERE,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> Kind:
        """Where a search starts, and what a bank is compared with: `n` edits at random.

        As inherited, the constructor's first argument behind the site gets rows drawn uniformly
        from the sphere of that radius; override it for a kind that is made of something else.

        Args:
            settings: further arguments of the constructor, by name.
        """
        rows = random_on_sphere(n, site.width, radius=radius, generator=generator)
        make: Any = cls
        made: Kind = make(site, rows, radius=radius, positions=positions, **settings)
        return made

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
        if self.strengths is not None:
            twin.strengths = self.strengths[rows]
        return twin

    def redrawn(self: Kind, n: int, *, generator: torch.Generator) -> Kind:
        """`n` edits of this kind at random, for a control: as inherited, normal numbers brought
        to the constraint; override it where those are no edits (a gain is near 1)."""
        width = self.flat().shape[1]
        rows = torch.randn(n, width, generator=generator, dtype=torch.float32, device="cpu")
        # A selection has parameters of its own.
        twin = self.of_rows(rows.to(self.flat())).select(slice(None))
        twin.project_()
        return twin

    def scaled(self: Kind, factors: float | int | Float[Tensor, " vec"]) -> Kind:
        """Each edit at so many times its strength: 0 is no edit at all, 1 all of it, and other
        numbers lie on the straight line through both, x + s (f(x) - x). For a kind with a strength
        of its own, such as the length of a vector, override it."""
        twin = copy.copy(self)
        own = torch.ones(len(self), dtype=torch.float32, device="cpu")
        own = own if self.strengths is None else self.strengths
        twin.strengths = own * torch.as_tensor(factors, dtype=own.dtype, device=own.device)
        return twin

    def lengths(self) -> Float[Tensor, " vec"]:
        """What a radius is a multiple of, for each edit: the radius, unless it has its own."""
        return torch.full((len(self),), self.radius, dtype=torch.float32, device="cpu")

    def beside_unsteered(self: Kind) -> Kind:
        """These edits, and behind them one that is no edit at all: the unsteered model."""
        n, own = len(self), self.flat()
        # Made of the last one; where there is none, of zeros.
        held = self if n else self.of_rows(own.new_zeros(1, own.shape[1]))
        longer = held.select([*range(n), -1])
        on = torch.arange(n + 1, device="cpu") < n
        return longer.scaled(on.to(torch.float32))

    def used(self: Kind, scale: Scale, positions: Positions | None) -> Kind:
        """These edits as they are asked for where they are used.

        Raises:
            SettingError: not one finite number, or one for each edit.
        """
        twin = self if positions is None else self.at(positions)
        factors = factors_of(scale, len(self))
        return twin if bool((factors == 1).all()) else twin.scaled(factors)

    def flat(self) -> Float[Tensor, "vec n"]:
        """All parameters of each edit in one row, without gradients."""
        return torch.cat([values.detach().flatten(1) for values in self.parameters()], dim=1)

    def of_rows(self: Kind, rows: Float[Tensor, "vec n"]) -> Kind:
        """Edits like these whose parameters are pieces of `rows`, with gradients that lead there;
        to be run, not to be trained."""
        shapes = {name: values.shape[1:] for name, values in self.named_parameters()}
        parts = rows.split([math.prod(shape) for shape in shapes.values()], dim=1)
        twin = copy.copy(self)
        pieces: Any = {
            name: part.reshape(len(rows), *shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        twin._parameters = pieces
        twin.strengths = None
        return twin

    def at(self: Kind, positions: Positions) -> Kind:
        """The same edits of other tokens."""
        twin = copy.copy(self)
        twin.positions = positions
        return twin

    def hooks(
        self,
        *,
        rows: Int[Tensor, " batch"] | None = None,
        prompt: Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"] | None = None,
    ) -> Hooks:
        """This perturbation as TransformerLens hooks, for `run_with_hooks(fwd_hooks=...)`.

        Args:
            rows: the edit for each batch row; may be left out where there is only one.
            prompt: the prompt tokens to edit, or how strongly, as columns of what is run; needed
                unless `positions` are everywhere. Prompts of different lengths are refused when
                they run: a hook alone cannot tell on which side they are padded, and `perturbing`
                can.

        Raises:
            SettingError: several edits but no rows, or a choice of tokens but no prompt.
        """
        self.refuse_rows(rows, prompt)
        return [(self.site.point, Edit(self, rows, prompt))]

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
    def sites(self) -> tuple[Site, ...]:
        """The hook points that are edited; `site` is the first that a forward pass reaches."""
        return (self.site,)

    @property
    def maps(self) -> tuple[tuple[str, str], ...]:
        """Linear maps of the model that this edits, as (input, output) hook points; `perturbing`
        and `Segment` check that nothing but a linear map lies between the two."""
        return ()

    def pack(self) -> Float[Tensor, "vec n"]:
        """One row per edit, float32 on the CPU, as a bank holds it."""
        return self.flat().float().cpu()

    def form(self) -> dict[str, Any]:
        """What `unpack` needs beside the rows; JSON. As inherited: the shapes of the parameters,
        and every attribute that a subclass has set, which must be JSON too.

        Raises:
            SettingError: an attribute that no file can hold.
        """
        return form_of(self)

    @classmethod
    def packed_width(cls, site: Site, form: Mapping[str, Any]) -> int:
        """How many numbers a row has; a form may come from a file, so it is not trusted.

        Raises:
            SettingError: that is no form of this kind.
        """
        return sum(math.prod(shape) for shape in shapes_in(form).values())

    @classmethod
    def unpack(
        cls: type[Kind],
        site: Site,
        rows: Float[Tensor, "vec n"],
        *,
        radius: float | int,
        positions: Positions,
        form: Mapping[str, Any],
    ) -> Kind:
        """Undo `pack`. As inherited, the subclass's constructor is not called.

        Raises:
            SettingError: that is no form of this kind.
        """
        made = cls.__new__(cls)
        Perturbation.__init__(made, site, radius=radius, positions=positions)
        fill(made, rows, form)
        return made
