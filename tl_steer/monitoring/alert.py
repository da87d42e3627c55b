"""Alerts: which known perturbation a request looks like, and what that perturbation does."""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.generate import generate
from tl_steer.banks.generations import Generations
from tl_steer.banks.verdict import verdict_of
from tl_steer.errors import SettingError
from tl_steer.models.model import HookedModel
from tl_steer.models.token_names import token_names
from tl_steer.models.tokens import Prompts, TokenBatch
from tl_steer.monitoring.audit import AlertRow
from tl_steer.monitoring.naming import Candidate, name_of
from tl_steer.monitoring.panel import Panel, Scores

KNOWN, UNKNOWN, DRIFT = "known perturbation", "unknown anomaly", "drift"
UNSCORABLE = "could not be scored"


@dataclass(frozen=True)
class Fired:
    """A token over the threshold: its place (0 is the prompt's end, i the i-th generated token),
    its id, its text where a tokenizer is known, and its own statistic."""

    position: int
    id: int
    text: str
    statistic: float


@dataclass(frozen=True)
class Alert:
    """A request whose p-value is at most alpha.

    Attributes:
        request: the request's id, as in the audit log.
        kind: "known perturbation" where the bank's parts alone are over its own threshold, else
            "unknown anomaly". "could not be scored": an activation was NaN, infinite or too large;
            no vector, `tokens` are those where it was, and the p-value is the smallest there is.
            ("drift": the traffic as a whole has moved; no vector.)
        vector: the number of the vector whose replays say most of what the answer said; where none
            says `SAYS` of it, of the one whose activations fit best. Of an unknown anomaly, nothing
            is claimed of it.
        label: the auditor's; `verdict` is "benign", "dangerous", "unclear" or "".
        rank: the vector's place among all of them on this request, by what it was named by: 1.
        named: how many vectors, from the best on, step-down control lets one name at alpha.
        p_value: of the request. `vector_p` is the vector's, by its activations and after
            step-down; NaN where others fit much better.
        said: on what share of clean requests the vector says what was said (`Replays.agreement`);
            0 where it was named by activations.
        statistic: in nats of the clean tail. `threshold` is what it exceeded.
        explained: the share of what is unusual that lies along the bank's responses; NaN if no
            detector tells.
        tokens: those over the threshold, in order.
        alternatives: the other vectors whose activations fit best.
        trace: the statistic at every scored token, from the prompt's end on; NaN at one that could
            not be scored.
        batch_row: the request's row in the batch that the model ran.
    """

    request: str
    kind: str
    vector: int | None
    label: str
    rank: int
    named: int
    alpha: float
    p_value: float
    vector_p: float
    statistic: float
    threshold: float
    explained: float
    tokens: tuple[Fired, ...]
    alternatives: tuple[Candidate, ...]
    trace: tuple[float, ...]
    bank: Bank = field(repr=False, compare=False)
    examples: tuple[Int[Tensor, " _"], ...] = field(repr=False, compare=False, default=())
    at: float = field(default_factory=time.time, compare=False)
    said: float = 0.0
    batch_row: int = field(compare=False, default=0)

    @property
    def verdict(self) -> str:
        return verdict_of(self.label)

    def replay(
        self,
        model: HookedModel,
        prompts: Prompts | TokenBatch | None = None,
        *,
        vector: int | None = None,
        max_new_tokens: int = 24,
    ) -> Generations:
        """What the vector makes the model say on clean prompts: the behaviour to go back to.

        Args:
            prompts: the monitor's own examples unless given.
            vector: the number of another one, out of `alternatives`.

        Raises:
            RowError: a number that no vector of the bank has.
            SettingError: the alert names no vector and none is given.
            ForeignModelError: not the bank's model.
        """
        number = self.vector if vector is None else vector
        if number is None and self.kind == UNSCORABLE:
            raise SettingError(
                "This request could not be scored, so no vector was seen and there is nothing to "
                "replay; its activations were NaN, infinite or too large."
            )
        if number is None:
            raise SettingError("This alert names no vector; give one: replay(model, vector=...).")
        asked = list(self.examples) if prompts is None else prompts
        return generate(
            model, self.bank[self.bank.row(number)], asked, max_new_tokens=max_new_tokens
        )

    def row(self, monitor: str = "", bank: str = "", *, revised: bool = False) -> AlertRow:
        """As the audit log keeps it, with the digests of monitor and bank."""
        return AlertRow(
            request=self.request,
            at=self.at,
            monitor=monitor,
            bank=bank,
            kind=self.kind,
            alpha=self.alpha,
            p_value=self.p_value,
            statistic=self.statistic,
            threshold=self.threshold,
            vector=self.vector,
            label=self.label,
            rank=self.rank,
            named=self.named,
            vector_p=_known(self.vector_p),
            explained=_known(self.explained),
            revised=revised,
            tokens=[
                asdict(token) | {"statistic": _known(token.statistic)} for token in self.tokens
            ],
            alternatives=[asdict(other) for other in self.alternatives],
            trace=[_known(statistic) for statistic in self.trace],
        )


