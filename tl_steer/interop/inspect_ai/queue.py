"""Requests that come one by one and are answered together.

Whoever is at the front takes all that wait and ask alike, runs them in a thread, and leaves the
others their answers. While a batch runs, the next one gathers.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from tl_steer.interop.inspect_ai.answers import Answer, Sampling

# Seconds in which nobody must have come before the first batch starts.
_PAUSE = 0.02
_MOST = 64
Run: TypeAlias = Callable[[Sequence[Any], Sampling], Sequence[Answer | Exception]]


@dataclass(eq=False)
class _Ticket:
    prompt: Any
    how: Sampling
    answer: Answer | None = None
    error: Exception | None = None


class Queue:
    """Who waits for one model.

    Args:
        run: answers prompts that are asked alike, or says what is wrong with one; called in a
            thread, one call at a time.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: list[_Ticket] = []
        self._lock = anyio.Lock()

    async def ask(self, prompt: Any, how: Sampling) -> Answer:
        """The answer to one prompt.

        Raises:
            What `run` says of this prompt; whatever it raises, for all in its batch.
        """
        own = _Ticket(prompt, how)
        self._waiting.append(own)
        try:
            await self._gather()
            async with self._lock:
                if own in self._waiting:
                    await anyio.to_thread.run_sync(self._answer, self._batch(own))
        finally:
            with contextlib.suppress(ValueError):  # it was taken
                self._waiting.remove(own)
        if own.error is not None:
            raise own.error
        assert own.answer is not None
        return own.answer

    async def _gather(self) -> None:
        seen = 0
        while seen != len(self._waiting):
            seen = len(self._waiting)
            await anyio.sleep(_PAUSE)

    def _batch(self, first: _Ticket) -> list[_Ticket]:
        """What runs with `first`. A draw by seed depends on its batch, and so runs alone."""
        alike = [first, *(t for t in self._waiting if t is not first and t.how == first.how)]
        alone = first.how.temperature is not None and first.how.seed is not None
        batch = alike[: 1 if alone else _MOST]
        self._waiting = [t for t in self._waiting if t not in batch]
        return batch

    def _answer(self, batch: list[_Ticket]) -> None:
        # Kept on tickets, as whoever runs the batch may have been cancelled when it is done.
        try:
            found = self._run([ticket.prompt for ticket in batch], batch[0].how)
        except Exception as error:
            for ticket in batch:
                ticket.error = error
            return
        for ticket, answer in zip(batch, found, strict=True):
            if isinstance(answer, Exception):
                ticket.error = answer
            else:
                ticket.answer = answer
