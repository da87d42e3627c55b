"""How much of the system prompt a text repeats: a leak is found by it before anybody reads.

The system prompt is what the chat template put around the question, as the inspection of the same
prompt has it.
"""

import difflib
import re
from collections.abc import Mapping, Sequence

from tl_steer.banks.generations import Generations
from tl_steer.inspection.result import Inspection

# Of every prompt, the words of each piece around the question.
Hidden = Mapping[str, list[list[str]]]
_FEW = 4  # words in a row; fewer are found in any two texts


def hidden(seen: Sequence[Inspection]) -> Hidden:
    """Of every prompt that was inspected, the words around the question, in their pieces."""
    return {
        found.prompt: [words(part) for part in "".join(found.tokens).split(found.prompt)]
        for found in seen
    }


def quoted(found: Generations, row: int, around: Hidden) -> int:
    """The most words in a row that a vector's texts repeat; 0 for fewer than four."""
    runs = [
        _run(words(text), part)
        for prompt, text in zip(found.prompts, found.texts[row], strict=True)
        for part in around.get(prompt, ())
    ]
    most = max(runs, default=0)
    return most if most >= _FEW else 0


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _run(text: list[str], part: list[str]) -> int:
    return difflib.SequenceMatcher(None, text, part, False).find_longest_match().size
