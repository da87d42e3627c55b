"""What clean requests score, and by how much rounding may change that.

A request that the calibration knows verbatim (a health check, a greeting) scores what it scored
then, but for rounding: in deployment it is batched otherwise, and matrix products of other shapes
add up in another order. A tie must count against an alarm, or requests that come again and again at
the threshold raise alarms by chance. So clean scores are raised by what rounding may make of the
same request, measured on that very request, before anything is compared with them. p-values only
become larger by that, and what is promised of them holds.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import NotFiniteError

_RAISED = ("statistic", "known", "values")
# By which clean scores are raised at least: some hundred times what float32 makes of them.
_ABSOLUTE, _RELATIVE = 1e-4, 1e-5
# How far activations move with the batch that they are computed in, as a share of their root mean
# square, by the model's dtype; and of what scores move then, the multiple that they are raised by.
_JITTER, _SINGLE = {"float16": 2e-3, "bfloat16": 8e-3}, 1e-6
_MARGIN, _DRAWS = 4, 2


@dataclass(frozen=True, eq=False)
class Calibration:
    """What clean requests that nothing was fitted on score.

    Attributes:
        statistic: of each request; `known` and `unknown` are its parts.
        values, vectors: the highest-scoring vectors of each request, and their scores.
        category: of each request; it is compared with others of the same one.
        rounding: by how much the same request may score otherwise where it is batched otherwise:
            `statistic`, `known` and `values`. Of older files nothing is known.

    A request that the calibration knows verbatim scores what it scored then but for rounding. For
    the tie to count against an alarm, whatever is compared with these scores is compared with
    `raised` ones.
    """

    statistic: Float[Tensor, " n"]
    known: Float[Tensor, " n"]
    unknown: Float[Tensor, " n"]
    values: Float[Tensor, "n top"]
    vectors: Int[Tensor, "n top"]
    category: Int[Tensor, " n"]
    rounding: Float[Tensor, "n three"] | None = None

    def __len__(self) -> int:
        return len(self.statistic)

    @property
    def by_category(self) -> list[Float[Tensor, " _"]]:
        """The raised statistics of every category's requests; none is without."""
        raised = self.raised("statistic")
        return [raised[self.category == i] for i in range(int(self.category.max()) + 1)]

    def raised(self, name: str) -> Tensor:
        """`statistic`, `known` or `values`, more by what rounding may make of them."""
        values: Tensor = getattr(self, name)
        by = _ABSOLUTE + _RELATIVE * values.abs()
        if self.rounding is not None:
            by = by + self.rounding[:, _RAISED.index(name)].view(-1, *[1] * (values.ndim - 1))
        return torch.where(values.isfinite(), values + by, values)  # a search gives -inf

    @property
    def sizes(self) -> list[int]:
        """How many requests there are of every category."""
        return [len(own) for own in self.by_category]


def with_rounding(
    scored: Callable[[Sequence[Tensor]], Calibration], activations: Sequence[Tensor], dtype: str
) -> Calibration:
    """A calibration on these activations, and how far its scores move where activations are rounded
    otherwise.

    Args:
        dtype: of the model that they are of.
    """
    share, generator = _JITTER.get(dtype, _SINGLE), torch.Generator().manual_seed(0)
    given = [at.float() for at in activations]
    made = scored(given)
    rounding = torch.zeros(len(made), len(_RAISED), dtype=torch.float32, device="cpu")
    for _ in range(_DRAWS):
        moved = []
        for at in given:
            size = share * at.square().mean(dim=-1, keepdim=True).sqrt()
            noise = torch.randn(at.shape, generator=generator, dtype=torch.float32, device="cpu")
            moved.append(at + size * noise)
        again = scored(moved)
        each = [_apart(getattr(again, name), getattr(made, name)) for name in _RAISED]
        rounding = rounding.maximum(torch.stack(each, dim=1))
    return dataclasses.replace(made, rounding=_MARGIN * rounding)


def _apart(here: Tensor, there: Tensor) -> Float[Tensor, " n"]:
    """The largest difference of each request; what a search did not find has none."""
    apart = (here - there).abs().nan_to_num(0.0, posinf=0.0).view(len(here), -1)
    return apart.amax(dim=1) if apart.shape[1] else apart.new_zeros(len(here))


def refuse_unscorable(scorable: Bool[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> None:
    """Raises:
    NotFiniteError: a token that is scored is NaN, infinite, or too large to be.
    """
    bad = mask & ~scorable
    if not bool(bad.any()):
        return
    request, token = bad.nonzero()[0].tolist()
    where = f"generated token {token}" if token else "the prompt's end"
    raise NotFiniteError(
        f"Request {request} could not be scored: its activation at {where} is NaN, infinite or too "
        "large. The model overflows there (half precision, perhaps); leave the request out, or run "
        "it in float32."
    )
