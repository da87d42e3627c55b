"""What vectors change inside a model on one prompt: attention, logits, the residual stream; and
in what it writes behind it, token by token.

Imports `radii` and what lies below.
"""

from tl_steer.inspection.continuations import continuations as continuations
from tl_steer.inspection.file import (
    load_continuations as load_continuations,
    load_inspection as load_inspection,
)
from tl_steer.inspection.generated import Continuations as Continuations
from tl_steer.inspection.inspect import inspect as inspect
from tl_steer.inspection.result import Inspection as Inspection
from tl_steer.inspection.strength import Strength as Strength, Strengths as Strengths
from tl_steer.inspection.strengths import strengths as strengths
