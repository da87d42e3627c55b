"""TOML that people write: read whole, with an error that says where it is wrong."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.read import read_bounded
from tl_steer.files.text import did_you_mean

_MOST = 1 << 24


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        SettingError: there is no such file, it is longer than 16 MiB, or no TOML (with the line).
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(read_bounded(path, _MOST).decode("utf-8"))
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path} is no TOML: {error}.") from error


def refuse_keys(
    values: Mapping[str, Any], known: Sequence[str], *, needed: Sequence[str], what: str
) -> None:
    """Refuse a table with a key that is not known, or without one that is needed.

    Args:
        what: such a table, in errors.

    Raises:
        SettingError: saying which.
    """
    for name in values:
        if name not in known:
            raise SettingError(
                f"{what} has no {name!r}; there are {', '.join(known)}."
                f"{did_you_mean(str(name), known)}"
            )
    missing = [name for name in needed if name not in values]
    if missing:
        raise SettingError(f"{what} needs {' and '.join(missing)}.")
