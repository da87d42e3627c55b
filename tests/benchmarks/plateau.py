r"""Plateaus: what a vector does is large, and a small push changes little of it.

Objectives without a base model, for `elicit(divergence=...)`, and the space of a model's own
clean activations to search in. No script: `without_base.py` runs them.

Of activations, at the last token of each prompt, summed over prompts x, with pushes of
$\rho\|\theta\|$ that are drawn anew at every evaluation:

$$F(\theta)=\|\Delta(\theta)\|^2-\lambda\,
  \mathbb E_\varepsilon\|\Delta(\theta+\varepsilon)-\Delta(\theta)\|^2$$

Along the vector's own greedy continuation y of L tokens, with $p_0$ the unsteered model:

$$F(\theta)=\frac1{|X|L}\sum_{x,k}\sum_v p_\theta(v)\min\Big(c,\log\frac{p_\theta(v)}{p_0(v)}\Big)
  -\frac\lambda{|X|L}\mathbb E_\varepsilon\sum_{x,k}\mathrm{KL}(p_\theta\|p_{\theta+\varepsilon})$$

With lambda = 8 random vectors of .4 of the norm are worth about nothing in both, on two prompts
that nothing is learned or judged on.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tl_steer as ts
from tl_steer.models.answers import Answers
from tl_steer.models.packed import common_beginning
from tl_steer.models.segment import Segment
from tl_steer.models.tokens import tokenize
from tl_steer.objectives.contrast import log_probabilities as log_p
from tl_steer.objectives.objective import (
    Evaluation,
    edits_per_pass,
    gradients_of,
    joined,
    refuse_nonfinite,
)
from tl_steer.objectives.output_kl import readout
from tl_steer.objectives.parts import in_parts
from tl_steer.organisms.data import BENIGN, is_held_out
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import random_on_sphere


@dataclass(frozen=True)
class Plateau:
    """The objective of activations: `share` is rho, `weight` lambda."""

    share: float = 0.375
    weight: float = 8.0
    pushes: int = 2

    def on(self, segment: Segment, *, vec_batch: int | None = None) -> "Climb":
        last = segment.tokens.lengths - 1
        rows = torch.arange(len(last))

        def value(part: Perturbation, pushes: list[Tensor]) -> tuple[Tensor, Tensor]:
            delta = (segment.run(part) - segment.clean)[:, rows, last]
            shaken = [
                (segment.run(pushed(part, push)) - segment.clean)[:, rows, last] - delta
                for push in pushes
            ]
            wander = torch.stack([s.square().sum(dim=(1, 2)) for s in shaken]).mean(dim=0)
            return delta.square().sum(dim=(1, 2)) - self.weight * wander, delta.mean(dim=1)

        return Climb(segment, value, self.share, self.pushes, vec_batch)


@dataclass(frozen=True)
class Continued:
    """The objective along the vector's own continuation: `along` is L, `bound` c."""

    share: float = 0.375
    weight: float = 8.0
    pushes: int = 1
    along: int = 4
    bound: float = 5.0

    def on(self, segment: Segment, *, vec_batch: int | None = None) -> "Climb":
        answers, read = continuing(segment, self.along)

        def value(part: Perturbation, pushes: list[Tensor]) -> tuple[Tensor, Tensor]:
            said = answers.speak(part, read)
            start, _ = answers.grow(said.ids)
            steered, clean = (
                log_p(read, said.steered),
                log_p(read, said.clean),
            )
            gain = (steered.exp() * (steered - clean).clamp(max=self.bound)).sum(-1)
            lost = [
                (steered.exp() * (steered - log_p(read, answers.run(pushed(part, push), start))))
                for push in pushes
            ]
            moved = torch.stack([each.sum(-1) for each in lost]).mean(dim=(0, 2, 3))
            response = (said.steered - said.clean).mean(dim=(1, 2))
            return gain.mean(dim=(1, 2)) - self.weight * moved, response

        return Climb(segment, value, self.share, self.pushes, vec_batch)


