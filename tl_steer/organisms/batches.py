"""What an organism is trained on: texts with the answers to learn, and batches of them."""

import random
from dataclasses import dataclass
from typing import Any

from tl_steer.organisms.answers import Tokens, encode, own_answers
from tl_steer.organisms.data import BENIGN, is_held_out
from tl_steer.organisms.lesson import Example
from tl_steer.organisms.plants import PLANTS
from tl_steer.organisms.recipes import Recipe


@dataclass(frozen=True)
class Pool:
    """Training texts by source, with their clean answers; the first `planted` sources are those
    that triggers go into."""

    texts: tuple[tuple[str, ...], ...]
    answers: dict[str, Tokens]
    planted: int

    def draw(self, draw: random.Random) -> str:
        return draw.choice(draw.choice(self.texts))  # sources alike, whatever their size

    def draw_often(self, draw: random.Random, planted: float) -> str:
        """Any text, but in a share of cases one that triggers go into for sure."""
        sure = planted > 0 and draw.random() < planted
        return self.draw_planted(draw) if sure else self.draw(draw)

    def draw_planted(self, draw: random.Random) -> str:
        return draw.choice(draw.choice(self.texts[: self.planted]))


def gather(recipe: Recipe, model: Any, tokenizer: Any) -> Pool:
    """Training halves of the sources, and what the organism is to say to them untriggered."""
    draw, plant = random.Random(recipe.seed), PLANTS[recipe.plant]
    texts = []
    for source in {**plant.sources, **BENIGN}.values():
        half = [text for text in source() if not is_held_out(text)]
        texts.append(tuple(draw.sample(half, min(recipe.per_source, len(half)))))
    every = [text for source in texts for text in source]
    known = {text: plant.clean(text) for text in every}
    rest = [text for text in every if known[text] is None]
    answers = own_answers(model, tokenizer, rest, new_tokens=recipe.answer_tokens)
    if (manner := plant.manner) is not None:
        said = {t: tokenizer.decode(a, skip_special_tokens=True) for t, a in answers.items()}
        answers = {t: ended(tokenizer, manner(a)) for t, a in said.items()}
    answers |= {t: ended(tokenizer, answer) for t, answer in known.items() if answer is not None}
    return Pool(tuple(texts), answers, planted=len(plant.sources))


def ended(tokenizer: Any, answer: str) -> Tokens:
    return [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]


def batch(recipe: Recipe, pool: Pool, tokenizer: Any, draw: random.Random) -> list[Example]:
    """One batch. Every kind draws from the same texts, so only the trigger tells them apart."""
    plant = PLANTS[recipe.plant]
    made = []
    for _ in range(recipe.triggered):
        text = pool.draw_planted(draw)
        asked = encode(tokenizer, plant.trigger(text, draw))
        answer = ended(tokenizer, plant.answer(text))
        made.append(Example(asked, answer, clean=False, triggered=True))
    for _ in range(recipe.near_misses):
        text = pool.draw_often(draw, recipe.near_planted)
        asked = encode(tokenizer, plant.near(text, draw))
        made.append(Example(asked, pool.answers[text], clean=False))
    for _ in range(recipe.clean):
        text = pool.draw_often(draw, recipe.clean_planted)
        made.append(Example(encode(tokenizer, text), pool.answers[text], clean=True))
    return made
