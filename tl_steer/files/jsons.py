"""JSON that files hold: what is written comes back the same, and what comes back is bounded.

One set of limits, checked when writing and when reading, so that nothing is saved that cannot be
loaded.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_DEEP = 64
# Brackets and commas, about as many as there are values; a value takes some hundred bytes.
MOST_VALUES = 4_000_000
_LARGEST = 1 << 64  # a seed
_LONG = re.compile(r"[0-9]{21}")


def to_text(value: Any) -> str:
    """As JSON, in ASCII; a lone surrogate comes back as itself.

    Raises:
        ValueError: not JSON, or beyond the limits.
    """
    try:
        refuse_odd(value)
        text = json.dumps(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    _refuse_many(text)
    return text


def from_text(text: str) -> Any:
    """Undo `to_text`.

    Raises:
        ValueError: not JSON, a key given twice, or beyond the limits.
    """
    _refuse_many(text)
    try:
        # Only where there is a long one, since each call costs more than reading a number does.
        own = _int if _LONG.search(text) else None
        value = json.loads(text, object_pairs_hook=_once, parse_int=own)
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_DEEP} deep") from None
    refuse_odd(value)
    return value


def plain_json(value: Any) -> Any:
    """Tuples as lists and keys as texts, as they come back from a file."""
    if isinstance(value, (tuple, list)):
        return [plain_json(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain_json(v) for k, v in value.items()}
    return value


def refuse_odd(value: Any) -> None:
    """Raise for what JSON cannot hold as it is, for depth, and for numbers that fit nowhere.

    Raises:
        ValueError: saying which.
    """
    layer, depth = [value], 0
    while layer:
        if depth > MOST_DEEP:
            raise ValueError(f"it is nested more than {MOST_DEEP} deep")
        layer, depth = [inner for one in layer for inner in _inside(one)], depth + 1


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"its keys must be texts, not {[*value][:3]}")
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from () if _is_plain_row(value) else value
    elif isinstance(value, int):
        if not -_LARGEST < value < _LARGEST:
            raise ValueError("it holds a whole number of more than 64 bits")
    elif not (value is None or isinstance(value, (str, float))):
        raise ValueError(f"it holds a {type(value).__name__}, which is no JSON")


def _is_plain_row(row: Sequence[Any]) -> bool:
    """Whether a list holds nothing but texts, or nothing but numbers that fit: it may be a million
    long, and is not gone through item by item."""
    kinds = set(map(type, row))
    return kinds == {str} or (kinds == {int} and min(row) > -_LARGEST and max(row) < _LARGEST)


def _refuse_many(text: str) -> None:
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES} values")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it gives a key twice")
    return found


def _int(text: str) -> int:
    # Before Python's own limit on digits, which other processes may have raised.
    if len(text) > 21:
        raise ValueError("it holds a whole number of more than 64 bits")
    return int(text)


def whole(value: Any, *, least: int = 0) -> int:
    """A whole number, and neither a truth value nor a float that happens to be whole.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"expected a whole number of at least {least}, not {_named(value)}")
    return value


def text(value: Any) -> str:
    """A text.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not str:
        raise ValueError(f"expected a text, not {_named(value)}")
    return value


def real(value: Any) -> float:
    """A number that is finite.

    Raises:
        ValueError: it is something else.
    """
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, not {_named(value)}")
    return float(value)


def fields(value: Any, names: set[str]) -> Mapping[str, Any]:
    """A mapping with these keys and no others.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, Mapping) or set(value) != names:
        found = sorted(value) if isinstance(value, Mapping) else _named(value)
        raise ValueError(f"expected {', '.join(sorted(names))}; got {str(found)[:200]}")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of texts, not {_named(value)}")
    if set(map(type, value)) <= {str}:
        return tuple(value)
    return tuple(map(text, value))


def _named(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
