"""Models: the one wing that knows what a model is.

What it must have (`HookedModel`), how it is loaded, put back as it was, hooked, tokenized for,
replayed in part (`Segment`) and listened to. Imports `perturbations` and what lies below.
"""

from tl_steer.models.caches import refuse_broken_cache
from tl_steer.models.hooks import Steering, capturing, installed, perturbing
from tl_steer.models.load import embedded, load_model, wrap
from tl_steer.models.lookup import resolve
from tl_steer.models.model import HookedModel, device_of, dtype_of, model_name
from tl_steer.models.packed import Packed, packed_if_possible
from tl_steer.models.recording import Recording, record
from tl_steer.models.rows import Row, by_row, continued, until_end
from tl_steer.models.segment import Segment
from tl_steer.models.shuffle import shuffled
from tl_steer.models.state import frozen, seeded, without_hooks
from tl_steer.models.taps import Host, Listener, host_of, listening, torch_host
from tl_steer.models.tokens import Prompts, TokenBatch, chat, decode, tokenize

__all__ = [
    "HookedModel",
    "Host",
    "Listener",
    "Packed",
    "Prompts",
    "Recording",
    "Row",
    "Segment",
    "Steering",
    "TokenBatch",
    "by_row",
    "capturing",
    "chat",
    "continued",
    "decode",
    "device_of",
    "dtype_of",
    "embedded",
    "frozen",
    "host_of",
    "installed",
    "listening",
    "load_model",
    "model_name",
    "packed_if_possible",
    "perturbing",
    "record",
    "refuse_broken_cache",
    "resolve",
    "seeded",
    "shuffled",
    "tokenize",
    "torch_host",
    "until_end",
    "without_hooks",
    "wrap",
]
