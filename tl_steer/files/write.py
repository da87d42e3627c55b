"""Writing files so that nobody ever reads half of one.

A draft beside the target is written, flushed to disk and renamed. It has a name that no other
writer has, and is locked for as long as somebody writes it, so `tidy` can tell what a killed
process left from what is being written now.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from tl_steer.errors import WriteError
from tl_steer.files.undo import Scope, scoped

if sys.platform != "win32":
    import fcntl


def write_beside(path: Path, payload: bytes | Iterable[bytes | memoryview]) -> None:
    """Write beside, flush to disk, rename: readers see the old file or the new one, never a part.
    What is large comes in pieces.

    A symbolic link stays one, and the file that it leads to is replaced. The new file has the mode
    (and where possible the owner) of the old one. Another hard link to the old file keeps the old
    content. Drafts that killed processes left of this file go.

    Raises:
        WriteError: the disk is full, the folder cannot be made or written, or the path is a folder,
            a device or the like. What was there before is whole.
    """
    try:
        target, old = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, [payload] if isinstance(payload, bytes) else payload, old)
        tidy(target.parent, target.name)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _named(path, error) from error


def tidy(folder: Path, name: str | None = None) -> None:
    """Remove drafts that killed processes left in a folder: those of one file, or all of them.
    Whatever is being written now stays, and so does all that cannot be removed."""
    patterns = [".*.part"] if name is None else [f"{_tag(name)}*.part"]
    found = {draft for pattern in patterns for draft in folder.glob(pattern)}
    if name is not None:  # as version 0.1.0 named them
        old = (draft for draft in folder.glob(".*.part") if draft.name.startswith(f".{name}."))
        found |= set(old)
    for draft in found:
        with contextlib.suppress(OSError), open(draft, "rb") as file:
            if held(file.fileno(), wait=False):
                draft.unlink()


def held(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file; the lock goes when it is closed, by whatever ends the process as well.

    Returns:
        Whether it is ours; with `wait`, once it is. Where a system has no such locks, always.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
    return True


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """Where links lead, and what is there now."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return Path(os.path.realpath(path)), None
    if not stat.S_ISREG(old.st_mode):
        what = "a folder" if stat.S_ISDIR(old.st_mode) else "a device, a pipe or a socket"
        raise WriteError(f"{path} is {what}; expected the name of a file, there already or new.")
    return Path(os.path.realpath(path)), old


def _replace(
    target: Path, pieces: Iterable[bytes | memoryview], old: os.stat_result | None
) -> None:
    with _draft(target, 0o666 if old is None else 0o600) as (file, draft):
        for piece in pieces:
            file.write(piece)
        file.flush()
        if old is not None:
            _become(file.fileno(), old)
        os.fsync(file.fileno())
        os.replace(draft, target)


@scoped
def _draft(scope: Scope, target: Path, mode: int) -> tuple[IO[bytes], Path]:
    """A new file beside, open and locked, which is gone afterwards unless it was renamed."""
    # The name is nobody else's, so it may go whether or not the file was made.
    draft = target.with_name(f"{_tag(target.name)}{secrets.token_hex(8)}.part")
    opened: list[IO[bytes]] = []
    scope.undo(_close, opened)
    scope.undo(lambda: draft.unlink(missing_ok=True))
    while True:
        # A file and no descriptor, since it is closed when it is forgotten.
        file = open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        opened.append(file)
        held(file.fileno(), wait=True)
        if sys.platform == "win32" or os.fstat(file.fileno()).st_nlink:
            return file, draft
        # `tidy` took it for a dead one's before it was locked.


def _close(files: list[IO[bytes]]) -> None:
    for file in files:
        # What could not be flushed has been told already.
        with contextlib.suppress(OSError):
            file.close()


def _become(descriptor: int, old: os.stat_result) -> None:
    """The owner first: a change of owner may take bits of the mode away."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def beside(path: Path, ending: str) -> Path:
    """The name of a hidden file that belongs to another."""
    return path.with_name(f"{_tag(path.name)[:-1]}.{ending}")


def _tag(name: str) -> str:
    """Short, whatever the name: names may be as long as the file system lets them."""
    return f".tl_steer-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}-"


def _named(path: Path, error: Exception) -> WriteError:
    if isinstance(error, WriteError):
        return error
    reason = getattr(error, "strerror", None) or str(error)
    told = WriteError(f"{path} cannot be written: {reason}. What was there before is whole.")
    told.errno = getattr(error, "errno", None)
    return told
