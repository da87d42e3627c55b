"""Notes: what a reader wrote into a report's page, and their way into the bank.

In the page a vector is flagged, labelled and commented, and "Save copy" writes the page with all of
it in one JSON block. Of such a file that block alone is read: nothing is executed, and no parser of
HTML is asked, since Python's takes the square of a hostile page's length.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.banks.verdict import VERDICTS, label_of, note_of, verdict_of
from tl_steer.errors import ReportFileError, SettingError
from tl_steer.files.jsons import fields, from_text, text
from tl_steer.files.read import read_bounded
from tl_steer.files.record import Record
from tl_steer.files.signatures import typed
from tl_steer.files.tables import MOST_ROWS, Sheet, plain, shorten

# Characters of each; web/notes.js keeps to the same.
_MOST = {"flag": 20, "label": 200, "comment": 4000}
_LARGEST = 1 << 28  # bytes of a page
_SHOWN = 80  # characters of a comment in a table
_SCRIPT = re.compile(rb'<script((?: [a-z-]{1,40}="[^"<>]{0,200}"){0,8})>')
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, repr=False)
class Notes(Record):
    """What was written into a report's page; `notes` reads it.

    Attributes:
        numbers: of the vectors, as in the bank.
        flags: "benign", "dangerous", "unclear", or "" where there is none: the verdicts of `mark`.
        labels: in a line each.
        comments: at length.
        bank: the digest of the bank that the report is about.
        model: that it was made on.
    """

    numbers: tuple[int, ...]
    flags: tuple[str, ...]
    labels: tuple[str, ...]
    comments: tuple[str, ...]
    bank: str
    model: str

    def __len__(self) -> int:
        return len(self.numbers)

    @typed
    def onto(self, bank: Bank) -> Bank:
        """The bank with these notes: flags and labels as `mark` would write them, and comments.

        Only the vectors that were noted in the page change, and of those only what was changed; so
        two readers' notes on different vectors come into one bank, one after the other. What was
        emptied in the page is emptied.

        Raises:
            SettingError: the notes are about another bank.
            RowError: a vector that the bank does not hold.
        """
        if bank.digest() != self.bank:
            raise SettingError(
                f"These notes are about bank {self.bank} of {shorten(self.model, 80)}, and this is "
                f"bank {bank.digest()} of {shorten(bank.provenance.model, 80)}: expected the bank "
                "that the report was made of, as it was then. Choose or merge afterwards."
            )
        said = list(zip(bank.labels, bank.comments, strict=True))
        for i, number in enumerate(self.numbers):
            row = bank.row(number)
            said[row] = self._said(i, *said[row])
        labels, comments = zip(*said, strict=True) if said else ((), ())
        return replace(bank, labels=labels, comments=comments)

    def _said(self, i: int, label: str, comment: str) -> tuple[str, str]:
        """A label and a comment with a note in their places. What the page showed of them and
        nobody touched stays as it is, however long."""
        shown = _mark(label, comment)
        if self.labels[i] != shown["label"] or self.flags[i] != shown["flag"]:
            same = self.labels[i] == shown["label"]
            label = label_of(self.flags[i], note_of(label) if same else self.labels[i])
        return label, comment if self.comments[i] == shown["comment"] else self.comments[i]

    def table(self, *, most: int = MOST_ROWS) -> Sheet:
        """One row per vector."""
        rows = tuple(
            (str(number), flag, label, shorten(comment, _SHOWN))
            for number, flag, label, comment in zip(
                self.numbers[:most], self.flags, self.labels, self.comments, strict=False
            )
        )
        more = f"; {len(self) - len(rows)} more not shown" if len(rows) < len(self) else ""
        title = f"Notes on {len(self)} vector{'' if len(self) == 1 else 's'}"
        note = f"bank {self.bank}, {self.model}; onto(bank) brings them in{more}"
        return Sheet(title, ("#", "flag", "label", "comment"), rows, note)


@typed
def notes(path: str | Path) -> Notes:
    """The notes in a report's page that "Save copy" wrote.

    Args:
        path: the copy. The page that it was made from holds none, nor does one that a browser's
            own "Save as" wrote.

    Raises:
        ReportFileError: no such file, or no report, or one that is damaged or larger than 256 MiB.

    Whoever sends a page can have written anything into it, under anybody's name: what comes into
    the bank is text, to be read.
    """
    try:
        return _read(fields(from_text(_block_in(path)), {"bank", "model", "marks", "notes"}))
    except FileNotFoundError as error:
        raise ReportFileError(f"No report at {path}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ReportFileError(
            f"{path} holds no notes that can be read: {error}. Expected the page that Save copy "
            "wrote in a report."
        ) from error


def block(bank: Bank) -> dict[str, Any]:
    """What the page's block `notes` holds at first: of which bank it is, and what the bank says of
    its vectors already. A block is left as text in the page, so that it can be replaced there."""
    said = zip(bank.numbers, bank.labels, bank.comments, strict=True)
    marks = {str(number): _mark(*words) for number, *words in said if any(words)}
    return {"bank": bank.digest(), "model": bank.provenance.model, "marks": marks, "notes": {}}


def _mark(label: str, comment: str) -> dict[str, str]:
    """What a page shows of a label and a comment, within a page's bounds."""
    whole = {"flag": verdict_of(label), "label": note_of(label), "comment": comment}
    # As a text field has it; any other control character is shown by its name.
    tidy = {name: words.replace("\r\n", "\n").expandtabs(4) for name, words in whole.items()}
    return {name: _bounded(plain(words), _MOST[name]) for name, words in tidy.items()}


