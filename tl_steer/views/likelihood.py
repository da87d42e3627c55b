"""How likely the prompt's own tokens are."""

from typing import Any

from tl_steer.files.text import capped
from tl_steer.inspection.result import Inspection
from tl_steer.views.page import rounded
from tl_steer.views.view import View

_LAST = 256  # tokens whose likeliest ones are listed


def likelihood(seen: Inspection, vector: int) -> View:
    """How likely the prompt's own tokens are, steered beside unsteered: each is coloured by the
    change of its log-probability, in nats; the one that is picked lists the likeliest tokens there.

    Long prompts show their last 256 tokens. `circuitsvis.token_log_probs` is either of the two
    models alone, by CircuitsVis.

    Raises:
        SettingError: the vector was not inspected.
    """
    v = seen.index(vector)
    start = max(0, len(seen.tokens) - _LAST)
    data = {
        "tokens": [capped(text) for text in seen.tokens[start:]],
        "left_out": start,
        "unsteered": _run(seen, 0, start),
        "steered": _run(seen, v + 1, start),
    }
    means = [float(seen.next_lp[row].mean()) for row in (0, v + 1)]
    line = f"mean log-probability per token: {means[0]:.3f} unsteered, {means[1]:.3f} steered"
    title = f"The prompt's own tokens under vector {vector}"
    return View("likelihood", title, data, (line,), 480)


def _run(seen: Inspection, row: int, start: int) -> dict[str, Any]:
    """Of one model: the likeliest tokens behind every token, and how likely the next one was."""
    return {
        "words": [list(map(seen.word, tokens)) for tokens in seen.likely[row, start:].tolist()],
        "log_probs": rounded(seen.likely_lp[row, start:]),
        "rank": seen.next_rank[row, start:].tolist(),
        "log_prob": rounded(seen.next_lp[row, start:]),
    }
