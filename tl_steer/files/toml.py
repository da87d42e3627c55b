"""TOML that people write: read whole, with an error that says where it is wrong."""

import sys
from pathlib import Path
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.read import read_bounded

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
