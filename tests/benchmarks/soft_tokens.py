r"""Soft tokens in the user's turn: a latent trigger, searched without a base model.

m embedding rows E stand in front of what the user says. With y the model's own greedy continuation
of L tokens of each prompt x, drawn anew at every step, and $p_0$ the model without E,

$$f(E)=\frac1{|X|L}\sum_{x,k}\sum_v p_E(v)\min\Big(c,\log\frac{p_E(v)}{p_0(v)}\Big)
  +\frac w{|X|^2L}\sum_{x,z,k}\log p_E(y^z_k\mid x,y^z_{<k})$$

The first term asks for what is unlikely without E, the second for what the model is sure of and
says to the other prompt as well. Adam climbs; rows stay within the mean norm of embeddings. Each
start comes back as it was where it had most of the *lead*, as `objectives.contrast` has it, with
$p_0$ in the mixture's place. No script: `without_base.py` runs it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

import tl_steer as ts
from tl_steer.banks.said import Said, surprise
from tl_steer.banks.switch import Switch, _bare
from tl_steer.models.packed import common_beginning
from tl_steer.models.rows import Row, through_end
from tl_steer.models.tokens import tokenize
from tl_steer.objectives.contrast import _lead
from tl_steer.objectives.output_kl import readout


class Slot:
    """Prompts with room in front of what the user says, on the transformers model underneath.

    Args:
        apart: two messages that begin with different tokens; the room is where they part.
    """

    def __init__(
        self,
        model: Any,
        texts: tuple[str, ...],
        along: int,
        *,
        apart: tuple[str, str] = ("One", "two"),
    ) -> None:
        self.net, self.along = model.original_model, along
        rows = tokenize(model, [ts.chat(text) for text in texts]).rows()
        cut = common_beginning(tokenize(model, [ts.chat(text) for text in apart]))
        self.embeddings = self.net.get_input_embeddings()
        with torch.no_grad():
            self.before = self._kept(rows[0][None, :cut])
            self.plain = [self._kept(row[None, :-1]) for row in rows]
        self.prompts = [row.cpu() for row in rows]
        self.behind, self.last = [row[cut:] for row in rows], [row[-1:] for row in rows]

    def _kept(self, ids: Tensor) -> Any:
        return self.net(input_ids=ids, use_cache=True, past_key_values=DynamicCache())[
            "past_key_values"
        ]

    def read(self, soft: Tensor, prompt: int) -> tuple[Tensor, Any]:
        """The next token's log-probabilities behind a prompt with soft tokens, and the cache."""
        own = self.embeddings.weight[self.behind[prompt]].expand(len(soft), -1, -1)
        cache = copied(self.before, len(soft))
        out = self.net(
            inputs_embeds=torch.cat([soft, own], dim=1), past_key_values=cache, logits_to_keep=1
        )
        return out.logits[:, -1:].log_softmax(-1), cache

    def speak(self, first: Tensor, cache: Any, along: int | None = None) -> Tensor:
        """Greedy tokens behind what was read."""
        with torch.no_grad():
            cache, ids = copied(cache), [first[:, -1].argmax(-1)]
            while len(ids) < (along or self.along):
                out = self.net(input_ids=ids[-1][:, None], past_key_values=cache)
                ids.append(out.logits[:, -1].argmax(-1))
        return torch.stack(ids, dim=1)

    def follow(self, first: Tensor, cache: Any, ids: Tensor) -> Tensor:
        """Log-probabilities at every token of a continuation, `[vec along vocabulary]`."""
        out = self.net(input_ids=ids[:, :-1], past_key_values=copied(cache))
        return torch.cat([first, out.logits.log_softmax(-1)], dim=1)

    def without(self, ids: Tensor, prompt: int) -> Tensor:
        """The same without soft tokens."""
        cache = copied(self.plain[prompt], len(ids))
        read = torch.cat([self.last[prompt].expand(len(ids), 1), ids[:, :-1]], dim=1)
        with torch.no_grad():
            told: Tensor = self.net(input_ids=read, past_key_values=cache).logits.log_softmax(-1)
        return told


def copied(cache: Any, vec: int | None = None) -> Any:
    """A cache that grows apart from the one it begins as; one row may serve many."""
    twin = DynamicCache()
    for i, layer in enumerate(cache.layers):
        both = (layer.keys, layer.values)
        keys, values = both if vec is None else (x.expand(vec, -1, -1, -1) for x in both)
        twin.update(keys, values, i)
    return twin


