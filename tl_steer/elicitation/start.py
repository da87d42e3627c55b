"""Where a search starts: which kind of perturbation, at random, from a seed.

`elicit(perturbation=...)` takes a registered kind (its class, its name, or `functools.partial` of
the class with settings), which is then drawn by its own `random`; or, for what depends on the
model, any callable with the signature of `Start`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tl_steer.errors import HookPointError, SettingError, ShapeError, SteerError
from tl_steer.files.signatures import typed_fields
from tl_steer.files.text import said
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.registry import stage_of
from tl_steer.models.linear_map import departures
from tl_steer.models.lookup import resolve
from tl_steer.models.points import width_at
from tl_steer.models.segment import Segment
from tl_steer.perturbations.adapter import BEFORE_NORM, READS, Adapter, layers_from, map_names
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import bankable, kind_of
from tl_steer.perturbations.multi_site import MultiSite
from tl_steer.perturbations.perturbation import Kind, Perturbation

Start = Callable[[Segment, int, float, int, Positions], Perturbation]
"""`(segment, n, radius, seed, positions) -> n perturbations` at the segment's source: where a
search begins."""
Named = str | type[Perturbation] | functools.partial[Any]


def started(
    start: Start | Named,
    segment: Segment,
    n: int,
    radius: float,
    seed: int,
    positions: Positions,
) -> Perturbation:
    """`n` perturbations at random at the segment's source.

    Raises:
        SettingError: `start` gives none, or a kind that cannot be drawn at random.
    """
    named = _named(start)
    if named is None:
        return bankable(_called(start, segment, n, radius, seed, positions))
    kind, settings = named
    generator = torch.Generator().manual_seed(seed)
    try:
        made = kind.random(
            segment.source,
            n,
            radius=radius,
            generator=generator,
            positions=positions,
            settings=settings,
        )
    except SteerError:
        raise
    except Exception as error:
        raise SettingError(
            f"{kind.__name__} cannot be drawn at random: {said(error, most=200)}. Its constructor "
            "must take (site, rows, *, radius, positions), with rows [vec width]; otherwise "
            "override the classmethod random()."
        ) from error
    return _trainable(segment, bankable(made))


def _called(start: Any, *given: Any) -> object:
    try:
        return start(*given)
    except SteerError:
        raise
    except TypeError as error:
        raise SettingError(
            f"perturbation={repr(start)[:80]} gave {said(error, most=200)}; expected a kind "
            "(its class or name, or functools.partial of the class with settings), or a callable "
            "(segment, n, radius, seed, positions) -> Perturbation."
        ) from error


def _named(start: Any) -> tuple[type[Perturbation], dict[str, Any]] | None:
    """The class and the settings of a kind that is given by either of its names."""
    settings: dict[str, Any] = {}
    if isinstance(start, functools.partial) and not start.args:
        start, settings = start.func, dict(start.keywords)
    if isinstance(start, str):
        start = kind_of(start)
    return (
        (start, settings) if isinstance(start, type) and issubclass(start, Perturbation) else None
    )


def refuse_unstarted(start: Any) -> None:
    """Refuse what says no kind, before any work.

    Raises:
        SettingError: a name that no kind has.
        ShapeError: vectors, or a perturbation that is made already.
    """
    if callable(start) and not isinstance(start, (Perturbation, Tensor)):
        return
    if isinstance(start, str):
        kind_of(start)
        return
    raise ShapeError(
        f"perturbation= says which kind is searched: its class or its name, such as Additive or "
        f"'ablation'; got {type(start).__name__}. Vectors of your own need no search: "
        "Bank.from_vectors(model, vectors, prompts=..., source=..., target=...)."
    )


def radius_is_norm(start: Any) -> bool:
    """Whether radius rules can find the radius of what this starts."""
    named = _named(start)
    return bool(getattr(named[0] if named else start, "radius_is_norm", True))


@typed_fields
@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters on the map whose output the source is: `hook_mlp_out` or `hook_attn_out`.

    Args:
        rank: columns of A and B.
        layers: the layers edited, ascending from the source's; `None` is the source's alone.

    The radius is R in W' = W + R B A^T and has to be a number: the rules that find one are made for
    vectors. Ranges differ by model and map; try several. (CPE uses 1, for rank 1 on attention-out.)

    Raises:
        SettingError: layers that do not start at the source or go beyond the target.
        HookPointError: the model has no hook point at the map's input, or none at its own output.
    """

    rank: int = 1
    layers: Sequence[int] | None = None
    radius_is_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SettingError(f"Adapters(rank={self.rank}): expected at least 1.")
        if self.layers is not None:  # a plain tuple, so that provenance and equality are plain too
            object.__setattr__(self, "layers", tuple(self.layers))

    def __call__(
        self, segment: Segment, n: int, radius: float, seed: int, positions: Positions
    ) -> Adapter:
        source, target = segment.source, segment.target
        layers = layers_from(source, self.layers)
        if (layers[-1], stage_of(source.kind)) > target.order:
            raise SettingError(f"layers={list(layers)} go beyond the target {target}.")
        output, d_in = own_output(segment, layers)
        generator = torch.Generator().manual_seed(seed)
        shape = (n, len(layers), self.rank)
        reads = torch.randn(*shape, d_in, generator=generator, dtype=torch.float32, device="cpu")
        writes = torch.randn(
            *shape, source.width, generator=generator, dtype=torch.float32, device="cpu"
        )
        adapter = Adapter(
            source,
            reads,
            writes,
            layers=layers,
            radius=radius,
            output=output,
            positions=positions,
        )
        adapter = _trainable(segment, adapter)
        adapter.project_()
        return adapter


