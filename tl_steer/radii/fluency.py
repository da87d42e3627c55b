"""How likely the unsteered model finds a text: the judge of steered continuations.

Equal texts are scored once, and what they stand behind is run once for all of them
(`models.branches`). Where a model's logits cannot be read off its last residual stream, texts are
run in batches of one length, without padding.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.banks.said import surprise
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, continued, through_end
from tl_steer.models.state import seeded
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.output_kl import readout_of

# Texts sampled to find the model's own level; spread over the prompts.
_SAMPLES = 8


class Judge:
    """The unsteered model, with its own greedy continuations to compare with.

    Args:
        tokens: the prompts.
        own: its greedy continuation of every prompt.
        batch_rows: texts per pass, where they cannot share their prompt; fewer where that many
            would give too many logits.

    The model must be `frozen`, and nothing may steer it.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: TokenBatch,
        own: Sequence[Int[Tensor, " _"]],
        batch_rows: int,
    ) -> None:
        self.model, self.tokens, self.batch_rows = model, tokens, batch_rows
        self._read = readout_of(model)
        self._known: dict[tuple[int, tuple[int, ...]], float] = {}
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
        # Together, since they stand behind the same prompts.
        both = {_beside(row, 0): new for row, new in sampled.items()}
        both |= {_beside(row, 1): new for row, new in shuffled.items()}
        found = self.surprise(both)
        fluent, salad = (median(found[_beside(row, k)] for row in sampled) for k in (0, 1))
        return fluent, salad

    def _sample(self, n: int) -> dict[Row, Int[Tensor, " _"]]:
        each = -(-_SAMPLES // len(self.tokens))
        out = {}
        for p, row in enumerate(self.tokens.rows()):
            new = continued(self.model, row.repeat(each, 1), n, do_sample=True, temperature=1.0)
            out.update({Row(i, p): through_end(self.model, text) for i, text in enumerate(new)})
        return out

    def nats(self, texts: dict[Row, Int[Tensor, " _"]]) -> dict[Row, float]:
        """Mean negative log-likelihood per token, given the prompt."""
        keys = {row: (row.prompt, tuple(new.tolist())) for row, new in texts.items()}
        unknown = {key: row for row, key in keys.items() if key not in self._known}
        if unknown:
            with torch.no_grad():
                found = self._judged({row: texts[row] for row in unknown.values()})
            self._known |= {key: found[row] for key, row in unknown.items()}
        return {row: self._known[key] for row, key in keys.items()}

    def _judged(self, texts: dict[Row, Int[Tensor, " _"]]) -> dict[Row, float]:
        if self._read is None:
            return self._judged_apart(texts)
        found = surprise(self.model, self.tokens.rows(), texts, self._read)
        return {row: float(nats.mean()) for row, nats in found.items()}

    def _judged_apart(self, texts: dict[Row, Int[Tensor, " _"]]) -> dict[Row, float]:
        prompts = self.tokens.rows()
        shapes: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
        for row, new in texts.items():
            shapes[len(prompts[row.prompt]), len(new)].append(row)
        out: dict[Row, float] = {}
        # Logits of whole rows, not of one token as in generation: a quarter as many rows.
        most = max(1, self.batch_rows // 4)
        for (_, length), rows in shapes.items():
            for i in range(0, len(rows), most):
                part = rows[i : i + most]
                behind = [(prompts[row.prompt], texts[row]) for row in part]
                ids = torch.stack([torch.cat([prompt, new.to(prompt)]) for prompt, new in behind])
                out |= zip(part, self._score(ids, length), strict=True)
        return out

    def _score(self, ids: Int[Tensor, "batch pos"], length: int) -> list[float]:
        logits: Tensor = self.model(ids, return_type="logits")
        told = logits[:, -length - 1 : -1]
        told = told.to(torch.promote_types(told.dtype, torch.float32))
        nats = torch.nn.functional.cross_entropy(
            told.flatten(0, 1), ids[:, -length:].flatten().to(told.device), reduction="none"
        )
        return list(nats.unflatten(0, (len(ids), length)).mean(dim=1).tolist())


def _beside(row: Row, column: int) -> Row:
    """One of two texts of the same row."""
    return Row(2 * row.vector + column, row.prompt)


def repetition(new: Int[Tensor, " _"]) -> float:
    """The share of adjacent token pairs that occurred earlier in the same text."""
    ids = new.tolist()
    pairs = list(itertools.pairwise(ids))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
