r"""Soft orthogonalised gradient iteration (SOGI).

`Sogi` is DCT's iteration with its QR step replaced by a soft one (`sphere.softly_apart`): each
vector gives up the softmax-weighted average of the vectors most like it, those with larger
gradients pushing harder. It has room for more vectors than dimensions. Source: CPE (arXiv
2606.29604) as quoted by others; there it trains rank-one adapters, with ten steps and T = 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.methods.dct import transcode
from tl_steer.methods.protocol import Iterate, Method
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import softly_apart


@typed_fields
@dataclass(frozen=True)
class Sogi:
    """Soft orthogonality of directions.

    Args:
        steps: gradient iterations.
        temperature: of the softmax over cosines. At 1 nearly everybody pushes everybody; at 0.1
            only near-duplicates push.
        init: a method that finds where to start.
    """

    steps: int = 10
    temperature: float | int = 1.0
    init: Method | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.temperature > 0:
            raise SettingError(f"{self}: expected steps >= 1 and temperature > 0.")

    def __call__(
        self, objective: Any, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        return transcode(
            objective,
            start,
            separate=lambda rows, weights: softly_apart(
                rows, weights, temperature=self.temperature
            ),
            steps=self.steps,
            init=self.init,
            resume=resume,
        )