@typed_fields
@dataclass(frozen=True)
class Layers:
    """One edit of a kind over several layers, with the same numbers in each (`MultiSite.over`), at
    the source's kind of hook point.

    Args:
        layers: the layers edited; the first must be the source's.
        kind: a class that can be drawn at random, or its name.

    The radius is that of the edit in each layer, and has to be a number ("auto" is 1): what several
    layers add up to is no norm in any of them.

    Raises:
        SettingError: layers that do not start at the source or go beyond the target.
    """

    layers: Sequence[int]
    kind: Any = Additive
    radius_is_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))

    def __call__(
        self, segment: Segment, n: int, radius: float, seed: int, positions: Positions
    ) -> MultiSite:
        source, layers = segment.source, tuple(self.layers)
        if not layers or min(layers) != source.layer or max(layers) > segment.target.layer:
            raise SettingError(
                f"layers={list(layers)}: expected layers from {source.layer}, that of {source}, to "
                f"at most {segment.target.layer}, that of the target."
            )
        one = started(self.kind, segment, n, radius, seed, positions)
        names = [source.name.replace(f".{source.layer}.", f".{i}.", 1) for i in layers]
        sites = [resolve(segment.model, name) for name in names]
        return MultiSite.over(one, sites, positions=positions)


def own_output(segment: Segment, layers: Sequence[int]) -> tuple[str, int]:
    """The hook point that is the map's own output on this model, and the width of its input.

    Raises:
        HookPointError: there is none, with the reason; or layers differ in width.
    """
    source, model = segment.source, segment.model
    reasons: list[str] = []
    for output in (source.kind, BEFORE_NORM[source.kind]):
        found = departures(model, map_names(source, layers, output))
        if not found:
            break
        reasons += found.values()
    else:
        raise HookPointError(reasons[0])
    reads = READS[source.kind]
    widths = {width_at(model, f"blocks.{i}.{reads}", edited=False) for i in layers}
    if len(widths) > 1:
        raise HookPointError(
            f"{reads} has widths {sorted(widths)} in layers {list(layers)}; an "
            "adapter needs one width. Take fewer layers."
        )
    return output, widths.pop()


def _trainable(segment: Segment, made: Kind) -> Kind:
    # At least float32, whatever the model's dtype: a bf16 vector cannot take small steps.
    dtype = torch.promote_types(segment.clean.dtype, torch.float32)
    return made.to(segment.clean_source.device, dtype)
