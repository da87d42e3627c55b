"""Reading what others wrote: no more of it than is expected."""

import os
from pathlib import Path


def read_bounded(path: str | Path, most: int) -> bytes:
    """A file's bytes.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: it holds more than `most` bytes, or there is a NUL in its name.
    """
    with open(path, "rb") as file:
        # No more than it has: a buffer is as large as what is asked for.
        content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > most:
        raise ValueError(f"it holds more than {most >> 20} MB")
    return content
