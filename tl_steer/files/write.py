"""Writing files so that nobody ever reads half of one."""

import os
from pathlib import Path


def write_beside(path: Path, payload: bytes) -> None:
    """Write beside, flush to disk, rename: readers see the old file or the new one, never a
    part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(draft, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
