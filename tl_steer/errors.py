"""What can go wrong and be put right by the caller.

Every message says what came, what was expected and what to do. Catch `SteerError` for all of them.
"""


def plain(text: str) -> str:
    """Printable text: control, bidirectional, invisible and surrogate characters become their
    escapes; line breaks stay.

    Here, since errors quote what a file or a model said, and are printed by whoever catches them.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


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
