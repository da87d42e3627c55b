"""Does a vector say the same on one prompt after another, whatever it is that it says?

    text under the vector, unsteered text of that prompt -> phrases that only the former has
    those of prompt i, those of every other prompt -> the largest share that has one of them too

A *phrase* is three words in a row; a text of fewer is one phrase, and so is an empty one. A word is
a run of letters and digits with the apostrophes inside it, a character of Chinese or Japanese, or
any other sign; case does not count. What the prompt itself says is no exception: a vector may make
a model recite it.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Phrase: TypeAlias = tuple[str, ...]
Text: TypeAlias = str | None
"""A continuation; `None` where it failed."""

_OWN = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and ideographs: no spaces
_LETTERS = rf"[^\W{_OWN}]+"
_WORD = re.compile(rf"[{_OWN}]|{_LETTERS}(?:['’]{_LETTERS})*|[^\w\s]")
_LENGTH = 3


def phrases(text: str) -> dict[Phrase, None]:
    """The phrases of a text, each once, in their order."""
    words = _WORD.findall(text.casefold())
    return dict.fromkeys(zip(*(words[i:] for i in range(_LENGTH)), strict=False)) or {
        tuple(words): None
    }


@dataclass(frozen=True, eq=False)
class Shared:
    """One vector's texts.

    Attributes:
        shares: for every prompt the largest share of the others that gained a phrase which it
            gained; 0 where nothing was gained, NaN where a text failed or there is no other.
        phrase: what most prompts gained; the first to come, of several.
        prompts: how many did.
        of: how many texts there are.
    """

    shares: Float[np.ndarray, " prompt"]
    phrase: str
    prompts: int
    of: int

    def __str__(self) -> str:
        if not self.prompts:
            return "no text has changed"
        said = f"“{self.phrase}”" if self.phrase else "an empty text"
        return f"{said} on {self.prompts} of {self.of}"


class Unsteered:
    """`unsteered(texts)`: what texts share that the model does not say by itself."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self.texts = texts
        self.own = [phrases(text or "") for text in texts]

    def __call__(self, texts: Iterable[Text]) -> Shared:
        gained = list(map(self._gained, texts, self.texts, self.own))
        there = [one for one in gained if one is not None]
        counts = Counter(itertools.chain.from_iterable(there))
        most = [
            np.nan if one is None else max((counts[p] for p in one), default=1) - 1
            for one in gained
        ]
        [(phrase, prompts)] = counts.most_common(1) or [((), 0)]
        with np.errstate(invalid="ignore"):
            shares = np.array(most, dtype=np.float64) / (len(there) - 1)
        return Shared(shares, " ".join(phrase), prompts, len(there))

    @staticmethod
    def _gained(text: Text, unsteered: Text, own: dict[Phrase, None]) -> list[Phrase] | None:
        if text is None or unsteered is None:
            return None
        return [] if text == unsteered else [p for p in phrases(text) if p not in own]
