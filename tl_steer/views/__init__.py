"""Pictures of results, and the report. Values in, HTML out: no model, no network, one file.

Every view shows itself in a notebook, prints a few words in a terminal, and has `.save(path)`;
`web/` is what the browser gets. Imports `inspection` and what lies below.
"""

from tl_steer.views import circuitsvis as circuitsvis
from tl_steer.views.alerts import alerts_view as alerts_view
from tl_steer.views.attention import attention_change as attention_change
from tl_steer.views.bank import (
    bank_map as bank_map,
    selection_scores as selection_scores,
)
from tl_steer.views.continuation import continuation as continuation
from tl_steer.views.likelihood import likelihood as likelihood
from tl_steer.views.logits import (
    logit_attribution as logit_attribution,
    logit_change as logit_change,
)
from tl_steer.views.monitor import monitor_view as monitor_view
from tl_steer.views.notes import Notes as Notes, notes as notes
from tl_steer.views.own import own_view as own_view
from tl_steer.views.report import Report as Report, report as report
from tl_steer.views.scan import scan_view as scan_view
from tl_steer.views.stream import (
    residual_response as residual_response,
    steered_tokens as steered_tokens,
)
from tl_steer.views.strengths import strengths as strengths
from tl_steer.views.sweep import sweep_view as sweep_view
from tl_steer.views.texts import dose_response as dose_response, generations as generations
from tl_steer.views.view import View as View
