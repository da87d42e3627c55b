"""A lock that says who holds it: one writer at a time for what a long run keeps up to date."""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from tl_steer.errors import SteerError, WriteError
from tl_steer.files.undo import Scope, scoped
from tl_steer.files.write import held


@scoped
def locked(scope: Scope, path: Path, what: str, error: type[SteerError]) -> None:
    """Hold a lock file for as long as the block lasts.

    The system frees the lock when the process ends, however that happens, so one that a killed
    process left is simply taken over. Threads exclude each other as processes do.

    Args:
        path: the lock file; removed behind the block.
        what: what must not be written twice, for the message.
        error: what is raised where somebody else holds it.

    Raises:
        WriteError: the lock file cannot be made.
    """
    opened: list[IO[str]] = []
    scope.undo(_release, path, opened)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not opened:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held until released)
            if not held(file.fileno(), wait=False):
                raise error(_refusal(file, what))
            if _is_still(path, file):  # the one before may have removed it in between
                opened.append(file)
                _sign(file)
    except SteerError:
        raise
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise WriteError(f"{path} cannot be written: {reason}.") from cause


def _release(path: Path, opened: list[IO[str]]) -> None:
    if opened:
        with suppress(OSError, ValueError):
            if _is_still(path, opened[0]):
                os.unlink(path)
        opened[0].close()


def _is_still(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    at = time.strftime("%Y-%m-%d %H:%M:%S")
    json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": at}, file)
    file.flush()


def _refusal(file: IO[str], what: str) -> str:
    try:
        file.seek(0)
        owner = json.loads(file.read(4096))
        who = f"process {owner['process']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):  # it has not signed yet
        who = "it has not said which"
    return (
        f"Another run writes to {what} ({who}). Wait until it ends or stop it, or give this one "
        "another path."
    )
