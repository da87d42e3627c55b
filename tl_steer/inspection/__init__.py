"""What vectors change inside a model on one prompt: attention, logits, the residual stream.

Imports `banks` and what lies below.
"""

from tl_steer.inspection.file import load_inspection as load_inspection
from tl_steer.inspection.inspect import inspect as inspect
from tl_steer.inspection.result import Inspection as Inspection
