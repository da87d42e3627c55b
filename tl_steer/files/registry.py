"""Classes that files call by a name: registered by whoever defines them, imported by no file."""

from collections.abc import Callable
from typing import Any, TypeVar

from tl_steer.errors import SettingError

K = TypeVar("K", bound=type)


def registering(
    classes: dict[str, Any],
    name: object,
    *,
    what: str,
    example: str,
    refuse: Callable[[str, Any], None],
) -> Callable[[K], K]:
    """A class decorator that puts a class into `classes` by its name.

    Args:
        what: what such a class is, and `example` the name of one, for errors.
        refuse: raises for a class that is none.

    Raises:
        SettingError: no name, or another class has it.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise SettingError(
            f"register({name!r}): expected a name for the {what}, as in "
            f'@register("{example}") above its class.'
        )

    def enter(kind: K) -> K:
        refuse(name, kind)
        there = classes.get(name)
        if there is not None and _place(there) != _place(kind):  # a cell may run again
            raise SettingError(
                f"The {what} {name!r} is {_place(there)} already; register {kind.__name__} by "
                "another name."
            )
        classes[name] = kind
        return kind

    return enter


def module_of(kind: type) -> str:
    """The module that has to be imported for a class to be known; "" for those that ship."""
    return "" if kind.__module__.startswith("tl_steer.") else kind.__module__


def _place(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
