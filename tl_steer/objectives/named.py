"""Divergences by the names that `elicit(divergence=...)` knows."""

from collections.abc import Callable
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.signatures import object_of
from tl_steer.objectives.divergence import Cosine, Displacement, Divergence

DIVERGENCES: dict[str, Callable[[], Divergence]] = {"displacement": Displacement, "cosine": Cosine}
"""The divergences that `elicit` knows by name."""


def divergence_of(value: Any) -> Any:
    """A divergence that was given by its name, as a class, or as it is.

    Raises:
        SettingError: an unknown name.
        ShapeError: a class that does not do without arguments.
    """
    if not isinstance(value, str):
        return object_of("divergence", value)
    if value not in DIVERGENCES:
        raise SettingError(
            f"Unknown divergence {value!r}; there are {', '.join(DIVERGENCES)}, and any function "
            "(steered, clean, measured) -> [vec]."
        )
    return DIVERGENCES[value]()
