"""What must not be kept or shown: keys that an answer repeats, passwords in descriptions."""

import base64
import html
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from tl_steer.files.describe import describe

# A shorter piece of a key is no use to anybody, and would be found by chance.
_PIECE = 8
_USER = re.compile(r"(?<=://)[^/\s'\"@]*@")
_NAMED = re.compile(
    r"(?i)(\b\w*(?:api_?key|secret|passw(?:or)?d|(?:access|auth)_?token|credential)\w*=)"
    r"('[^']*'|\"[^\"]*\")"
)
# Version 0.1.0 took a judge's key for the name of its variable. Other scorers' `key=` is a setting.
_KEY = re.compile(r"(?s)(\b_Asks\(.*\bkey=)'(?![A-Z][A-Z0-9_]*')[^']*'")


def described(scorer: Any) -> str:
    """`describe`, for a file that may be shared: settings that are named like a secret and the
    users of addresses are left out."""
    return without_secrets(describe(scorer))


def without_secrets(text: str) -> str:
    """A description without `user:password@` and without the values of `api_key=` and the like."""
    return _KEY.sub(r"\1'…'", _NAMED.sub(r"\1'…'", _USER.sub("…@", text)))


def without_key(text: str, key: str) -> str:
    """`text` from an endpoint that was sent `key`, for people.

    The key becomes "[key]". A text that still holds a piece of it (cut, escaped, in base64, in
    hexadecimal) is not shown at all.
    """
    if not key:
        return text
    shown = text.replace(key, "[key]")
    pieces = set(_pieces(key))
    if any(piece in form for form in _forms(shown) for piece in pieces):
        return "[a text that repeats the key]"
    return shown


def _pieces(key: str) -> Iterator[str]:
    raw = key.encode()
    # Where base64 begins depends on what stands before the key; the edges depend on it as well.
    coded = [base64.b64encode(b" " * i + raw).decode().rstrip("=")[i + 1 : -1] for i in range(3)]
    for form in (key, raw.hex(), *coded):
        bare = _bare(form)
        if bare:
            yield from (bare[i : i + _PIECE] for i in range(max(1, len(bare) - _PIECE + 1)))


def _forms(text: str) -> Iterator[str]:
    escaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    yield from map(_bare, (text, escaped, unquote(text), html.unescape(text)))


def _bare(text: str) -> str:
    """Small letters and digits alone: who breaks a key by hyphens still shows it."""
    return re.sub(r"[^0-9a-z]", "", text.lower())
