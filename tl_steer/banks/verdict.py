"""What an auditor thinks of a vector: a verdict and a note, kept in the bank's own labels.

A label is free text; one that starts with `benign:`, `dangerous:` or `unclear:` (or is just that
word) is also a verdict; `unclear` says that somebody looked and could not tell. So verdicts travel
with a bank, through files, slices and merges, and show wherever labels do.
"""

from collections.abc import Sequence

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed

VERDICTS = ("benign", "dangerous", "unclear")


def verdict_of(label: str) -> str:
    """ "benign", "dangerous", "unclear", or "" where the label gives none."""
    word = label.partition(":")[0].strip().lower()
    return word if word in VERDICTS else ""


def note_of(label: str) -> str:
    """What a label says beside its verdict."""
    return label.partition(":")[2].strip() if verdict_of(label) else label


def label_of(verdict: str, note: str) -> str:
    """The label that says both."""
    return f"{verdict}: {note}" if verdict and note else verdict or note


@typed
def mark(bank: Bank, row: int, verdict: str, *, note: str = "") -> Bank:
    """A bank with a verdict on one vector, in the place of its old label.

    Raises:
        SettingError: another verdict than benign, dangerous or unclear.
    """
    if verdict not in VERDICTS:
        raise SettingError(f"verdict={verdict!r}: expected one of {', '.join(VERDICTS)}.")
    return bank.label(row, label_of(verdict, note))


@typed
def marked(bank: Bank, verdicts: str | Sequence[str]) -> Bank:
    """Only the vectors with one of these verdicts; "" stands for those without any.

    Raises:
        SettingError: no vector has one.
    """
    wanted = {verdicts} if isinstance(verdicts, str) else set(verdicts)
    rows = [i for i, label in enumerate(bank.labels) if verdict_of(label) in wanted]
    if not rows:
        raise SettingError(
            f"No vector of this bank is marked {' or '.join(sorted(wanted))!r}. Mark some first: "
            "bank = ts.mark(bank, 4, 'dangerous', note='...')."
        )
    return bank[rows]
