"""What an alarm needs of a score: each token's largest, and not every vector's.

While a request is under way nobody asks which vector it is. So a vector's clean mean and deviation
go into the matrix that its scores come out of, and what a search does not look at is never written
down. A detector that can give its peaks so says it by `Peaking`; of others all scores are made.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

# The largest score of each token, and numbers without which it means nothing: where one of these is
# NaN or infinite, the token cannot be scored. From activations, and from them as mapped.
Largest: TypeAlias = Callable[
    [Float[Tensor, "token d"], Float[Tensor, "token r"]], tuple[Float[Tensor, " token"], ...]
]


@dataclass(frozen=True, eq=False)
class Peak:
    """A score's largest value, and the affine map that it looks at activations through, if any."""

    largest: Largest
    map: tuple[Float[Tensor, "d r"], Float[Tensor, " r"]] | None = None


class Peaking(ABC):
    """A detector with one column per vector that can give the largest alone."""

    @abstractmethod
    def peak(self, shift: Float[Tensor, " vec"], inverse: Float[Tensor, " vec"]) -> Peak:
        """Of (score - shift) * inverse."""
