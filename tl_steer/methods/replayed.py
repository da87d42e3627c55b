"""A method whose steps are replayed from a CUDA graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_steer.files.signatures import typed_fields
from tl_steer.methods.melbo import Melbo
from tl_steer.methods.power import Power
from tl_steer.methods.protocol import Iterate
from tl_steer.objectives.recorded import Recorded
from tl_steer.perturbations.perturbation import Perturbation


@typed_fields
@dataclass(frozen=True)
class Replayed:
    """`Melbo` or `Power` for small steps on a CUDA device: the pass is recorded once, and its
    kernels are launched at one go at every step.

        elicit(..., n=100, method=Replayed(Melbo(steps=1200)))

    Worth it where launching takes longer than the work (docs/scale.md has the law): 100 vectors on
    a 1.8B shape took a third of the time, 512 on a 7B shape the same. Not worth it for a few steps,
    since recording takes as long as some five. The results are those of the method alone, up to
    rounding.

    Args:
        method: what climbs. The others do not climb by the objective's gradient alone.

    Raises:
        SettingError: the model is not on a CUDA device; the objective is a `Goal`'s, such as
            `Contrast`; the vectors need more than one pass of `vec_batch`; the pass cannot be
            recorded, or its replay does not give what the pass gives, which is tried.
        TooLargeError: memory runs out. Passes are not made smaller here.

    All vectors' activations stay in memory for the whole search. Measured for steering vectors at
    all tokens of one prompt; other kinds are tried by that comparison and no more.
    """

    method: Melbo | Power

    def __call__(
        self, objective: Any, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        return self.method(Recorded(objective, start), start, resume=resume)
