"""CircuitsVis's own components, fed with what a vector changes.

Each function gives one component as a `View`: from the installed package's script, offline and in a
frame of its own. What a component shows can be switched in the view, and `which` is what it shows
first. `tl_steer.views` has pictures of ours of the same numbers, in a tenth of the room; a report
has both.

CircuitsVis draws for white paper. It knows no missing numbers and, but for attention heads, no
differences; the notes in the views say how they are shown instead.
"""

from typing import Any, Literal

from tl_steer.files.signatures import typed
from tl_steer.inspection.result import Inspection
from tl_steer.views.attention import attention_change
from tl_steer.views.likelihood import likelihood
from tl_steer.views.logits import logit_change
from tl_steer.views.stream import residual_response
from tl_steer.views.view import View

Which = Literal["difference", "steered", "unsteered"]


@typed
def attention_heads(
    seen: Inspection, vector: int, *, which: Which = "difference", heads: int = 8
) -> View:
    """`AttentionHeads`: a small pattern of each head, and one large; hover a head to see it, click
    to lock it.

    Args:
        vector: its number in the bank.
        which: the steered or the unsteered pattern, or steered minus unsteered.
        heads: at most so many; those that change most come first.

    Colours run from 0 to 1, those of differences from minus to plus the largest. On long prompts
    the 64 tokens whose attention moves most are shown.

    Raises:
        SettingError: the vector was not inspected.
    """
    patterns = attention_change(seen, vector, heads=heads)
    return _view("attention_heads", which, vector, patterns, 1300)


@typed
def attention_patterns(
    seen: Inspection, vector: int, *, which: Which = "difference", heads: int = 8
) -> View:
    """`AttentionPatterns`: the prompt in a line; hover a token to see where it looks, or who looks
    at it, in one head or in all.

    Arguments and errors are those of `attention_heads`. A head has a hue, and depth is the amount:
    there is no colour for less. So a difference comes as two patterns of each head, what it looks
    at more and what it looks at less, both in parts of the largest change.
    """
    patterns = attention_change(seen, vector, heads=heads)
    return _view("attention_patterns", which, vector, patterns, 620)


@typed
def colored_tokens(
    seen: Inspection,
    vector: int,
    *,
    which: Literal["kl", "difference", "steered", "unsteered"] = "kl",
) -> View:
    """`ColoredTokens`: one number a token.

    Args:
        vector: its number in the bank.
        which: "kl" is KL(steered || unsteered) of what follows the token; "steered" and "unsteered"
            are the log-probability of the token itself, and "difference" is that of the steered
            less that of the unsteered model. All in nats.

    Raises:
        SettingError: the vector was not inspected.
    """
    panels = (logit_change(seen, vector), likelihood(seen, vector))
    return _view("colored_tokens", which, vector, panels, 380)


@typed
def token_log_probs(
    seen: Inspection, vector: int, *, which: Literal["steered", "unsteered"] = "steered"
) -> View:
    """`TokenLogProbs`: how likely the prompt's own tokens are; hover one for the likeliest there.

    It shows one model. The difference of the two is `colored_tokens(..., which="difference")`, and
    `ts.views.likelihood` has both in one.

    Raises:
        SettingError: the vector was not inspected.
    """
    return _view("token_log_probs", which, vector, likelihood(seen, vector), 620)


@typed
def topk_tokens(seen: Inspection, vector: int, *, which: Which = "difference") -> View:
    """`TopkTokens`: the likeliest next tokens behind every token of the prompt, a column each.

    Of the difference, the tokens that gain most probability are on top and those that lose most at
    the bottom, coloured by how much; the component has no colour for less, so what is lost is
    written without a sign.

    Raises:
        SettingError: the vector was not inspected.
    """
    panels = (logit_change(seen, vector), likelihood(seen, vector))
    return _view("topk_tokens", which, vector, panels, 900)


@typed
def text_neuron_activations(seen: Inspection, vector: int) -> View:
    """`TextNeuronActivations`: how far steering moved the residual stream, at every token in the
    layer that is chosen: the norm of the change, or its share of the unsteered stream's norm.

    It takes no `which`, since an inspection does not hold the norm of the steered stream.

    Raises:
        SettingError: the vector was not inspected.
    """
    response = residual_response(seen, vector)
    return _view("text_neuron_activations", "", vector, response, 420)


def _view(
    component: str, which: str, vector: int, panels: View | tuple[View, ...], height: int
) -> View:
    """A component, with the data of those views of ours that hold its numbers."""
    panels = panels if isinstance(panels, tuple) else (panels,)
    data: dict[str, Any] = {
        "component": component,
        "which": which,
        "panels": {panel.kind: panel.data for panel in panels},
    }
    lines = tuple(line for panel in panels for line in panel.lines)
    title = f"{''.join(map(str.capitalize, component.split('_')))} of vector {vector}"
    return View("circuitsvis", title, data, lines, height, circuitsvis=True)
