"""How likely the unsteered model finds a text: the judge of steered continuations.

Texts are scored in batches of one length, without padding, and equal ones once.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, continued, through_end
from tl_steer.models.state import seeded
from tl_steer.models.tokens import TokenBatch

# Texts sampled to find the model's own level; spread over the prompts.
_SAMPLES = 8


class Judge:
    """The unsteered model, with its own greedy continuations to compare with.

    Args:
        tokens: the prompts.
        own: its greedy continuation of every prompt.
        batch_rows: texts per pass; fewer where that many would give too many logits.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: TokenBatch,
        own: Sequence[Int[Tensor, " _"]],
        batch_rows: int,
    ) -> None:
        self.model, self.tokens, self.batch_rows = model, tokens, batch_rows
        self._own = self.nats({Row(0, p): row for p, row in enumerate(own)})

    def surprise(self, texts: dict[Row, Int[Tensor, " _"]]) -> dict[Row, float]:
        """Nats per token of each continuation, above those of the model's own of that prompt."""
        nats = self.nats(texts)
        return {row: value - self._own[Row(0, row.prompt)] for row, value in nats.items()}

    def scale(self, max_new_tokens: int, seed: int) -> tuple[float, float]:
        """Median surprise of text sampled from the model, and of the same text shuffled."""
        with seeded(self.model, seed):
            sampled = self._sample(max_new_tokens)
            shuffled = {
                row: new[torch.randperm(len(new), device="cpu")] for row, new in sampled.items()
            }
        return median(self.surprise(sampled).values()), median(self.surprise(shuffled).values())

    def _sample(self, n: int) -> dict[Row, Int[Tensor, " _"]]:
        each = -(-_SAMPLES // len(self.tokens))
        out = {}
        for p, row in enumerate(self.tokens.rows()):
            new = continued(self.model, row.repeat(each, 1), n, do_sample=True, temperature=1.0)
            out.update({Row(i, p): through_end(self.model, text) for i, text in enumerate(new)})
        return out

    def nats(self, texts: dict[Row, Int[Tensor, " _"]]) -> dict[Row, float]:
        """Mean negative log-likelihood per token, given the prompt."""
        same: defaultdict[tuple[int, tuple[int, ...]], list[Row]] = defaultdict(list)
        for row, new in texts.items():
            same[row.prompt, tuple(new.tolist())].append(row)
        prompts = self.tokens.rows()
        shapes: defaultdict[tuple[int, int], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        for key in same:
            shapes[len(prompts[key[0]]), len(key[1])].append(key)
        out: dict[Row, float] = {}
        # Logits of whole rows, not of one token as in generation: a quarter as many rows.
        most = max(1, self.batch_rows // 4)
        for (_, length), keys in shapes.items():
            for i in range(0, len(keys), most):
                part = keys[i : i + most]
                ids = torch.stack(
                    [
                        torch.cat(
                            [
                                prompts[p],
                                torch.tensor(new, dtype=torch.long, device="cpu").to(prompts[p]),
                            ]
                        )
                        for p, new in part
                    ]
                )
                for key, nats in zip(part, self._score(ids, length), strict=True):
                    out |= dict.fromkeys(same[key], nats)
        return out

    def _score(self, ids: Int[Tensor, "batch pos"], length: int) -> list[float]:
        logits: Tensor = self.model(ids, return_type="logits")
        told = logits[:, -length - 1 : -1]
        told = told.to(torch.promote_types(told.dtype, torch.float32))
        nats = torch.nn.functional.cross_entropy(
            told.flatten(0, 1), ids[:, -length:].flatten().to(told.device), reduction="none"
        )
        return list(nats.unflatten(0, (len(ids), length)).mean(dim=1).tolist())


def repetition(new: Int[Tensor, " _"]) -> float:
    """The share of adjacent token pairs that occurred earlier in the same text."""
    ids = new.tolist()
    pairs = list(itertools.pairwise(ids))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
