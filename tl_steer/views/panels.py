"""What each vector's page shows: a panel for every view of it, and less of them where all would be
too much for one file.

A panel is a block of its own, named `v{vector}.{kind}.{prompt}`, read when it is opened.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tl_steer.inspection.generated import Continuations
from tl_steer.inspection.result import Inspection
from tl_steer.views.attention import attention_change
from tl_steer.views.blocks import Words
from tl_steer.views.continuation import continuation
from tl_steer.views.control import kl_band
from tl_steer.views.likelihood import likelihood
from tl_steer.views.logits import logit_attribution, logit_change
from tl_steer.views.page import rounded
from tl_steer.views.stream import residual_response, steered_tokens
from tl_steer.views.view import View

# Random vectors that can be compared with, and the views that takes.
_CONTROLS, _COMPARED = 2, ("logit_change", "attention_change", "residual_response")

Draw = Callable[..., View]


def _circuitsvis(seen: Inspection, vector: int) -> View:
    """All components of CircuitsVis, which take their numbers from the other panels."""
    return View("circuitsvis", f"CircuitsVis of vector {vector}", {}, circuitsvis=True)


VIEWS: dict[str, Draw] = {
    "logit_change": logit_change,
    "attention_change": partial(attention_change, heads=8),
    "residual_response": residual_response,
    "logit_attribution": logit_attribution,
    "likelihood": likelihood,
    "circuitsvis": _circuitsvis,
    "steered_tokens": steered_tokens,
}
# Those that random vectors are set beside.
CONTROLLED = {"logit_change", "attention_change", "residual_response", "logit_attribution"}
# What is left out of a report that would be too large, the least read first. Attention never goes
# to nothing: it is what was asked for.
TRIMS: tuple[tuple[str, Draw, str], ...] = (
    ("residual_response", partial(residual_response, words=2), "two words a layer in the lens"),
    ("residual_response", partial(residual_response, words=0), "no words in the lens"),
    ("attention_change", partial(attention_change, heads=4), "patterns of 4 heads a vector"),
    ("attention_change", partial(attention_change, heads=2), "patterns of 2 heads a vector"),
    ("attention_change", partial(attention_change, heads=1), "patterns of 1 head a vector"),
)


@dataclass(frozen=True)
class Seen:
    """An inspection, that of random vectors on the same prompt, and the prompt's number."""

    found: Inspection
    prompt: int
    control: Inspection | None = None

    def band(self) -> Any:
        """How far random vectors move the next token behind the prompt."""
        assert self.control is not None
        return rounded(kl_band(self.control), 3)


def paired(
    found: Sequence[Inspection], controls: Sequence[Inspection], prompts: Sequence[str]
) -> list[Seen]:
    of = {control.prompt: control for control in controls}
    return [Seen(one, prompts.index(one.prompt), of.get(one.prompt)) for one in found]


def panels(seen: Sequence[Seen], words: Words, *, most: int) -> tuple[dict[str, str], list[str]]:
    """Blocks of all panels in at most so many characters, if trimming brings them there, and what
    was left out of them."""
    blocks: dict[str, str] = {}
    for kind, draw in VIEWS.items():
        blocks |= _drawn(seen, kind, draw, words)
    left_out: dict[str, str] = {}
    for kind, draw, said in TRIMS:
        if sum(map(len, blocks.values())) <= most:
            break
        blocks |= _drawn(seen, kind, draw, words)
        left_out[kind] = said
    return blocks, [f"{said}, so that the file stays small" for said in left_out.values()]


def control_panels(seen: Sequence[Seen], words: Words) -> dict[str, str]:
    """Of the first random vectors, what two can be compared by: `r{row}.{kind}.{prompt}`."""
    return {
        f"r{row}.{kind}.{one.prompt}": packed(VIEWS[kind](one.control, vector), words)
        for one in seen
        if one.control is not None
        for row, vector in enumerate(one.control.vectors[:_CONTROLS])
        for kind in _COMPARED
    }


def _drawn(seen: Iterable[Seen], kind: str, draw: Draw, words: Words) -> dict[str, str]:
    blocks = {}
    for one in seen:
        for vector in one.found.vectors:
            given = {"control": one.control} if kind in CONTROLLED else {}
            view = draw(one.found, vector, **given)
            blocks[f"v{vector}.{kind}.{one.prompt}"] = packed(view, words)
    return blocks


def drawn(
    results: Sequence[Any], kind: str, draw: Draw, prompts: Sequence[str], words: Words
) -> dict[str, str]:
    """Blocks of results on one prompt each that have a view for each of their vectors."""
    blocks = {}
    for found in results:
        prompt = prompts.index(found.prompt)
        for vector in found.vectors:
            blocks[f"v{vector}.{kind}.{prompt}"] = packed(draw(found, vector), words)
    return blocks


def continued(
    found: Sequence[Continuations], prompts: Sequence[str], words: Words, *, most: int
) -> tuple[dict[str, str], list[str]]:
    """Blocks of texts token by token, with fewer heads' attention where they would take more than
    so many characters, and what was left out."""
    blocks: dict[str, str] = {}
    for heads in (6, 2, 0):
        blocks = drawn(found, "continuation", partial(continuation, heads=heads), prompts, words)
        if sum(map(len, blocks.values())) <= most:
            break
    said = f"attention of {heads} heads a token of generated text, so that the file stays small"
    return blocks, [said] if heads < 6 else []


def packed(view: View, words: Words) -> str:
    return words.packed(contents(view))


def contents(view: View) -> dict[str, Any]:
    return {"kind": view.kind, "title": view.title, "data": view.data}
