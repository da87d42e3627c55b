"""Which vector a request is named for, once there is an alarm.

The one whose replays say most of what the answer said, since that is what an auditor will see on
replay; where none says enough of it, the one whose activations fit best.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tl_steer.monitoring.panel import Panel, Scores

# From what share of an answer on a vector is named for its words. Fewer are in a few common
# words, which one vector or another has always said.
SAYS = 0.2


@dataclass(frozen=True)
class Candidate:
    """A vector that a request looks like.

    Attributes:
        vector: its row in the bank, and `label` the bank's.
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
    found = [
        Candidate(int(v), panel.bank.labels[int(v)], i + 1, float(value), float(p))
        for i, (v, value, p) in enumerate(
            zip(scores.vectors[row], scores.values[row], scores.vector_p[row], strict=True)
        )
    ]
    vector, said = _spoken(panel, ids)
    if vector is None:
        return Name(found[0] if found else None, 0.0, tuple(found[1:]))
    unseen = Candidate(vector, panel.bank.labels[vector], 0, math.nan, math.nan)
    best = next((each for each in found if each.vector == vector), unseen)
    return Name(best, said, tuple(each for each in found if each.vector != vector))


def _spoken(panel: Panel, ids: Sequence[int]) -> tuple[int | None, float]:
    """The vector that says most of what was said, if one says enough, and how much."""
    if panel.replays is None:
        return None, 0.0
    agreement = panel.replays.agreement([int(i) for i in ids[1 : 1 + panel.horizon]])
    best = int(agreement.argmax())
    said = float(agreement[best])
    return (best, said) if said >= SAYS else (None, 0.0)
