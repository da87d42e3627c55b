"""Dealing: which worker gets which item, and what becomes of those whose worker dies."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tl_steer.errors import WorkerError
from tl_steer.files.text import said
from tl_steer.models.engine import Outcome

# Items that are begun before those in front of them are done, for each worker.
_AHEAD = 4


@dataclass(frozen=True)
class _Job:
    number: int
    item: Any
    tried: int = 1


def _deaths(known: Any) -> tuple[type[Exception], ...]:
    """What Ray raises for a worker that is gone."""
    gone = (known.RayActorError, known.WorkerCrashedError, known.NodeDiedError)
    return (*gone, known.OutOfMemoryError)


class Dealer:
    """Deals items to workers, one at a time.

    Args:
        start: makes a worker, an actor with `begin()` and `do(item)`.
        n: how many.
        tries: how often an item is begun at most, and a worker started in vain.
    """

    def __init__(self, ray: Any, start: Callable[[], Any], n: int, tries: int) -> None:
        self.ray, self.start, self.n, self.tries = ray, start, n, tries
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, _Job | None]] = {}  # no job: it is starting
        self.again: deque[_Job] = deque()
        self.furthest = -1
        self.in_vain = 0

    def outcomes(
        self, items: Iterable[Any], *, ordered: bool
    ) -> Generator[Outcome[Any, Any], None, None]:
        """An outcome for every item.

        Raises:
            WorkerError: workers die while they start, again and again.
        """
        held: dict[int, Outcome[Any, Any]] = {}
        given = 0
        try:
            source = enumerate(items)
            for _ in range(self.n):
                self._begin()
            while self._deal(source, given + _AHEAD * self.n if ordered else None):
                for found in self._next():
                    held[found.number] = found
                while held and (not ordered or given in held):
                    yield held.pop(given if ordered else next(iter(held)))
                    given += 1
        finally:
            for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
                self.ray.kill(worker)

    def _begin(self) -> None:
        worker = self.start()
        self.busy[worker.begin.remote()] = (worker, None)

    def _deal(self, source: Iterator[tuple[int, Any]], most: int | None) -> bool:
        """Give idle workers something to do; whether there is anything to wait for."""
        while self.idle:
            job = self._job(source, most)
            if job is None:
                break
            worker = self.idle.pop()
            self.busy[worker.do.remote(job.item)] = (worker, job)
        if any(job is not None for _, job in self.busy.values()):
            return True
        # Only starting ones are left: wait for them if there is work, and not for their own sake.
        if not self.idle and not self.again:
            job = self._job(source, most)
            self.again.extend([] if job is None else [job])
        return bool(self.again)

    def _job(self, source: Iterator[tuple[int, Any]], most: int | None) -> _Job | None:
        if self.again:
            return self.again.popleft()
        if most is not None and self.furthest >= most - 1:
            return None
        found = next(source, None)
        if found is None:
            return None
        self.furthest = found[0]
        return _Job(*found)

    def _next(self) -> Iterator[Outcome[Any, Any]]:
        """Whatever ends first."""
        (ref,), _ = self.ray.wait(list(self.busy), num_returns=1)
        worker, job = self.busy.pop(ref)
        try:
            found = self.ray.get(ref)
        except _deaths(self.ray.exceptions) as error:
            yield from self._died(job, error)
            return
        except self.ray.exceptions.RayError as error:
            found = (None, WorkerError(f"A result could not be sent: {said(error, most=300)}"))
        if job is not None:
            self.idle.append(worker)
            yield Outcome(job.number, job.item, *found)
        elif found is not None:
            raise found
        else:
            self.in_vain = 0
            self.idle.append(worker)

    def _died(self, job: _Job | None, error: Exception) -> Iterator[Outcome[Any, Any]]:
        if job is None:
            self.in_vain += 1
            if self.in_vain >= self.tries:
                raise WorkerError(
                    f"{self.in_vain} workers died while they loaded the model; is there memory for "
                    f"{self.n} at a time? {said(error, most=300)}"
                ) from error
        elif job.tried < self.tries:
            self.again.append(replace(job, tried=job.tried + 1))
        else:
            lost = WorkerError(f"{job.tried} workers died while they were at it.")
            yield Outcome(job.number, job.item, error=lost)
        self._begin()
