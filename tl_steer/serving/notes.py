"""What somebody noted about vectors in a page that is served, kept in a file beside the bank and
written whole."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_steer.errors import BankFileError, SettingError
from tl_steer.files import jsons
from tl_steer.files.read import read_bounded
from tl_steer.files.write import write_beside
from tl_steer.views.notes import checked_note

_MOST_BYTES = 4_000_000


class KeptNotes:
    """Notes by vector, `{"4": {"flag": "", "label": "", "comment": ""}}`.

    Args:
        path: where they are kept; `None` keeps none.
        numbers: those of the bank's vectors. Notes on others are refused.

    Raises:
        BankFileError: there is a file, and it holds no notes.
    """

    def __init__(self, path: Path | None, numbers: Sequence[int]) -> None:
        self._path, self._numbers = path, {str(number) for number in numbers}
        self._lock = threading.Lock()
        self._notes = {} if path is None else self._read(path)

    def asked(self, asked: Any) -> dict[str, Any]:
        """The notes, after they were replaced by those that were sent, if there are any.

        Raises:
            ValueError: what was sent holds no notes.
            SettingError: there is no file to keep them in.
            WriteError: it cannot be written.
        """
        if asked == {}:
            return {"notes": self._notes}
        notes = self._checked(jsons.fields(asked, {"notes"})["notes"])
        if self._path is None:
            raise SettingError("These notes are kept nowhere: serve(..., notes=path) names a file.")
        with self._lock:
            write_beside(self._path, jsons.to_text(notes).encode())
            self._notes = notes
        return {"notes": notes}

    def _read(self, path: Path) -> dict[str, dict[str, str]]:
        try:
            return self._checked(jsons.from_text(read_bounded(path, _MOST_BYTES).decode("utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise BankFileError(
                f"{path} holds no notes on this bank: {error}. Move it away, or put it right."
            ) from error

    def _checked(self, given: Any) -> dict[str, dict[str, str]]:
        if not isinstance(given, Mapping):
            raise ValueError("expected notes by vector")
        strange = sorted(set(given) - self._numbers)
        if strange:
            raise ValueError(f"the bank has no vector {strange[0][:20]!r}")
        for note in given.values():
            checked_note(note)
        return {number: dict(note) for number, note in given.items()}
