"""Names of tokens shown one by one: two tokens never have the same, and none has an empty one.

Decoding an id alone loses what tells tokens apart. Decoders like Llama-2's take the first space
away, so that " the" and "the" are one; single bytes of a character are all replacement signs; ids
behind the tokenizer's end, as padded vocabularies have them, are nothing. Where decoding does not
give back the token's own piece, the name is made of the piece.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

_SPACE = "\u2581"  # SentencePiece's sign for a space
_BROKEN = "\ufffd"


def token_names(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The name of every id; without a tokenizer, the id."""
    unique = {token: _name(tokenizer, token) for token in dict.fromkeys(map(int, ids))}
    shared = Counter(unique.values())
    return tuple(
        f"{unique[int(token)]} [{int(token)}]" if shared[unique[int(token)]] > 1
        else unique[int(token)]
        for token in ids
    )  # fmt: skip


def _name(tokenizer: Any, token: int) -> str:
    if tokenizer is None:
        return str(token)
    text, piece = _decoded(tokenizer, token), _piece(tokenizer, token)
    if piece is None:  # a tokenizer that has no pieces, or not this one
        return text if text and _BROKEN not in text else f"<{token}>"
    spaced = piece.replace(_SPACE, " ")
    own = _from_bytes(piece)
    if text and _BROKEN not in text and text in (piece, spaced, own):
        return text
    if _SPACE in piece and spaced.lstrip(" ") == text.lstrip(" "):
        return spaced
    if own is not None and (_BROKEN in text or own.strip() == text.strip()):
        return own
    return piece or f"<{token}>"


def _decoded(tokenizer: Any, token: int) -> str:
    try:
        return str(tokenizer.decode([token]))
    except Exception:  # ids that it does not have: every tokenizer raises another
        return ""


def _piece(tokenizer: Any, token: int) -> str | None:
    find = getattr(tokenizer, "convert_ids_to_tokens", None)
    try:
        found = None if find is None else find(token)
    except Exception:
        return None
    if isinstance(found, bytes):
        return _readable(found)
    return found if isinstance(found, str) else None


def _from_bytes(piece: str) -> str | None:
    """A byte-level piece as text; bytes that are no text as <0xF0>."""
    if not piece or any(sign not in _BYTES for sign in piece):
        return None
    return _readable(bytes(_BYTES[sign] for sign in piece))


def _readable(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in raw)


def _byte_signs() -> dict[str, int]:
    """GPT-2's alphabet of bytes: printable ones stand for themselves, others for signs from 256."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_signs()
