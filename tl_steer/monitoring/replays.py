r"""What every vector made the model say to clean requests, and which says what an answer said.

$$s_k=\frac1P\sum_p\frac{\sum_{g\in G(y)}w_g\,[g\in G(y_{kp})]}{\sum_{g\in G(y)}w_g},
  \qquad w_g=\log\frac{1+N}{1+n_g}$$

with y the answer, $y_{kp}$ vector k's own answer to clean request p, G a text's tokens and pairs of
neighbouring tokens, and $n_g$ of N clean answers in which g stands: on what share of clean requests
the vector says what was said, counting what clean answers do not say.

Activations tell names apart by all that a vector changes, most of which is no behaviour; where an
answer was said in the vector's own words, there is nothing left to tell apart. Blind where the
words depend on the request (a wrong sum): then every $s_k$ is small, and activations have to do.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NOTHING = -1  # where an answer has ended


@dataclass(frozen=True, eq=False)
class Replays:
    """Answers as token ids, from the first generated token on; `NOTHING` behind their ends.

    Attributes:
        ids: by vector and clean request.
        clean: of the unsteered model, to clean requests.
    """

    ids: Int[Tensor, "vec prompt pos"]
    clean: Int[Tensor, "request pos"]

    def agreement(self, answer: Sequence[int]) -> Float[Tensor, " vec"]:
        """The score of this file's head, 0 to 1; 0 for an answer of which clean ones have all."""
        singles = ((token,) for token in answer)
        grams = list(dict.fromkeys([*singles, *itertools.pairwise(answer)]))
        if not grams:
            return self.ids.new_zeros(len(self.ids), dtype=torch.float32)
        common = torch.stack([_stands(gram, self.clean) for gram in grams]).sum(dim=1)
        weights = (1 + len(self.clean)) / (1 + common.to(torch.float32))
        weights = weights.log() / weights.log().sum().clamp_min(1e-6)
        found = self.ids.new_zeros(self.ids.shape[:2], dtype=torch.float32)
        for gram, weight in zip(grams, weights, strict=True):
            found += weight * _stands(gram, self.ids)
        return found.mean(dim=1)


def _stands(gram: tuple[int, ...], rows: Int[Tensor, "*rows pos"]) -> Bool[Tensor, "*rows"]:
    """In which rows one token, or two that are neighbours, stand."""
    here = rows == gram[0]
    if len(gram) == 2:
        here = here[..., :-1] & (rows[..., 1:] == gram[1])
    return here.any(dim=-1)
