r"""Has clean traffic moved? A conformal test martingale over the scores of a stream of requests.

Every score gets a smoothed p-value among *all scores before it*, calibration included. As long as
the stream is exchangeable with the calibration requests these are independent and uniform, so a
gambler who bets against that multiplies a capital of 1 without expecting to gain, and will ever
reach $1/\alpha$ with probability at most $\alpha$ (Ville 1939). p-values against the calibration
set alone would not do: they are not independent, and the capital would grow on some clean sets.

The bets are the Simple Jumper's: factors $1 + \epsilon (p - 1/2)$ for $\epsilon \in \{-1, 0, 1\}$,
with a share J of the capital spread evenly again before every bet (Vovk et al. 2021, "Retrain or
not retrain", arXiv 2102.10439). It reacts to scores that become larger and to ones that become
smaller.
"""

import bisect
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from tl_steer.errors import NotFiniteError, SettingError

_BETS = (-1.0, 0.0, 1.0)
_ABSOLUTE, _RELATIVE = 1e-4, 1e-5  # scores that differ by less are equal


@dataclass
class Drift:
    """Watches one stream; call it with every request's score, in order.

    Args:
        calibration: scores of the calibration requests.
        alpha: the probability that an unmoved stream ever raises the alarm.
        jump: share of the capital that is spread evenly before every bet.
        seed: of the draws that make p-values exactly uniform.

    Attributes:
        capital: now; `peak`: the most it has been. Evidence against "nothing has moved".

    Raises:
        SettingError: no calibration scores, or numbers out of range.
        NotFiniteError: NaN among the calibration scores.

    A steady share of attacks is drift too: the alarm says "no longer the calibration's traffic",
    not why. It remembers all scores: 8 bytes each.
    """

    calibration: Iterable[float]
    alpha: float = 0.001
    jump: float = 0.01
    seed: int = 0
    capital: float = field(default=1.0, init=False)
    peak: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self._seen = sorted(float(score) for score in self.calibration)
        if any(map(math.isnan, self._seen)):
            raise NotFiniteError("NaN among the calibration scores: they have no order.")
        if not self._seen or not 0 < self.alpha < 1 or not 0 <= self.jump <= 1:
            raise SettingError(
                f"Drift(alpha={self.alpha}, jump={self.jump}) on {len(self._seen)} calibration "
                "scores: expected scores, alpha between 0 and 1, and jump from 0 to 1."
            )
        self._draw = random.Random(self.seed)
        self._shares = [1 / len(_BETS)] * len(_BETS)

    def __call__(self, score: float | int) -> bool:
        """Take one more score; true from the request on at which the alarm goes off."""
        self.bet(self.p_value(float(score)))
        return self.alarmed

    @property
    def alarmed(self) -> bool:
        """Whether the capital has ever reached 1 / alpha."""
        return self.peak >= 1 / self.alpha

    def p_value(self, score: float) -> float:
        """Smoothed, among all scores before; the score is remembered."""
        if math.isnan(score):
            raise NotFiniteError("NaN among the scores: it has no rank among the others.")
        # A request that comes again scores what it scored but for rounding: that is a tie.
        by = _ABSOLUTE + _RELATIVE * abs(score)
        by = by if math.isfinite(by) else 0.0
        low = bisect.bisect_left(self._seen, score - by)
        high = bisect.bisect_right(self._seen, score + by)
        above, tied = len(self._seen) - high, high - low
        bisect.insort(self._seen, score)
        return (above + self._draw.random() * (1 + tied)) / len(self._seen)

    def bet(self, p: float) -> None:
        """One bet that p is not uniform.

        Raises:
            SettingError: p is no p-value.
        """
        if not 0 <= p <= 1:
            raise SettingError(f"p={p}: expected a p-value, from 0 to 1.")
        total = sum(self._shares)
        even = self.jump * total / len(_BETS)
        self._shares = [
            ((1 - self.jump) * share + even) * (1 + bet * (p - 0.5))
            for share, bet in zip(self._shares, _BETS, strict=True)
        ]
        self.capital = sum(self._shares)
        self.peak = max(self.peak, self.capital)
