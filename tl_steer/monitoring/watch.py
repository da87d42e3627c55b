"""A monitor on a model at work: every request is scored while it is answered."""

from pathlib import Path
from typing import Any

from torch import nn

from tl_steer.errors import ForeignModelError, SettingError
from tl_steer.files.signatures import typed
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.caches import refuse_broken_cache
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel
from tl_steer.models.state import without_hooks
from tl_steer.models.taps import Host, glance, host_of, listening, torch_host
from tl_steer.monitoring.audit import AuditLog
from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.session import OnAlert, Watch


@scoped
@typed
def watch(
    scope: Scope,
    model: HookedModel,
    monitor: Panel,
    *,
    alpha: float | int = 0.01,
    log: str | Path | None = None,
    drift: float | int | None = 0.001,
    on_alert: OnAlert | None = None,
    chunk: int = 8,
) -> Watch:
    """Inside the block, whatever the model answers is scored; afterwards it is as it was.

        with ts.watch(model, monitor, log="audit.sqlite") as w:
            model.generate(...)
        for alert in w.alerts: ...

    Works with `generate`, cached or not, and with plain forward passes, whose prompts are scored
    at their ends; padded batches need their `attention_mask`. A request ends when the next prompt
    comes, at `w.flush()` and with the block. Threads may generate at the same time: each has
    requests of its own. What tl_steer itself runs inside the block (`generate`, `elicit`, `sweep`,
    an alert's `replay`) is no request and is not heard. A request with an activation that is NaN,
    infinite or too large raises an alert of its own kind, "could not be scored".

    Args:
        alpha: how often a clean request may raise an alert.
        log: an audit log, to be created or appended to.
        drift: how often traffic that has not moved may ever raise the drift alarm; `None` does
            without.
        on_alert: called with each alert when it is raised, from inside the forward pass. An
            exception out of it stops the generation. It must not wait for another thread that
            generates: one at a time is scored.
        chunk: so many tokens are scored together. Each then costs a fraction, and alerts come
            later by up to one token less than that, or when the request ends. With 1 they come at
            once, which is what an `on_alert` that stops the generation wants.

    Raises:
        ForeignModelError: the monitor was fitted on another model, dtype or weights.
        ModelError: the model's cached generation does not see its prompts.
        PromptError: from inside the model, for a prompt of another template.
        SettingError: alpha is below what the calibration can resolve, or `chunk` is not positive.
        AuditError: the log cannot be written.

    Wrong with beam search, whose rows change places.
    """
    refuse_other_sites(model, monitor)
    host = host_of(model, monitor.sites)
    refuse_broken_cache(model)
    with without_hooks(model):
        _refuse_other_model(host, monitor)
    tokenizer = getattr(model, "tokenizer", None)
    return _session(scope, host, monitor, tokenizer, alpha, log, drift, on_alert, chunk)


@scoped
@typed
def watch_torch(
    scope: Scope,
    module: nn.Module,
    monitor: Panel,
    *,
    tokenizer: Any = None,
    alpha: float | int = 0.01,
    log: str | Path | None = None,
    drift: float | int | None = 0.001,
    on_alert: OnAlert | None = None,
    chunk: int = 8,
) -> Watch:
    """`watch` for a plain transformers model, with no TransformerLens around it.

    Args:
        tokenizer: to show tokens as text in alerts; scores do not need it.

    Raises:
        ModelError, HookPointError: the blocks cannot be found, or the monitor reads inside one.
        ForeignModelError, PromptError, SettingError, AuditError: as `watch`. A monitor fitted on
            weights that TransformerLens had processed (folded layer norms, centred writing weights)
            is refused here as another model's.
    """
    host = torch_host(module, monitor.sites, monitor.identity.fingerprint.n_layers)
    _refuse_other_model(host, monitor)
    return _session(scope, host, monitor, tokenizer, alpha, log, drift, on_alert, chunk)


def refuse_other_sites(model: HookedModel, monitor: Panel) -> None:
    for site in monitor.sites:
        found = resolve(model, site.name, target=True)
        if (found.order, found.width) != (site.order, site.width):
            raise ForeignModelError(
                f"This monitor reads {site.name} as {site.width} numbers in block {site.layer}; "
                f"here they are {found.width}, in block {found.layer}. It is another model's."
            )


def _refuse_other_model(host: Host, monitor: Panel) -> None:
    monitor.identity.refuse_other_model(host.dtype, lambda ids: glance(host, ids))


def _session(
    scope: Scope,
    host: Host,
    monitor: Panel,
    tokenizer: Any,
    alpha: float | int,
    log: str | Path | None,
    drift: float | int | None,
    on_alert: OnAlert | None,
    chunk: int,
) -> Watch:
    monitor.guarantee(alpha)  # refuses, before a log is made
    if chunk < 1:
        raise SettingError(f"chunk={chunk}: tokens are scored one at a time, or more together.")
    audit = None if log is None else scope.enter_context(AuditLog(log))
    session = Watch(
        monitor,
        alpha=alpha,
        audit=audit,
        drift=drift,
        tokenizer=tokenizer,
        on_alert=on_alert,
        chunk=chunk,
        device=host.device,
    )
    scope.callback(session.flush)
    scope.enter_context(listening(host, session))
    scope.alone()  # another watch that was opened before may well end before
    return session
