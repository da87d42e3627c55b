"""The one thread that runs the model, and what waits for it.

Jobs run one after the other, in the order in which they came. Each can be stopped at any time: one
that waits never begins, and one that runs ends in front of the model's next block.
"""

import itertools
import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from tl_steer.errors import SteerError
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.model import HookedModel
from tl_steer.models.state import frozen, listen
from tl_steer.monitoring.alert import Alert
from tl_steer.monitoring.session import Watch

# Jobs that may wait: nobody looks at as many texts at once.
MOST_WAITING = 8


class Stopped(Exception):
    """Raised inside of the model, where a job was stopped."""


class Busy(Exception):
    """Too many jobs wait, or the worker has ended."""


@dataclass(eq=False)
class Job:
    """Work on the model, and whom to tell of it.

    Attributes:
        work: called with the job, in the worker's thread.
        tell: takes events, and `None` behind the last; called in that thread, or in that of who
            stops a job.
    """

    number: int
    work: Callable[["Job"], None]
    tell: Callable[[dict[str, Any] | None], None]
    stopped: threading.Event = field(default_factory=threading.Event)
    heard: Callable[[Alert], None] | None = None

    def refuse_stopped(self) -> None:
        if self.stopped.is_set():
            raise Stopped


class Worker:
    """Runs jobs on a model that it holds frozen, under a monitor's eyes if there is one.

    Args:
        watching: opens the monitor's watch in the worker's thread, with what takes its alerts.
    """

    def __init__(self, model: HookedModel, watching: Any = None) -> None:
        self._model, self._watching = model, watching
        # Simple ones, whose locks Ctrl-C cannot leave held.
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._known: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closed = False
        self._running: Job | None = None
        self._begun: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tl-steer-worker", daemon=True)

    def start(self) -> None:
        """Take the model; on return the worker waits for jobs.

        Raises:
            SteerError: whatever `watching` raises.
        """
        self._thread.start()
        failure = self._begun.get()
        if failure is not None:
            raise failure

    def submit(
        self,
        work: Callable[[Job], None],
        tell: Callable[[dict[str, Any] | None], None],
    ) -> Job:
        """Queue a job, which is told first how many are in front of it.

        Raises:
            Busy: as many as may wait do, or the worker has been closed.
        """
        with self._lock:
            ahead = len(self._known)
            if self._closed or ahead > MOST_WAITING:
                raise Busy
            job = Job(next(self._numbers), work, tell)
            self._known[job.number] = job
            tell({"job": job.number, "ahead": ahead})
            self._jobs.put(job)
        return job

    def stop(self, number: int) -> bool:
        """Stop a job; false where there is none of that number any more."""
        with self._lock:
            job = self._known.get(number)
        if job is not None:
            job.stopped.set()
        return job is not None

    def close(self) -> None:
        """Stop all jobs, put the model back as it was, and end the thread. May be called again."""
        with self._lock:
            self._closed = True
            known = list(self._known.values())
        for job in known:
            job.stopped.set()
        self._jobs.put(None)
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                watch = self._open(stack)
                self._begun.put(None)
                while (job := self._jobs.get()) is not None:
                    self._do(job, watch)
        except BaseException as error:
            self._begun.put(error)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Nobody waits for a worker that is gone, whatever it died of."""
        with self._lock:
            self._closed = True
            left = list(self._known.values())
        for job in left:
            job.tell({"stopped": True})
            job.tell(None)

    def _open(self, stack: ExitStack) -> Watch | None:
        stack.enter_context(frozen(self._model))
        stack.enter_context(_before_blocks(self._model, self._refuse_stopped))
        if self._watching is None:
            return None
        watch: Watch = stack.enter_context(self._watching(self._hear))
        return watch

    def _do(self, job: Job, watch: Watch | None) -> None:
        self._running = job
        try:
            job.tell(_outcome(job))
        finally:
            self._running = None
            with suppress(SteerError):  # what the log could not take was said when it was written
                if watch is not None:
                    watch.flush()
            with self._lock:
                del self._known[job.number]
            job.tell(None)

    def _hear(self, alert: Alert) -> None:
        job = self._running
        if job is not None and job.heard is not None:
            job.heard(alert)

    def _refuse_stopped(self) -> None:
        if self._running is not None:
            self._running.refuse_stopped()


def _outcome(job: Job) -> dict[str, Any]:
    """What is said last of a job."""
    try:
        job.refuse_stopped()
        job.work(job)
    except Stopped:
        return {"stopped": True}
    except SteerError as error:
        return {"error": str(error)}
    except Exception as error:  # memory that runs out, say; the worker goes on
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"done": True}


@scoped
def _before_blocks(scope: Scope, model: HookedModel, check: Callable[[], None]) -> None:
    for block in model.blocks:
        listen(scope, block, lambda *_: check(), before=True)