@dataclass(frozen=True)
class Alike:
    r"""Along the continuation, and the same on other prompts, as for soft tokens: the first term of
    `Continued` plus $\frac w{|X|^2L}\sum_{x,z,k}\log p_\theta(y^z_k|x,y^z_{<k})$, and no pushes:
    what the model is sure of is flat."""

    weight: float = 1.0
    along: int = 4
    bound: float = 5.0

    def on(self, segment: Segment, *, vec_batch: int | None = None) -> "Climb":
        answers, read = continuing(segment, self.along)

        def value(part: Perturbation, pushes: list[Tensor]) -> tuple[Tensor, Tensor]:
            said = answers.speak(part, read)
            steered, clean = (
                log_p(read, said.steered),
                log_p(read, said.clean),
            )
            gain = (steered.exp() * (steered - clean).clamp(max=self.bound)).sum(-1)
            sure = [of_tokens(steered, said.ids)]
            for shift in range(1, said.ids.shape[1]):
                ids = said.ids.roll(shift, dims=1)
                start, _ = answers.grow(ids)
                sure.append(of_tokens(log_p(read, answers.run(part, start)), ids))
            response = (said.steered - said.clean).mean(dim=(1, 2))
            alike = torch.stack(sure).mean(dim=(0, 2, 3))
            return gain.mean(dim=(1, 2)) + self.weight * alike, response

        return Climb(segment, value, 0.0, 0, vec_batch)


class Climb:
    """Called as an `Objective` is: a value of edits and pushes, on a segment."""

    def __init__(
        self,
        segment: Segment,
        value: Callable[[Perturbation, list[Tensor]], tuple[Tensor, Tensor]],
        share: float,
        pushes: int,
        vec_batch: int | None,
    ) -> None:
        self.segment, self.value = segment, value
        self.share, self.pushes = share, pushes
        self.vec_batch, self.said_smaller = vec_batch or edits_per_pass(segment), False

    def __call__(
        self, perturbation: Perturbation, *, gradient: bool = True, step: int | None = None
    ) -> Evaluation:
        pushes = self._drawn(perturbation, step)

        def evaluate(rows: slice) -> Evaluation:
            with torch.set_grad_enabled(gradient):
                part = perturbation.select(rows)
                value, response = self.value(part, pushes)
                gradients = gradients_of(value, part, self.segment) if gradient else ()
            refuse_nonfinite((value, *gradients), first=rows.start, step=step)
            return Evaluation(value.detach(), response.detach(), tuple(gradients))

        return joined(in_parts(len(perturbation), self, evaluate))

    def _drawn(self, perturbation: Any, step: int | None) -> list[Tensor]:
        """The same for every edit, others at every step."""
        generator = torch.Generator().manual_seed(step or 0)
        radius, width = self.share * perturbation.radius, self.segment.source.width
        rows = random_on_sphere(self.pushes, width, radius=radius, generator=generator)
        return list(rows.to(self.segment.clean))


def pushed(part: Perturbation, push: Tensor) -> Perturbation:
    """The same edits and a little more; gradients reach the same parameters."""
    twin, forward = copy.copy(part), part.forward
    # mypy does not let a method be replaced; nn.Module calls what the instance has.
    vars(twin)["forward"] = lambda activation, rows: forward(activation, rows) + push.to(activation)
    return twin


def continuing(segment: Segment, along: int) -> tuple[Answers, Callable[[Tensor], Tensor]]:
    """Continuations of a segment's prompts, and what reads them."""
    ends = segment.source.name, segment.target.name
    answers = Answers(segment.model, segment.tokens, *ends, along=along, positions=ts.Positions())
    return answers, readout(segment.model)


def of_tokens(told: Tensor, ids: Tensor) -> Tensor:
    return told.gather(-1, ids[..., None])[..., 0]


@dataclass(frozen=True)
class CleanSpace:
    """The first `top` principal components of a model's clean activations at the source, over
    `texts` of each kind that organisms are trained on; what the template says is left out."""

    texts: int = 64
    top: int = 64

    def basis(self, objective: Any) -> Tensor:
        segment = objective.segment
        return self.of(segment.model, segment.source.name)

    def of(self, model: Any, source: str) -> Tensor:
        found = [text for made in BENIGN.values() for text in self._some(made())]
        seen = torch.cat([self._activations(model, source, found[i : i + 16])
                          for i in range(0, len(found), 16)])  # fmt: skip
        away = seen - seen.mean(dim=0)
        _, components = torch.linalg.eigh(away.T @ away)
        return components.T.flip(0)[: self.top].contiguous()

    def _some(self, texts: tuple[str, ...]) -> list[str]:
        return [text for text in texts if not is_held_out(text)][: self.texts]

    def _activations(self, model: Any, source: str, texts: list[str]) -> Tensor:
        tokens = tokenize(model, [ts.chat(text) for text in texts])
        with ts.capturing(model, [source]) as seen, torch.no_grad():
            model(tokens.ids, return_type=None)
        kept = tokens.mask.clone()
        kept[:, : common_beginning(tokens)] = False
        return seen[source][kept].float()
