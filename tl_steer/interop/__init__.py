"""Other tools' formats, one file each: what they can say of a bank, and what they say to us.

    ts.interop.export(bank[4], "reams.svec", to="svec")
    ts.interop.read("theirs.svec", format="svec").bank(model, prompts=["..."])

Inspect AI is a folder: a model provider, a monitor as a scorer, a bank's texts as a data set.
May import every wing below.
"""

from tl_steer.interop.decompose import decompose as decompose
from tl_steer.interop.directions import Directions as Directions
from tl_steer.interop.formats import export as export, read as read, register as register
from tl_steer.interop.inspect_ai.dataset import (
    inspect_dataset as inspect_dataset,
    inspect_said as inspect_said,
)
from tl_steer.interop.inspect_ai.monitor import inspect_monitor as inspect_monitor
from tl_steer.interop.ours import FORMATS as FORMATS
from tl_steer.interop.repeng import as_control_vector as as_control_vector
from tl_steer.interop.steering_vectors import as_steering_vector as as_steering_vector
