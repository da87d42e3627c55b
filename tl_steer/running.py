"""Requests under way: what has been heard of them, and how odd it is so far."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.reader import Level, Phase, Reader, moved

NOTHING = -float("inf")


class Running:
    """A batch of requests, scored as they grow. The statistics are those of `Reader`, which sees
    whole requests.

    Detectors are maps of megabytes, and reading them from memory is most of what they cost: several
    tokens together cost hardly more than one. So tokens may wait until `score` is called.
    """

    def __init__(self, reader: Reader, *, device: torch.device) -> None:
        self._phases = moved(reader.without_namer(), device).phases
        self._levels = [
            [[Level(*part) for part in phase] for phase in site] for site in reader.levels.tolist()
        ]
        self.start(0)

    def start(self, n: int) -> None:
        """Another batch of so many requests."""
        sites = range(len(self._phases))
        self._seen: list[list[Tensor]] = [[] for _ in sites]
        self._live: list[list[bool]] = []
        self._scored = 0
        # Sums begin anew with every phase.
        self._totals = [[[[0.0] * n for _ in range(2)] for _ in range(2)] for _ in sites]

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
        first, self._scored = self._scored, len(self._live)
        best = [NOTHING] * len(self._live[0]) if self._live else []
        for site, seen in enumerate(self._seen):
            for generated, at in enumerate((slice(first, 1), slice(max(first, 1), self._scored))):
                if seen[at]:
                    for i, nats in self._nats(site, generated, at):
                        best[i] = max(best[i], nats)
        return best

    def _nats(self, site: int, generated: int, at: slice) -> Iterator[tuple[int, float]]:
        together = torch.cat(self._seen[site][at])
        for part, values in _parts(self._phases[site][generated], together):
            level, totals = self._levels[site][generated][part], self._totals[site][generated][part]
            steps = values.view(-1, len(totals)).tolist()
            for row, live in zip(steps, self._live[at], strict=True):
                for i, value in enumerate(row):
                    if live[i]:
                        totals[i] = level.step(totals[i], value)
                        yield i, level.nats(totals[i])


def _parts(
    phase: Phase, residual: Float[Tensor, "token d"]
) -> Iterator[tuple[int, Float[Tensor, " token"]]]:
    if phase.known is not None:
        yield 0, phase.vectors(residual).amax(dim=1)
    if phase.unknown is not None:
        yield 1, phase.anomaly(residual)
