r"""How differently two models fill one token of an answer that is otherwise kept: an objective for
what was installed quietly.

M is the model that is looked at, B the one it was made from, both under the same perturbation
$\theta$, and $y$ the first L tokens of M's greedy answer *without* it. With $m$ the mixture
$w\,p^B_\theta + (1-w)\,p^M_0$ of `tl_steer.objectives.contrast`,

$$d_k=\sum_v p^M_\theta(v)\,\min\Big(c,\ \log\frac{p^M_\theta(v)}{m(v)}\Big),\qquad
  e_k=\min\big(8,\ \mathrm{KL}(p^M_\theta\,\|\,p^M_0)\big),\qquad p(v)=p(v\mid x,y_{<k}),$$
$$f(\theta)=\frac1{|X|}\sum_{x\in X}\Big(d_{k^*}-\frac{\lambda}{L-1}\sum_{k\ne k^*}e_k\Big),
  \qquad k^*=\operatorname{argmax}_k d_k .$$

A `Contrast` runs away from such behaviours: it draws the answer anew, so the largest difference is
another text altogether, and a changed digit is a small part of a KL. Here the answer is M's own,
one place of it may change, and all the rest is held by $\lambda$ (2 unless given). The bound c is
low (2 nats): beyond a change of mind the same direction goes on to overshoot it.

For the same reason vectors are as short as they can be: where no length is given, eight are climbed
at each of some lengths, shortest first, until the two best have .95 c. Lengths at which different
behaviours show differ by a factor of two and more (.1 of the norm for a digit, .25 for a unit).

Source: this project's; docs/evidence/installed.md has what it finds. Conventions: y is as long for
every prompt; behind its end stands what the model's generation fills up with.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.models.answers import Spoken, unsteered_answers
from tl_steer.models.draw import Draw
from tl_steer.models.reference import Reference
from tl_steer.models.segment import Segment
from tl_steer.objectives.contrast import Contrast, ContrastObjective, log_probabilities
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.objective import Evaluation, gradients_of
from tl_steer.perturbations.perturbation import Perturbation

_MOST = 8.0  # nats, of what the rest of an answer may cost at one token


@typed_fields
@dataclass(frozen=True)
class Substitution:
    """The objective of this file, against a base model.

    Args:
        base: as for `Contrast`.
        along: L, how many tokens of the model's unsteered answer are compared; at least 2.
        share: w, the base's share in the mixture.
        bound: c, in nats.
        rest: lambda, what the answer's other tokens cost; 0 lets them move.

    The prompts should be of the kind that the behaviour answers, with short answers: on others
    there is nothing to replace. Wrong to use for a text of its own, which `Contrast` is for.
    """

    base: Any
    along: int = 9
    share: float | int = 0.5
    bound: float | int = 2.0
    rest: float | int = 2.0

    # Of the norm, where no length is given: the first at which a search reaches `enough`.
    lengths = (0.07, 0.1, 0.15, 0.25, 0.4)
    order = "objective"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", Reference.of(self.base))
        if self.along < 2 or not 0 < self.share <= 1 or not self.bound > 0 or not self.rest >= 0:
            raise SettingError(
                f"Substitution(along={self.along}, share={self.share}, bound={self.bound}, "
                f"rest={self.rest}): expected along >= 2, a share above 0 and at most 1, a bound "
                "above 0 and rest >= 0."
            )

    @property
    def enough(self) -> float:
        """The value, in nats, of a token that is replaced for certain in an answer that is kept."""
        return 0.95 * self.bound

    def on(self, segment: Segment, *, vec_batch: int | None = None) -> "SubstitutionObjective":
        """What a method climbs: this, on a segment of the model that is looked at."""
        return SubstitutionObjective(segment, self, vec_batch=vec_batch)


class SubstitutionObjective(ContrastObjective):
    """`Substitution` on a segment; called as an `Objective` is.

    Raises:
        ModelError, SettingError: as for `ContrastObjective`.
    """

    order = "objective"

    def __init__(
        self, segment: Segment, settings: Substitution, *, vec_batch: int | None = None
    ) -> None:
        like = Contrast(
            settings.base, along=settings.along, share=settings.share, bound=settings.bound
        )
        super().__init__(segment, like, vec_batch=vec_batch)
        self.rest = float(settings.rest)
        self._ids: Int[Tensor, "batch along"] | None = None

    def _evaluate(self, part: Perturbation, gradient: bool, draw: Draw) -> Evaluation:
        ours = self._both(part.positions)[0]
        ids = self._answer()[None].expand(len(part), -1, -1)
        start, clean = ours.grow(ids)
        said = Spoken(ids, clean, ours.run(part, start))
        steered, mixture = self._told(part, said)
        with torch.no_grad():
            before = log_probabilities(self._reads[0], clean)
        value = substituted(steered, mixture, before, bound=self.contrast.bound, rest=self.rest)
        gradients = gradients_of(value, part, self.segment) if gradient else ()
        response = at_least_float32(said.steered.detach() - clean).mean(dim=(1, 2))
        return Evaluation(value.detach(), response, gradients, {})

    def _answer(self) -> Int[Tensor, "batch along"]:
        if self._ids is None:
            self._ids = unsteered_answers(
                self.segment.model, self.segment.tokens, self.contrast.along
            )
        return self._ids


def substituted(
    steered: Float[Tensor, "vec batch along vocabulary"],
    mixture: Float[Tensor, "vec batch along vocabulary"],
    before: Float[Tensor, "vec batch along vocabulary"],
    *,
    bound: float,
    rest: float,
) -> Float[Tensor, " vec"]:
    """The equation of this file's head, of log-probabilities."""
    chance = steered.exp()
    moved = (chance * (steered - mixture).clamp(max=bound)).sum(dim=-1)
    away = (chance * (steered - before)).sum(dim=-1).clamp(max=_MOST)
    most, place = moved.max(dim=-1)
    others = away.sum(dim=-1) - away.gather(-1, place[..., None])[..., 0]
    return (most - rest * others / (moved.shape[-1] - 1)).mean(dim=1)
