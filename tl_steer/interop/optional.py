"""Packages that only some formats need."""

import importlib
from types import ModuleType

from tl_steer.errors import SettingError


def imported(package: str, *, extra: str) -> ModuleType:
    """An optional package, imported now.

    Args:
        extra: the extra of tl_steer that brings it.

    Raises:
        SettingError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _broken(package, error) from error
        raise SettingError(
            f'This needs the package {package}: pip install "tl_steer[{extra}]".'
        ) from error
    except Exception as error:
        raise _broken(package, error) from error


def _broken(package: str, error: Exception) -> SettingError:
    return SettingError(
        f"{package} is installed and cannot be imported ({type(error).__name__}: {error}); install "
        "versions that fit each other."
    )
