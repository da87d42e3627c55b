"""What metrics are called: the columns of a sweep."""

import hashlib
import inspect
import re
from collections.abc import Sequence

from tl_steer.errors import SettingError
from tl_steer.files.describe import describe, name_of, settings_of
from tl_steer.files.registry import named
from tl_steer.sweeps.asked import TYPES
from tl_steer.sweeps.metric import METRICS, OF_TEXT, SHARED, Metric
from tl_steer.sweeps.scorer import Scorer

_LONGEST = 64


def names_of(metrics: Sequence[str | Metric | Scorer]) -> tuple[str, ...]:
    """A name for each: its own, that of its class or function, and where two have the same of
    those, with the settings (`Margin_token_3`). A lambda is named by its code.

    Raises:
        SettingError: unknown, repeated or impossible names.
    """
    short = [_name(one) for one in metrics]
    names = [
        _with_settings(one, name) if short.count(name) > 1 else name
        for one, name in zip(metrics, short, strict=True)
    ]
    clash = sorted({n for n in names if names.count(n) > 1 or n in TYPES})
    if clash or not names:
        raise SettingError(
            f"Metrics need names of their own; {', '.join(clash)} cannot be used here."
            if clash
            else "metrics is empty; expected at least one, or None for the usual ones."
        )
    return tuple(names)


def _name(metric: str | Metric | Scorer) -> str:
    if isinstance(metric, str):
        named(dict.fromkeys((*METRICS, *OF_TEXT)), metric, what="metric")
        return metric
    name = str(getattr(metric, "name", None) or name_of(metric))
    if not name.isidentifier() or name == SHARED:
        raise SettingError(
            f"A metric is called {name!r}; expected a name that can be a column, and that no other "
            "metric has."
        )
    if not isinstance(metric, Scorer):
        _refuse_text_function(metric, name)
    return name


def _refuse_text_function(metric: Metric, name: str) -> None:
    """Before it fails in every cell."""
    try:
        called = inspect.signature(metric)
    except (TypeError, ValueError):  # some builtins do not say
        return
    if _takes(called, 1):
        return
    advice = (
        f"a function of a prompt and a text is given as Scorer('a_name', {name})"
        if _takes(called, 2)
        else "expected a function of one `Reading`"
    )
    raise SettingError(f"The metric {name}{called} cannot be called with a reading: {advice}.")


def _takes(called: inspect.Signature, n: int) -> bool:
    try:
        called.bind(*range(n))
    except TypeError:
        return False
    return True


def _with_settings(metric: str | Metric | Scorer, name: str) -> str:
    if isinstance(metric, (str, Scorer)):
        return name
    told = "_".join(f"{key}_{value}" for key, value in settings_of(metric).items())
    column = re.sub(r"\W+", "_", f"{name}_{told.replace('-', 'minus_')}").strip("_")
    if len(column) <= _LONGEST:
        return column
    return f"{name}_{hashlib.sha256(describe(metric).encode()).hexdigest()[:8]}"
