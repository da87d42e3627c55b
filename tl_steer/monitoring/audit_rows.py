"""Rows of an audit log: what is written, and what is believed when it is read.

NaN, which SQLite has no place for, is kept as NULL and comes back as `None`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tl_steer.errors import AuditError

_LATEST = 2.5e11  # seconds: the year 9892, behind which no date can be written
_WHOLE = 2**63


@dataclass(frozen=True)
class RequestRow:
    """One scored request. Times are seconds since 1970; `prompt` is a hash; `tokens` were scored,
    `unscored` came after the horizon."""

    id: str
    at: float
    monitor: str
    bank: str
    prompt: str
    tokens: int
    unscored: int
    statistic: float
    p_value: float
    alerted: bool


@dataclass(frozen=True)
class AlertRow:
    """One alert; `tokens`, `alternatives` and `trace` (the statistic at every scored token) are
    lists that JSON can hold. An alert is written when it is raised, and once more, `revised`, where
    the whole request told more."""

    request: str
    at: float
    monitor: str
    bank: str
    kind: str
    alpha: float
    p_value: float
    statistic: float
    threshold: float
    vector: int | None
    label: str
    rank: int
    named: int
    vector_p: float | None
    explained: float | None
    revised: bool
    tokens: Sequence[Any]
    alternatives: Sequence[Any]
    trace: Sequence[float | None]


def to_cells(row: RequestRow | AlertRow) -> dict[str, Any]:
    """As SQLite keeps it.

    Raises:
        AuditError: something that could not be read back.
    """
    cells = {name: _cell(value) for name, value in asdict(row).items()}
    from_cells(cells | {"id": cells.get("id", 0)})
    return cells


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        try:
            return json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise AuditError(f"A list of an audit log is no JSON: {error}.") from error
    if isinstance(value, str):  # a half of a surrogate pair has no bytes
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and math.isnan(value) else value


def from_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is read, with its lists; nothing in it surprises who counts, draws or exports.

    Raises:
        AuditError: a cell holds something else than this program writes, with its place.
    """
    checks = _ALERT if "kind" in row else _REQUEST
    found = dict(row)
    for name, (expected, fits) in checks.items():
        if expected == _LIST:
            found[name] = _list(row[name])
        if not fits(found[name]):
            table = "alert" if checks is _ALERT else "request"
            raise AuditError(
                f"{table} {_short(row['id'])} is damaged: {name} is {_short(row[name])}, "
                f"expected {expected}."
            )
    return found


def _list(text: object) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _short(value: object) -> str:
    if isinstance(value, int) and abs(value) >= _WHOLE:  # too many digits to print, perhaps
        return "a number of more than 64 bits"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_text(value: object) -> bool:
    # Bytes that are no text come as surrogates from `audit_file.reading`.
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and -_WHOLE <= value < _WHOLE


def _is_count(value: object) -> bool:
    return _is_whole(value) and int(value) >= 0  # type: ignore[call-overload]


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (_is_whole(value) and not isinstance(value, bool))


def _is_maybe(value: object) -> bool:
    return value is None or _is_number(value)


def _is_time(value: object) -> bool:
    return _is_number(value) and 0 <= value <= _LATEST  # type: ignore[operator]


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and all(_is_whole(one.get(name)) for name in ("position", "id"))
        and _is_text(one.get("text", ""))
        and _is_maybe(one.get("statistic"))
        for one in value
    )


def _are_records(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_maybe, value))


_LIST = "a list as this program writes it"
_TEXT, _NUMBER, _MAYBE = ("text", _is_text), ("a number", _is_number), ("a number", _is_maybe)
_TIME, _COUNT = ("seconds since 1970", _is_time), ("a count", _is_count)
_FLAG = ("0 or 1", lambda value: value in (0, 1))
_REQUEST: dict[str, Any] = {
    "id": _TEXT,
    "at": _TIME,
    "monitor": _TEXT,
    "bank": _TEXT,
    "prompt": _TEXT,
    "tokens": _COUNT,
    "unscored": _COUNT,
    "statistic": _MAYBE,
    "p_value": _MAYBE,
    "alerted": _FLAG,
}
_ALERT: dict[str, Any] = {
    "id": ("a count", _is_whole),
    "request": _TEXT,
    "at": _TIME,
    "monitor": _TEXT,
    "bank": _TEXT,
    "kind": _TEXT,
    "alpha": _NUMBER,
    "p_value": _MAYBE,
    "statistic": _MAYBE,
    "threshold": _MAYBE,
    "vector": ("a whole number", lambda value: value is None or _is_whole(value)),
    "label": _TEXT,
    "rank": _COUNT,
    "named": _COUNT,
    "vector_p": _MAYBE,
    "explained": _MAYBE,
    "revised": _FLAG,
    "tokens": (_LIST, _are_tokens),
    "alternatives": (_LIST, _are_records),
    "trace": (_LIST, _are_numbers),
}
COLUMNS = {"requests": tuple(_REQUEST), "alerts": tuple(_ALERT)}
