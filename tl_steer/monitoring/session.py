"""What happens to requests under a monitor: alerts, the audit log, drift."""

import bisect
import contextlib
import dataclasses
import functools
import math
import threading
import time
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import NotFiniteError
from tl_steer.monitoring.alert import Alert, alert_for, drift_alert, unscorable_alert
from tl_steer.monitoring.audit import AuditLog, RequestRow
from tl_steer.monitoring.file import panel_digest
from tl_steer.monitoring.lane import Lane, Request
from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.running import NOTHING, Running
from tl_steer.monitoring.statistics.drift import Drift

OnAlert = Callable[[Alert], None]


class Watch:
    """A session of `watch`; it hears what the model does (`tl_steer.models.taps.Listener`), every
    thread by itself.

    Attributes:
        alerts: in the order they were raised. When a request ends, its alert is brought up to date
            with all of its tokens.
        requests: how many have a row in the log. Of these `unscorable` had a token that was NaN,
            infinite or too large to be scored, and an alert that says so.
        unscored: how many others had no answer to score.
        drift: the drift alarm, or `None`; requests that could not be scored are not told to it.
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
        self.requests = self.unscored = self.unscorable = 0
        clean = monitor.calibration.statistic.tolist()
        self.drift = None if drift is None else Drift(clean, alpha=float(drift))
        self._monitor, self._alpha, self._audit = monitor, alpha, audit
        self._on_alert = on_alert
        self._limits = monitor.thresholds(alpha)
        self._sorted = [sorted(own.tolist()) for own in monitor.calibration.by_category]
        self._digests = (
            ("", "") if audit is None else (panel_digest(monitor), monitor.bank.digest())
        )
        if audit is not None:
            audit.bank(self._digests[1], monitor.bank.numbers)
        # One for all: an alarm of one thread may flush what others have under way.
        self._lock = threading.RLock()
        self._new_lane = functools.partial(
            Lane, monitor, chunk=chunk, judge=self._judge, ended=self._ended
        )
        self._tokenizer = tokenizer
        self._running = Running(monitor.reader, device=device)
        self._lanes: list[Lane] = []
        self._own = threading.local()

    def begin(self, ids: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> None:
        with self._lock:
            self._lane().begin(ids, mask)

    def token(self, ids: Int[Tensor, " batch"]) -> None:
        with self._lock:
            self._lane().token(ids)

    def activation(self, site: int, residual: Float[Tensor, "batch d"]) -> None:
        with self._lock:
            self._lane().activation(site, residual)

    def flush(self) -> None:
        """End the requests under way, in all threads: they are logged, and their alerts brought up
        to date. What the model goes on to say to them is not scored."""
        with self._lock, contextlib.ExitStack() as each:
            for lane in self._lanes:
                each.callback(lane.flush)  # the others, too, where one is interrupted

    def _lane(self) -> Lane:
        """This thread's. A thread that has died has ended its requests."""
        found: Lane | None = getattr(self._own, "lane", None)
        if found is None:
            gone = [lane for lane in self._lanes if not lane.thread.is_alive()]
            self._lanes = [lane for lane in self._lanes if lane.thread.is_alive()]
            found = self._own.lane = self._new_lane(self._running.another())
            self._lanes.append(found)
            for lane in gone:
                lane.flush()
        return found

    def _judge(self, request: Request, lane: Lane) -> None:
        """Whenever more of a request has been scored."""
        if request.unscorable and request.warned is None:
            self._warn(request)
        if len(request.ids) == 1 and not self._monitor.reader.ends:
            return
        over = request.statistic > self._limits[request.category]
        if over and request.alert is None and 0 not in request.unscorable:
            self._raise(request, lane)

    def _ended(self, request: Request, lane: Lane) -> None:
        answered = len(request.ids) > 1 or bool(self._monitor.reader.ends)
        if not answered and not request.unscorable:
            self._say_unscored()
            return
        self.requests += 1
        self.unscorable += bool(request.unscorable)
        self._revise(request, lane)
        self._log(request)
        if not request.unscorable:
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

    def _alert(self, request: Request, lane: Lane) -> Alert:
        """With the tokens that can be scored."""
        names = [site.name for site in self._monitor.sites]
        rows, scorable = lane.heard(request)
        scores = self._monitor.score(
            dict(zip(names, rows, strict=True)),
            mask=torch.tensor([scorable], dtype=torch.bool, device="cpu"),
        )
        alert = alert_for(
            self._monitor,
            scores,
            0,
            request=request.id,
            alpha=self._alpha,
            ids=request.ids,
            tokenizer=self._tokenizer,
        )
        return dataclasses.replace(alert, batch_row=request.row)

    def _unscorable_alert(self, request: Request) -> Alert:
        alert = unscorable_alert(
            self._monitor,
            request=request.id,
            alpha=self._alpha,
            p_value=self._p_value(request),
            threshold=self._limits[request.category],
            ids=request.ids,
            lost=sorted(request.unscorable),
            tokenizer=self._tokenizer,
        )
        return dataclasses.replace(alert, batch_row=request.row)

    def _raise(self, request: Request, lane: Lane) -> None:
        try:
            alert = self._alert(request, lane)
        except NotFiniteError:  # its numbers are too large for the namer
            request.unscorable |= set(range(len(request.ids)))
            if request.warned is None:
                self._warn(request)
            return
        request.alert = len(self.alerts)
        self._tell(alert)

    def _warn(self, request: Request) -> None:
        request.warned = len(self.alerts)
        self._tell(self._unscorable_alert(request))

    def _tell(self, alert: Alert) -> None:
        self.alerts.append(alert)
        if self._audit is not None:
            self._audit.alert(alert.row(*self._digests))
        if self._on_alert is not None:
            self._on_alert(alert)

    def _revise(self, request: Request, lane: Lane) -> None:
        made: list[tuple[int, Alert]] = []
        if request.warned is not None:
            made.append((request.warned, self._unscorable_alert(request)))
        if request.alert is not None:
            with contextlib.suppress(NotFiniteError):  # then what was told stays
                made.append((request.alert, self._alert(request, lane)))
        for place, alert in made:
            if self._audit is not None and alert != self.alerts[place]:
                self._audit.alert(alert.row(*self._digests, revised=True))
            self.alerts[place] = alert

    def _p_value(self, request: Request) -> float:
        """Of what cannot be scored, as if it scored more than any clean request."""
        kept = self._sorted[request.category]
        first = len(kept) if request.unscorable else bisect.bisect_left(kept, request.statistic)
        return (1 + len(kept) - first) / (len(kept) + 1)

    def _log(self, request: Request) -> None:
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
                statistic=request.statistic if request.statistic > NOTHING else math.nan,
                p_value=self._p_value(request),
                alerted=request.alert is not None or request.warned is not None,
            )
        )

    def _drift(self, request: Request) -> None:
        if self.drift is None or self.drift.alarmed or not self.drift(request.statistic):
            return
        warnings.warn(
            f"Request {self.requests} of this session: traffic is no longer like the calibration "
            f"requests (martingale at {self.drift.peak:.3g}), so false alarms come at an unknown "
            "rate. Fit the monitor anew on clean requests of today.",
            stacklevel=2,
        )
        if self._audit is not None:
            alert = drift_alert(
                self._monitor, request=request.id, alpha=self.drift.alpha, peak=self.drift.peak
            )
            self._audit.alert(alert.row(*self._digests))
