"""What can go wrong and be put right by the caller.

Every message says what came, what was expected and what to do. Catch `SteerError` for all of them.
"""

import re
import unicodedata

# All but the letters, signs and spaces that most texts are made of: only these are looked at.
_DOUBTFUL = re.compile("[^\\t\\n -~\u00a0-\u00ac\u00ae-\u02ff]")
# Selectors and fillers count as printable, and are seen no more than those that do not.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
_ZWNJ, _ZWJ = "\u200c", "\u200d"


def plain(text: str) -> str:
    """Text that is only read: control, bidirectional, invisible and surrogate characters become
    their escapes. Line breaks, tabs and spaces of every width stay, and so do the joiners and
    selectors of emoji, and the joiners of scripts that are written with them.

    Here, since errors quote what a file or a model said, and are printed by whoever catches them.
    """
    if text.isprintable() and not _UNSEEN.search(text):
        return text
    return _DOUBTFUL.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(found: re.Match[str]) -> str:
    seen = _read(found.string, found.start())
    return found[0] if seen else found[0].encode("unicode_escape").decode("ascii")


def _read(text: str, i: int) -> bool:
    """Whether a character is seen as what it is, where it stands."""
    c, before, after = text[i], text[i - 1 : i] if i else "", text[i + 1 : i + 2]
    if unicodedata.category(c) == "Zs":
        return True
    if c in (_ZWNJ, _ZWJ):
        emoji = c == _ZWJ and _emoji(before) and _emoji(after)
        return emoji or (_joined(before) and _joined(after))
    if _UNSEEN.match(c):
        # One behind a sign chooses how that is drawn; a row of them can carry a hidden text.
        chosen = before in tuple("0123456789#*") or (_emoji(before) and before != "\ufe0f")
        return c in "\ufe0e\ufe0f" and chosen
    return c.isprintable()


def _joined(c: str) -> bool:
    """A letter or mark of the Arabic, Indic and other scripts that have joiners in words."""
    return "\u0600" <= c <= "\u18af" and unicodedata.category(c)[0] in "LM"


def _emoji(c: str) -> bool:
    """A part of an emoji: a sign, its selector, or the colour of its skin."""
    tone = "\U0001f3fb" <= c <= "\U0001f3ff"
    return c > "\x7f" and (unicodedata.category(c) in ("So", "Sm") or c == "\ufe0f" or tone)


class SteerError(Exception):
    """Any error that tl_steer raises on purpose."""

    def __str__(self) -> str:
        return plain(super().__str__())


class SettingError(SteerError, ValueError):
    """A number, name or combination of arguments that cannot work."""


class ShapeError(SteerError, TypeError):
    """An argument of a public call has the wrong type or tensor shape."""


class RowError(SteerError, IndexError):
    """A vector that a bank does not hold."""


class HookPointError(SteerError, KeyError):
    """A hook point that is unknown, unusable here, or that never fired."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return plain(str(self.args[0])) if self.args else ""


class PromptError(SteerError, ValueError):
    """Prompts that are empty, too short or cannot be tokenized."""


class ModelError(SteerError, TypeError):
    """A model that tl_steer cannot drive, or whose blocks cannot be replayed."""


class ForeignModelError(SteerError):
    """A bank that was made for another model."""


class BankFileError(SteerError):
    """A bank file that is damaged, truncated or not a bank at all."""


class InspectionFileError(SteerError):
    """An inspection file that is damaged, truncated or not an inspection at all."""


class ReportFileError(SteerError):
    """A page that is no report, or whose notes are damaged."""


class SweepFileError(SteerError):
    """A sweep's folder that is damaged, of another sweep, or cannot be written."""


class GridFileError(SteerError):
    """A grid's folder that is damaged, of another grid, or cannot be written."""


class WorkerError(SteerError, RuntimeError):
    """A worker of a cluster that died, or failed at what no error of ours is for."""


class WriteError(SteerError, OSError):
    """A file that cannot be written; what was there before is whole."""


class NotFiniteError(SteerError, ArithmeticError):
    """NaN or infinity in an objective, a gradient or an activation."""


class TooLargeError(SteerError, MemoryError):
    """Memory runs out even with one perturbation at a time."""


class AuditError(SteerError, OSError):
    """An audit log that cannot be written, or a file that is none."""


class JudgeError(SteerError, ConnectionError, ValueError):
    """A language model that was asked to judge does not answer, or says neither yes nor no."""
