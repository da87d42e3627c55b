"""Models: the one wing that knows what a model is.

What it must have (`HookedModel`), how it is loaded, put back as it was, hooked, tokenized for,
told apart (`fingerprint`) and compared (`Reference`), replayed in part (`Segment`) and listened to.
Imports `perturbations` and what lies below.
"""

from tl_steer.models.cluster import Ray as Ray
from tl_steer.models.engine import Engine as Engine, Outcome as Outcome
from tl_steer.models.fingerprint import Fingerprint as Fingerprint, fingerprint as fingerprint
from tl_steer.models.hooks import (
    Steering as Steering,
    capturing as capturing,
    installed as installed,
    perturbing as perturbing,
)
from tl_steer.models.load import embedded as embedded, load_model as load_model, wrap as wrap
from tl_steer.models.lookup import resolve as resolve
from tl_steer.models.model import HookedModel as HookedModel, device_of as device_of
from tl_steer.models.reference import (
    Reference as Reference,
    without_adapter as without_adapter,
)
from tl_steer.models.segment import Segment as Segment
from tl_steer.models.shuffle import shuffled as shuffled
from tl_steer.models.state import frozen as frozen, seeded as seeded, without_hooks as without_hooks
from tl_steer.models.tokens import (
    Prompts as Prompts,
    TokenBatch as TokenBatch,
    chat as chat,
    decode as decode,
    tokenize as tokenize,
)
