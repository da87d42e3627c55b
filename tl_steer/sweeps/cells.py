"""One part of a sweep: some prompts under every edit, as a table of cells."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, by_row, continued, through_end, until_end
from tl_steer.models.tokens import TokenBatch, decode, tokenize
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.radii.fluency import Judge, repetition
from tl_steer.sweeps.asked import OVERFLOWS
from tl_steer.sweeps.plan import Plan
from tl_steer.sweeps.result import Who
from tl_steer.sweeps.scorer import Scorer
from tl_steer.sweeps.together import Together

# Prompts in one pass: more waste padding, fewer repeat what is done once per pass.
_MOST, _SHORTEST = 16, 0.75


@dataclass(frozen=True, eq=False)
class Read:
    """A prompt that has been tokenized: its id, its text for people, and its tokens."""

    id: str
    text: str
    ids: Int[Tensor, " pos"]


class Cells:
    """`cells(prompts)`: the table of a part, and the directions of its responses.

    Args:
        who: what each edit is; the last is the unsteered model.
        together: runs the passes.
        batch_rows: rows per batch in generation.
    """

    def __init__(
        self,
        model: HookedModel,
        edits: Perturbation,
        who: Sequence[Who],
        plan: Plan,
        together: Together,
        *,
        batch_rows: int,
    ) -> None:
        self.model, self.edits, self.who, self.plan = model, edits, who, plan
        self.together, self.batch_rows = together, batch_rows

    def __call__(
        self, prompts: Sequence[Read], *, first: int
    ) -> tuple[pa.Table, Float[Tensor, "vec batch d_target"]]:
        """Measure prompts, the first of which has the number `first`."""
        n = len(self.who)
        values = {name: np.full((len(prompts), n), np.nan) for name in self.plan.columns}
        errors: dict[tuple[int, int], list[str]] = {}
        tokens = tokens_of(self.model, prompts)
        new = self._generate(tokens)
        directions = torch.zeros(
            n, len(prompts), self.together.target.width, dtype=torch.float32, device="cpu"
        )
        for batch in batches(prompts):
            self._pass(tokens, batch, new, values, errors, directions)
        texts = self._texts(tokens, new, values, errors) if new else None
        return table(prompts, self.who, values, errors, texts, first), directions

    def _pass(
        self,
        tokens: TokenBatch,
        batch: list[int],
        new: Mapping[Row, Tensor],
        values: Mapping[str, np.ndarray],
        errors: dict[tuple[int, int], list[str]],
        directions: Tensor,
    ) -> None:
        own = [new[Row(len(self.who) - 1, p)] for p in batch] if new else None
        along = own if "continuation_kl" in self.plan.metrics else None
        found = self.together(tokens.take(batch), self.plan.metrics, own=along)
        directions[:, batch] = found.directions
        for name, cells in found.values.items():
            values[name][batch] = cells.T.numpy()
        for i, p in enumerate(batch):
            for v in range(len(self.who)):
                told = [f"{name}: {text}" for name, text in found.errors.items()]
                if bool(found.broken[v, i]):
                    told.append(OVERFLOWS)
                if told:
                    errors.setdefault((p, v), []).extend(told)

    def _generate(self, tokens: TokenBatch) -> dict[Row, Int[Tensor, " _"]]:
        """The greedy continuation of every prompt under every edit."""
        if self.plan.generate == 0:
            return {}

        def work(ids: Tensor, rows: list[Row]) -> list[Tensor]:
            new = continued(self.model, ids, self.plan.generate)
            return [through_end(self.model, row).cpu() for row in new]

        return by_row(self.model, self.edits, tokens, work, batch_rows=self.batch_rows)

    def _texts(
        self,
        tokens: TokenBatch,
        new: Mapping[Row, Tensor],
        values: Mapping[str, np.ndarray],
        errors: dict[tuple[int, int], list[str]],
    ) -> dict[Row, str]:
        texts = {
            row: decode(self.model, until_end(self.model, ids), special=False)
            for row, ids in new.items()
        }
        if "perplexity" in values:
            own = [new[Row(len(self.who) - 1, p)] for p in range(len(tokens))]
            judge = Judge(self.model, tokens, own, self.batch_rows)
            for row, nats in judge.nats(dict(new)).items():
                values["perplexity"][row.prompt, row.vector] = nats
        if "repetition" in values:
            for row, ids in new.items():
                values["repetition"][row.prompt, row.vector] = repetition(ids)
        for scorer in self.plan.scorers:
            for row, score in scored(scorer, tokens.texts, texts).items():
                if isinstance(score, float):
                    values[scorer.name][row.prompt, row.vector] = score
                else:
                    errors.setdefault((row.prompt, row.vector), []).append(score)
        return texts


def scored(
    scorer: Scorer, prompts: Sequence[str], texts: Mapping[Row, str]
) -> dict[Row, float | str]:
    """The score of every text, or what went wrong. Equal texts of a prompt are scored once."""
    pairs = {(row.prompt, text): (prompts[row.prompt], text) for row, text in texts.items()}

    def score(pair: tuple[str, str]) -> float | str:
        try:
            return scorer(*pair)
        except Exception as error:
            return f"{scorer.name}: {type(error).__name__}: {error}"

    if scorer.workers == 1:
        found = [score(pair) for pair in pairs.values()]
    else:
        with ThreadPoolExecutor(scorer.workers) as pool:
            found = list(pool.map(score, pairs.values()))
    by_pair = dict(zip(pairs, found, strict=True))
    return {row: by_pair[row.prompt, text] for row, text in texts.items()}


def tokens_of(model: HookedModel, prompts: Sequence[Read]) -> TokenBatch:
    """Prompts that are tokens already, with the texts that people know them by."""
    tokens = tokenize(model, [prompt.ids for prompt in prompts])
    return replace(tokens, texts=tuple(prompt.text for prompt in prompts))


def batches(prompts: Sequence[Read]) -> Iterator[list[int]]:
    """Prompts of similar length together."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids))
    while order:
        least = _SHORTEST * len(prompts[order[0]].ids)
        batch = [i for i in order[:_MOST] if len(prompts[i].ids) >= least]
        order = order[len(batch) :]
        yield batch


def table(
    prompts: Sequence[Read],
    who: Sequence[Who],
    values: Mapping[str, np.ndarray],
    errors: Mapping[tuple[int, int], Sequence[str]],
    texts: Mapping[Row, str] | None,
    first: int,
) -> pa.Table:
    """Cells in order of prompts, then of edits."""
    at = [(p, v) for p in range(len(prompts)) for v in range(len(who))]
    words = pa.dictionary(pa.int32(), pa.string())
    columns = {
        "prompt": pa.array([first + p for p, _ in at], pa.int64()),
        "id": pa.array([prompts[p].id for p, _ in at]).cast(words),
        "kind": pa.array([who[v].kind for _, v in at]).cast(words),
        "vector": pa.array([who[v].vector for _, v in at], pa.int32()),
        "dose": pa.array([who[v].dose for _, v in at], pa.float64()),
        **{name: pa.array(found.reshape(-1), pa.float64()) for name, found in values.items()},
        "error": pa.array(
            ["; ".join(errors[pair]) if pair in errors else None for pair in at], pa.string()
        ),
        "prompt_text": pa.array([prompts[p].text for p, _ in at]).cast(words),
        "text": pa.array([texts[Row(v, p)] if texts else None for p, v in at], pa.string()),
    }
    return pa.table(columns)
