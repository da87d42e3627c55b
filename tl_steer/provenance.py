"""What a bank says of how it came to be, in words and numbers that do not change between runs."""

import dataclasses
import functools
import hashlib
from importlib.metadata import version
from typing import Any

from tl_steer.bank import Provenance
from tl_steer.model import fingerprint, model_name
from tl_steer.positions import Positions
from tl_steer.segment import Segment
from tl_steer.tokens import TokenBatch


def provenance(
    segment: Segment, method: Any, divergence: Any, measured: Positions, seed: int
) -> Provenance:
    """How a run on this segment is described. Runs the model once, for its fingerprint."""
    return Provenance(
        model=model_name(segment.model),
        fingerprint=fingerprint(segment.model),
        method=_name(method),
        settings=_settings(method),
        divergence=describe(divergence),
        measured=measured,
        seed=seed,
        prompts=prompts_hash(segment.tokens),
        versions={p: version(p) for p in ("tl_steer", "transformer_lens", "torch")},
    )


def prompts_hash(tokens: TokenBatch) -> str:
    """Identifies prompts without keeping them."""
    rows = str([row.tolist() for row in tokens.rows()])
    return hashlib.sha256(rows.encode()).hexdigest()[:16]


def describe(value: Any) -> str:
    """A dataclass with its settings; a function, or an object without a `repr` of its own, by name:
    the default `repr` holds a memory address."""
    if _is_record(value):
        fields = (f"{f.name}={_text(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(fields)})"
    name = getattr(value, "__qualname__", None)
    if name is None and " object at 0x" in repr(value):
        name = type(value).__qualname__
    return str(name or repr(value))


def _text(value: Any) -> str:
    return repr(value) if _json(value) == value else str(_json(value))


def _settings(method: Any) -> dict[str, Any]:
    """A method's settings as JSON has them, so that they compare equal after a round trip."""
    partial = isinstance(method, functools.partial)
    own = {f.name: getattr(method, f.name) for f in _fields(method)}
    return {k: _json(v) for k, v in (method.keywords if partial else own).items()}


def _json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    return describe(value)


def _name(method: Any) -> str:
    plain = method.func if isinstance(method, functools.partial) else method
    return str(getattr(plain, "__name__", type(plain).__name__)).lower()


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Any) -> tuple[Any, ...]:
    return dataclasses.fields(value) if _is_record(value) else ()
