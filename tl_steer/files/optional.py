"""Packages that only some of what we do needs."""

import importlib
from types import ModuleType

from tl_steer.errors import SettingError


def imported(package: str, *, install: str) -> ModuleType:
    """An optional package, imported now.

    Args:
        install: what pip has to be told. No extra of tl_steer, where a package asks for an older
            NumPy or transformers than TransformerLens does, and works with both.

    Raises:
        SettingError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _broken(package, error) from error
        raise SettingError(f"This needs the package {package}: pip install {install}.") from error
    except Exception as error:
        raise _broken(package, error) from error


def _broken(package: str, error: Exception) -> SettingError:
    return SettingError(
        f"{package} is installed and cannot be imported ({type(error).__name__}: {error}); install "
        "versions that fit each other."
    )
