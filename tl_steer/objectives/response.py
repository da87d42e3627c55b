r"""The pooled response as a function of θ, and products with its derivatives.

$\Delta(\theta)$ is what a segment's perturbed copies gain at the target over the clean ones, pooled
into one row of numbers per edit. A `Pool` is a function `(steered, clean, measured) -> [vec k]`:

    mean_response      mean over measured tokens, then over prompts; k = d_target  (DCT)
    stacked_response   every measured token of every prompt side by side           (power steering)

Averaging asks for one effect common to all tokens and prompts; stacking lets each have its own.
Derivatives at $\theta = 0$ are those of the model as it is, and cost one clean forward pass for all
vectors together. Derivatives elsewhere cost one pass per vector.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.files.signatures import refuses
from tl_steer.models.segment import Segment
from tl_steer.objectives.divergence import (
    Clean,
    Measured,
    Steered,
    at_least_float32,
    mean_response,
)
from tl_steer.objectives.objective import (
    Objective,
    gradients_of,
    no_gradient,
    refuse_nonfinite,
)
from tl_steer.objectives.parts import in_parts
from tl_steer.perturbations.perturbation import Perturbation

Pool = Callable[..., Float[Tensor, "vec k"]]
"""`(change, measured) -> [vec k]`: what of the change at the target a response is made of, such as
its mean over tokens (`mean_response`) or all of it (`stacked_response`)."""


class ResponseMap:
    """$\\Delta(\\theta)$ for an objective's segment and measured tokens.

    Args:
        objective: supplies the segment, the measured tokens and the size of a pass.
        pool: how token responses become one row.

    Raises:
        SettingError: the objective is none of responses at measured tokens, as that of a `Goal`.
    """

    @refuses
    def __init__(self, objective: Objective, pool: Pool = mean_response) -> None:
        if not isinstance(objective, Objective):
            raise SettingError(
                f"{type(objective).__name__} measures no responses, which this method climbs. "
                "Take a method that goes by gradients: Ascent, Power or Melbo."
            )
        self.objective, self.pool = objective, pool
        self.segment = objective.segment

    def __call__(self, perturbation: Perturbation) -> Float[Tensor, "vec k"]:
        """The response of every edit."""

        def respond(rows: slice) -> Tensor:
            with torch.no_grad():
                return self.response(perturbation.select(rows))

        return torch.cat(in_parts(len(perturbation), self.objective, respond))

    def pull(
        self,
        perturbation: Perturbation,
        cotangents: Float[Tensor, "vec k"] | None = None,
        *,
        step: int | None = None,
    ) -> tuple[Float[Tensor, "vec k"], tuple[Tensor, ...]]:
        r"""Responses, and $\nabla_{\theta_k}\langle u_k, \Delta(\theta_k)\rangle$ per parameter.

        Without `cotangents`, $u_k$ is edit k's own response, normalised, so this is the gradient of
        $\|\Delta(\theta_k)\|$.

        Raises:
            NotFiniteError: NaN or infinity, with the step and the vector.
            SettingError: no gradient leads back to the edits.
        """

        def pull_back(rows: slice) -> tuple[Tensor, ...]:
            part = perturbation.select(rows)
            response = self.response(part)
            along = normalize(response.detach(), dim=1) if cotangents is None else cotangents[rows]
            found = gradients_of(response * along, part, self.segment)
            refuse_nonfinite((response.detach(), *found), first=rows.start, step=step)
            return response.detach(), *found

        parts = in_parts(len(perturbation), self.objective, pull_back)
        response, *gradients = (torch.cat(values) for values in zip(*parts, strict=True))
        return response, tuple(gradients)

    def derivative(self, like: Perturbation) -> "Derivative":
        """The linear map J at zero, for edits of the kind, and of the tokens, of `like`.

        Raises:
            SettingError: small edits of that kind do nothing to first order, or zeros something.
        """
        return Derivative(self, like)

    def response(self, part: Perturbation) -> Tensor:
        steered = self.segment.run(part)
        return self.pool(steered, self.segment.clean, self.objective.measured)


class Derivative:
    r"""$J = \partial\Delta/\partial\theta$ at 0, matrix-free, from one recorded forward pass.

    $J^\top u$ is reverse mode. $Jv$ is reverse mode twice: $J^\top u$ is linear in u, and its
    derivative along v is $Jv$. Both take many vectors through the same recorded graph at once, so
    no forward pass is repeated. Keeps the graph of one pass over the prompts in memory. A row is
    all parameters of an edit, one behind the other: for vectors, the vector.
    """

    def __init__(self, responses: ResponseMap, like: Perturbation) -> None:
        segment = responses.segment
        self._objective = responses.objective
        self._theta = torch.zeros_like(like.flat()[:1]).requires_grad_()
        self.width = self._theta.shape[1]
        # The fused attention kernels have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self._pooled = responses.response(like.of_rows(self._theta))
            refuse_busy_zeros(like, self._pooled, segment)
            if not self._pooled.requires_grad:
                raise no_gradient(segment)
            self._u = torch.zeros_like(self._pooled, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self._pooled, self._theta, self._u, create_graph=True, materialize_grads=True
            )
        # Zeros that stand for "does not depend" say that they want gradients too.
        if self._pulled.grad_fn is None:
            raise no_gradient(segment)
        self.k = self._pooled.shape[1]

    def push(self, vectors: Float[Tensor, "vec width"]) -> Float[Tensor, "vec k"]:
        """J v for every row."""
        return self._batched(self._pulled, self._u, vectors)

    def pull(self, cotangents: Float[Tensor, "vec k"]) -> Float[Tensor, "vec width"]:
        """Jᵀ u for every row."""
        return self._batched(self._pooled, self._theta, cotangents)

    def _batched(self, output: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
        def products(part: slice) -> Tensor:
            weights = rows[part, None].to(output)
            (found,) = torch.autograd.grad(
                output, wanted, weights, retain_graph=True, is_grads_batched=True
            )
            refuse_nonfinite((found.detach()[:, 0],), first=part.start)
            return found.detach()[:, 0]

        return torch.cat(in_parts(len(rows), self._objective, products))


def refuse_busy_zeros(like: Perturbation, pooled: Float[Tensor, "vec k"], segment: Segment) -> None:
    """Where zeros are an edit, there is no map of a small one.

    Args:
        pooled: the response to zeros.

    Raises:
        SettingError: it is not about zero.
    """
    noise = 0.01 * float(segment.clean.float().norm(dim=-1).median())
    if not bool(pooled.detach().norm(dim=1).amax() <= noise):
        raise SettingError(
            f"A {type(like).__name__} of zeros changes the model, so it has no derivative at no "
            "edit, which this method is made of. Use Power, Melbo, Dct or Sogi."
        )


def stacked_response(steered: Steered, clean: Clean, measured: Measured) -> Float[Tensor, "vec k"]:
    r"""Every measured token's change, side by side, weighted so that prompts count equally.

    The squared norm of a row is the mean over prompts of the mean over measured tokens of
    $\|\Delta\|^2$; k is the number of measured tokens times `d_model`.
    """
    delta = at_least_float32(steered - clean)
    counts = (len(measured) * measured.sum(dim=1, keepdim=True)).to(delta)
    weight = counts.rsqrt().expand(measured.shape)[measured]
    return (delta[:, measured] * weight[:, None]).flatten(1)
