r"""Flatness: how little what a vector makes the model say depends on its exact direction.

$$-\frac1{|X|L}\sum_{x\in X}\sum_{k\le L}\mathbb E_\varepsilon\,
\mathrm{KL}\big(p_\theta(\cdot\mid x,y_{<k})\,\big\|\,
p_{\theta+\varepsilon}(\cdot\mid x,y_{<k})\big)$$

along the vector's own greedy continuation y. Trained responses are plateaus, steep at their borders
and flat inside (arXiv:2409.17113, of clean activations); what breaks a model lies on a slope.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.said import BATCH_ROWS, followed
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.models.branches import last_point
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.hooks import capturing, perturbing
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, by_row, through_end
from tl_steer.models.segment import Segment
from tl_steer.models.tokens import TokenBatch, refuse_beyond_context
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import Readout, divergence_from, readout
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.sphere import random_on_sphere


@typed_fields
@dataclass(frozen=True)
class Flatness:
    """Minus the mean KL, in nats a token, that small random pushes at the source make; at most 0.

    The same pushes for every vector, at the tokens that the bank edits.

    Args:
        share: length of a push, over the median norm of the clean residual stream at the source on
            these prompts. Well below the bank's own share, or it says nothing of the vector.
        pushes: how many.
        length: tokens of each continuation.
        seed: of the pushes.

    Wrong to use across lengths, and alone: a short vector is flat because it does nothing, and a
    certain answer ("Paris") is flat without any. Compare vectors of one length, and among those
    that do something (`novelty`, `next_token_kl`, `switch`).

    Raises:
        ModelError: the model cannot generate, or its output cannot be read off its last block.
        PromptError: no room for `length` tokens behind a prompt.
        SettingError: bad knobs.
    """

    share: float | int = 0.15
    pushes: int = 2
    length: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pushes < 1 or self.length < 1 or not 0 < self.share < math.inf:
            raise SettingError(
                f"{self}: expected at least one push of a share above 0, and at least one token."
            )

    def __call__(self, model: HookedModel, bank: Bank, tokens: TokenBatch) -> Float[Tensor, " vec"]:
        refuse_no_text(model)
        refuse_beyond_context(model, tokens, self.length, knob="length")
        read, pushes = readout(model), self._pushes(model, bank, tokens)

        def work(ids: Tensor, rows: list[Row]) -> list[float]:
            new, calm = followed(model, ids, self.length)
            own = tokens.take([row.prompt for row in rows])
            kl = [
                _moved(read, calm, _pushed(model, push, own, ids, new))
                for push in (pushes.select([i]) for i in range(self.pushes))
            ]
            every = torch.stack(kl).mean(dim=0)
            ends = [len(through_end(model, row)) for row in new]
            return [float(row[:end].mean()) for row, end in zip(every, ends, strict=True)]

        found = by_row(model, bank.perturbation(), tokens, work, batch_rows=BATCH_ROWS)
        each = [[found[Row(v, p)] for p in range(len(tokens))] for v in range(len(bank))]
        return -torch.tensor(each, dtype=torch.float32, device="cpu").mean(dim=1)

    def _pushes(self, model: HookedModel, bank: Bank, tokens: TokenBatch) -> Additive:
        norm = Segment(model, tokens, bank.source, bank.target).source_norm()
        generator = torch.Generator().manual_seed(self.seed)
        radius = self.share * norm
        rows = random_on_sphere(self.pushes, bank.source.width, radius=radius, generator=generator)
        return Additive(bank.source, rows, radius=radius, positions=bank.positions)


def _pushed(
    model: HookedModel,
    push: Additive,
    prompts: TokenBatch,
    ids: Int[Tensor, "batch pos"],
    new: Int[Tensor, "batch new"],
) -> Float[Tensor, "batch new d_model"]:
    """The last residual stream at the token before each new one, under one push more."""
    name = last_point(model)
    text = torch.cat([ids, new[:, :-1].to(ids.device)], dim=1)
    some = None if push.positions.everywhere else prompts
    with perturbing(model, push.to(ids.device), tokens=some), capturing(model, [name]) as seen:
        model(text, return_type=None)
    return seen[name][:, ids.shape[1] - 1 :].detach()


def _moved(
    read: Readout, calm: Float[Tensor, "batch new d"], pushed: Float[Tensor, "batch new d"]
) -> Float[Tensor, "batch new"]:
    """KL(calm || pushed) of every next token; one position at a time, a vocabulary is wide."""
    told = []
    for k in range(calm.shape[1]):
        p, q = (
            at_least_float32(read(z[:, k : k + 1])[:, 0]).log_softmax(-1) for z in (calm, pushed)
        )
        told.append(divergence_from(q, p))
    return torch.stack(told, dim=1).cpu()
