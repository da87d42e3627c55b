"""A method whose blocks run compiled."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_steer.files.signatures import typed_fields
from tl_steer.methods.melbo import Melbo
from tl_steer.methods.power import Power
from tl_steer.methods.protocol import Iterate
from tl_steer.objectives.compiled import compiled
from tl_steer.perturbations.perturbation import Perturbation


@typed_fields
@dataclass(frozen=True)
class Compiled:
    """`Melbo` or `Power` with the blocks of the segment through `torch.compile`, which joins what
    stands between matrix products: norms, rotary embeddings, softmax, activations.

        elicit(..., method=Compiled(Melbo(steps=300)))

    Worth it in long searches on a CPU with a C++ compiler (docs/methods.md has the ratio and
    what compiling costs). Not worth it for a few steps, nor where the model is no
    TransformerBridge's or its blocks cannot do without the bridge. The results are those of the
    method alone, up to rounding. What was compiled is kept on disk by PyTorch for the next process.

    Args:
        method: what climbs. The others take gradients of gradients, or several objectives.

    Raises:
        SettingError: there is no compiler; the objective is a `Goal`'s, such as `Contrast`; the
            blocks cannot be compiled, or give something else compiled, which is tried.
    """

    method: Melbo | Power

    def __call__(
        self, objective: Any, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        with compiled(objective, start):
            yield from self.method(objective, start, resume=resume)
