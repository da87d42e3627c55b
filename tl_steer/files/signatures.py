"""Run-time checks of the types and tensor shapes of public calls.

Public functions carry `@typed`: jaxtyping and beartype look at the arguments on every call, and a
wrong shape becomes one short `ShapeError` instead of a stack from inside a matrix product. In the
tests the whole package is checked instead (`--jaxtyping-packages=tl_steer,beartype.beartype`).
Those that change a model carry `@checked`: what they change is put back, whatever interrupts them
(`files/undo.py`).

Beartype draws which item of a list it looks at: the draw is taken back, so that nobody's seed moves
on, and all items are looked at here.
"""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import numpy as np
from beartype import beartype
from beartype.door import is_bearable
from jaxtyping import TypeCheckError, jaxtyped
from torch import Tensor, nn

from tl_steer.errors import SettingError, ShapeError
from tl_steer.files.draws import draws_kept
from tl_steer.files.undo import Scope, whole

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K", bound=type)
_NUMBERS = (int, float, bool)
_LARGEST = 2**62  # torch takes 64 bits, and random streams are told apart by adding to a seed


def checked(function: F) -> F:
    """`typed`, and whatever the call changes in a model is put back."""
    return cast(F, whole(typed(function)))


def typed_fields(kind: K) -> K:
    """A dataclass whose fields are checked when it is made. Wrong for one that is made often."""
    kind.__init__ = typed(kind.__init__)  # type: ignore[misc]
    return kind


def typed(function: F) -> F:
    """Check argument types and shapes of `function`; raise `ShapeError` with the offending one.

    Numbers of numpy and torch pass as Python's, and a class for an object with its defaults where
    that is called (`object_of`). A type with `why_not(value)` says itself what is
    wrong with a value, by raising.
    """
    inner = jaxtyped(typechecker=_unmoved)(function)
    signature, name = inspect.signature(function), function.__name__
    if name == "__init__":
        name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ShapeError(_misnamed(name, signature, kwargs, str(error))) from None
        for parameter, value in bound.arguments.items():
            if parameter == "cls":  # of a class method
                continue
            kinds = _kinds(signature.parameters[parameter].annotation)
            place = f"{name}(): argument '{parameter}'"
            value = _objects(place, _plain_numbers(value, kinds), kinds)
            bound.arguments[parameter] = value
            _refuse(name, parameter, value, kinds)
        try:
            return inner(*bound.args, **bound.kwargs)
        except TypeCheckError as error:
            raise ShapeError(_short(name, str(error))) from None

    return cast(F, call)


def refuses(function: F) -> F:
    """Marks a function that refuses wrong types itself, with advice: they are let through to it
    where the whole package is checked."""
    function.__no_type_check__ = True  # type: ignore[attr-defined]
    return function


def object_of(name: str, value: Any) -> Any:
    """`Melbo()` where `Melbo` was given: a class of objects that are called, with its defaults.
    Anything but a class is left as it is.

    Raises:
        ShapeError: it is another class, or one that does not do without arguments.
    """
    if not isinstance(value, type):
        return value
    said = f"{name} is the class {value.__name__}; expected an object: {value.__name__}(...)"
    # A model of random weights is not what anybody meant.
    if issubclass(value, nn.Module) or not any("__call__" in vars(k) for k in value.__mro__):
        raise ShapeError(f"{said}.")
    try:
        return value()
    except TypeError as error:
        raise ShapeError(f"{said} ({error}).") from error


def _unmoved(function: F) -> F:
    """Beartype's check of a function, after which Python's random numbers go on as before."""
    check = beartype(function)

    @functools.wraps(function)
    @refuses  # so that axes keep their names across it
    def quietly(*args: Any, **kwargs: Any) -> Any:
        with draws_kept():
            return check(*args, **kwargs)

    return cast(F, quietly)


