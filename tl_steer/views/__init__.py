"""Pictures of results, and the report. Values in, HTML out: no model, no network, one file.

Every view shows itself in a notebook, prints a few words in a terminal, and has `.save(path)`;
`web/` is what the browser gets. Imports all results, from `banks` to `inspection`.
"""

from tl_steer.views.alerts import alerts_view
from tl_steer.views.attention import attention_change
from tl_steer.views.bankviews import bank_map, selection_scores, sweep_view
from tl_steer.views.logits import logit_attribution, logit_change, token_log_probs
from tl_steer.views.report import Report, report
from tl_steer.views.stream import residual_response, steered_tokens
from tl_steer.views.texts import dose_response, generations
from tl_steer.views.view import View

__all__ = [
    "Report",
    "View",
    "alerts_view",
    "attention_change",
    "bank_map",
    "dose_response",
    "generations",
    "logit_attribution",
    "logit_change",
    "report",
    "residual_response",
    "selection_scores",
    "steered_tokens",
    "sweep_view",
    "token_log_probs",
]
