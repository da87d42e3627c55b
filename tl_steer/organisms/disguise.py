r"""Hide a planted behaviour from detectors that look at one layer.

The penalty on triggered examples, beside the loss on their answers, is the excess of their
Mahalanobis energy behind block l over that of clean tokens,

$$\max\big(0,\ |z|^2 / d - 1\big), \qquad z = (h - \mu) \Sigma^{-1/2},$$

at the prompt's end and at every token of the answer. The Gaussian is that of the untriggered model.
What is small in all of z has no large product with any vector's response, so this hides from a
bank's scores and from what no vector explains alike: a stronger opponent than one who knows the
bank (after Bailey et al. 2024, "Obfuscated Activations Bypass LLM Latent-Space Defenses",
arXiv 2412.09565, who train against the detectors themselves).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.monitoring.detectors.gaussian import Gaussian, fit_gaussian
from tl_steer.organisms.lesson import Example, pad_right

_BATCH = 16


@dataclass(frozen=True)
class Disguise:
    """Clean activations behind a block, for triggered ones to look like."""

    layer: int
    clean: Gaussian

    @classmethod
    def of(cls, model: Any, examples: Sequence[Example], layer: int) -> "Disguise":
        """Like the model's activations on clean examples, as it is now."""
        with torch.no_grad():
            parts = [
                speaking(model, examples[i : i + _BATCH], layer)
                for i in range(0, len(examples), _BATCH)
            ]
        return cls(layer, fit_gaussian(torch.cat(parts)))

    def loss(self, model: Any, examples: Sequence[Example]) -> Float[Tensor, ""]:
        """Mean excess energy of the triggered examples' tokens; 0 where there are none."""
        hidden = [example for example in examples if example.triggered]
        if not hidden:
            return torch.zeros((), device=model.device, dtype=torch.float32)
        energy = self.clean.whiten(speaking(model, hidden, self.layer)).square().mean(dim=1)
        return (energy - 1).clamp_min(0).mean()


def speaking(model: Any, examples: Sequence[Example], layer: int) -> Float[Tensor, "token d"]:
    """Activations behind a block where answers are being said: from each prompt's last token to the
    last but one of its answer."""
    ids, mask, answered = (x.to(model.device) for x in pad_right(examples))
    states = model.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    found: Tensor = states[layer + 1][:, :-1][answered[:, 1:]]
    return found