def _objects(place: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """The value, or the items of a list, with objects where classes were given and not wanted."""
    if any(get_origin(kind) is type for kind in kinds):
        return value
    if isinstance(value, (list, tuple)) and _items(kinds) is not None:
        items = [object_of(f"{place}[{i}]", item) for i, item in enumerate(value)]
        changed = any(a is not b for a, b in zip(items, value, strict=True))
        return items if changed else value
    return object_of(place, value)


def _refuse(name: str, parameter: str, value: Any, kinds: tuple[Any, ...]) -> None:
    if isinstance(value, bool) and int in kinds and bool not in kinds:
        raise ShapeError(f"{name}(): argument '{parameter}' is {value}; expected a number.")
    if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
        raise SettingError(f"{name}(): {parameter}={value}: expected a number of 62 bits at most.")
    if _is_one_item(value, kinds):
        said = repr(value)[:200]
        raise ShapeError(f"{name}(): argument '{parameter}' is {said}; expected a list: [{said}].")
    left_out = value is None and NoneType in kinds
    for kind in kinds:
        if hasattr(kind, "why_not") and not left_out and not isinstance(value, kind):
            kind.why_not(value)
    wanted = _items(kinds)
    if wanted is None or not isinstance(value, (list, tuple)):
        return
    for i, item in enumerate(value):
        place = f"{name}(): argument '{parameter}'[{i}]"
        if not _holds(item, wanted):
            raise ShapeError(f"{place} is {repr(item)[:200]}; expected {_plain(str(wanted))}")


def _is_one_item(value: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether that is a text or a number where a list of them is wanted."""
    own = type(value)
    return own in (str, int, float) and own in _kinds(_items(kinds)) and own not in kinds


def _holds(item: object, wanted: Any) -> bool:
    with draws_kept():
        return bool(is_bearable(item, wanted))


def _plain_numbers(value: Any, kinds: tuple[Any, ...]) -> Any:
    """A number of numpy's or torch's as Python has it, alone and in lists of numbers."""
    number = isinstance(value, (np.generic, np.ndarray, Tensor))
    if number and value.ndim == 0 and set(_NUMBERS) & set(kinds):
        return value.item()
    items = _kinds(_items(kinds))
    if not set(_NUMBERS) & set(items):
        return value
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 1:
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)([_plain_numbers(item, items) for item in value])
    return value


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _items(kinds: tuple[Any, ...]) -> Any:
    """What a sequence among these holds; `None` if there is none, or if it may hold anything."""
    held = [get_args(kind)[0] for kind in kinds if get_origin(kind) is Sequence and get_args(kind)]
    return held[0] if held and held[0] is not Any else None


def _misnamed(name: str, signature: inspect.Signature, given: dict[str, Any], message: str) -> str:
    """What was given too much, by the wrong name or not at all, and how it is given."""
    parameters = signature.parameters.values()
    own = [p for p in parameters if p.name not in ("self", "cls") and p.annotation is not Scope]
    first = [p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = [key for key in given if key not in signature.parameters]
    near = difflib.get_close_matches(unknown[0], [*first, *named], n=1) if unknown else []
    hint = f" Did you mean {near[0]}=?" if near else ""
    only = f", and by name only {', '.join(f'{n}=' for n in named)}" if named else ""
    return f"{name}(): {message}.{hint} Expected {', '.join(first)} by position{only}."


def _short(name: str, message: str) -> str:
    """Keep of jaxtyping's page-long message: which argument, what came, what was expected."""
    parameter = re.search(r"typechecking parameter '(\w+)'", message)
    actual = re.search(r"Actual value: (.+)", message)
    expected = re.search(r"Expected type: (.+)", message)
    what = f"argument '{parameter.group(1)}'" if parameter else "an argument or the result"
    got = f" is {actual.group(1)[:200]}" if actual else " has the wrong type"
    want = f"; expected {_plain(expected.group(1))}" if expected else f": {message[:400]}"
    return f"{name}(): {what}{got}{want}"


def _plain(expected: str) -> str:
    return re.sub(r"<class '([^']+)'>\.?|\btyping\.", lambda m: m.group(1) or "", expected)[:300]