def _known(value: float) -> float | None:
    """As JSON has it."""
    return value if math.isfinite(value) else None


def alert_for(
    panel: Panel,
    scores: Scores,
    row: int,
    *,
    request: str,
    alpha: float | int,
    ids: Sequence[int],
    tokenizer: Any = None,
) -> Alert:
    """The alert that one request's scores make; whether it deserves one is not asked.

    Args:
        row: the request among `scores`.
        ids: its tokens, from the prompt's last one.
        tokenizer: to show them as text.
    """
    limit = panel.thresholds(alpha)[int(scores.category[row])]
    name = name_of(panel, scores, row, ids)
    known = name.vector is not None and float(scores.known_p[row]) <= alpha
    best = name.vector
    statistics = scores.tokens[row].tolist()
    fired = [
        Fired(i, int(ids[i]), _text(tokenizer, ids[i]), s)
        for i, s in enumerate(statistics)
        if s > limit and i < len(ids)
    ]
    scored = max((i + 1 for i, s in enumerate(statistics) if math.isfinite(s)), default=0)
    return Alert(
        request=request,
        kind=KNOWN if known else UNKNOWN,
        vector=best.vector if best else None,
        label=best.label if best else "",
        rank=int(best is not None),
        named=int((scores.vector_p[row] <= alpha).sum()),
        alpha=float(alpha),
        p_value=float(scores.p_values[row]),
        vector_p=best.p_value if best else float("nan"),
        statistic=float(scores.statistic[row]),
        threshold=limit,
        explained=float(scores.explained[row]),
        tokens=tuple(fired),
        alternatives=name.others,
        trace=tuple(s if math.isfinite(s) else math.nan for s in statistics[:scored]),
        bank=panel.bank,
        examples=panel.examples,
        said=name.said,
    )


def unscorable_alert(
    panel: Panel,
    *,
    request: str,
    alpha: float | int,
    p_value: float,
    threshold: float,
    ids: Sequence[int],
    lost: Sequence[int],
    tokenizer: Any = None,
) -> Alert:
    """The alert for a request with tokens that could not be scored, `lost`."""
    return dataclasses.replace(
        _nameless(panel, UNSCORABLE, request, alpha, p_value, threshold),
        tokens=tuple(
            Fired(i, int(ids[i]), _text(tokenizer, ids[i]), math.nan) for i in lost if i < len(ids)
        ),
        trace=(math.nan,) * (max(lost) + 1),
        examples=panel.examples,
    )


def drift_alert(panel: Panel, *, request: str, alpha: float, peak: float) -> Alert:
    """The drift alarm as the audit log keeps it; the p-value is Ville's bound."""
    alert = _nameless(panel, DRIFT, request, alpha, 1 / peak, 1 / alpha)
    return dataclasses.replace(alert, statistic=peak)


def _nameless(
    panel: Panel, kind: str, request: str, alpha: float | int, p_value: float, threshold: float
) -> Alert:
    """An alert about no vector and no token, without a statistic."""
    return Alert(
        request=request,
        kind=kind,
        vector=None,
        label="",
        rank=0,
        named=0,
        alpha=float(alpha),
        p_value=p_value,
        vector_p=math.nan,
        statistic=math.nan,
        threshold=threshold,
        explained=math.nan,
        tokens=(),
        alternatives=(),
        trace=(),
        bank=panel.bank,
    )


def _text(tokenizer: Any, token: int) -> str:
    return "" if tokenizer is None else token_names(tokenizer, [int(token)])[0]
