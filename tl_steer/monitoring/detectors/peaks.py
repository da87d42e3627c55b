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
# NaN or infinite, the token cannot be scored. From activations, and from what maps make of them.
Largest: TypeAlias = Callable[..., tuple[Float[Tensor, " token"], ...]]


@dataclass(frozen=True, eq=False)
class Map:
    """h M + b. Maps with equal `weights` and `bias`, the tensors themselves, are one map."""

    weights: Float[Tensor, "d r"]
    bias: Float[Tensor, " r"]

    @property
    def place(self) -> tuple[int, int]:
        return id(self.weights), id(self.bias)

    def around(self, centre: Float[Tensor, " d"]) -> Float[Tensor, " r"]:
        """The bias where h - centre is mapped."""
        return self.bias + product(centre[None], self.weights)[0]


@dataclass(frozen=True, eq=False)
class Peak:
    """A score's largest value, called with activations and with what each of its maps makes of
    them.

    Attributes:
        centre: what activations should have had taken off for its maps to be exact, if anything.
    """

    largest: Largest
    maps: tuple[Map, ...] = ()
    centre: Float[Tensor, " d"] | None = None


class Peaking(ABC):
    """A detector with one column per vector that can give the largest alone."""

    @abstractmethod
    def peak(self, shift: Float[Tensor, " vec"], inverse: Float[Tensor, " vec"]) -> Peak:
        """Of (score - shift) * inverse."""


def unit_of(rows: Float[Tensor, "token d"]) -> tuple[Tensor, Tensor]:
    """One over their lengths, [token 1], and the energies without which that means nothing."""
    energy = rows.square().sum(dim=1, keepdim=True)
    return energy.clamp_min(1e-24).rsqrt(), energy[:, 0]


def product(first: Float[Tensor, "d r"], second: Float[Tensor, "r m"]) -> Float[Tensor, "d m"]:
    """As exact as float32 can hold; on the processor, since not every device has float64."""
    return (first.cpu().double() @ second.cpu().double()).float().to(first.device)
