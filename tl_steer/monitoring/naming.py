"""Which vector a request is named for, once there is an alarm.

The one whose replays say most of what the answer said, since that is what an auditor will see on
replay; where none says enough of it, the one whose activations fit best. Vectors that say about as
much, as many do where a behaviour is loud, are told apart by activations as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tl_steer.monitoring.panel import Panel, Scores

# From what share of an answer on a vector is named for its words. Fewer are in a few common
# words, which one vector or another has always said.
SAYS = 0.2
_AS_MUCH = 0.9  # of the most that any vector says


@dataclass(frozen=True)
class Candidate:
    """A vector that a request looks like.

    Attributes:
        vector: its number in the bank, and `label` the bank's.
        rank: its place among all vectors on this request by activations, from 1; 0 is behind those
            that are kept.
        score: what it was ranked by (`tl_steer.monitoring.panel.Scores.values`).
        p_value: step-down, over all vectors.
    """

    vector: int
    label: str
    rank: int
    score: float
    p_value: float


@dataclass(frozen=True)
class Name:
    """The vector of a request, or `None` without a bank; by what share of its words, or 0 where
    activations named it; and the others whose activations fit best."""

    vector: Candidate | None
    said: float
    others: tuple[Candidate, ...]


def name_of(panel: Panel, scores: Scores, row: int, ids: Sequence[int]) -> Name:
    """The name of one request.

    Args:
        row: the request among `scores`.
        ids: its tokens, from the prompt's last one.
    """
    rows: list[int] = scores.vectors[row].tolist()
    found = [
        _candidate(panel, v, i + 1, float(value), float(p))
        for i, (v, value, p) in enumerate(
            zip(rows, scores.values[row], scores.vector_p[row], strict=True)
        )
    ]
    answer = [int(i) for i in ids[1 : 1 + panel.horizon]]
    said = None if panel.replays is None else panel.replays.agreement(answer)
    if said is None or float(said.max()) < SAYS:
        return Name(found[0] if found else None, 0.0, tuple(found[1:]))
    most = int(said.argmax())
    unseen = most, _candidate(panel, most, 0, math.nan, math.nan)
    as_much = (
        (v, each) for v, each in zip(rows, found, strict=True) if said[v] >= _AS_MUCH * said[most]
    )
    v, best = next(as_much, unseen)
    return Name(best, float(said[v]), tuple(x for x in found if x is not best))


def _candidate(panel: Panel, row: int, rank: int, score: float, p_value: float) -> Candidate:
    bank = panel.bank
    return Candidate(bank.numbers[row], bank.labels[row], rank, score, p_value)
