"""Run-time checks of the types and tensor shapes of public calls.

Public functions carry `@checked`: jaxtyping and beartype look at the arguments on every call, and a
wrong shape becomes one short `ShapeError` instead of a stack from inside a matrix product. In the
tests the whole package is checked instead (`--jaxtyping-packages=tl_steer,beartype.beartype`).
What such a call changes in a model is put back, whatever interrupts it (`files/undo.py`).
"""

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from tl_steer.errors import ShapeError
from tl_steer.files.undo import whole

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Check argument types and shapes of `function`; raise `ShapeError` with the offending one."""
    inner = jaxtyped(typechecker=beartype)(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return inner(*args, **kwargs)
        except TypeCheckError as error:
            raise ShapeError(_short(function.__name__, str(error))) from None

    return cast(F, whole(call))


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
