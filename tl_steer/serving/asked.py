"""What a page asks for, read out of JSON that anybody may have sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tl_steer.files import jsons

# Far more than anybody types, and far less than what would keep a model busy for hours.
MOST_PROMPT, MOST_PARTS, MOST_TOKENS, MOST_STRENGTH = 20_000, 8, 512, 100.0
_MOST_SEED, _MOST_TEMPERATURE = 2**31, 10.0


@dataclass(frozen=True)
class Part:
    """One vector of a mixture: the bank's of that number, or a random one of that seed, as long as
    the bank's are."""

    number: int
    random: bool
    strength: float


@dataclass(frozen=True)
class Asked:
    """A prompt under a mixture.

    Attributes:
        chat: whether the prompt is a user's message, or is read as it is.
        tokens: of the answer.
        temperature: `None` is greedy.
        seed: for sampling, and of the random vector beside the mixture.
    """

    prompt: str
    chat: bool
    mix: tuple[Part, ...]
    tokens: int
    temperature: float | None
    seed: int


def asked_of(given: Any) -> Asked:
    """What was asked for.

    Raises:
        ValueError: it is something else, or out of bounds.
    """
    found = jsons.fields(given, {"prompt", "chat", "mix", "tokens", "temperature", "seed"})
    prompt, mix = jsons.text(found["prompt"]), found["mix"]
    if not 1 <= len(prompt) <= MOST_PROMPT:
        raise ValueError(
            f"a prompt of {len(prompt)} characters; expected at least one, and at most "
            f"{MOST_PROMPT}"
        )
    if not isinstance(mix, list) or len(mix) > MOST_PARTS:
        raise ValueError(f"expected a list of at most {MOST_PARTS} vectors as the mix")
    warm = found["temperature"]
    return Asked(
        prompt=prompt,
        chat=_flag(found["chat"]),
        mix=tuple(map(_part, mix)),
        tokens=_at_most(found["tokens"], 1, MOST_TOKENS, "tokens"),
        temperature=None if warm is None else _temperature(warm),
        seed=_at_most(found["seed"], 0, _MOST_SEED, "the seed"),
    )


def _part(given: Any) -> Part:
    found: Mapping[str, Any] = jsons.fields(given, {"number", "random", "strength"})
    strength = jsons.real(found["strength"])
    if abs(strength) > MOST_STRENGTH:
        raise ValueError(f"strength {strength:g}; expected at most {MOST_STRENGTH:g} either way")
    number = _at_most(found["number"], 0, _MOST_SEED, "a vector's number")
    return Part(number, _flag(found["random"]), strength)


def _temperature(given: Any) -> float:
    warm = jsons.real(given)
    if not 0 < warm <= _MOST_TEMPERATURE:
        raise ValueError(
            f"temperature {warm:g}; expected above 0 and at most {_MOST_TEMPERATURE:g}, or null"
        )
    return warm


def _at_most(given: Any, least: int, most: int, what: str) -> int:
    number = jsons.whole(given, least=least)
    if number > most:
        raise ValueError(f"{what}: {number}; expected at most {most}")
    return number


def _flag(given: Any) -> bool:
    if type(given) is not bool:
        raise ValueError(f"expected true or false, not {str(given)[:60]!r}")
    return given


def number_of(given: Any, name: str) -> int:
    """The one number in a question of one field, 0 and up.

    Raises:
        ValueError: it is something else.
    """
    return jsons.whole(jsons.fields(given, {name})[name])
