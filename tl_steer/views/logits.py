"""How a vector changes what is predicted, and which component carries that."""

from typing import Any

from tl_steer.files.tables import shorten
from tl_steer.files.text import capped
from tl_steer.inspection.result import Inspection
from tl_steer.views.control import band, ends, refuse_other, told
from tl_steer.views.page import rounded
from tl_steer.views.view import View

_DETAILED = 160  # tokens whose gains and losses are listed


def logit_change(seen: Inspection, vector: int, *, control: Inspection | None = None) -> View:
    """Where the next-token distribution changes: tokens coloured by KL(steered || unsteered) in
    nats; for each, the tokens gained and lost with both probabilities, on an axis of log-odds.

    Args:
        control: random vectors on the same prompt, whose 5 to 95 % band stands beside every KL.

    Raises:
        SettingError: the vector was not inspected, or a control of another prompt or place.

    A position is coloured by what is predicted *after* its token. Long prompts list gains and
    losses for the 160 positions of largest KL.
    """
    refuse_other(seen, control)
    v = seen.index(vector)
    n = len(seen.tokens)
    listed = set(seen.kl[v].topk(min(n, _DETAILED)).indices.tolist())

    def rows(name: str) -> list[Any]:
        ids, p = getattr(seen, name)[v].tolist(), rounded(getattr(seen, f"{name}_p")[v], 3)
        return [
            [[seen.word(token), *both] for token, both in zip(ids[i], p[i], strict=True)]
            if i in listed
            else None
            for i in range(n)
        ]

    data = {
        "tokens": [capped(text) for text in seen.tokens],
        "kl": rounded(seen.kl[v], 3),
        "gained": rows("gained"),
        "lost": rows("lost"),
        "control": told(control),
        "band": None if control is None else ends(control.kl),
    }
    top = seen.kl[v].topk(min(3, n)).indices.tolist()
    beside = [""] * len(top)
    if control is not None:
        low, high = band(control.kl)
        beside = [f" (random {float(low[i]):.2g} to {float(high[i]):.2g})" for i in top]
    lines = [
        f"{float(seen.kl[v, i]):.3g} nats{random} behind {shorten(seen.tokens[i], 20)!r}: gains "
        f"{seen.word(int(seen.gained[v, i, 0]))!r}, loses {seen.word(int(seen.lost[v, i, 0]))!r}"
        for i, random in zip(top, beside, strict=True)
    ]
    return View("logit_change", f"Next tokens under vector {vector}", data, tuple(lines), 480)


def logit_attribution(seen: Inspection, vector: int, *, control: Inspection | None = None) -> View:
    """Which block or head carries the effect to a difference of two logits behind the prompt:
    direct logit attribution of steered minus unsteered, by component.

    The two tokens are chosen in the view, among those gained and lost most there and those that
    `inspect(toward=)` named. Parts add up to the whole change (`inspection/attribution.py` says how
    the final norm is dealt with). "Direct" means through the residual stream alone: that a late
    block carries the effect does not say what made it do so.

    Args:
        control: random vectors on the same prompt. Beside each component stands the 5 to 95 % band
            of what it carries to the token that *they* gain most less the one that they lose most,
            since the tokens shown first were picked in that way.

    Raises:
        SettingError: the vector was not inspected, or a control of another prompt or place.
    """
    refuse_other(seen, control)
    v = seen.index(vector)
    tokens = [seen.word(token) for token in seen.toward[v].tolist()]
    direct = seen.direct[v]
    lost = _offered(seen)
    data = {
        "tokens": tokens,
        "moved": rounded(seen.moved[v]),
        "direct": rounded(direct),
        "heads": rounded(seen.heads[v]) if bool((~seen.heads[v].isnan()).any()) else None,
        "source_layer": seen.source_layer,
        "offered": lost,
        "control": told(control),
        "band": _direct_band(control),
    }
    lines = ["this model's last layers cannot be read, so nothing is attributed"]
    if tokens:
        parts = (direct[..., 0] - direct[..., lost]).clone()
        lines = [
            f"logit({tokens[0]!r}) - logit({tokens[lost]!r}) moves by "
            f"{float(seen.moved[v, 0] - seen.moved[v, lost]):+.3g}"
        ]
        for at in parts.flatten().abs().topk(3).indices.tolist():
            lines.append(
                f"{component(at // 3, at % 3, seen.source_layer)}: {parts.flatten()[at]:+.3g}"
            )
    title = f"What carries the effect of vector {vector}"
    return View("logit_attribution", title, data, tuple(lines), 760)


def _offered(seen: Inspection) -> int:
    """How many of the tokens effects are attributed to were gained; as many lost ones follow."""
    return min(4, seen.gained.shape[2])


def _direct_band(control: Inspection | None) -> dict[str, Any] | None:
    """What each component carries under random vectors, and how much the head that carries most."""
    if control is None or control.direct.shape[-1] == 0:
        return None
    lost = _offered(control)
    direct = control.direct[..., 0] - control.direct[..., lost]
    heads = (control.heads[..., 0] - control.heads[..., lost]).flatten(1).abs()
    most = heads.nan_to_num(-1.0).amax(dim=1) if heads.shape[1] else heads.new_zeros(0)
    known = bool(len(most)) and bool((most >= 0).all())
    return {"direct": ends(direct), "head": ends(most) if known else None}


def component(stream: int, part: int, source_layer: int) -> str:
    """A component's name, from its place in `Inspection.direct`."""
    if stream == 0:
        return "in front of block 0"
    if part == 2:
        own = stream - 1 == source_layer
        return "the vector itself" if own else f"block {stream - 1}, rest"
    return f"block {stream - 1} {('attention', 'MLP')[part]}"
