"""What a function or an object is, in words and numbers that are the same in every run.

Of a dataclass, its class and fields; of a function, its name and all that can be said of its
settings: what `functools.partial` fixed, defaults, plain values that it closes over. A function
that nobody finds again by its name (a lambda, one made inside another, one typed into a notebook)
also has a `code`: a hash of what it does, of its constants and of what it closes over. It tells
two functions apart under one version of Python; another version may compile the same text to
other instructions. What may change while it runs is no setting: variables that it assigns
(`nonlocal`), and what is in the lists, dicts and sets that it closes over (tuples count).
"""

import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, type(None))
_HASH = 8  # hexadecimal digits
_MOST_DEEP = 16


def describe(value: Any) -> str:
    """A dataclass with the settings that its `repr` shows, if that is the one it was given; a
    function by its name and settings; an object without a `repr` of its own by its class: the
    default `repr` holds a memory address."""
    if _is_record(value) and value.__dataclass_params__.repr:
        return f"{type(value).__name__}({_listed(value)})"
    if isinstance(value, (functools.partial, FunctionType, MethodType)):
        name, settings = getattr(plain_function(value), "__qualname__", ""), _listed(value)
        name = name or describe(plain_function(value))
        return f"{name}({settings})" if settings else name
    name = getattr(value, "__qualname__", None)
    if name is None and " object at 0x" in repr(value):
        name = type(value).__qualname__
    return str(name or repr(value))


def name_of(value: Any) -> str:
    """A short name: that of a function or of an object's class. A lambda is named by its code."""
    plain = plain_function(value)
    name = str(getattr(plain, "__name__", type(plain).__name__))
    return f"lambda_{code_of(plain)}" if name == "<lambda>" else name


def settings_of(value: Any) -> dict[str, Any]:
    """Settings as JSON has them, so that they compare equal after a round trip."""
    return {name: _json(setting) for name, setting in _settings(value).items()}


def _settings(value: Any) -> dict[str, Any]:
    if _is_record(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, functools.partial):
        return _settings(value.func) | _fixed(value)
    if isinstance(value, MethodType):
        return _settings(value.__self__) | _settings(value.__func__)
    if not isinstance(value, FunctionType):
        return {}
    closed = {n: v for n, v in _closed(value).items() if isinstance(v, _PLAIN)}
    code = {} if _is_found_again(value) else {"code": code_of(value)}
    return _defaults(value) | closed | code


def code_of(function: FunctionType) -> str:
    """A hash of what a function does, its defaults, and what it closes over."""
    said = repr(_marked(function, 0))
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]


def _marked(value: Any, depth: int) -> Any:
    """Nested texts that differ where values do; a cycle ends at a depth."""
    if depth > _MOST_DEEP:
        return type(value).__qualname__
    inner = functools.partial(_marked, depth=depth + 1)
    if isinstance(value, FunctionType):
        around = _closed(value) | _defaults(value)
        return inner(value.__code__), [(k, inner(v)) for k, v in sorted(around.items())]
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, [inner(v) for v in value.co_consts]
    if isinstance(value, (Tensor, np.ndarray)):
        return _of_numbers(value)
    if isinstance(value, tuple):
        return [inner(v) for v in value]
    if isinstance(value, frozenset):
        return "set", sorted(repr(inner(v)) for v in value)
    if isinstance(value, (list, set, dict)):
        return type(value).__name__
    return repr(value) if isinstance(value, (*_PLAIN, bytes, complex)) else describe(value)


def _of_numbers(values: Any) -> tuple[str, tuple[int, ...], str]:
    if isinstance(values, Tensor):
        plain = values.detach().cpu().contiguous().flatten()
        data = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    else:
        data = values.tobytes()
    return str(values.dtype), tuple(values.shape), hashlib.sha256(data).hexdigest()


def _closed(function: FunctionType) -> dict[str, Any]:
    """What a function closes over and does not assign; None where there is no value yet."""
    found, steps = {}, dis.get_instructions(function)
    assigned = {step.argval for step in steps if step.opname == "STORE_DEREF"}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name in assigned:
            continue
        try:
            found[name] = cell.cell_contents
        except ValueError:
            found[name] = None
    return found


def _defaults(function: FunctionType) -> dict[str, Any]:
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and (p.name, p.default) != ("resume", None)
    }


def _fixed(value: functools.partial[Any]) -> dict[str, Any]:
    """What a partial fixed, by the names that its function has for it."""
    try:
        names = list(inspect.signature(value.func).parameters)[: len(value.args)]
    except (TypeError, ValueError):  # some builtins do not say
        names = []
    names += [str(i) for i in range(len(names), len(value.args))]
    return dict(zip(names, value.args, strict=True)) | value.keywords


def plain_function(value: Any) -> Any:
    """What a partial is of; anything else itself."""
    return value.func if isinstance(value, functools.partial) else value


def _is_found_again(function: FunctionType) -> bool:
    """Whether its name leads to it in a module that can be imported."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    plain = inspect.unwrap(found) if callable(found) else found
    return function.__module__ != "__main__" and function in (found, plain)


def _listed(value: Any) -> str:
    return ", ".join(f"{name}={_text(setting)}" for name, setting in _settings(value).items())


def _text(value: Any) -> str:
    return repr(value) if _json(value) == value else str(_json(value))


def _json(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (tuple, list)):
        return [_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    return describe(value)


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
