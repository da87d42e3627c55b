"""Whether code that is not run calls what there is: names, attributes and keywords, by `ast`."""

import ast
import builtins
import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any


def bound(tree: ast.AST) -> set[str]:
    """Every name that code gives a value to, parameters and imports included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


def imported(tree: ast.AST) -> dict[str, Any]:
    """What the imports of code stand for, as far as it is installed."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                with suppress(ImportError):
                    whole = importlib.import_module(each.name)
                    short = importlib.import_module(each.name.partition(".")[0])
                    found |= {each.asname: whole} if each.asname else {short.__name__: short}
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                with suppress(ImportError):
                    room = importlib.import_module(str(node.module))
                    found[each.asname or each.name] = getattr(room, each.name)
    return found


def wrong_calls(source: str, known: Mapping[str, Any]) -> list[str]:
    """What would fail at once if a piece of code ran.

    Args:
        known: what its names stand for; `None` for those that have a value nobody knows here.
    """
    tree = ast.parse(source)
    names = {*known, *bound(tree), *dir(builtins)}
    values = {name: value for name, value in known.items() if name not in bound(tree)}
    return [
        *(
            f"{node.id} is not defined"
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and node.id not in names
        ),
        *_missing(tree, values),
        *_misfits(tree, values),
    ]


def _missing(tree: ast.AST, values: Mapping[str, Any]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of = _value(node.value, values)
            if of is not None and not hasattr(of, node.attr):
                yield f"{ast.unparse(node)} does not exist"


def _misfits(tree: ast.AST, values: Mapping[str, Any]) -> Iterator[str]:
    for node in ast.walk(tree):
        called = _value(node.func, values) if isinstance(node, ast.Call) else None
        if not isinstance(node, ast.Call) or not callable(called):
            continue
        starred = any(isinstance(each, ast.Starred) for each in node.args)
        if starred or any(each.arg is None for each in node.keywords):
            continue
        given = {each.arg: None for each in node.keywords}
        try:
            inspect.signature(called).bind(*node.args, **given)
        except TypeError as error:
            yield f"{ast.unparse(node.func)}(): {error}"


def _value(node: ast.AST, values: Mapping[str, Any]) -> Any:
    """What a dotted name stands for; None where nobody can tell without running the code."""
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, values), node.attr, None)
    return None
