"""Packages that only some of what we do needs."""

import importlib.util

from tl_steer.errors import SettingError


def need(package: str, extra: str) -> None:
    """Refuse to go on without a package.

    Raises:
        SettingError: it is not installed; with what installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise SettingError(
            f'This needs {package}, which is not installed: pip install "tl_steer[{extra}]"'
        )
