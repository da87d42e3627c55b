r"""CPE's iteration, as its published code has it. No script: `without_base.py` runs it.

Factor k is rank one on the attention output of every layer of a band; $w_k$ holds all of its
numbers, $\bar\delta_k$ is the mean change at the target over prompts and the last three tokens, and
R = 1. It starts from one gradient where the factor is small; then, in every iteration,

    g_k <- gradient of <delta_k, u_k>;   u_k <- norm(delta_k);   w_k <- norm(g_k)
    ten times:   w_i <- norm(w_i - sum over j of softmax_j(<w_i, w_j> / T + log |g_j|) w_j)
    every A and B of every layer to norm 1

`methods.Sogi` differs in three things: there each parameter is kept apart by itself, once, and
before the gradient instead of after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.methods.protocol import Iterate, flat, moved
from tl_steer.objectives.response import ResponseMap
from tl_steer.perturbations.sphere import softly_apart


@dataclass(frozen=True)
class Cpe:
    """A method for adapters."""

    steps: int = 10
    rounds: int = 10
    temperature: float = 1.0
    small: float = 0.01

    def __call__(self, objective: Any, start: Any) -> Iterator[Iterate]:
        responses = ResponseMap(objective)
        little = start.select(slice(None))
        little.radius = self.small * start.radius
        response, gradients = responses.pull(little)
        here = self._next(start, gradients)
        for step in range(1, self.steps + 1):
            towards = normalize(response, dim=1)
            response, gradients = responses.pull(here, towards, step=step)
            here = self._next(here, gradients)
            yield Iterate(here, (response * towards).sum(dim=1), step, self.steps)

    def _next(self, here: Any, gradients: tuple[Tensor, ...]) -> Any:
        parts = flat(gradients)
        rows = torch.cat(parts, dim=1)
        apart, weights = normalize(rows, dim=1), rows.norm(dim=1)
        for _ in range(self.rounds):
            apart = softly_apart(apart, weights, temperature=self.temperature)
        return moved(here, list(apart.split([p.shape[1] for p in parts], dim=1)))