def _bounded(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _block_in(path: str | Path) -> str:
    """The text of the JSON block of this name. Scripts are stepped over whole, so what is written
    inside one is never taken for it.

    Raises:
        ValueError: there is none.
        OSError: the file cannot be read.
    """
    page, at = read_bounded(path, _LARGEST), 0
    while (begun := _SCRIPT.search(page, at)) is not None:
        at = page.find(b"</script>", begun.end())
        if at < 0:
            raise ValueError("it breaks off")
        if b' id="notes"' in begun[1] and b' type="application/json"' in begun[1]:
            return page[begun.end() : at].decode("utf-8")
    raise ValueError("it is no report, or one of before reports held notes")


def _read(given: Mapping[str, Any]) -> Notes:
    """Everything in a file is hostile.

    Raises:
        ValueError: saying what is wrong.
    """
    if not isinstance(given["notes"], Mapping):
        raise ValueError("its notes are no mapping from vectors")
    found = sorted((_number(key), checked_note(value)) for key, value in given["notes"].items())
    bank = text(given["bank"])
    if not re.fullmatch("[0-9a-f]{16}", bank):
        raise ValueError(f"it names no bank, but {bank[:40]!r}")
    return Notes(
        numbers=tuple(number for number, _ in found),
        flags=tuple(note[0] for _, note in found),
        labels=tuple(note[1] for _, note in found),
        comments=tuple(note[2] for _, note in found),
        bank=bank,
        model=shorten(text(given["model"]), 200),
    )


def _number(key: str) -> int:
    if not _NUMBER.fullmatch(key):
        raise ValueError(f"{key[:40]!r} is no number of a vector")
    return int(key)


def checked_note(given: Any) -> tuple[str, ...]:
    """Flag, label and comment of one note.

    Raises:
        ValueError: saying what is wrong.
    """
    words = fields(given, set(_MOST))
    for name, most in _MOST.items():
        if len(text(words[name])) > most:
            raise ValueError(f"a {name} has more than {most} characters")
    if words["flag"] not in ("", *VERDICTS):
        raise ValueError(f"a flag is {words['flag']!r}, not one of {', '.join(VERDICTS)}")
    return tuple(words[name] for name in _MOST)
