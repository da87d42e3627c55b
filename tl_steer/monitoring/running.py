"""Requests under way: what has been heard of them, and how odd it is so far."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.monitoring.reader import Phase, Reader, moved
from tl_steer.monitoring.statistics.level import Level

NOTHING = -float("inf")


class Running:
    """A batch of requests, scored as they grow. The statistics are those of `Reader`, which sees
    whole requests.

    Detectors are maps of megabytes, and reading them from memory is most of what they cost: several
    tokens together cost hardly more than one. So tokens may wait until `score` is called.
    """

    def __init__(self, reader: Reader, *, device: torch.device) -> None:
        self._ends = reader.ends
        here = moved(reader.without_namer(), device)
        self._phases = [[phase.joined() for phase in phases] for phases in here.phases]
        self._categories = here.categories
        self._levels = [
            [[[Level(*part) for part in phase] for phase in site] for site in category]
            for category in reader.levels.tolist()
        ]
        self.start(0)

    def start(self, n: int) -> None:
        """Another batch of so many requests."""
        sites = range(len(self._phases))
        self._seen: list[list[Tensor]] = [[] for _ in sites]
        self._live: list[list[bool]] = []
        self._scored = 0
        self._at_end = [0.0] * n
        self.category = [0] * n  # known once prompts' ends are scored

    @property
    def waiting(self) -> int:
        """Tokens that have not been scored yet."""
        return len(self._live) - self._scored

    def hear(self, site: int, residual: Float[Tensor, "batch d"], live: Sequence[bool]) -> None:
        """The newest token at each site in turn, and whose requests it is still part of."""
        self._seen[site].append(residual.to(torch.float32, copy=True))
        if site == len(self._seen) - 1:
            self._live.append(list(live))

    def heard(self, i: int, most: int) -> list[Float[Tensor, "1 pos d"]]:
        """One request's first tokens, at each site."""
        n = min(most, len(self._live))
        return [torch.stack([at[i] for at in seen[:n]])[None] for seen in self._seen]

    def score(self) -> list[float]:
        """For each request, the largest statistic of its tokens that waited."""
        n, first, last = len(self._at_end), self._scored, len(self._live)
        self._scored = last
        if first == 0 and last:
            self.category = self._categories.of(self._seen[-1][0]).tolist()
        nats = {step: [0.0] * n for step in range(first, last)}
        for site in range(len(self._seen)):
            for generated, steps in enumerate(
                (range(first, min(last, 1)), range(max(first, 1), last))
            ):
                if steps:
                    self._add(nats, site, generated, steps)
        best = [NOTHING] * n
        for step, own in nats.items():
            own = own if step else [self._ends * value for value in own]
            before = self._at_end if step else [0.0] * n
            for i, live in enumerate(self._live[step]):
                if live:
                    best[i] = max(best[i], before[i] + own[i])
            self._at_end = self._at_end if step else own
        return best

    def _add(self, nats: dict[int, list[float]], site: int, generated: int, steps: range) -> None:
        """One site's, to every token's sum."""
        together = torch.cat(self._seen[site][steps.start : steps.stop])
        for part, values in _found(self._phases[site][generated], together):
            levels = [self._levels[own][site][generated][part] for own in self.category]
            for step, row in zip(steps, values.view(-1, len(levels)).tolist(), strict=True):
                for i, value in enumerate(row):
                    if self._live[step][i]:
                        nats[step][i] += levels[i].nats_of(value)


def _found(
    phase: Phase, residual: Float[Tensor, "token d"]
) -> Iterator[tuple[int, Float[Tensor, " token"]]]:
    """The parts that there are, by their number."""
    scores, anomaly = phase.read(residual)
    for part, vectors in enumerate(scores):
        yield part, vectors.amax(dim=1)
    if phase.unknown is not None:
        yield len(scores), anomaly
