"""What happens to requests under a monitor, from the first prompt to the last token."""

import bisect
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.monitoring.alert import DRIFT, Alert, alert_for
from tl_steer.monitoring.audit import AuditLog, RequestRow
from tl_steer.monitoring.file import panel_digest
from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.running import NOTHING, Running
from tl_steer.monitoring.statistics.drift import Drift

OnAlert = Callable[[Alert], None]


@dataclass
class _Request:
    """One request under way."""

    prompt: tuple[int, ...]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    ids: list[int] = field(default_factory=list)
    live: bool = True
    unscored: int = 0
    statistic: float = NOTHING
    alert: int | None = None  # where among the session's alerts


class Watch:
    """A session of `watch`; it hears what the model does (`tl_steer.models.taps.Listener`).

    Attributes:
        alerts: in the order they were raised. When a request ends, its alert is brought up to date
            with all of its tokens.
        requests: how many were scored; `unscored`, how many had no answer to score.
        drift: the drift alarm, or `None`.
    """

    def __init__(
        self,
        monitor: Panel,
        *,
        alpha: float | int,
        audit: AuditLog | None = None,
        drift: float | int | None = None,
        tokenizer: object = None,
        on_alert: OnAlert | None = None,
        chunk: int = 8,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (frozen)
    ) -> None:
        self.alerts: list[Alert] = []
        self.requests = self.unscored = 0
        clean = monitor.calibration.statistic.tolist()
        self.drift = None if drift is None else Drift(clean, alpha=float(drift))
        self._monitor, self._alpha, self._audit = monitor, alpha, audit
        self._tokenizer, self._on_alert, self._chunk = tokenizer, on_alert, chunk
        self._limits = monitor.thresholds(alpha)
        self._sorted = [sorted(own.tolist()) for own in monitor.calibration.by_category]
        self._running = Running(monitor.reader, device=device)
        self._digests = (
            ("", "") if audit is None else (panel_digest(monitor), monitor.bank.digest())
        )
        self._batch: list[_Request] = []
        self._step = 0

    def begin(self, ids: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> None:
        self.flush()
        prompts = [row[own] for row, own in zip(ids.cpu(), mask.cpu(), strict=True)]
        self._monitor.identity.refuse_other_template(prompts)
        self._batch = [_Request(tuple(row.tolist())) for row in prompts]
        for request in self._batch:
            request.ids.append(request.prompt[-1])
        self._step = 0
        self._running.start(len(self._batch))

    def token(self, ids: Int[Tensor, " batch"]) -> None:
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
        self._running.hear(site, residual, [request.live for request in self._batch])
        last = self._step == self._monitor.horizon
        if self._running.waiting >= (1 if last else self._chunk):
            self._score()

    def flush(self) -> None:
        """End the requests under way: they are logged, and their alerts brought up to date."""
        try:
            self._score()
        finally:
            batch, self._batch = self._batch, []
            for i, request in enumerate(batch):
                if request.statistic == NOTHING:
                    continue  # the model stopped before it got there
                if len(request.ids) == 1 and not self._monitor.reader.ends:
                    self._say_unscored()
                    continue
                self.requests += 1
                if request.alert is not None:
                    self._revise(i, request)
                self._log(i, request)
                self._drift(request)

    def _say_unscored(self) -> None:
        self.unscored += 1
        if self.unscored == 1:
            warnings.warn(
                "A request had no generated token that the model read back in, and this monitor "
                "scores answers alone: it was not scored. Monitors fitted with ends=1 score "
                "prompts, too. (Watch.unscored counts such requests; this is said once.)",
                stacklevel=2,
            )

    def _score(self) -> None:
        """What waits; every statistic first, as `on_alert` may stop it all."""
        if not self._running.waiting:
            return
        for request, value in zip(self._batch, self._running.score(), strict=True):
            request.statistic = max(request.statistic, value)
        for i, request in enumerate(self._batch):
            limit = self._limits[self._running.category[i]]
            if request.alert is None and request.statistic > limit:
                self._raise(i, request)

    def _alert(self, i: int, request: _Request) -> Alert:
        names = [site.name for site in self._monitor.sites]
        rows = self._running.heard(i, len(request.ids))
        scores = self._monitor.score(dict(zip(names, rows, strict=True)))
        return alert_for(
            self._monitor,
            scores,
            0,
            request=request.id,
            alpha=self._alpha,
            ids=request.ids,
            tokenizer=self._tokenizer,
        )

    def _raise(self, i: int, request: _Request) -> None:
        alert = self._alert(i, request)
        request.alert = len(self.alerts)
        self.alerts.append(alert)
        if self._audit is not None:
            self._audit.alert(alert.row(*self._digests))
        if self._on_alert is not None:
            self._on_alert(alert)

    def _revise(self, i: int, request: _Request) -> None:
        assert request.alert is not None
        alert = self._alert(i, request)
        if self._audit is not None and alert != self.alerts[request.alert]:
            self._audit.alert(alert.row(*self._digests, revised=True))
        self.alerts[request.alert] = alert

    def _p_value(self, statistic: float, category: int) -> float:
        kept = self._sorted[category]
        at_least = len(kept) - bisect.bisect_left(kept, statistic)
        return (1 + at_least) / (len(kept) + 1)

    def _log(self, i: int, request: _Request) -> None:
        if self._audit is None:
            return
        self._audit.request(
            RequestRow(
                id=request.id,
                at=time.time(),
                monitor=self._digests[0],
                bank=self._digests[1],
                prompt=self._audit.hash(request.prompt),
                tokens=len(request.ids),
                unscored=request.unscored,
                statistic=request.statistic,
                p_value=self._p_value(request.statistic, self._running.category[i]),
                alerted=request.alert is not None,
            )
        )

    def _drift(self, request: _Request) -> None:
        if self.drift is None or self.drift.alarmed or not self.drift(request.statistic):
            return
        warnings.warn(
            f"Request {self.requests} of this session: traffic is no longer like the calibration "
            f"requests (martingale at {self.drift.peak:.3g}), so false alarms come at an unknown "
            "rate. Fit the monitor anew on clean requests of today.",
            stacklevel=2,
        )
        if self._audit is not None:
            alert = _drift_alert(self._monitor, request, self.drift)
            self._audit.alert(alert.row(*self._digests))


def _drift_alert(monitor: Panel, request: _Request, drift: Drift) -> Alert:
    """The drift alarm as the audit log keeps it; the p-value is Ville's bound."""
    nan = float("nan")
    return Alert(
        request=request.id,
        kind=DRIFT,
        vector=None,
        label="",
        rank=0,
        named=0,
        alpha=drift.alpha,
        p_value=1 / drift.peak,
        vector_p=nan,
        statistic=drift.peak,
        threshold=1 / drift.alpha,
        explained=nan,
        tokens=(),
        alternatives=(),
        trace=(),
        bank=monitor.bank,
    )
