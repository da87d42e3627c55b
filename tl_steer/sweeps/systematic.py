r"""Is it systematic? Statistics of one effect per vector and prompt; numbers in, numbers out.

With $e_{vi} \ge 0$ the effect of vector v on prompt i, and random vectors of the same radius:

* *threshold* of prompt i: the larger of the noise floor (what the unsteered model shows against
  itself) and the 95% quantile of the random vectors' effects on that prompt.
* *prevalence*: the share of prompts on which $e_{vi}$ exceeds the threshold. 0.05 is expected of a
  random vector.
* *superiority*: the share of (random vector, prompt) pairs in which v's effect is the larger one;
  ties count half. 0.5 is expected of a random vector. (McGraw and Wong's common-language effect
  size, within prompts.)
* *consistency*: mean cosine of v's responses over pairs of different prompts.
* *systematicness*: prevalence times consistency, 0 where that is negative. A one-off fails by the
  first factor, a vector that does something else on every prompt by the second.

Intervals are percentiles of a bootstrap over prompts. For consistency and systematicness, prompts
are resampled in groups, since only the groups' sums of directions are kept; with as many groups as
prompts that is the bootstrap over prompts. For prevalence it is Clopper and Pearson's, because a
bootstrap of 20 prompts out of 20 has no width.

p: the rank of v's systematicness among that of the random vectors, each of which is measured by
thresholds that leave it out. If v is like a random vector, all ranks are equally likely, however
much the prompts have in common. q: Benjamini and Hochberg's adjustment over the bank; p-values that
share their control depend on each other in a way under which it holds (Bates, Candès, Lei, Romano
and Sesia, "Testing for outliers with conformal p-values", 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tl_steer.sweeps.beyond_random import exceeding, superiority, thresholds, without_itself
from tl_steer.sweeps.interval import (
    Interval,
    intervals,
    percentiles,
    resamples,
    share_interval,
    weighted_mean,
)

ALPHA = 0.05
MAJORITY, SAME, FEWEST = 0.5, 0.25, 10


@dataclass(frozen=True)
class Evidence:
    """What is known of one vector; see `tl_steer.sweeps.systematic`.

    Attributes:
        vector: its number in the bank.
        prompts: on how many it was measured without failure.
        effect: mean effect, in the metric's unit.
        p, q: before and after adjustment over the bank; NaN without random vectors.
        verdict: "systematic", of texts, or "steady", of activations and probabilities; "one-off",
            "scattered", "like random" or "undecided".
        reason: the numbers that the verdict rests on.
    """

    vector: int
    label: str
    prompts: int
    effect: Interval
    superiority: Interval
    prevalence: Interval
    consistency: Interval
    systematicness: Interval
    p: float
    q: float
    verdict: str
    reason: str


@dataclass(frozen=True, eq=False)
class Directions:
    """Sums of the directions of responses over groups of prompts, and how many each holds."""

    sums: Float[np.ndarray, "group vec d"]
    counts: Float[np.ndarray, "group vec"]

    def rows(self, chosen: Sequence[int]) -> "Directions":
        return Directions(self.sums[:, chosen], self.counts[:, chosen])


def consistency(directions: Directions) -> Float[np.ndarray, " vec"]:
    """Mean cosine over pairs of different prompts: $(\\|\\sum u\\|^2 - n)/(n(n-1))$."""
    ones = np.ones((1, len(directions.sums)))
    found: np.ndarray = _pairs(directions, ones)[0]
    return found


def _pairs(directions: Directions, weights: np.ndarray) -> Float[np.ndarray, "resample vec"]:
    """Weighted mean cosine over pairs of different prompts, however often each is drawn."""
    sums, counts = directions.sums.astype(np.float64), directions.counts.astype(np.float64)
    gram = np.einsum("gvd,hvd->vgh", sums, sums)
    squares = np.einsum("vbg,bg->bv", weights @ gram, weights)
    twice = weights**2 @ counts
    pairs = (weights @ counts) ** 2 - twice
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (squares - twice) / pairs, np.nan)


def figure(exceeds: np.ndarray, directions: Directions, weights: np.ndarray) -> np.ndarray:
    """Systematicness of every resample of groups, `[resample vec]`."""
    groups = len(directions.sums)
    group = np.arange(exceeds.shape[1]) % groups
    member = (group[:, None] == np.arange(groups)).astype(np.float64)
    valid = np.isfinite(exceeds)
    hits, counts = np.where(valid, exceeds, 0.0) @ member, valid.astype(np.float64) @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        prevalence = (weights @ hits.T) / (weights @ counts.T)
    found: np.ndarray = prevalence * np.maximum(_pairs(directions, weights), 0.0)
    return found


def evidence(
    effects: Float[np.ndarray, "vec prompt"],
    control: Float[np.ndarray, "random prompt"],
    directions: Directions,
    *,
    floor: float,
    of_text: bool = True,
    signed: Float[np.ndarray, "vec prompt"] | None = None,
    labels: Sequence[str] = (),
    numbers: tuple[int, ...] = (),
    told: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Evidence, ...]:
    """The statistics of every vector.

    Args:
        effects: of the bank, at least 0; NaN where a cell failed.
        control: of the random vectors on the same prompts.
        directions: of the bank and, behind it, of the random vectors.
        floor: an effect that is no effect.
        of_text: whether effects are of texts. Vectors are trained to move activations, and next
            tokens with them, so that they do is not called systematic.
        signed: what `Evidence.effect` averages; the effects unless given.
        labels, numbers: of the bank's vectors; none, and their rows, unless given.
        told: of each, what numbers do not say; its reason ends with it.
    """
    n_vec, n = effects.shape
    bank = directions.rows(range(n_vec))
    exceeds = exceeding(effects, thresholds(control, floor))
    by_prompt, by_group = resamples(n, seed=seed), resamples(len(bank.sums), seed=seed)
    one, all_groups = np.ones((1, n)), np.ones((1, len(bank.sums)))

    def bootstrapped(values: np.ndarray) -> list[Interval]:
        low, high = percentiles(weighted_mean(values, by_prompt))
        return intervals(weighted_mean(values, one)[0], low, high)

    counts = np.isfinite(exceeds).sum(axis=1)
    hits = np.nansum(exceeds, axis=1)
    shares = [share_interval(h, int(c)) for h, c in zip(hits, counts, strict=True)]
    consistent = intervals(consistency(bank), *percentiles(_pairs(bank, by_group)))
    merit = figure(exceeds, bank, all_groups)[0]
    merits = intervals(merit, *percentiles(figure(exceeds, bank, by_group)))
    p = p_values(merit, control, directions.rows(range(n_vec, directions.sums.shape[1])), floor)
    q = adjusted(p)
    above, mean = (
        bootstrapped(superiority(effects, control)),
        bootstrapped(effects if signed is None else signed),
    )
    found = []
    for v in range(n_vec):
        n, share, same = int(counts[v]), shares[v], consistent[v]
        word, why = verdict(n, share, same, float(p[v]), float(q[v]), len(control), of_text=of_text)
        found.append(
            Evidence(
                vector=numbers[v] if numbers else v,
                label=labels[v] if labels else "",
                prompts=n,
                effect=mean[v],
                superiority=above[v],
                prevalence=share,
                consistency=same,
                systematicness=merits[v],
                p=float(p[v]),
                q=float(q[v]),
                verdict=word,
                reason=f"{why}: prevalence {share}, consistency {same}, q {q[v]:.2g} on {n} "
                "prompts" + (f"; {told[v]}" if told else ""),
            )
        )
    return tuple(found)


def of_random(
    control: Float[np.ndarray, "random prompt"], directions: Directions, floor: float
) -> tuple[float, float, float]:
    """Median prevalence, consistency and systematicness of the random vectors."""
    exceeds = exceeding(control, without_itself(control, floor))
    merit = figure(exceeds, directions, np.ones((1, len(directions.sums))))[0]
    shares = weighted_mean(exceeds, np.ones((1, exceeds.shape[1])))[0]
    found = (shares, consistency(directions), merit)
    return tuple(float(np.median(values)) for values in found)  # type: ignore[return-value]


def p_values(
    merit: Float[np.ndarray, " vec"],
    control: Float[np.ndarray, "random prompt"],
    directions: Directions,
    floor: float,
) -> Float[np.ndarray, " vec"]:
    """Ranks among the random vectors; a random vector that failed everywhere counts as larger."""
    if len(control) == 0:
        return np.full(len(merit), np.nan)
    exceeds = exceeding(control, without_itself(control, floor))
    null = figure(exceeds, directions, np.ones((1, len(directions.sums))))[0]
    null = np.where(np.isfinite(null), null, np.inf)
    p = (1 + (null[None] >= merit[:, None]).sum(axis=1)) / (len(null) + 1)
    return np.where(np.isfinite(merit), p, np.nan)


def adjusted(p: Float[np.ndarray, " vec"]) -> Float[np.ndarray, " vec"]:
    """Benjamini and Hochberg's q, over the vectors that have a p."""
    from scipy.stats import false_discovery_control  # takes a second to import

    q, there = np.full(len(p), np.nan), np.isfinite(p)
    if there.any():
        q[there] = false_discovery_control(p[there], method="bh")
    return q


def verdict(
    n: int,
    share: Interval,
    same: Interval,
    p: float,
    q: float,
    n_random: int,
    *,
    of_text: bool = True,
) -> tuple[str, str]:
    """One word, and why."""
    if n < FEWEST:
        return "undecided", f"fewer than {FEWEST} prompts"
    if not np.isfinite(q):
        return "undecided", "no random vectors to compare with"
    if q > ALPHA:
        if p <= 1 / (n_random + 1):
            return "undecided", f"beats all {n_random} random vectors, which are too few"
        return "like random", "random vectors do as well"
    if share.low >= MAJORITY and same.low >= SAME:
        why = "more than random on most prompts, and alike"
        return ("systematic", why) if of_text else ("steady", f"{why}; texts were not asked")
    if share.high < MAJORITY:
        return "one-off", "more than random, but on a minority of prompts"
    if same.high < SAME:
        return "scattered", "more than random, but another effect on every prompt"
    return "undecided", "an interval crosses the line"
