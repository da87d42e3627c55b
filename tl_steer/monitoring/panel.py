"""A fitted monitor as a value: it scores activations, and knows no model.

`tl_steer.monitoring.monitor` fits one and puts it on a model.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError, ShapeError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.site import Site
from tl_steer.monitoring.calibration import Calibration, refuse_unscorable, with_rounding
from tl_steer.monitoring.detectors.fitted import Residual
from tl_steer.monitoring.identity import Identity
from tl_steer.monitoring.reader import Reader, statistics
from tl_steer.monitoring.replays import Replays
from tl_steer.monitoring.statistics.conformal import (
    Guarantee,
    mondrian_p_values,
    step_down,
    threshold,
)

# How many vectors an alert can name, the nearest alternatives among them.
TOP = 8
_NUMBERS = 1 << 24  # scores of tokens by vectors that are in memory at a time


@dataclass(frozen=True, eq=False)
class Scores:
    """What a monitor makes of some requests.

    Attributes:
        statistic: one number per request, in nats: the largest sum of all parts at a token, with
            what counts of the prompt's end. `known` and `unknown` are the same of these parts.
        category: of each request (`tl_steer.monitoring.statistics.categories`).
        p_values, known_p: conformal p-values of the statistic and of its known parts, among
            calibration requests of the same category.
        vectors, values: the highest-scoring vectors of each request, descending, with their scores
            (the namer's sum, or without a namer a peak in clean deviations); `vector_p` are their
            step-down p-values.
        tokens: that sum at every token.
        explained: of what is unusual about the request's most suspicious token, the share of energy
            along the bank's responses; NaN where no detector tells.
    """

    statistic: Float[Tensor, " batch"]
    known: Float[Tensor, " batch"]
    unknown: Float[Tensor, " batch"]
    category: Int[Tensor, " batch"]
    p_values: Float[Tensor, " batch"]
    known_p: Float[Tensor, " batch"]
    vectors: Int[Tensor, "batch top"]
    values: Float[Tensor, "batch top"]
    vector_p: Float[Tensor, "batch top"]
    tokens: Float[Tensor, "batch pos"]
    explained: Float[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.statistic)


@dataclass(frozen=True, eq=False)
class Panel:
    """Everything a fitted monitor knows.

    Attributes:
        bank: the perturbations that alerts name; its labels show in alerts.
        sites: where activations are read.
        reader: detectors and scales.
        calibration: clean requests' scores.
        identity: the model, dtype and template that all this holds for.
        horizon: generated tokens that are scored; those behind are not.
        examples: token ids of a few clean prompts, for `replay`.
        settings: how it was fitted, for people to read.
        replays: what every vector made the model say, by which alerts are named; `None` where they
            are named by activations alone.
    """

    bank: Bank
    sites: tuple[Site, ...]
    reader: Reader
    calibration: Calibration
    identity: Identity
    horizon: int
    examples: tuple[Int[Tensor, " _"], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    replays: Replays | None = None

    @checked
    def score(
        self,
        activations: Float[Tensor, "batch pos d_model"] | Mapping[str, Tensor],
        *,
        mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> Scores:
        """Score requests offline; a pure function of the activations.

        Args:
            activations: position 0 is the prompt's end, the others generated tokens, as in
                `tl_steer.monitoring.traffic.Traffic`. With several sites, a mapping by their names.
            mask: true at real positions; all of them unless given.

        Raises:
            ShapeError: missing sites, another width, or more positions than the horizon has: the
                calibration is for requests of at most that many. Or prompts alone, where only
                answers count (`ends=0`); requests without an answer among others have a p-value
                of 1.
            NotFiniteError: a token is NaN, infinite or too large to be scored; which one.

        Wrong on activations of another model, dtype or template; only `watch` can check those.
        """
        given = self._by_site(activations)
        inside = (
            torch.ones(given[0].shape[:2], dtype=torch.bool, device="cpu")
            if mask is None
            else mask.cpu()
        )
        parts = [
            self._score([at[rows] for at in given], inside[rows])
            for rows in batches(self.reader, inside)
        ]
        names = [each.name for each in dataclasses.fields(Scores)]
        return Scores(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})

    def guarantee(self, alpha: float | int, *, category: int | None = None) -> Guarantee:
        """What an alarm at this level promises, about requests of one category; of the one with
        the fewest calibration requests unless given.

        Raises:
            SettingError: no such category, or alpha is below what its calibration requests can
                resolve.
        """
        sizes = self.calibration.sizes
        chosen = sizes.index(min(sizes)) if category is None else category
        if not 0 <= chosen < len(sizes):
            raise SettingError(f"category={category}: there are {len(sizes)}, counted from 0.")
        try:
            return Guarantee(float(alpha), sizes[chosen])
        except SettingError as error:
            if len(sizes) == 1:
                raise
            raise SettingError(
                f"{error} That is category {chosen} of requests; they have {sizes}. Fit with more "
                "prompts, or with fewer categories: categories=Clusters(smallest=...), or None."
            ) from error

    def thresholds(self, alpha: float | int) -> list[float]:
        """For each category, what a request's statistic must exceed for p <= alpha.

        Raises:
            SettingError: as `guarantee`.
        """
        self.guarantee(alpha)
        return [threshold(own, alpha) for own in self.calibration.by_category]

    def _by_site(self, activations: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
        names = [site.name for site in self.sites]
        if isinstance(activations, Tensor):
            activations = {names[0]: activations} if len(names) == 1 else {}
        missing = [name for name in names if name not in activations]
        if missing:
            raise ShapeError(f"score() needs activations by site name; {missing} are not there.")
        given = [activations[name].detach().float().cpu() for name in names]
        least = 1 if self.reader.ends else 2
        for site, at in zip(self.sites, given, strict=True):
            wrong = at.ndim != 3 or at.shape[2] != site.width or at.shape[:2] != given[0].shape[:2]
            if wrong or not least <= at.shape[1] <= 1 + self.horizon or not len(at):
                raise ShapeError(
                    f"Activations at {site} have shape {tuple(at.shape)}; expected [batch pos "
                    f"{site.width}] with pos from {least} to {1 + self.horizon}: the prompt's end "
                    f"and at most {self.horizon} generated tokens, which is what was calibrated. "
                    "Prompts alone are scored by monitors fitted with ends=1."
                )
        return given

    def _score(self, activations: Sequence[Tensor], mask: Tensor) -> Scores:
        tokens = self.reader.tokens(activations, mask)
        refuse_unscorable(tokens.scorable, mask)
        nats = self.reader.nats(tokens, mask)
        statistic, known, unknown = statistics(nats)
        at_tokens = nats.sum(dim=0)
        kept, own = self.calibration, tokens.category
        top = min(TOP, tokens.names.shape[1])
        values, vectors = tokens.names.topk(top, dim=1)
        named = [
            step_down(v, k, kept.raised("values"), kept.vectors) if top else v.double()
            for v, k in zip(values, vectors, strict=True)
        ]
        return Scores(
            statistic=statistic,
            known=known,
            unknown=unknown,
            category=own,
            p_values=self._p_values("statistic", statistic, own),
            known_p=self._p_values("known", known, own),
            vectors=vectors,
            values=values,
            vector_p=torch.stack(named),
            tokens=at_tokens,
            explained=self._explained(activations, at_tokens),
        )

    def _p_values(self, name: str, scores: Tensor, own: Tensor) -> Tensor:
        kept = self.calibration
        return mondrian_p_values(kept.raised(name), scores, kept=kept.category, given=own)

    def _explained(self, activations: Sequence[Tensor], nats: Tensor) -> Tensor:
        """At each request's most suspicious token, at the last site that can tell."""
        own = torch.cat([nats[:, :1], nats[:, 1:] - nats[:, :1]], dim=1)
        worst = own.argmax(dim=1)
        share = torch.full((len(nats),), float("nan"), dtype=torch.float32, device="cpu")
        for phases, at in zip(self.reader.phases, activations, strict=True):
            for phase, rows in zip(phases, (worst == 0, worst > 0), strict=True):
                if isinstance(phase.unknown, Residual) and bool(rows.any()):
                    share[rows] = phase.unknown.explained(at[rows, worst[rows]])
        return share


def calibrated(
    reader: Reader,
    activations: Sequence[Tensor],
    mask: Bool[Tensor, "batch pos"],
    *,
    dtype: str = "float32",
) -> Calibration:
    """The scores of clean requests that `reader` was not fitted on.

    Args:
        dtype: the model's; there is more rounding in half precision.

    Raises:
        SettingError: no request, or none of some category.
        NotFiniteError: a request that cannot be scored.
    """
    if not len(mask):
        raise SettingError("No calibration requests; give more clean prompts.")

    def scored(activations: Sequence[Tensor]) -> Calibration:
        parts = []
        for rows in batches(reader, mask):
            tokens = reader.tokens([at[rows] for at in activations], mask[rows])
            refuse_unscorable(tokens.scorable, mask[rows])
            nats = reader.nats(tokens, mask[rows])
            top = tokens.names.topk(min(TOP, tokens.names.shape[1]), dim=1)
            parts.append((*statistics(nats), top.values, top.indices, tokens.category))
        return Calibration(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    made = with_rounding(scored, activations, dtype)
    if empty := sorted(set(range(len(reader.categories))) - set(made.category.tolist())):
        raise SettingError(
            f"No calibration request is of category {empty}. One without any cannot be told apart "
            "from anomalies; give more clean prompts, or group them in fewer categories."
        )
    return made


def batches(reader: Reader, mask: Bool[Tensor, "batch pos"]) -> Iterator[slice]:
    """Requests in batches whose scores fit into memory."""
    every = [phase.known for phases in reader.phases for phase in phases]
    vec = max(sum(len(known.shift) for known in scores) for scores in every)
    rows = max(1, _NUMBERS // (max(vec, 1) * mask.shape[1]))
    return (slice(i, i + rows) for i in range(0, len(mask), rows))
