"""Models: the one wing that knows what a model is.

What it must have (`HookedModel`), how it is loaded, put back as it was, hooked, tokenized for,
replayed in part (`Segment`) and listened to. Imports `perturbations` and what lies below.
"""

from tl_steer.models.bare import bare_pass as bare_pass, fixed_tokens as fixed_tokens
from tl_steer.models.caches import refuse_broken_cache as refuse_broken_cache
from tl_steer.models.hooks import (
    Steering as Steering,
    capturing as capturing,
    installed as installed,
    perturbing as perturbing,
)
from tl_steer.models.load import embedded as embedded, load_model as load_model, wrap as wrap
from tl_steer.models.lookup import resolve as resolve
from tl_steer.models.model import (
    HookedModel as HookedModel,
    device_of as device_of,
    dtype_of as dtype_of,
    model_name as model_name,
)
from tl_steer.models.packed import Packed as Packed, packed_if_possible as packed_if_possible
from tl_steer.models.recording import Recording as Recording, record as record
from tl_steer.models.rows import (
    Row as Row,
    by_row as by_row,
    continued as continued,
    until_end as until_end,
)
from tl_steer.models.segment import Segment as Segment
from tl_steer.models.shuffle import shuffled as shuffled
from tl_steer.models.state import frozen as frozen, seeded as seeded, without_hooks as without_hooks
from tl_steer.models.taps import (
    Host as Host,
    Listener as Listener,
    host_of as host_of,
    listening as listening,
    torch_host as torch_host,
)
from tl_steer.models.tokens import (
    Prompts as Prompts,
    TokenBatch as TokenBatch,
    chat as chat,
    decode as decode,
    tokenize as tokenize,
)
