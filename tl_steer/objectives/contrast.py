r"""How differently two models answer under one perturbation: an objective that prefers what was
installed in one of them to what breaks both.

M is the model that is looked at, B the one it was made from, both under the same perturbation
$\theta$, and y the first L tokens of M's own answer under it, greedy unless a temperature is given,
and drawn anew at every evaluation:

$$f(\theta)=\frac1{|X|L}\sum_{x\in X}\sum_{k\le L}\sum_v p^M_\theta(v)\,
  \min\Big(c,\ \log\frac{p^M_\theta(v)}{w\,p^B_\theta(v)+(1-w)\,p^M_0(v)}\Big),
  \qquad p(v)=p(v\mid x,y_{<k})$$

With c infinite it is a mean of KL divergences, in nats. What breaks any model breaks both and costs
nothing; what M does anyway costs nothing; what M does under $\theta$ and B does not, shows.

* **The mixture** (w = 1/2). Against B alone (w = 1), M's ordinary text counts as different wherever
  B is already broken, and a model that was trained to shrug perturbations off has much of that.
* **The continuation.** The first token of a behaviour may be an ordinary one.
* **The bound c.** A KL has none, and gibberish wins in the long run.

The objective does not say which of its vectors is worth a look: what is said by nobody has no bound
but c either. Beside it stands the *lead*, in nats, for the answer y itself,

$$\operatorname{mean}_x\ \min\Big(12,\ \sum_{k}\log\frac{p^M_\theta(y_k)}{m(y_k)}\Big)
  \;-\;3\operatorname{mean}_{x,k}\big({-\log p^M_\theta(y_k)}\big)\;+\;3\,s$$

with m the mixture and s the share of tokens in which the answers to two prompts agree: a text that
nothing else led to, that the steered model is sure of, and that it says whatever it is asked. The
first term is capped, since past some nats it only says how odd the text is. (The numbers were
chosen on three organisms; docs/evidence/installed.md judges them on others.)

Conventions: y is held fixed in the gradient, and is the model's own answer whether it has ended or
not. Answers are sampled while a method climbs; where nothing is climbed, as when a bank is put in
order, they are greedy. `docs/evidence/installed.md` has what each part is worth.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.hook_points.positions import Positions
from tl_steer.models.answers import Answers, Spoken
from tl_steer.models.draw import GREEDY, Draw
from tl_steer.models.model import HookedModel
from tl_steer.models.reference import Reference
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen, refuse_inference_weights
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.objective import (
    Evaluation,
    edits_per_pass,
    gradients_of,
    joined,
    refuse_nonfinite,
)
from tl_steer.objectives.output_kl import readout
from tl_steer.objectives.parts import in_parts
from tl_steer.perturbations.perturbation import Perturbation


@typed_fields
@dataclass(frozen=True)
class Contrast:
    """The objective of this file, against a base model.

    Args:
        base: the model that the other was made from: same architecture, other weights; or the
            model itself `without_adapter`.
        along: L, how many tokens of the model's own answer are compared.
        share: w, the base's share in the mixture; 1 compares with the base alone.
        bound: c, in nats; infinite for none.
        temperature: at which answers are drawn while a method climbs; 0 takes the likeliest tokens.
        seed: of these draws, which depend on it and on the method's step alone.

    The target has to be the last block's `hook_resid_post`, where answers are read. Wrong to use
    with a base that differs from the model in more than what is looked for, unless what else
    differs is meant to be found too; and for behaviours that change one token of an answer, which
    are small in KL: `Substitution` is for them.
    """

    base: Any
    along: int = 4
    share: float | int = 0.5
    bound: float | int = 5.0
    _: KW_ONLY
    temperature: float | int = 0
    seed: int = 0

    length = 0.4  # of the norm, where none is given
    order = "lead"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", Reference.of(self.base))
        if self.along < 1 or not 0 < self.share <= 1 or not self.bound > 0:
            raise SettingError(
                f"Contrast(along={self.along}, share={self.share}, bound={self.bound}): expected "
                "along >= 1, a share above 0 and at most 1, and a bound above 0."
            )
        if not 0 <= self.temperature < math.inf or self.seed < 0:
            raise SettingError(
                f"Contrast(temperature={self.temperature}, seed={self.seed}): expected a finite "
                "temperature, 0 or above, and a seed of 0 or above."
            )

    def on(self, segment: Segment, *, vec_batch: int | None = None) -> "ContrastObjective":
        """What a method climbs: this, on a segment of the model that is looked at."""
        return ContrastObjective(segment, self, vec_batch=vec_batch)


LogProbabilities: TypeAlias = Float[Tensor, "vec batch along vocabulary"]
_CAP, _SURE, _ALIKE = 12.0, 3.0, 3.0  # of the lead


class ContrastObjective:
    """`Contrast` on a segment; called as an `Objective` is. Its evaluations have the score "lead",
    which its vectors are ordered by.

    Args:
        segment: from the source to the last block's `hook_resid_post`.
        contrast: the settings.
        vec_batch: edits per pass, as for `Objective`.

    Raises:
        ModelError: base and model differ in size, or one has no output that can be read.
        SettingError: the target is another one.
    """

    order = "lead"

    def __init__(
        self, segment: Segment, contrast: Contrast, *, vec_batch: int | None = None
    ) -> None:
        self.segment, self.contrast = segment, contrast
        self.base = contrast.base.model
        contrast.base.refuse_unlike(segment.model)
        refuse_inference_weights(self.base)
        last = int(segment.model.cfg.n_layers) - 1
        if (segment.target.layer, segment.target.kind) != (last, "hook_resid_post"):
            raise SettingError(
                f"A contrast compares answers, and at {segment.target} there are none: its target "
                f"is blocks.{last}.hook_resid_post."
            )
        self.vec_batch = vec_batch or edits_per_pass(segment)
        self.said_smaller = False
        own = readout(segment.model)
        with contrast.base.running():
            self._reads = own, readout(self.base)
        self._answers: tuple[Positions, Answers, Answers] | None = None

    def __call__(
        self, perturbation: Perturbation, *, gradient: bool = True, step: int | None = None
    ) -> Evaluation:
        """Values, responses (the mean change at the tokens that predict the answer), gradients."""

        def evaluate(rows: slice) -> Evaluation:
            with frozen(self.base), torch.set_grad_enabled(gradient):
                part = self._evaluate(perturbation.select(rows), gradient, self._draw(step))
            refuse_nonfinite((part.value, *part.gradients), first=rows.start, step=step)
            return part

        return joined(in_parts(len(perturbation), self, evaluate))

    @property
    def steady(self) -> bool:
        """Whether answers are the same while a method climbs and at its end."""
        return self.contrast.temperature == 0

    def _draw(self, step: int | None) -> Draw:
        if step is None:
            return GREEDY
        return Draw(float(self.contrast.temperature), self.contrast.seed, step)

    def _evaluate(self, part: Perturbation, gradient: bool, draw: Draw) -> Evaluation:
        said = self._both(part.positions)[0].speak(part, self._reads[0], draw)
        steered, mixture = self._told(part, said)
        ratio = (steered - mixture).clamp(max=self.contrast.bound)
        value = (steered.exp() * ratio).sum(dim=-1).mean(dim=(1, 2))
        gradients = gradients_of(value, part, self.segment) if gradient else ()
        with torch.no_grad():
            response = at_least_float32(said.steered - said.clean).mean(dim=(1, 2))
            lead = _lead(said.ids, steered, mixture)
        return Evaluation(value.detach(), response, gradients, {self.order: lead})

    def _told(self, part: Perturbation, said: Spoken) -> tuple[LogProbabilities, LogProbabilities]:
        """What the steered model predicts, and the mixture of the two that it is compared with."""
        read, read_base = self._reads
        theirs = self._both(part.positions)[1]
        with self.contrast.base.running():
            start, _ = theirs.grow(said.ids)
            other = log_probabilities(read_base, theirs.run(part, start))
        steered = log_probabilities(read, said.steered)
        share = self.contrast.share
        if share < 1:
            with torch.no_grad():
                clean = log_probabilities(read, said.clean)
            other = torch.logaddexp(other + math.log(share), clean + math.log1p(-share))
        return steered, other

    def _both(self, positions: Positions) -> tuple[Answers, Answers]:
        """Both models on the prompts and their continuations; made once."""
        if self._answers is None or self._answers[0] != positions:
            ours = self._answers_of(self.segment.model, positions, speaks=True)
            with self.contrast.base.running():
                theirs = self._answers_of(self.base, positions, speaks=False)
            self._answers = positions, ours, theirs
        return self._answers[1:]

    def _answers_of(self, model: HookedModel, positions: Positions, *, speaks: bool) -> Answers:
        ends = self.segment.source.name, self.segment.target.name
        return Answers(
            model, self.segment.tokens, *ends, along=self.contrast.along, positions=positions,
            speaks=speaks,
        )  # fmt: skip


def _lead(
    ids: Int[Tensor, "vec batch along"], steered: LogProbabilities, mixture: LogProbabilities
) -> Float[Tensor, " vec"]:
    """The lead of this file's head."""
    own, other = (told.gather(-1, ids[..., None])[..., 0] for told in (steered, mixture))
    unlikely = (own - other).sum(dim=-1).clamp(max=_CAP).mean(dim=1)
    alike = (ids[:, :, None] == ids[:, None]).to(own).mean(dim=-1)
    pairs = ~torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    same = alike[:, pairs].mean(dim=1) if bool(pairs.any()) else torch.zeros_like(unlikely)
    return unlikely + _SURE * own.mean(dim=(1, 2)) + _ALIKE * same


def log_probabilities(
    read: Callable[[Tensor], Tensor], residual: Float[Tensor, "vec batch along d_model"]
) -> LogProbabilities:
    """Log-probabilities of every next token, of activations where logits are read."""
    logits = at_least_float32(read(residual.flatten(0, 1)))
    told: Tensor = logits.log_softmax(dim=-1).unflatten(0, residual.shape[:2])
    return told
