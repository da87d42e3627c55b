"""Data of a page as text: JSON, deflated, and every short text written once for the whole page.

A report of many vectors names the same tokens thousands of times. In a packed block a text of up
to 80 characters is `~` and its number in the page's table of words, in base 36; a longer one is
itself, unless it is `Shared`. `T.read` in the page undoes it.
"""

import base64
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from tl_steer.files.tables import plain

_SHORT = 80
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Shared(str):
    """A text of any length that other blocks hold too, so that a page has it once."""


class Words:
    """The texts of one page, by number."""

    def __init__(self) -> None:
        self._written: dict[str, str] = {}

    def table(self) -> str:
        """The block that the others need to be read: all texts in their order."""
        return deflated(json.dumps([plain(text) for text in self._written], separators=(",", ":")))

    def packed(self, value: Any) -> str:
        """A block: base64 of deflated JSON, without any text that another block holds."""
        return deflated(json.dumps(self._of(value), allow_nan=False, separators=(",", ":")))

    def _of(self, value: Any) -> Any:
        kind = type(value)
        if kind is Shared:
            return self._number(value)
        if kind is str:
            # A long text that begins as a number of a word does must not be taken for one.
            return self._number(value) if len(value) <= _SHORT or value[0] == "~" else plain(value)
        if kind is float:
            return finite(value)
        if kind is int or kind is bool or value is None:
            return value
        if isinstance(value, Mapping):
            return {plain(str(key)): self._of(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            kinds = set(map(type, value))
            if kinds == {float}:  # most lists; x - x is no number where x is not finite
                return [x if x - x == 0 else finite(x) for x in value]
            return list(value) if kinds == {int} else [self._of(item) for item in value]
        return value

    def _number(self, text: str) -> str:
        known = self._written.get(text)
        if known is None:
            known = self._written[text] = "~" + _base36(len(self._written))
        return known


def deflated(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 6)).decode("ascii")


def finite(value: float) -> float | str | None:
    """A number as JSON has it: NaN is null, infinity a word."""
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else ("inf" if value > 0 else "-inf")


def _base36(number: int) -> str:
    digits = _DIGITS[number % 36]
    while number := number // 36:
        digits = _DIGITS[number % 36] + digits
    return digits
