"""A monitor as an Inspect scorer: was the sample flagged, by which vector, how surely."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed
from tl_steer.interop.inspect_ai.steering import Steering
from tl_steer.models.hooks import perturbing
from tl_steer.models.lookup import resolve
from tl_steer.models.state import frozen, without_hooks
from tl_steer.models.taps import Host, glance, host_of
from tl_steer.models.tokens import tokenize
from tl_steer.monitoring.alert import UNSCORABLE, Alert, alert_for
from tl_steer.monitoring.monitor import Monitor
from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.watch import refuse_other_sites


@typed
def inspect_monitor(monitor: Panel | str | Path, *, alpha: float | int = 0.01) -> Any:
    """An Inspect scorer that asks a monitor about every answer of `--model tl_steer/...`.

        Task(dataset, solver=generate(), scorer=[includes(), inspect_monitor("house.monitor")])

    A sample's value is 1 where its answer's p-value is at most `alpha`, or it could not be scored,
    else 0, so the mean is the share of flagged samples: about `alpha` on clean traffic. Explanation
    and metadata say which vector and by what p-value. What is scored is the sample's last answer,
    token by token, with the activations of the model that gave it, steered as it was.

    Args:
        monitor: a fitted one, or its file.
        alpha: how often a clean answer may be flagged.

    Raises:
        SettingError: Inspect is not installed, or alpha is below what the calibration can resolve.
        BankFileError: the file is no monitor.

    While it scores, the scorer raises ForeignModelError, PromptError or SettingError where the
    monitor was fitted on another model, dtype or chat template, or the answer is not one of
    tl_steer's models. Wrong at another temperature than the monitor was fitted for.
    """
    imported("inspect_ai", install='"tl_steer[inspect]"')
    panel = monitor if isinstance(monitor, Panel) else Monitor.load(monitor)
    panel.guarantee(alpha)
    told = repr(panel) if isinstance(monitor, Panel) else str(monitor)
    return _scorer(panel, told, float(alpha))


def _scorer(panel: Panel, monitor: str, alpha: float) -> Any:
    import anyio.to_thread
    from inspect_ai.model import get_model
    from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
    from inspect_ai.solver import TaskState

    sound: weakref.WeakSet[Steering] = weakref.WeakSet()

    # The arguments are what Inspect's log shows.
    def flagged(monitor: str, alpha: float) -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            steering = _steering_of(get_model().api)
            seen = state.output.metadata or {}
            try:
                alert = await anyio.to_thread.run_sync(judge, steering, seen)
            except NotFiniteError as error:
                return Score(value=1.0, answer=UNSCORABLE, explanation=str(error))
            if alert is None:
                return Score.unscored(
                    explanation="No token of the answer was read back in, and this monitor scores "
                    "answers alone."
                )
            return Score(**_score_of(alert))

        return score

    def judge(steering: Steering, seen: Mapping[str, Any]) -> Alert | None:
        with steering.loaded.lock:
            if steering not in sound:
                _refuse_other(steering, panel)
                sound.add(steering)
            return _alert(panel, steering, seen, alpha)

    return scorer(metrics=[mean(), stderr()], name="monitor")(flagged)(monitor, alpha)


def _steering_of(api: Any) -> Steering:
    found = getattr(api, "steering", None)
    if not isinstance(found, Steering):
        raise SettingError(
            f"This monitor reads activations, which {type(api).__name__} does not give: evaluate "
            "with --model tl_steer/<model>."
        )
    return found


def _refuse_other(steering: Steering, panel: Panel) -> None:
    model = steering.loaded.model
    refuse_other_sites(model, panel)
    host = _host(steering, panel)
    with without_hooks(model):
        panel.identity.refuse_other_model(host.dtype, lambda ids: glance(host, ids))


def _host(steering: Steering, panel: Panel) -> Host:
    model = steering.loaded.model
    return host_of(model, [resolve(model, site.name, target=True) for site in panel.sites])


def _alert(panel: Panel, steering: Steering, seen: Mapping[str, Any], alpha: float) -> Alert | None:
    """What the monitor says of an answer; `None` where there is nothing to score.

    Raises:
        NotFiniteError: a token cannot be scored.
    """
    if "answer_ids" not in seen:
        raise SettingError(
            "This sample's output does not say its tokens, so it is no answer of tl_steer's "
            "models: leave the output of generate() as it is."
        )
    prompt, answer = list(seen["prompt_ids"]), list(seen["answer_ids"])
    panel.identity.refuse_other_template([torch.tensor(prompt, dtype=torch.long, device="cpu")])
    # The last token is generated and never read.
    read = [*prompt, *answer[:-1]][: len(prompt) + panel.horizon]
    ids = read[len(prompt) - 1 :]
    if len(ids) < 2 and not panel.reader.ends:
        return None
    tokens = tokenize(steering.loaded.model, [prompt])
    whole = torch.tensor([read], dtype=torch.long, device=tokens.ids.device)
    host, model = _host(steering, panel), steering.loaded.model
    with frozen(model), perturbing(model, steering.edit.to(whole.device), tokens=tokens):
        at = [each[:, len(prompt) - 1 :] for each in glance(host, whole)]
    scores = panel.score(dict(zip([site.name for site in panel.sites], at, strict=True)))
    tokenizer = getattr(model, "tokenizer", None)
    return alert_for(panel, scores, 0, request="", alpha=alpha, ids=ids, tokenizer=tokenizer)


def _score_of(alert: Alert) -> dict[str, Any]:
    """An alert as an Inspect score has it."""
    over = alert.p_value <= alert.alpha
    who = f"vector {alert.vector}" + (f" ({alert.label})" if alert.label else "")
    named = alert.kind if alert.vector is None else f"{alert.kind}, most like {who}"
    row = alert.row()
    return {
        "value": float(over),
        "answer": named if over else "not flagged",
        "explanation": f"p = {alert.p_value:.3g} at alpha = {alert.alpha:g}: "
        + (f"flagged, {named}." if over else "not flagged."),
        "metadata": {
            "p_value": alert.p_value,
            "alpha": alert.alpha,
            "kind": alert.kind if over else "",
            "vector": alert.vector,
            "label": alert.label,
            "vector_p": row.vector_p,
            "said": alert.said,
            "statistic": alert.statistic,
            "threshold": alert.threshold,
            "explained": row.explained,
            "tokens": [dict(token) for token in row.tokens],
        },
    }
