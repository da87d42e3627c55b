"""What is called by a name: found in its table; classes that files name are registered by whoever
defines them, and imported by no file.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tl_steer.errors import SettingError
from tl_steer.files.text import did_you_mean

K = TypeVar("K", bound=type)
Named = TypeVar("Named")


def named(table: Mapping[str, Named], name: str, *, what: str) -> Named:
    """What a table has by a name.

    Args:
        what: what it is a table of, in errors.

    Raises:
        SettingError: nothing, with the names that there are.
    """
    if name not in table:
        raise SettingError(
            f"Unknown {what} {name!r}; there are {', '.join(table)}.{did_you_mean(name, table)}"
        )
    return table[name]


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
