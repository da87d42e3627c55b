r"""Which source, and how long a vector, for a contrast with a base model? A short climb at each of
a grid says.

At every place n random vectors of that length are climbed for a few steps, with the method and from
the seed that `elicit` would use, and their *leads* are read (`tl_steer.objectives.contrast`). A
place is as good as the mean of its five best vectors; beside it stands the same mean of the random
vectors that the climb began with, which is what a place gives away for nothing.

No behaviour is looked for, so a bank learned at the best place was not chosen by what it was meant
to find. A lead has a ceiling, which vectors reach at many places where the two models differ in
much: compare the places' hits, where a behaviour is known, before trusting the order of near ones
(docs/evidence/installed.md does).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tl_steer.elicitation.aim import ANSWERED, own_ends, own_method, own_radius
from tl_steer.elicitation.start import started
from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.files.tables import Sheet, Tabled, number
from tl_steer.hook_points.positions import EVERYWHERE
from tl_steer.hook_points.site import Point
from tl_steer.methods import evaluated
from tl_steer.models.model import HookedModel
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen, refuse_inference_weights
from tl_steer.models.tokens import Prompts, TokenBatch, tokenize
from tl_steer.objectives.contrast import Contrast
from tl_steer.objectives.objective import Evaluation
from tl_steer.perturbations.additive import Additive
from tl_steer.radii.rules import RadiusRule, ShareOfNorm, length_of, radius_of

LENGTHS = (ShareOfNorm(0.3), ShareOfNorm(0.4), ShareOfNorm(0.55))
_DEPTHS = (0.4, 0.55, 0.7)
_BEST = 5


@dataclass(frozen=True)
class Place:
    """A source, a length, and how far a short climb came there.

    Attributes:
        share: the vectors' length, as a share of the median clean norm at the source.
        radius: the same length.
        lead: mean of the five largest leads after the climb, in nats.
        random: the same of the random vectors that it began with.
    """

    source: str
    target: str
    share: float
    radius: float
    lead: float
    random: float


@dataclass(frozen=True, repr=False)
class Places(Tabled):
    """All places of a scan, in the order asked for."""

    places: tuple[Place, ...]

    def sort(self) -> "Places":
        """By lead, largest first."""
        return Places(tuple(sorted(self.places, key=lambda place: -place.lead)))

    def best(self) -> Place:
        """The place with the largest lead."""
        return max(self.places, key=lambda place: place.lead)

    def table(self) -> Sheet:
        columns = ("source", "share of norm", "radius", "lead", "random lead")
        rows = tuple(
            (p.source, *map(number, (p.share, p.radius, p.lead, p.random))) for p in self.places
        )
        return Sheet("How far a short climb comes", columns, rows)


@checked
def scan_contrast(
    model: HookedModel,
    prompts: Prompts | TokenBatch,
    against: Any,
    *,
    sources: Sequence[Point] | None = None,
    lengths: Sequence[float | int | str | RadiusRule] = LENGTHS,
    n: int = 16,
    steps: int = 5,
    seed: int = 0,
) -> Places:
    """A short climb of `objectives.Contrast` at every source and length.

    Args:
        prompts: as for `elicit`; a few clean ones.
        against: the base model, or a `Contrast` with settings of your own.
        sources: hook points, each as `elicit` takes it. Unless given: behind two
            fifths, a little more than half, and seven tenths of the blocks.
        lengths: radii, each as `elicit` takes it and tried at every source: numbers, texts such as
            "0.4x", or rules.
        n: vectors at each.
        steps: of the climb. A place costs as much as an `elicit` of that many vectors and steps.
        seed: of the vectors that the climbs begin with.

    Raises:
        HookPointError, ModelError, PromptError, SettingError: bad arguments.
    """
    if n < _BEST or steps < 1 or not lengths:
        raise SettingError(
            f"n={n}, steps={steps}, lengths={tuple(lengths)}: expected at least {_BEST} vectors, "
            "one step and one length."
        )
    contrast = against if isinstance(against, Contrast) else Contrast(against)
    own = own_radius(contrast)
    given = map(radius_of, lengths)
    radii = [own if isinstance(length, str) else length for length in given]  # "auto"
    refuse_inference_weights(model)
    found = []
    with frozen(model):
        tokens = tokenize(model, prompts)
        for source in default_sources(model) if sources is None else sources:
            segment = Segment(model, tokens, *own_ends(model, source, None))
            objective = contrast.on(segment)
            found += [_look(objective, length, n, steps, seed) for length in radii]
    return Places(tuple(found))


def default_sources(model: HookedModel) -> list[int]:
    """Behind two fifths, somewhat more than half, and seven tenths of the blocks."""
    n_layers = int(model.cfg.n_layers)
    return list(dict.fromkeys(min(round(depth * n_layers), n_layers - 1) for depth in _DEPTHS))


def _look(objective: Any, length: float | int | RadiusRule, n: int, steps: int, seed: int) -> Place:
    segment = objective.segment
    measured = ANSWERED.measure(segment.mask, segment.tokens.has_bos)
    radius = length_of(length, segment, measured, seed)
    start = started(Additive, segment, n, radius, seed, EVERYWHERE)
    *_, last = replace(own_method(objective.contrast), steps=steps)(objective, start)
    begun = _best_leads(objective(start, gradient=False))
    climbed = _best_leads(evaluated(objective, last))
    share = radius / segment.source_norm()
    return Place(segment.source.name, segment.target.name, share, radius, climbed, begun)


def _best_leads(found: Evaluation) -> float:
    return float(found.scores["lead"].topk(_BEST).values.mean())
