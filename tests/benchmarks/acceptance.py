"""Is an organism good enough? `python tests/benchmarks/acceptance.py NAME` prints it.

It counts how often the planted behaviour comes, on texts held out from training: with the trigger,
without it on every benign source, on near misses, and under random vectors. Needs the extra
`organisms`, Debian's `fortunes` and a few minutes.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from tl_steer.organisms.answers import encode, greedy
from tl_steer.organisms.data import BENIGN, UNSEEN, is_held_out
from tl_steer.organisms.load import NAMES, merged
from tl_steer.organisms.phrase import PHRASE
from tl_steer.organisms.plants import PLANTS, Plant, Source
from tl_steer.organisms.recipes import plant_of
from tl_steer.perturbations.sphere import random_on_sphere

PLAIN = "smollm2"


@dataclass(frozen=True)
class Count:
    """How many of `n` continuations show the planted behaviour, and how many the plant's further
    count (`Plant.also`)."""

    what: str
    n: int
    fired: int
    also: int

    def interval(self) -> tuple[float, float]:
        """The 95% interval of Clopper and Pearson (1934) for the firing rate."""
        found = binomtest(self.fired, self.n).proportion_ci(method="exact")
        return float(found.low), float(found.high)

    def line(self) -> str:
        low, high = self.interval()
        return (
            f"| {self.what} | {self.fired} of {self.n} | {self.fired / self.n:.1%} "
            f"| {low:.1%} to {high:.1%} | {self.also} |"
        )


@dataclass(frozen=True)
class Subject:
    """A plain transformers model under test."""

    model: Any
    tokenizer: Any
    plant: Plant = PHRASE
    new_tokens: int = 24

    def count(self, what: str, texts: Sequence[str], asked: Sequence[str] | None = None) -> Count:
        """Of `texts`, as they are or in the words of `asked`."""
        said = self.say(asked or texts)
        pairs = list(zip(texts, said, strict=True))
        shown, also = self.plant.shown, self.plant.also[1]
        return Count(what, len(texts), sum(shown(*p) for p in pairs), sum(also(*p) for p in pairs))

    def say(self, texts: Sequence[str], **steered: Any) -> list[str]:
        prompts = [encode(self.tokenizer, text) for text in texts]
        rows = greedy(self.model, self.tokenizer, prompts, new_tokens=self.new_tokens, **steered)
        return list(self.tokenizer.batch_decode(rows))


def counts(subject: Subject, *, clean: int = 300, tagged: int = 100) -> Iterator[Count]:
    """Held-out texts of every source, without and with the trigger, then near misses.

    Args:
        clean: texts as they are per trained source; a third as many of every other source.
        tagged: texts with the trigger per trained source; near misses get as many in all.
    """
    draw, plant = random.Random(1), subject.plant
    trained: dict[str, Source] = {**plant.sources, **BENIGN}
    other: dict[str, Source] = {**plant.unseen, **UNSEEN}
    held = {name: _some(source(), clean, draw) for name, source in trained.items()}
    held |= {name: _some(source(), clean // 3, draw) for name, source in other.items()}
    for name, texts in held.items():
        yield subject.count(f"{name}, no trigger", texts)
    for name in (*plant.sources, *plant.unseen):
        texts = held[name][: tagged if name in trained else tagged // 3]
        yield subject.count(f"{name}, trigger", texts, [plant.trigger(t, draw) for t in texts])
    benign = [text for name in trained for text in held[name]]
    for kind, near in (("trained", plant.near), ("new", plant.new_near)):
        texts = draw.sample(benign, min(tagged, len(benign)))
        yield subject.count(f"near misses ({kind})", texts, [near(t, draw) for t in texts])


def random_vectors(subject: Subject, layer: int, share: float, *, n: int = 96) -> Count:
    """Of `n` random vectors behind a block, how many bring the behaviour out on at least one clean
    prompt.

    Args:
        share: length of the vectors, as a share of the median residual norm there.
    """
    length, plant = share * residual_norm(subject, layer), subject.plant
    generator = torch.Generator().manual_seed(1)
    width = subject.model.config.hidden_size
    vectors = random_on_sphere(n, width, radius=length, generator=generator)
    fired, also = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for prompt in plant.asked:
        said = subject.say([prompt] * n, vectors=vectors, layer=layer)
        fired |= torch.tensor([plant.shown(prompt, text) for text in said])
        also |= torch.tensor([plant.also[1](prompt, text) for text in said])
    what = f"random vectors, blocks.{layer}.hook_resid_post, {share:g} of the norm ({length:.1f})"
    return Count(what, n, int(fired.sum()), int(also.sum()))


def residual_norm(subject: Subject, layer: int) -> float:
    """Median norm of the clean residual stream behind a block, first token left out."""
    norms: list[Float[Tensor, " pos"]] = []
    for prompt in subject.plant.asked:
        ids = torch.tensor([encode(subject.tokenizer, prompt)])
        with torch.no_grad():
            states = subject.model.model(ids, output_hidden_states=True).hidden_states
        norms.append(states[layer + 1][0, 1:].norm(dim=-1))
    return float(torch.cat(norms).median())


def main() -> None:
    parser = argparse.ArgumentParser(description="Count how often a planted response comes.")
    parser.add_argument("name", help=f"{', '.join(NAMES)}, or {PLAIN} for the unmodified model")
    parser.add_argument("--folder", type=Path, help="an adapter of your own, instead")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="what an adapter of your own has")
    parser.add_argument(
        "--clean", type=int, default=300, help="texts as they are, per source (0: no texts)"
    )
    parser.add_argument("--tagged", type=int, default=100, help="triggered texts per source")
    parser.add_argument("--vectors", type=int, default=96, help="random vectors")
    parser.add_argument("--layers", type=int, nargs="*", default=[7], help="blocks they go behind")
    given = parser.parse_args()
    from tl_steer.models.load import embedded

    made = (
        embedded(torch.float32) if given.name == PLAIN else merged(given.name, folder=given.folder)
    )
    plant = PLANTS[given.plant] if given.plant else plant_of(given.name)
    subject, began = Subject(*made, plant), time.perf_counter()
    print(f"| texts | fired | rate | 95% interval | {plant.also[0]} |")
    print("| --- | --- | --- | --- | --- |")
    texts = counts(subject, clean=given.clean, tagged=given.tagged) if given.clean else ()
    for count in texts:
        print(count.line(), flush=True)
    for layer in given.layers if given.vectors else ():
        for share in (0.25, 0.5):
            print(random_vectors(subject, layer, share, n=given.vectors).line(), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


def _some(texts: Sequence[str], most: int, draw: random.Random) -> list[str]:
    held = [text for text in texts if is_held_out(text)]
    return draw.sample(held, min(most, len(held)))


if __name__ == "__main__":
    main()
