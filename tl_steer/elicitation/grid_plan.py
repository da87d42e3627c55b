"""What a grid of searches is: which settings are combined, and the cell of each combination.

    model   = "smollm2"
    sources = [3, 7, 11]                # numbers of layers, or names of hook points
    targets = [15, 20, 25]
    radii   = ["0.25x", "0.5x"]         # all below may be left out
    methods = ["power", "dct"]
    seeds   = [0, 1]
    n       = 16
    random  = 16                        # random vectors beside each bank

    [prompts]                           # sets of prompts, by name; or prompts = ["...", "..."]
    house = ["How can I make my home safer?"]

`GridPlan.read` reads such a file, and `GridPlan(...)` says what else may stand there.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tl_steer.elicitation.grid_fields import FIELDS
from tl_steer.errors import SettingError
from tl_steer.files.jsons import plain_json
from tl_steer.files.signatures import typed_fields
from tl_steer.files.toml import read_toml, refuse_keys

# The index is written anew with every cell.
_MOST_CELLS = 20_000


@dataclass(frozen=True)
class Cell:
    """One search of a grid; `number` is its place among them."""

    number: int
    prompts: str
    source: int | str
    target: int | str
    radius: float | int | str
    method: str
    seed: int


@typed_fields
@dataclass(frozen=True)
class GridPlan:
    """Which searches a grid makes: every combination of prompts, pairs, radii, methods and seeds.

    Args:
        sources, targets: layers or hook points, as `elicit` takes them. Pairs whose target lies in
            front of the source, or is the same layer, are no cells.
        prompts: sets of prompts, by name; a plain list is one set. All prompts of a set are in one
            search.
        model, device, dtype: as for `load_model`.
        against: the model that it was made from, by its name; then `elicit(against=)` is meant.
        radii, methods, seeds: as `elicit` takes them, methods by name.
        n, divergence, perturbation: as for `elicit`, by name.
        last: tokens at the end of each prompt at which is measured, 3 as elsewhere; not `against`.
        raw: do not wrap prompts in the model's chat template.
        random: random vectors of the same length that are measured beside each bank; 0 for none.
        sweep: settings of a sweep over every bank; `sweeps.Swept` has them.

    Raises:
        SettingError: what no grid can be made of, by the name of the field.
        ShapeError: a value of another type.
    """

    sources: Sequence[int | str]
    targets: Sequence[int | str]
    prompts: Mapping[str, Sequence[str]] | Sequence[str]
    model: str = "smollm2"
    device: str = ""
    dtype: str = "float32"
    against: str = ""
    radii: Sequence[float | int | str] = ("auto",)
    methods: Sequence[str] = ("auto",)
    seeds: Sequence[int] = (0,)
    n: int = 32
    divergence: str = "displacement"
    perturbation: str = "additive"
    last: int = 3
    raw: bool = False
    random: int = 0
    sweep: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in FIELDS:
            object.__setattr__(self, name, _read(name, getattr(self, name)))
        if self.against and (self.divergence != "displacement" or self.last != 3):
            raise SettingError(
                "A grid's against: the divergence is that of the two models, and is measured on "
                "answers. Leave divergence and last out."
            )
        if not 0 < self._count() <= _MOST_CELLS:
            raise SettingError(
                f"A grid's cells: {self._count()} of them; expected 1 to {_MOST_CELLS}. No target "
                "lies behind a source, or there are too many combinations: make several grids."
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "GridPlan":
        """A plan of the tables of a file.

        Raises:
            SettingError: as the class, and for what is missing or unknown.
        """
        known = [each.name for each in dataclasses.fields(cls)]
        refuse_keys(values, known, needed=["sources", "targets", "prompts"], what="A grid")
        return cls(**{name: _read(name, value) for name, value in values.items()})

    @classmethod
    def read(cls, path: str | Path) -> "GridPlan":
        """The plan in a TOML file.

        Raises:
            SettingError: no such file, no TOML, or no plan.
        """
        try:
            return cls.of(read_toml(path))
        except SettingError as error:
            told = str(error)
            raise SettingError(told if str(path) in told else f"{path}: {told}") from error

    def to_json(self) -> dict[str, Any]:
        """As a file keeps it; `of` reads it."""
        found: dict[str, Any] = plain_json(dataclasses.asdict(self))
        return found

    @property
    def sets(self) -> Mapping[str, tuple[str, ...]]:
        """The sets of prompts."""
        return cast(Mapping[str, tuple[str, ...]], self.prompts)

    def pairs(self) -> tuple[tuple[int | str, int | str], ...]:
        """Source and target of the cells."""
        every = itertools.product(self.sources, self.targets)
        return tuple((source, target) for source, target in every if _ahead(source, target))

    def cells(self) -> tuple[Cell, ...]:
        """In order: prompts, pairs, radii, methods, seeds; seeds change first."""
        every = itertools.product(self.sets, self.pairs(), self.radii, self.methods, self.seeds)
        return tuple(
            Cell(i, prompts, *pair, radius, method, seed)
            for i, (prompts, pair, radius, method, seed) in enumerate(every)
        )

    def _count(self) -> int:
        across = (self.sets, self.pairs(), self.radii, self.methods, self.seeds)
        return math.prod(map(len, across))


def _read(name: str, value: Any) -> Any:
    try:
        return FIELDS[name](value)
    except ValueError as error:
        raise SettingError(f"A grid's {name}: {error}") from error


def _ahead(source: int | str, target: int | str) -> bool:
    """Whether a target can lie behind a source, as far as one can know without the model."""
    a, b = _layer(source), _layer(target)
    if a is None or b is None:
        return True
    return a <= b and (a, source) != (b, target) if _named(source, target) else a < b


def _named(*points: int | str) -> bool:
    """Whether hook points are named, of which one layer has several."""
    return all(isinstance(point, str) for point in points)


def _layer(point: int | str) -> int | None:
    if isinstance(point, int):
        return point if point >= 0 else None  # counted from the end
    found = re.match(r"blocks\.(\d{1,6})\.", point)
    return int(found[1]) if found else None
