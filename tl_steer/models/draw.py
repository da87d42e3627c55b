"""How a model's next token is chosen: the likeliest, or one drawn by chance.

Draws keep no state: the numbers they come of are made anew of a seed, the step and the token's
place. So a run that goes on after a break draws what it would have drawn, and a vector what it
draws alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    r"""Tokens at a temperature T, with probabilities $\mathrm{softmax}(\text{logits}/T)$; at 0 the
    likeliest one.

    A token is found by inverting the distribution at a uniform number. All edits share the number,
    so that they differ in what they make of a model and not in luck; prompts, places and steps have
    their own. Wrong to use where edits should be independent of each other.
    """

    temperature: float = 0.0
    seed: int = 0
    step: int = 0

    def __call__(
        self, logits: Float[Tensor, "vec batch vocabulary"], place: int
    ) -> Int[Tensor, "vec batch"]:
        """The tokens at a place of the answer."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        # On the CPU and in double precision, so that a device changes nothing but rounding.
        told = logits.detach().double().cpu() / self.temperature
        heaped = told.softmax(dim=-1).cumsum(dim=-1)
        at = heaped[..., -1:] * self._numbers(logits.shape[1], place)[:, None]
        found = torch.searchsorted(heaped, at, right=True)[..., 0]
        return found.clamp(max=logits.shape[-1] - 1).to(logits.device)

    def _numbers(self, batch: int, place: int) -> Float[Tensor, " batch"]:
        generator = torch.Generator(device="cpu")
        generator.manual_seed(((self.seed * 1_000_003 + self.step) * 1_009 + place) % 2**63)
        return torch.rand(batch, dtype=torch.float64, device="cpu", generator=generator)


GREEDY = Draw()
