"""Cells of the matrix as tables, and which refusals are true."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence import Row

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "architectures.md"
RIGHT, REFUSED, DIFFERS, ABSENT = "right", "refused", "differs", "absent"
WRONG, CRASH, UNTRUE = "WRONG", "CRASH", "UNTRUE"
_BAD = (WRONG, CRASH, UNTRUE)

# Refusals that say what is so, by `family: sentence`. A refusal that is not here is a failure until
# somebody has looked at it.
TRUE: Mapping[str, str] = {
    r"hook_resid_mid is only a view of another hook point": "a bridge adds up inside the block of "
    "transformers, so nothing put in at that point reaches the stream",
    r"There is no hook point": "the block has no such part (states or convolutions in the place of "
    "attention, norms around both, a sum of two MLPs)",
    r"is not the output of a linear map": "a norm, or a nonlinearity, lies behind the map",
    r"does not depend on what is put in": "the point is only a view",
    r"has no hook point .*, which an adapter needs": "as above: the block has no such part",
    r"has no neurons on this model": "its experts each have their own",
    r"it is an encoder-decoder": "its blocks are in two stacks",
    r"^(gpt1|t5|bart): .*has no ln_final and unembed": "there is no norm before the "
    "unembedding, or no single stack",
    r"^(bert|roberta): .*generate\(\) does not work": "masked models are not continued",
    r"^(bert|roberta|modernbert-decoder): .*ln_final and unembed": "one more layer lies "
    "between the last norm and the unembedding",
    r"^(olmo\d?|flex-olmo): .*to have the same dtype": "TransformerLens's own pass without a "
    "cache fails on it in bfloat16",
    r"has prompts and tokens in one axis": "the block flattens what it computes",
    r"^gpt1: .*(did not fire|fired 0 times|Replaying blocks)": "its blocks return lists, which "
    "TransformerLens's hook points behind blocks do not see",
}


@dataclass(frozen=True)
class Cell:
    """How one question to one model ended; `lens` is TransformerLens's version."""

    family: str
    kind: str
    cell: str
    outcome: str
    note: str
    lens: str
    seconds: float

    @property
    def verdict(self) -> str:
        """The outcome, but that a refusal has to be a known one."""
        if self.outcome != REFUSED:
            return self.outcome
        return REFUSED if why(self.family, self.note) else UNTRUE

    @property
    def failed(self) -> bool:
        return self.verdict in _BAD


def why(family: str, sentence: str) -> str:
    """Why a refusal is true; nothing where it is not known to be."""
    told = f"{family}: {sentence}"
    return next((reason for said, reason in TRUE.items() if re.search(said, told)), "")


def rows(cells: Sequence[Cell]) -> list[Row]:
    """One row a verb: how many models were asked, and how many answers were neither right nor a
    true refusal."""
    by: defaultdict[str, list[Cell]] = defaultdict(list)
    for cell in _counted(cells):
        by[cell.cell].append(cell)
    found = []
    for name, own in by.items():
        refused = sum(cell.verdict == REFUSED for cell in own)
        differs = sum(cell.verdict == DIFFERS for cell in own)
        note = [f"{refused} refused"] * bool(refused)
        note += [f"TransformerLens is not transformers: {differs}"] * bool(differs)
        found.append(Row(name, len(own), sum(cell.failed for cell in own), ", ".join(note)))
    return found


def page(cells: Sequence[Cell], commands: Sequence[str]) -> str:
    """The whole page: families, refusals, failures, and what TransformerLens does not make."""
    counted = _counted(cells)
    total = Counter(cell.verdict for cell in counted)
    families = dict.fromkeys(cell.family for cell in counted)
    parts = [
        "# Architectures: figures",
        "Tiny random models of transformers' families, in every class of TransformerLens, each "
        "asked everything that tl_steer does. What comes out is compared with plain modules of "
        "transformers that no TransformerLens has touched, one prompt at a time and without "
        "padding or cache; activations of processed weights and of the older class with the model "
        "itself under hooks of one's own. Written by",
        "\n".join(f"    {command}" for command in commands),
        f"{len(families)} families, {len(counted)} cells: "
        + ", ".join(f"{total[name]} {name}" for name in (RIGHT, REFUSED, DIFFERS, *_BAD))
        + ". *Differs*: TransformerLens's unsteered logits are not transformers' (by more than "
        ".001 nats); the cells of that model are then compared with the model itself. *UNTRUE*: a "
        "refusal whose sentence is not among the true ones below.",
        "## By family",
        _by_family(counted),
        "## Refusals",
        _refusals(counted),
        "## Failures",
        _listed([c for c in counted if c.failed]),
        "## Where TransformerLens differs",
        _listed([c for c in counted if c.verdict == DIFFERS]),
        "## Not asked",
        _not_asked(cells),
    ]
    return "\n\n".join(parts) + "\n"


def _counted(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.outcome != ABSENT]


def _by_family(cells: Sequence[Cell]) -> str:
    columns = list(dict.fromkeys((cell.lens, cell.kind) for cell in cells))
    lines = [
        "| family | " + " | ".join(f"{kind}, {lens}" for lens, kind in columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for family in dict.fromkeys(cell.family for cell in cells):
        found = []
        for column in columns:
            own = [c.verdict for c in cells if (c.lens, c.kind) == column and c.family == family]
            told = Counter(own)
            kept = [
                f"{told[name]} {name}" for name in (RIGHT, REFUSED, DIFFERS, *_BAD) if told[name]
            ]
            found.append(", ".join(kept))
        lines.append(f"| {family} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def _refusals(cells: Sequence[Cell]) -> str:
    by: defaultdict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.outcome == REFUSED:
            by[_pattern(cell.note)].append(cell)
    lines = ["| sentence | cells | of | why it is true |", "| --- | --- | --- | --- |"]
    for sentence, own in sorted(by.items(), key=lambda item: -len(item[1])):
        which = ", ".join(dict.fromkeys(cell.cell for cell in own))
        lines.append(
            f"| {sentence} | {len(own)} | {which} | {why(own[0].family, own[0].note) or '?'} |"
        )
    return "\n".join(lines)


def _pattern(sentence: str) -> str:
    """One sentence for all models: numbers and suggestions do not matter."""
    plain = re.sub(r" Did you mean .*", "", sentence)
    plain = re.sub(r"blocks\.\d+", "blocks.N", plain)
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", plain).replace("|", "\\|")


def _listed(cells: Sequence[Cell]) -> str:
    if not cells:
        return "None."
    lines = ["| family | class | cell | | |", "| --- | --- | --- | --- | --- |"]
    for cell in cells:
        note = cell.note.replace("|", "\\|").replace("\n", " ")[:200]
        lines.append(
            f"| {cell.family} | {cell.kind}, {cell.lens} | {cell.cell} | {cell.verdict} | {note} |"
        )
    return "\n".join(lines)


def _not_asked(cells: Sequence[Cell]) -> str:
    """Models that this TransformerLens cannot make, or run."""
    by: defaultdict[str, list[str]] = defaultdict(list)
    for cell in cells:
        if cell.outcome == ABSENT and cell.cell in ("made", "unsteered"):
            by[f"{cell.kind}, {cell.lens}"].append(cell.family)
    told = "\n".join(f"- {who}: {', '.join(families)}" for who, families in by.items())
    return (
        "Models that this TransformerLens does not make, or transformers does not run on text "
        f"alone:\n\n{told}"
    )
