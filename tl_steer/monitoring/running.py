"""Requests under way: what has been heard of them, and how odd it is so far."""

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.monitoring.parts import Parts
from tl_steer.monitoring.reader import Reader, moved
from tl_steer.monitoring.statistics.level import Level

NOTHING = -float("inf")


class Running:
    """A batch of requests, scored as they grow. The statistics are those of `Reader`, which sees
    whole requests.

    Detectors are maps of megabytes, and reading them from memory is most of what they cost: several
    tokens together cost hardly more than one. So tokens may wait until `score` is called.

    Attributes:
        category: of each request; known once prompts' ends are scored.
        unscorable: of each request, the tokens that were NaN, infinite or too large to be scored;
            0 is the prompt's end, without which no other token can be scored either.
    """

    def __init__(self, reader: Reader, *, device: torch.device) -> None:
        self._ends, self._device = reader.ends, device
        here = moved(reader.without_namer(), device)
        self._phases = [[Parts.of(phase.joined()) for phase in phases] for phases in here.phases]
        self._categories = here.categories
        self._levels = [
            [[[Level(*part) for part in phase] for phase in site] for site in category]
            for category in reader.levels.tolist()
        ]
        self.start(0)

    def another(self) -> "Running":
        """For other requests, at the same time; the detectors are shared."""
        other = copy.copy(self)
        other.start(0)
        return other

    def start(self, n: int) -> None:
        """Another batch of so many requests."""
        sites = range(len(self._phases))
        self._seen: list[list[Tensor]] = [[] for _ in sites]
        self._live: list[list[bool]] = []
        self._scored = 0
        self._at_end = [0.0] * n
        self.category = [0] * n
        self.unscorable: list[set[int]] = [set() for _ in range(n)]

    @property
    def waiting(self) -> int:
        """Tokens that have not been scored yet."""
        return len(self._live) - self._scored

    def hear(self, site: int, residual: Float[Tensor, "batch d"], live: Sequence[bool]) -> None:
        """The newest token at each site in turn, and whose requests it is still part of."""
        # From wherever its block is: a model may lie on several devices.
        self._seen[site].append(residual.to(self._device, torch.float32, copy=True))
        if site == len(self._seen) - 1:
            self._live.append(list(live))

    def heard(self, i: int, most: int) -> list[Float[Tensor, "1 pos d"]]:
        """One request's first tokens, at each site."""
        n = min(most, len(self._live))
        return [torch.stack([at[i] for at in seen[:n]])[None] for seen in self._seen]

    def score(self) -> list[float]:
        """For each request, the largest statistic of its tokens that waited and could be scored."""
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
            for i, lost in enumerate(self.unscorable):
                if not self._live[step][i] or step in lost or 0 in lost:
                    continue
                if step == 0:
                    self._at_end[i] = self._ends * own[i]
                best[i] = max(best[i], self._at_end[i] + (own[i] if step else 0.0))
        return best

    def _add(self, nats: dict[int, list[float]], site: int, generated: int, steps: range) -> None:
        """One site's, to every token's sum."""
        waiting = self._seen[site][steps.start : steps.stop]
        parts, n = self._phases[site][generated], len(self.category)
        found = parts(waiting[0] if len(waiting) == 1 else torch.cat(waiting))
        levels = [self._levels[own][site][generated][: parts.count] for own in self.category]
        for at, numbers in enumerate(zip(*found, strict=True)):
            step, i = steps[at // n], at % n
            if not self._live[step][i]:
                continue
            if not all(map(math.isfinite, numbers)):
                self.unscorable[i].add(step)
            else:
                nats[step][i] += sum(
                    level.nats_of(value) for level, value in zip(levels[i], numbers, strict=False)
                )
