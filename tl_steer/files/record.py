"""Results that are plain values: shown as a table, saved as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tl_steer.files.tables import Tabled
from tl_steer.files.write import write_beside


class Record(Tabled):
    """A frozen dataclass of numbers and texts, and nothing else."""

    def to_json(self) -> dict[str, Any]:
        """Every field by its name."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        write_beside(Path(path), json.dumps(self.to_json()).encode())
        return Path(path)
