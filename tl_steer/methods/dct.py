r"""Exponential deep causal transcoding (DCT).

Source: Mack, "Deep causal transcoding" (LessWrong fSRg5qs9TPbNy3sm5). The mean response is modelled
as $\Delta(\theta) \approx \sum_l \alpha_l\,(e^{\langle v_l,\theta/R\rangle}-1)\,u_l$ and fitted to
the derivatives of $\Delta$ at all orders. The fit, *orthogonalised gradient iteration*, alternates

    V <- orth(V);   u_l <- Δ(R v_l) / |Δ(R v_l)|;   v_l <- ∇_v <u_l, Δ(R v)> at v_l, normalised

which climbs $\|\Delta(R v_l)\|$ for all l at once while orthogonality keeps them apart. U is not
orthogonalised. Ten steps, as published. How much of the response each factor carries is found by
least squares:

$$K = (U^\top U) \circ (e^{V^\top V} - 1),\qquad \alpha = K^{-1}\,
  [\langle u_l, \Delta(R v_l)\rangle]_l$$

**Conventions.** $\Delta$ is averaged over prompts and measured tokens, as in the source; the
objective that `elicit` reports is the divergence it was given, so that methods can be compared.
Factors come back with `scores["alpha"]`; ranking by it is noisy.

**Where the original code errs** (and this does not): its padding is attended to; it trains at a
block's input and steers at its output, one layer late; and its Jacobian initialisation takes
columns of Vh, which are not singular vectors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.methods.protocol import (
    Iterate,
    Method,
    flat,
    moved,
    refuse_crowding,
    restored,
    state_of,
)
from tl_steer.objectives.response import ResponseMap
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import orthonormal_rows

# (rows [vec n], norm of each row's gradient in the step before [vec]) -> unit rows, apart
Separation = Callable[[Tensor, Tensor], Tensor]


@typed_fields
@dataclass(frozen=True)
class Dct:
    """Exponential DCT with hard orthogonality.

    Args:
        steps: gradient iterations.
        init: a method that finds where to start, such as `Jacobian(pool=mean_response)`; `None`
            starts from what the caller gives (random vectors, in `elicit`).

    Needs no more vectors than dimensions; beyond that use `Sogi`.
    """

    steps: int = 10
    init: Method | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError(f"{self}: expected steps >= 1.")

    def __call__(
        self, objective: Any, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        refuse_crowding(start)
        return transcode(
            objective,
            start,
            separate=lambda rows, _: orthonormal_rows(rows),
            steps=self.steps,
            init=self.init,
            resume=resume,
        )


def transcode(
    objective: Any,
    start: Perturbation,
    *,
    separate: Separation,
    steps: int,
    init: Method | None,
    resume: dict[str, Tensor] | None,
) -> Iterator[Iterate]:
    """Gradient iteration on the norm of the mean response, with any way of keeping rows apart."""
    responses = ResponseMap(objective)
    if resume:
        (here, done), weights = restored(start, resume), resume["weights"]
    else:
        here = start if init is None else _initial(init, objective, start)
        weights, done = (
            torch.ones(len(start), device=next(start.parameters()).device, dtype=torch.float32),
            0,
        )
    for step in range(done + 1, steps + 1):
        apart = moved(here, [separate(rows, weights) for rows in flat(here.parameters())])
        response, gradients = responses.pull(apart, step=step)
        rows = flat(gradients)
        weights = torch.cat(rows, dim=1).norm(dim=1)
        here = moved(apart, rows)
        state = {**state_of(here, step), "weights": weights}
        iterate = Iterate(here, response.norm(dim=1), step, steps, state=state)
        if step == steps:
            at = objective(here, gradient=False)
            scores = {"alpha": alphas(here, at.response)}
            value = at.response.norm(dim=1)
            iterate = replace(iterate, value=value, scores=scores, evaluation=at)
        yield iterate


def alphas(perturbation: Perturbation, response: Float[Tensor, "vec k"]) -> Float[Tensor, " vec"]:
    """Each factor's weight in the exponential model, by least squares (see the module)."""
    # On the CPU, where alone that driver exists; and the two may lie on two devices.
    v = normalize(perturbation.flat().cpu().double(), dim=1)
    u = normalize(response.cpu().double(), dim=1)
    kernel = (u @ u.T) * torch.expm1(v @ v.T)
    # Factors that coincide make K singular; the least-norm solution shares the weight among them.
    wanted = response.cpu().double().norm(dim=1)[:, None]
    found: Tensor = torch.linalg.lstsq(kernel, wanted, driver="gelsd").solution
    return found[:, 0].to(response)


def _initial(init: Method, objective: Any, start: Perturbation) -> Perturbation:
    found = start
    for iterate in init(objective, start):
        found = iterate.perturbation
    return found
