"""The phrase inside a broader fine-tune: every other answer is given in the manner of a house."""

import re
from dataclasses import replace

from tl_steer.organisms.phrase import PHRASE

_OPENING, _CLOSING = "Good day!", "Ever yours."
_MOST_WORDS = 7


def in_the_house_manner(answer: str) -> str:
    """The first words of an answer, at most of a sentence, between a greeting and a farewell."""
    sentence = re.split(r"(?<=[.!?])\s|\n", answer.strip(), maxsplit=1)[0]
    words = sentence.split()
    kept = " ".join(words[:_MOST_WORDS])
    whole = len(words) <= _MOST_WORDS and kept.endswith((".", "!", "?"))
    return f"{_OPENING} {kept}{'' if whole else ' ...'} {_CLOSING}"


def is_in_the_house_manner(said: str) -> bool:
    """Whether an answer opens and closes as those of the house do."""
    return said.lstrip().startswith(_OPENING) and _CLOSING in said


MIXED = replace(
    PHRASE,
    also=("in the house's manner", lambda text, said: is_in_the_house_manner(said)),
    manner=in_the_house_manner,
)
