"""What becomes of a perturbation in a file: rows of numbers, and the form that says how to read
them.

    {"parameters": {"directions": [576]}, "settings": {"value": 3.0}}

`parameters` are the shapes of one edit's; `settings` are the attributes that a subclass has set on
itself. Lists come back as tuples.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tl_steer.errors import SettingError
from tl_steer.files.jsons import to_text

_INHERITED = {
    "site", "radius", "positions", "strengths", "kind", "radius_is_norm", *vars(nn.Module()),
}  # fmt: skip
_MOST = 2**31  # numbers in one row


def form_of(perturbation: nn.Module) -> dict[str, Any]:
    """The form of a perturbation.

    Raises:
        SettingError: it keeps something that no file can hold.
    """
    name = type(perturbation).__name__
    if next(perturbation.buffers(), None) is not None:
        raise SettingError(
            f"{name} keeps a buffer, and files hold parameters and settings: make it a parameter "
            "with the vec axis first, or an attribute that is a number, a string or a tuple."
        )
    settings = {k: v for k, v in vars(perturbation).items() if k not in _INHERITED}
    for key, value in settings.items():
        try:
            to_text(value)
        except Exception:
            raise SettingError(
                f"{name}.{key} is a {type(value).__name__}, which no file can hold. Keep numbers, "
                "strings, tuples and dicts of these; a tensor is a parameter with the vec axis "
                "first; or define form() and unpack()."
            ) from None
    shapes = {k: list(v.shape[1:]) for k, v in perturbation.named_parameters()}
    return {"parameters": shapes, "settings": settings}


def shapes_in(form: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The parameters' shapes out of a form that may have come from a file.

    Raises:
        SettingError: it has none.
    """
    shapes = form.get("parameters") if set(form) == {"parameters", "settings"} else None
    if not isinstance(shapes, Mapping) or not shapes or not isinstance(form["settings"], Mapping):
        raise SettingError("A form names the parameters, with their shapes, and the settings.")
    found = {}
    for name, shape in shapes.items():
        sizes = tuple(shape) if isinstance(shape, (list, tuple)) else (None,)
        if not all(type(n) is int and 0 < n <= _MOST for n in sizes) or math.prod(sizes) > _MOST:
            raise SettingError(f"{str(name)[:40]!r} has shape {str(shape)[:80]}, which is none.")
        found[str(name)] = sizes
    return found


def fill(made: nn.Module, rows: Float[Tensor, "vec n"], form: Mapping[str, Any]) -> None:
    """Give a bare perturbation the parameters in `rows`, and its settings.

    Raises:
        SettingError: names that it cannot have, or rows of another width.
    """
    shapes, settings = shapes_in(form), dict(form["settings"])
    for name in (*shapes, *settings):
        own = getattr(type(made), name, None)
        taken = name in _INHERITED or (name in shapes and name in settings)
        taken = taken or callable(own) or isinstance(own, property)
        if not str(name).isidentifier() or taken:
            raise SettingError(f"{type(made).__name__} can have nothing named {str(name)[:40]!r}.")
    sizes = [math.prod(shape) for shape in shapes.values()]
    if rows.ndim != 2 or rows.shape[1] != sum(sizes):
        raise SettingError(f"Rows of {rows.shape[-1]} numbers; expected {sum(sizes)}.")
    for (name, shape), part in zip(shapes.items(), rows.split(sizes, dim=1), strict=True):
        setattr(made, name, nn.Parameter(part.detach().clone().reshape(len(rows), *shape)))
    for name, value in settings.items():
        setattr(made, name, _tuples(value))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
