r"""Which source and which target? A look at the linear map between many pairs of them.

For every pair the top singular values $\sigma_i$ of the Jacobian from source to target (see
`tl_steer.methods.jacobian`), and from them

* *gain*: $\sigma_1 \|h_s\| / \|h_t\|$, with $\|h\|$ the median clean norm of the residual stream:
  the share of the target's norm that moves, to first order, per share of the source's norm.
  Comparable across layers, which norms are not.
* *directions*: $(\sum_i \sigma_i^2)^2 / \sum_i \sigma_i^4$ over the values found: how many
  directions share the gain. Near 1, one direction has it all, and a bank will be one vector many
  times over.

These are first-order: they say where small vectors are amplified, and not where a behaviour is
decided. For that a scan can read:

* *texts*: a few directions, sharpened by power iteration, speak at radii around the calibrated one
  (`radii.InBand`). Counted are continuations that hold together and differ from the unsteered one
  and from each other, per direction and prompt. Where it is small, vectors paraphrase or
  babble, with little between.

No behaviour is looked for anywhere, so a bank learned at the pair with the most texts was not
chosen by what it was meant to find.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.files.tables import Sheet, Tabled, number
from tl_steer.hook_points.positions import LAST_THREE, Positions
from tl_steer.hook_points.site import Point
from tl_steer.methods import Jacobian
from tl_steer.models.model import HookedModel
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.models.tokens import Prompts, TokenBatch, tokenize
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.sphere import random_on_sphere
from tl_steer.radii.inband import InBand


@dataclass(frozen=True)
class Pair:
    """A source, a target, and the linear map between them.

    Attributes:
        singular: its top singular values, descending.
        source_norm, target_norm: median clean norms of the residual stream, BOS left out.
        texts: different coherent continuations per direction and prompt; NaN where nothing was
            read.
    """

    source: str
    target: str
    singular: tuple[float, ...]
    source_norm: float
    target_norm: float
    texts: float = math.nan

    @property
    def gain(self) -> float:
        return self.singular[0] * self.source_norm / self.target_norm

    @property
    def directions(self) -> float:
        squares = torch.tensor(self.singular, dtype=torch.float64, device="cpu").square()
        total = squares.square().sum()
        return float(squares.sum().square() / total) if total > 0 else 0.0


@dataclass(frozen=True, repr=False)
class Scan(Tabled):
    """All pairs of a scan, in the order asked for."""

    pairs: tuple[Pair, ...]

    def sort(self) -> "Scan":
        """By gain, largest first."""
        return Scan(tuple(sorted(self.pairs, key=lambda pair: -pair.gain)))

    def best(self) -> Pair:
        """The pair with the most texts, for a scan that has read; the larger gain where two are
        alike.

        Raises:
            SettingError: nothing was read. By gain alone no pair is better than another.
        """
        if any(math.isnan(pair.texts) for pair in self.pairs):
            raise SettingError("This scan has read no texts: scan(..., read=InBand()).")
        return max(self.pairs, key=lambda pair: (pair.texts, pair.gain))

    def table(self) -> Sheet:
        rows = tuple(
            (
                p.source,
                p.target,
                number(p.gain),
                number(p.directions),
                number(p.singular[0]),
                "" if math.isnan(p.texts) else number(p.texts),
            )
            for p in self.pairs
        )
        columns = ("source", "target", "gain", "directions", "largest singular value", "texts")
        return Sheet("The linear map between hook points", columns, rows)


@checked
def scan(
    model: HookedModel,
    prompts: Prompts | TokenBatch,
    pairs: Sequence[tuple[Point, Point]] | None = None,
    *,
    top: int = 8,
    read: InBand | None = None,
    measured: Positions = LAST_THREE,
    seed: int = 0,
) -> Scan:
    """Look at the linear map between every pair of hook points.

    Args:
        prompts: as for `elicit`; a few clean ones.
        pairs: (source, target), each as `elicit` takes it. Unless given: a source
            behind every eighth of the blocks, and for each the targets a quarter and a half of the
            model further on.
        top: singular values per pair. A pair costs about a dozen passes per value.
        read: how to steer and read at every pair, e.g. `InBand()`; a pair then costs the
            generation of two dozen short continuations per prompt as well.
        measured: tokens at which the target is measured.
        seed: of the search for singular vectors, and of the directions that speak.

    Raises:
        HookPointError, PromptError, SettingError: bad arguments.
    """
    if top < 1:
        raise SettingError(f"top={top}: expected at least 1.")
    with frozen(model):
        tokens = tokenize(model, prompts)
        chosen = default_pairs(int(model.cfg.n_layers)) if pairs is None else pairs
        return Scan(
            tuple(_look(Segment(model, tokens, *p), top, read, measured, seed) for p in chosen)
        )


def default_pairs(n_layers: int) -> list[tuple[int, int]]:
    """A source behind every eighth of the blocks; targets a quarter and a half further on."""
    step, last = max(1, n_layers // 8), n_layers - 1
    return [
        (source, source + ahead)
        for source in range(step - 1, last, step)
        for ahead in sorted({max(1, n_layers // 4), max(1, n_layers // 2)})
        if source + ahead <= last
    ]


def _look(segment: Segment, top: int, read: InBand | None, measured: Positions, seed: int) -> Pair:
    where = measured.measure(segment.mask, segment.tokens.has_bos).to(segment.clean.device)
    width = segment.source.width
    generator = torch.Generator().manual_seed(seed)
    rows = random_on_sphere(min(top, width), width, radius=1.0, generator=generator)
    start = Additive(segment.source, rows.to(segment.clean_source.device), radius=1.0)
    objective = Objective(segment, Displacement(), where)
    *_, last = Jacobian(passes=3, signs=(1,))(objective, start)
    return Pair(
        source=segment.source.name,
        target=segment.target.name,
        singular=tuple(last.scores["singular value"].tolist()),
        source_norm=segment.source_norm(),
        target_norm=segment.target_norm(),
        texts=math.nan if read is None else _texts(segment, where, read, seed),
    )


def _texts(segment: Segment, where: Bool[Tensor, "batch pos"], read: InBand, seed: int) -> float:
    found = read.measure(segment, where, seed, read.anchor(segment, where, seed))
    return len(found.coherent_texts()) / (read.n * len(found.prompts))
