"""Several perturbations as one edit: different kinds at different points, or one over many layers.

    MultiSite([Additive(a, vectors), Ablation(b, directions)])      each with numbers of its own
    MultiSite.over(Additive(a, vectors), [a, b, c])                 the same numbers at every point

Edit k is what the parts' k-th edits do together, in the order of the forward pass.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_steer.errors import SettingError
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.perturbations.kinds import bankable, kind_of, register
from tl_steer.perturbations.perturbation import Hooks, Perturbation


@register("multi_site")
class MultiSite(Perturbation):
    """Perturbations at several hook points, trained and used as one.

    Args:
        parts: kinds that banks can hold, as many edits in each; they are copied.
        positions: the tokens that all parts edit.

    Its site is the first part's that a forward pass reaches; radii are the parts' own, and a
    strength is that of all parts.

    Wrong to use to search with a radius rule: what k points add up to is no norm at any of them.

    Raises:
        SettingError: no parts, parts with different numbers of edits, or of kinds that no bank
            holds.
    """

    radius_is_norm = False

    def __init__(self, parts: Sequence[Perturbation], *, positions: Positions = EVERYWHERE) -> None:
        _refuse_parts(parts)
        parts = sorted(parts, key=lambda part: part.site.order)
        self._assemble(parts, [dict(part.named_parameters()) for part in parts], positions)

    @classmethod
    def over(
        cls,
        perturbation: Perturbation,
        sites: Sequence[Site],
        *,
        positions: Positions = EVERYWHERE,
    ) -> "MultiSite":
        """The same edit at several hook points of one width, all with the same numbers.

        Raises:
            SettingError: hook points of another width than the perturbation's, or two alike.
        """
        _refuse_parts([perturbation])
        ordered = sorted(sites, key=lambda site: site.order)
        alike = len({site.name for site in ordered}) < len(ordered)
        if not ordered or alike or {s.width for s in ordered} != {perturbation.site.width}:
            raise SettingError(
                f"MultiSite.over() got {[s.name for s in ordered]}, {[s.width for s in ordered]} "
                f"wide; expected different hook points, all {perturbation.site.width} wide."
            )
        made = cls.__new__(cls)
        numbers = dict(perturbation.named_parameters())
        parts = [_moved(perturbation, site) for site in ordered]
        made._assemble(parts, [numbers, *[{} for _ in parts[1:]]], positions)
        return made

    def _assemble(
        self,
        parts: Sequence[Perturbation],
        numbers: Sequence[Mapping[str, Tensor]],
        positions: Positions,
    ) -> None:
        """`numbers` are each part's own; a part that has none uses the first part's."""
        Perturbation.__init__(self, parts[0].site, radius=parts[0].radius, positions=positions)
        self.templates = tuple(part.select([]) for part in parts)
        self.owners = tuple(i if own else 0 for i, own in enumerate(numbers))
        for i, own in enumerate(numbers):
            for name, values in own.items():
                setattr(self, f"part{i}_{name}", nn.Parameter(values.detach().clone()))

    @property
    def parts(self) -> tuple[Perturbation, ...]:
        """The parts as they are now, with this one's parameters, tokens and strengths."""
        return tuple(self._part(i) for i in range(len(self.templates)))

    def _part(self, i: int) -> Perturbation:
        part, owner = copy.copy(self.templates[i]), f"part{self.owners[i]}_"
        held: Any = {name: getattr(self, owner + name) for name in part._parameters}
        part._parameters = held
        part.positions, part.strengths = self.positions, self.strengths
        return part

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(site for part in self.templates for site in part.sites)

    @property
    def maps(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for part in self.templates for pair in part.maps)

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        raise SettingError(
            "A MultiSite edits several hook points, so it acts through its hooks: use hooks(), "
            "perturbing() or Segment.run()."
        )

    def hooks(
        self,
        *,
        rows: Int[Tensor, " batch"] | None = None,
        prompt: Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"] | None = None,
    ) -> Hooks:
        """Every part's hooks; see `Perturbation.hooks`."""
        self.refuse_rows(rows, prompt)
        return [hook for part in self.parts for hook in part.hooks(rows=rows, prompt=prompt)]

    def project_(self) -> None:
        for i in sorted(set(self.owners)):
            self._part(i).project_()

    def form(self) -> dict[str, Any]:
        parts = [
            {"kind": t.kind, "site": asdict(t.site), "radius": t.radius, "form": t.form()}
            for t in self.templates
        ]
        return {"parts": parts, "owners": list(self.owners)}

    @classmethod
    def packed_width(cls, site: Site, form: Mapping[str, Any]) -> int:
        parts, owners = _read(form)
        return sum(_width(parts[i]) for i in sorted(set(owners)))

    @classmethod
    def unpack(
        cls,
        site: Site,
        rows: Float[Tensor, "vec n"],
        *,
        radius: float | int,
        positions: Positions,
        form: Mapping[str, Any],
    ) -> "MultiSite":
        parts, owners = _read(form)
        own = sorted(set(owners))
        pieces = dict(zip(own, rows.split([_width(parts[i]) for i in own], dim=1), strict=True))
        held = [
            _unpacked(part, pieces[o], positions) for part, o in zip(parts, owners, strict=True)
        ]
        made = cls.__new__(cls)
        numbers = [dict(p.named_parameters()) if i in pieces else {} for i, p in enumerate(held)]
        made._assemble(held, numbers, positions)
        return made


def _moved(perturbation: Perturbation, site: Site) -> Perturbation:
    twin = copy.copy(perturbation)
    twin.site = site
    return twin


def _refuse_parts(parts: Sequence[Perturbation]) -> None:
    lengths = {len(bankable(part)) for part in parts}
    if len(lengths) != 1 or any(isinstance(part, MultiSite) for part in parts):
        raise SettingError(
            f"MultiSite() got {len(parts)} parts with {sorted(lengths)} edits; expected at least "
            "one, with as many edits in each, and none that is a MultiSite itself."
        )


def _read(form: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Parts and owners out of a form that may have come from a file."""
    parts, owners = form.get("parts"), form.get("owners")
    wanted = {"kind", "site", "radius", "form"}
    if (
        set(form) != {"parts", "owners"}
        or not isinstance(parts, (list, tuple))
        or not isinstance(owners, (list, tuple))
        or not parts
        or list(owners) not in ([0] * len(parts), list(range(len(parts))))
        or not all(isinstance(part, Mapping) and set(part) == wanted for part in parts)
        or any(part["kind"] == MultiSite.kind for part in parts)
    ):
        raise SettingError("A MultiSite's form names its parts and whose numbers each has.")
    return list(parts), [int(i) for i in owners]


def _site(part: Mapping[str, Any]) -> Site:
    try:
        return Site.from_json(part["site"])
    except ValueError as error:
        raise SettingError(f"A part of a MultiSite has no hook point: {error}.") from error


def _width(part: Mapping[str, Any]) -> int:
    return kind_of(str(part["kind"])).packed_width(_site(part), part["form"])


def _unpacked(part: Mapping[str, Any], rows: Tensor, positions: Positions) -> Perturbation:
    radius = part["radius"]
    if not isinstance(radius, (int, float)):
        raise SettingError(f"A part of a MultiSite has radius {str(radius)[:40]!r}.")
    return kind_of(str(part["kind"])).unpack(
        _site(part), rows, radius=radius, positions=positions, form=part["form"]
    )
