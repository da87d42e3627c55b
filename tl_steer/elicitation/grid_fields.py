"""What each field of a grid's plan has to be."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from tl_steer.files.jsons import plain_json, text, whole
from tl_steer.files.text import shorten
from tl_steer.methods import method_of
from tl_steer.models.load import dtype_named
from tl_steer.objectives.named import divergence_of
from tl_steer.perturbations.kinds import kind_of
from tl_steer.radii.rules import radius_of


def _several(value: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"expected a list with something in it, not {_told(value)}.")
    found = tuple(map(read, value))
    if len(set(found)) < len(found):
        twice = next(one for i, one in enumerate(found) if one in found[:i])
        raise ValueError(f"{_told(twice)} stands there twice.")
    return found


def _point(value: Any) -> int | str:
    if type(value) is int or (type(value) is str and value.startswith("blocks.")):
        return value
    raise ValueError(
        f"expected numbers of layers or names such as 'blocks.3.hook_resid_post', not "
        f"{_told(value)}."
    )


def _radius(value: Any) -> float | int | str:
    if type(value) is str:
        radius_of(value)
    elif type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"expected numbers above 0, 'auto' or '0.25x', not {_told(value)}.")
    return value  # type: ignore[no-any-return]


def _known(read: Callable[[str], Any]) -> Callable[[Any], str]:
    def known(value: Any) -> str:
        read(text(value))
        return str(value)

    return known


def _sets(value: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(value, (list, tuple)):
        value = {"prompts": value}
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"expected a list of prompts, or sets of them by name; not {_told(value)}")
    return {text(name): _several(prompts, _prompt) for name, prompts in value.items()}


def _prompt(value: Any) -> str:
    if not text(value).strip():
        raise ValueError("a prompt is empty.")
    return str(value)


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"expected true or false, not {_told(value)}.")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a table, not {_told(value)}.")
    found: dict[str, Any] = plain_json(value)
    return found


def _told(value: Any) -> str:
    return shorten(repr(value), 60)


def _list_of(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda value: _several(value, read)


def _seed(value: Any) -> int:
    return whole(value, least=-(1 << 61))


def _at_least(least: int) -> Callable[[Any], int]:
    return lambda value: whole(value, least=least)


# What every field has to be; each function gives it in one form, or raises ValueError.
FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "sources": _list_of(_point),
    "targets": _list_of(_point),
    "prompts": _sets,
    "model": text,
    "device": text,
    "dtype": _known(dtype_named),
    "against": text,
    "radii": _list_of(_radius),
    "methods": _list_of(_known(method_of)),
    "seeds": _list_of(_seed),
    "n": _at_least(1),
    "divergence": _known(divergence_of),
    "perturbation": _known(kind_of),
    "last": _at_least(1),
    "raw": _truth,
    "random": _at_least(0),
    "sweep": _table,
}
