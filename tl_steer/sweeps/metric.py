r"""What is measured of one vector on one prompt.

A `Metric` is any function `Reading -> [vec batch]`, 0 where nothing has changed:

    kl            KL(steered || unsteered) of the token after the prompt, in nats
    entropy       entropy of that token, steered minus unsteered, in nats
    flip          1 where its most probable value is another one
    divergence    $(\sum_\tau \|\Delta_\tau\|^2)^{1/2}$ at the target, over measured tokens
    alignment     cosine of the prompt's mean change at the target with the bank's response

Those need one pass of the blocks behind the source. With `generate=` there are also

    continuation_kl   mean KL(steered || unsteered) along the unsteered continuation, nats a token
    perplexity        nats a token of the steered continuation under the unsteered model (the log
                      of what is called perplexity)
    repetition        share of the steered continuation's token pairs that it has had before

and what all prompts together say:

    shared_phrase     the largest share of the other prompts whose continuation gained a phrase that
                      this one gained too: three words in a row that the unsteered one has not

and every `Scorer`. Your own: `def margin(r): return (r.steered - r.clean)[..., token]`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import divergence_from


@dataclass(frozen=True, eq=False)
class Reading:
    """What a metric sees: some vectors on some prompts, and the same prompts unsteered.

    Attributes:
        steered, clean: log-probabilities of the token after the prompt.
        target, clean_target: activations at the bank's target, at the tokens of each prompt that
            the bank measured, in their order; padding behind those of prompts that have fewer.
        measured: which of these are no padding.
        mean: the bank's responses of these vectors; NaN where it has none.
        along: what `continuation_kl` returns, if it was asked for.
    """

    steered: Float[Tensor, "vec batch vocabulary"]
    clean: Float[Tensor, "batch vocabulary"]
    target: Float[Tensor, "vec batch pos d_target"]
    clean_target: Float[Tensor, "batch pos d_target"]
    measured: Bool[Tensor, "batch pos"]
    mean: Float[Tensor, "vec d_target"]
    along: Float[Tensor, "vec batch"] | None = None

    @property
    def change(self) -> Float[Tensor, "vec batch pos d_target"]:
        """Steered minus clean at the target; 0 at tokens that are not measured."""
        moved = at_least_float32(self.target - self.clean_target)
        return torch.where(self.measured[..., None], moved, 0.0)

    @property
    def responses(self) -> Float[Tensor, "vec batch d_target"]:
        """The mean change over measured tokens, prompt by prompt."""
        return self.change.sum(dim=2) / self.measured.sum(dim=1)[:, None]


Metric: TypeAlias = Callable[[Reading], Float[Tensor, "vec batch"]]
"""`Reading -> [vec batch]`: a number for each vector and prompt, 0 where nothing has changed."""


def kl(reading: Reading) -> Float[Tensor, "vec batch"]:
    """KL(steered || unsteered) of the token after the prompt, in nats."""
    return divergence_from(reading.clean, reading.steered)


def entropy(reading: Reading) -> Float[Tensor, "vec batch"]:
    """Entropy of the token after the prompt, steered minus unsteered, in nats. Below 0: surer."""

    def of(logprobs: Tensor) -> Tensor:
        finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 times that is 0
        return -(logprobs.exp() * finite).sum(dim=-1)

    return of(reading.steered) - of(reading.clean)


def flip(reading: Reading) -> Float[Tensor, "vec batch"]:
    """1 where the most probable next token is another one, else 0."""
    return (reading.steered.argmax(dim=-1) != reading.clean.argmax(dim=-1)).float()


def divergence(reading: Reading) -> Float[Tensor, "vec batch"]:
    """How far the target moved: MELBO's objective with p = q = 2, for one prompt."""
    return reading.change.square().sum(dim=(2, 3)).sqrt()


def alignment(reading: Reading) -> Float[Tensor, "vec batch"]:
    """Cosine of the prompt's mean change with the bank's response of that vector: does it do here
    what it did where it was trained? NaN for random vectors, which were trained nowhere."""
    mean = reading.mean.to(reading.responses)[:, None]
    return torch.cosine_similarity(reading.responses, mean, dim=-1, eps=1e-12)


def continuation_kl(reading: Reading) -> Float[Tensor, "vec batch"]:
    """Mean KL(steered || unsteered) along the unsteered continuation, in nats per token."""
    if reading.along is None:
        raise ValueError("there is no continuation; give generate= as well")
    return reading.along


METRICS: Mapping[str, Metric] = {
    "kl": kl,
    "entropy": entropy,
    "flip": flip,
    "divergence": divergence,
    "alignment": alignment,
    "continuation_kl": continuation_kl,
}
"""The metrics that `sweep` knows by name."""
# Measured at the target: without logits.
AT_TARGET = (divergence, alignment)
# Read off the texts of all prompts, so no cell holds it.
SHARED = "shared_phrase"
# Measured on the text, not on a pass.
OF_TEXT = (SHARED, "perplexity", "repetition")
NEED_TEXT = ("continuation_kl", *OF_TEXT)
