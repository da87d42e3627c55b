"""The detectors that a monitor's file can hold: registered by name."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.registry import registering

K = TypeVar("K", bound=type)

# By the name in a monitor's file.
FITTED: dict[str, Any] = {}


def register(name: str) -> Callable[[K], K]:
    """A class decorator that gives a detector its name, by which monitors' files hold it.

        @register("projection")
        @dataclass(frozen=True, eq=False)
        class Projection:
            directions: Tensor
            def __call__(self, activations): ...

    The class is a frozen dataclass of tensors (with or without shapes), whole numbers from 0 on and
    floats. A file names the detector and the module that registered it, and never imports that:
    whoever loads the file imports the module first.

    Raises:
        SettingError: no name, another class has it, or a class that no file can hold.
    """
    return registering(FITTED, name, what="detector", example="projection", refuse=_refuse_unfit)


def name_in_files(detector: Any) -> str:
    """What a detector is called in files.

    Raises:
        SettingError: it is not registered.
    """
    for name, kind in FITTED.items():
        if type(detector) is kind:
            return name
    name = type(detector).__name__
    raise SettingError(
        f"A {name} cannot be saved: its class is not registered. Put "
        "@tl_steer.monitoring.detectors.register('a_name') above it, a frozen dataclass of tensors "
        "and numbers; or let the score return one of those that are."
    )


def fields_of(kind: type) -> dict[str, Any]:
    """The types of a detector's fields, by name."""
    told = typing.get_type_hints(kind)
    return {each.name: told[each.name] for each in dataclasses.fields(kind)}


def is_tensor(kind: Any) -> bool:
    """Whether a field's type is that of tensors, with a shape or without."""
    return kind is Tensor or getattr(kind, "array_type", None) is Tensor


def _refuse_unfit(name: str, kind: Any) -> None:
    settings = getattr(kind, "__dataclass_params__", None)
    if not isinstance(kind, type) or settings is None or not settings.frozen:
        raise SettingError(
            f"register({name!r}) is for frozen dataclasses, @dataclass(frozen=True)."
        )
    if not any("__call__" in vars(each) for each in kind.__mro__):
        raise SettingError(f"register({name!r}): {kind.__name__} has no __call__(activations).")
    try:
        told = fields_of(kind)
    except NameError as error:
        raise SettingError(f"register({name!r}): a type in {kind.__name__}: {error}.") from error
    for field, type_ in told.items():
        if not is_tensor(type_) and type_ not in (int, float):
            raise SettingError(
                f"register({name!r}): {kind.__name__}.{field} is {type_}; a monitor's file holds "
                "tensors, int and float."
            )