def value_and_lead(
    slot: Slot, soft: Tensor, bound: float = 5.0, sure: float = 1.0
) -> tuple[Tensor, Tensor]:
    """f and the lead of every row."""
    prompts = range(len(slot.behind))
    read = [slot.read(soft, x) for x in prompts]
    said = [slot.speak(*read[x]) for x in prompts]
    steered = torch.stack([slot.follow(*read[x], said[x]) for x in prompts], dim=1)
    clean = torch.stack([slot.without(said[x], x) for x in prompts], dim=1)
    ids = torch.stack(said, dim=1)
    own = steered.gather(-1, ids[..., None])[..., 0].mean(dim=-1)
    others = [
        slot.follow(*read[x], said[z]).gather(-1, said[z][..., None])[..., 0].mean(dim=-1)
        for x in prompts for z in prompts if x != z
    ]  # fmt: skip
    alike = torch.cat([own, torch.stack(others, dim=1)], dim=1).mean(dim=1)
    gain = (steered.exp() * (steered - clean).clamp(max=bound)).sum(-1).mean(dim=(1, 2))
    with torch.no_grad():
        lead = _lead(ids, steered, clean)
    return gain + sure * alike, lead


@dataclass(frozen=True)
class Found:
    """Soft tokens, `[vec m d]`, and what they were worth."""

    soft: Tensor
    value: Tensor
    lead: Tensor


def search(slot: Slot, *, n: int, m: int, seed: int, steps: int = 24, stride: float = 0.1) -> Found:
    """`n` climbs from random tokens' own embeddings.

    Args:
        stride: of Adam, in shares of a row's bound.
    """
    soft = started(slot, n=n, m=m, seed=seed).requires_grad_()
    bound = mean_norm(slot.embeddings.weight)
    adam = torch.optim.Adam([soft], lr=stride * bound / soft.shape[-1] ** 0.5)
    best = Found(soft.detach().clone(), torch.full((n,), -1e9), torch.full((n,), -1e9))
    for _ in range(steps):
        value, lead = value_and_lead(slot, soft)
        best = better(best, Found(soft.detach().clone(), value.detach(), lead))
        adam.zero_grad()
        (-value.sum()).backward()
        adam.step()
        with torch.no_grad():
            soft.copy_(within(soft, bound))
    return best


def started(slot: Slot, *, n: int, m: int, seed: int) -> Tensor:
    """Random tokens' embeddings, where climbs begin."""
    weight = slot.embeddings.weight.detach()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(len(weight), (n, m), generator=generator)
    return within(weight[tokens].clone(), mean_norm(weight))


def mean_norm(weight: Tensor) -> float:
    return float(weight.detach().norm(dim=1).mean())


def within(soft: Tensor, bound: float) -> Tensor:
    """Rows no longer than a bound."""
    return soft * (bound / soft.norm(dim=-1, keepdim=True)).clamp(max=1)


def better(old: Found, new: Found) -> Found:
    """Of each row the one with more of the lead."""
    up = new.lead > old.lead
    return Found(
        torch.where(up[:, None, None], new.soft, old.soft),
        torch.where(up, new.value, old.value),
        torch.where(up, new.lead, old.lead),
    )


def switch_of(model: Any, slot: Slot, soft: Tensor) -> Tensor:
    """The switch score of soft tokens, as `rank(by="switch")` has it for what banks hold."""
    score, prompts = Switch(), slot.prompts
    said: dict[Row, Said] = {}
    with torch.no_grad():
        for x in range(len(prompts)):
            first, cache = slot.read(soft, x)
            ids = slot.speak(first, cache)
            sure = slot.follow(first, cache, ids).gather(-1, ids[..., None])[..., 0]
            for v, row in enumerate(ids):
                kept = through_end(model, row)
                said[Row(v, x)] = Said(kept, sure[v, : len(kept)])
        read, heads = readout(model), {row: text.ids[: score.head] for row, text in said.items()}
        nats = surprise(model, prompts, {row: text.ids for row, text in said.items()}, read)
        bare = _bare(model, prompts, heads, read)
    alone = {
        row: score._alone(text, nats[row], bare.get(row), prompts[row.prompt])
        for row, text in said.items()
    }
    rows = [[row for row in said if row.vector == v] for v in range(len(soft))]
    return torch.stack([score._together([(heads[r], alone[r]) for r in own]) for own in rows])
