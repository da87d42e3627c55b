"""One thread's requests under a monitor, from the first prompt to the last token."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.running import NOTHING, Running


@dataclass
class Request:
    """One request under way.

    Attributes:
        row: its place in the batch.
        statistic: of the tokens that have been scored.
        category: known with it.
        unscorable: tokens that could not be scored.
        alert, warned: where its alert, and that it could not be scored, are among the session's.
    """

    row: int
    prompt: tuple[int, ...]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    ids: list[int] = field(default_factory=list)
    live: bool = True
    unscored: int = 0
    statistic: float = NOTHING
    category: int = 0
    unscorable: set[int] = field(default_factory=set)
    alert: int | None = None
    warned: int | None = None

    @property
    def reached(self) -> bool:
        """Whether any of it was scored, or was to be; else the model stopped before."""
        return self.statistic > NOTHING or bool(self.unscorable)


class Lane:
    """What one thread has under way.

    Args:
        running: scores it.
        chunk: tokens that are scored together.
        judge: called for each request when more of it has been scored.
        ended: called for each request when it has ended.
    """

    def __init__(
        self,
        monitor: Panel,
        running: Running,
        *,
        chunk: int,
        judge: Callable[[Request, "Lane"], None],
        ended: Callable[[Request, "Lane"], None],
    ) -> None:
        self.thread = threading.current_thread()
        self.running = running
        self._monitor, self._chunk, self._judge, self._ended = monitor, chunk, judge, ended
        self._batch: list[Request] = []
        self._step = 0

    def begin(self, ids: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> None:
        self.flush()
        prompts = [row[own] for row, own in zip(ids.cpu(), mask.cpu(), strict=True)]
        self._monitor.identity.refuse_other_template(prompts)
        self._batch = [
            Request(i, tuple(row.tolist()), live=bool(len(row))) for i, row in enumerate(prompts)
        ]
        for request in self._batch:
            request.ids += request.prompt[-1:]
        self._step = 0
        self.running.start(len(self._batch))

    def token(self, ids: Int[Tensor, " batch"]) -> None:
        if not self._batch:  # flushed, or refused, in the middle of an answer
            return
        self._step += 1
        inside = self._step <= self._monitor.horizon
        for request, token in zip(self._batch, ids.tolist(), strict=True):
            request.live = request.live and token not in self._monitor.identity.ends
            if request.live and inside:
                request.ids.append(token)
            request.unscored += request.live and not inside

    def activation(self, site: int, residual: Float[Tensor, "batch d"]) -> None:
        if self._step > self._monitor.horizon or not self._batch:
            return
        self.running.hear(site, residual, [request.live for request in self._batch])
        last = self._step == self._monitor.horizon
        if self.running.waiting >= (1 if last else self._chunk):
            self._score()

    def flush(self) -> None:
        """End the requests under way."""
        try:
            self._score()
        finally:
            batch, self._batch = self._batch, []
            for request in batch:
                if request.reached:
                    self._ended(request, self)
            self.running.start(0)

    def heard(self, request: Request) -> tuple[list[Tensor], list[bool]]:
        """What has been heard of a request, by site, and which of it can be scored."""
        rows = self.running.heard(request.row, len(request.ids))
        return rows, [step not in request.unscorable for step in range(rows[0].shape[1])]

    def _score(self) -> None:
        """What waits; every statistic first, as a judge may stop it all."""
        running = self.running
        if not running.waiting:
            return
        for i, (request, value) in enumerate(zip(self._batch, running.score(), strict=True)):
            request.statistic = max(request.statistic, value)
            request.category, request.unscorable = running.category[i], running.unscorable[i]
        for request in self._batch:
            self._judge(request, self)
