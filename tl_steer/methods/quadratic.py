r"""Quadratic DCT: factors of the model's second derivative at zero.

With $T(u, v, w) = \langle u, D^2\Delta(0)[v, w]\rangle$, symmetric orthogonalised alternating least
squares (Mack, "Deep causal transcoding", LessWrong fSRg5qs9TPbNy3sm5) repeats

    V <- orth(V);   u_l <- T(., v_l, v_l), normalised;   v_l <- T(u_l, v_l, .), normalised

Every product is a Hessian-vector product of the model itself, by differentiating three times.
With w(θ) = J(θ)v = ∇_u <∇_θ <u, Δ(θ)>, v>:  T(., v, v) = ∇_u <∇_θ <u, w(θ)>, v> and
T(u, v, .) = ∇_θ <u, w(θ)>.

**Conventions.** Factors live at $\theta = 0$: the radius only scales what comes back. T is even in
v, so a factor's two sides have the same quadratic effect, and whichever sign came out is kept.
Averaged over prompts and measured tokens, as in the source.

**Where the original code errs** (and this does not): it never evaluates a Hessian. Its result is
the same for any Hessian, zero included, and converges to J's top right singular vectors. Not the
method of choice at radii where the response has left its Taylor expansion.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.files.signatures import refuses, typed_fields
from tl_steer.methods.protocol import (
    Iterate,
    pointed,
    refuse_crowding,
    restored,
    state_of,
)
from tl_steer.objectives.parts import in_parts
from tl_steer.objectives.response import ResponseMap, refuse_busy_zeros
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import orthonormal_rows


@typed_fields
@dataclass(frozen=True)
class Quadratic:
    """Orthogonalised alternating least squares on the Hessian. For vectors, and for other kinds of
    which zeros are no edit: their parameters are taken for one long vector.

    Args:
        steps: alternations.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError(f"{self}: expected steps >= 1.")

    @refuses
    def __call__(
        self, objective: Any, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        refuse_crowding(start)
        here, done = restored(start, resume) if resume else (start, 0)
        responses, pass_size = ResponseMap(objective), _Pass(max(1, objective.vec_batch // 4))
        for step in range(done + 1, self.steps + 1):
            unit = orthonormal_rows(here.flat())
            alternate = functools.partial(_alternate, responses, unit, start)
            parts = in_parts(len(unit), pass_size, alternate)
            pulled, sizes = (torch.cat(values) for values in zip(*parts, strict=True))
            here = pointed(here, pulled)
            value = sizes * start.radius**2 / 2
            scores = {"curvature": sizes}
            yield Iterate(here, value, step, self.steps, scores, state_of(here, step))


@dataclass
class _Pass:
    """Three nested derivatives keep about four times the activations of one."""

    vec_batch: int
    said_smaller: bool = False


def _alternate(
    responses: ResponseMap, units: Tensor, like: Perturbation, rows: slice
) -> tuple[Tensor, Tensor]:
    """T(u, v, .) and |T(., v, v)| for some of the unit rows v, with u = T(., v, v) normalised."""
    unit = units[rows]
    # The fused attention kernels have no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        theta = torch.zeros_like(unit).requires_grad_()
        pooled = responses.response(like.of_rows(theta))
        refuse_busy_zeros(like, pooled, responses.segment)
        u = torch.zeros_like(pooled, requires_grad=True)
        pulled = _gradient(pooled, theta, u)
        along = _gradient(pulled, u, unit)
        curved = _gradient(along, theta, u)
        second = _gradient(curved, u, unit).detach()
        back = _gradient(along, theta, normalize(second, dim=1)).detach()
    return back, second.norm(dim=1)


def _gradient(output: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    if not output.requires_grad:  # constant: the map is linear
        return torch.zeros_like(wanted)
    (found,) = torch.autograd.grad(
        output, wanted, weights, create_graph=True, materialize_grads=True
    )
    return found
