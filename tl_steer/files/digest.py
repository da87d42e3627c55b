"""The checksum of a file's content."""

import hashlib
from typing import IO


def sha256(file: IO[bytes]) -> bytes:
    """Of all that is left to read, a block at a time."""
    sha = hashlib.sha256()
    while block := file.read(1 << 20):
        sha.update(block)
    return sha.digest()
