"""A bank's model card: what anybody may want to know of it before they use it, and how.

Says only what the bank and its control know. All that it quotes may come from a file or a stranger,
so it is quoted as text: no markup in it does anything.
"""

import html
import json
import math
import re
import statistics
from collections.abc import Iterable

from torch import Tensor

from tl_steer.banks.algebra import Algebra
from tl_steer.errors import SettingError
from tl_steer.files.tables import number
from tl_steer.files.text import shorten
from tl_steer.models.fingerprint import same_model
from tl_steer.models.load import EMBEDDED, EMBEDDED_MODEL
from tl_steer.perturbations.additive import Additive

_MOST_VECTORS = 50
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+", re.ASCII)
# All punctuation but & < >, which become entities: not every renderer knows that they are escaped.
_MARKS = re.compile(r"([!-%'-/:;=?@\[-`{-~])")


def card_of(bank: Algebra, *, where: str, base_model: str | None, control: Algebra | None) -> str:
    """The card, in Markdown with the Hub's YAML in front.

    Args:
        where: what `Bank.from_pretrained` is given to get this bank.
        base_model: as the Hub calls it; the bank's own name for it, where that can be one.
        control: random vectors that were measured as the bank was.

    Raises:
        SettingError: `base_model` is no "owner/name", or `control` is no control of this bank.
    """
    if base_model is not None and not HUB_NAME.fullmatch(base_model):
        raise SettingError(f"base_model={base_model!r}: expected a Hub name, 'owner/name'.")
    if control is not None:
        _refuse_other_control(bank, control)
    own = bank.provenance.model
    hub = base_model or (own if HUB_NAME.fullmatch(own) else None)
    parts = [
        _front(hub),
        f"# {_what(bank)} for {quoted(hub or own)}",
        "A bank of tl_steer, which adds latent perturbations to language models to see what they "
        "bring out.",
        _section("What it holds", _held(bank)),
        _section("How it was made", _made(bank)),
        _control(bank, control),
        _use(where, hub or _loadable(own), own),
        _vectors(bank),
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def quoted(text: object, most: int = 200) -> str:
    """Text as Markdown that shows it as it is: one line, at most `most` characters of it."""
    return html.escape(_MARKS.sub(r"\\\1", shorten(str(text), most)), quote=False)


def _refuse_other_control(bank: Algebra, control: Algebra) -> None:
    """Refuse what is no control of a bank.

    Raises:
        SettingError: saying what differs, and how one is made.
    """
    own, other = bank.provenance, control.provenance
    differs = [
        name
        for name, a, b in (
            ("source", bank.source, control.source),
            ("target", bank.target, control.target),
            ("kind", (bank.kind, bank.form), (control.kind, control.form)),
            ("positions", bank.positions, control.positions),
            ("prompts", own.prompts, other.prompts),
            ("divergence", own.divergence, other.divergence),
            ("measured", own.measured, other.measured),
            ("model", True, same_model(own.fingerprint, other.fingerprint)),
            ("radius", True, math.isclose(bank.radius, control.radius, rel_tol=1e-3)),
        )
        if a != b
    ]
    told = "control= is no control of this bank: "
    advice = "Make one: Bank.from_vectors(model, random_bank(bank), prompts=<the bank's own>)."
    if other.method != "random":
        raise SettingError(f"{told}its vectors are not from random_bank. {advice}")
    if differs:
        raise SettingError(f"{told}they differ in {', '.join(differs)}. {advice}")
    if not len(control) or bool(control.objective.isnan().any()):
        raise SettingError(f"{told}it was never measured. {advice}")


def _front(hub: str | None) -> str:
    base = f'base_model: "{hub}"\n' if hub else ""
    return f"---\nlibrary_name: tl_steer\n{base}tags:\n- tl_steer\n- steering-vectors\n---"


def _what(bank: Algebra) -> str:
    n = len(bank)
    if bank.kind == Additive.kind:
        return f"{n} steering vector{'' if n == 1 else 's'}"
    return f"{n} perturbation{'' if n == 1 else 's'} of kind {quoted(bank.kind)}"


def _section(title: str, facts: Iterable[tuple[str, str]]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- **{name}**: {value}" for name, value in facts)


def _held(bank: Algebra) -> Iterable[tuple[str, str]]:
    share = number(bank.radius_share)
    yield "what", _what(bank)
    yield "source, where they act", quoted(bank.source)
    yield "target, where their effect was measured", quoted(bank.target)
    yield "radius", number(bank.radius) + ("" if share == "–" else f", {share} of the median norm")
    acts = "every token" if bank.positions.everywhere else quoted(bank.positions)
    yield "tokens that they act on", acts
    if bank.scores:
        yield "scores", quoted(", ".join(bank.scores))


def _made(bank: Algebra) -> Iterable[tuple[str, str]]:
    made = bank.provenance
    mark = made.fingerprint
    size = f"{mark.n_layers} layers, {mark.d_model} wide, vocabulary of {mark.d_vocab}"
    yield "model", f"{quoted(made.model)} ({size}; {quoted(mark)})"
    yield "method", quoted(made.method) if made.method else "not known"
    for name, value in made.settings.items():
        yield f"setting {quoted(name, 40)}", quoted(json.dumps(value))
    yield "seed", "none" if made.seed is None else str(made.seed)
    yield "divergence", quoted(made.divergence) if made.divergence else "not known"
    yield "measured at", quoted(made.measured)
    yield (
        "prompts",
        f"not kept; their hash is {quoted(made.prompts)}" if made.prompts else "unknown",
    )
    yield "versions", quoted(", ".join(f"{k} {v}" for k, v in made.versions.items())) or "not known"
    for note in made.notes:
        yield "note", quoted(note)


def _control(bank: Algebra, control: Algebra | None) -> str:
    if control is None:
        return (
            "## Control\n\nNo control was run with this bank. How its numbers compare with random "
            "vectors' of the same length has to be known before anything is concluded."
        )
    rows = [("this bank", bank), ("random", control)]
    lines = [
        f"| {name} | {len(one)} | {_spread(one.objective)} | {_spread(one.responses.norm(dim=1))} |"
        for name, one in rows
    ]
    return (
        "## Control\n\nRandom vectors of the same length at the same hook point, measured on the "
        f"same prompts (seed {control.provenance.seed}). Median and largest:\n\n"
        "| | vectors | objective | size of the response |\n| --- | --- | --- | --- |\n"
        + "\n".join(lines)
    )


def _spread(values: Tensor) -> str:
    known = values[~values.isnan()].float()
    if not len(known):
        return "–"
    return f"{number(statistics.median(known.tolist()))}, {number(float(known.max()))}"


def _loadable(name: str) -> str:
    """What `load_model` is given for a model that is not on the Hub."""
    return EMBEDDED if name == EMBEDDED_MODEL else name


def _use(where: str, model: str, name: str) -> str:
    return (
        "## Use\n\n"
        "```python\n"
        "import tl_steer as ts\n\n"
        f"model = ts.load_model({model!a})\n"
        f"bank = ts.Bank.from_pretrained({where!a})\n"
        'print(ts.generate(model, bank[:4], ["I think that"], max_new_tokens=40))\n'
        "```\n\n"
        f"The model has to be the one that it was made on ({quoted(name)}); another is refused, "
        "and so are its weights quantised or trained further. `from_pretrained` takes a folder, or "
        "a name on the Hub."
    )


def _vectors(bank: Algebra) -> str:
    shown = min(len(bank), _MOST_VECTORS)
    lines = [
        f"| {bank.numbers[i]} | {number(float(bank.objective[i]))} | "
        f"{number(float(bank.responses[i].norm()))} | {quoted(bank.labels[i])} |"
        for i in range(shown)
    ]
    more = f"\n\n{len(bank) - shown} more are not shown." if shown < len(bank) else ""
    return (
        "## Vectors\n\n| # | objective | size of the response | label |\n"
        "| --- | --- | --- | --- |\n" + "\n".join(lines) + more
    )


_LIMITS = (
    "## Limits\n\n"
    "- Objectives and responses were measured on the prompts above alone. They say how far "
    "activations move, and nothing of what the model then says.\n"
    "- A label is a note, and not a finding.\n"
    "- Steered models may say what their makers trained them not to say. Made for auditing and "
    "research."
)
