r"""Divergences made of divergences, and penalties to put beside one.

Everything here is a `Divergence` itself, so they nest:

    Weighted(((1.0, Displacement()), (-0.1, OutputKL(model)), (5.0, Population())))
    Differential(Displacement(), still=2, weight=0.5)     # the last two prompts shall not move
"""

import hashlib
from dataclasses import InitVar, dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import SettingError, ShapeError
from tl_steer.objectives.divergence import (
    Divergence,
    at_least_float32,
    mean_per_prompt,
    prompt_responses,
)


@dataclass(frozen=True)
class Weighted:
    r"""$\sum_k w_k f_k$: an objective, with penalties where a weight is negative.

    Args:
        parts: (weight, divergence) pairs.

    Units add up as they are: a displacement grows with the radius and the number of prompts, a KL
    is in nats, a cosine is at most 2 a prompt. Look at each part's own size before you weigh them;
    with a penalty too heavy, the best perturbation is the one that does nothing.
    """

    parts: tuple[tuple[float | int, Divergence], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple((w, f) for w, f in self.parts))
        weights = [w for w, _ in self.parts]
        if not weights or not all(-float("inf") < w < float("inf") for w in weights):
            raise SettingError(f"Weighted: expected at least one finite weight, got {weights}.")

    def __call__(
        self,
        steered: Float[Tensor, "vec batch pos d_model"],
        clean: Float[Tensor, "batch pos d_model"],
        measured: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, " vec"]:
        values = [weight * f(steered, clean, measured) for weight, f in self.parts]
        return torch.stack(values).sum(dim=0)


@dataclass(frozen=True)
class Differential:
    r"""Move on some prompts, stay still on others: $f(\text{moving}) - w\,f(\text{still})$.

    Give `elicit` both kinds as one list, those to stay still last. Finds what is special to the
    first: a perturbation that moves every prompt pays for it.

    Args:
        inner: the divergence of both terms.
        still: how many prompts, the last of the list, are to stay still.
        weight: w. `inner` sums over prompts, so with weight 1 ten still prompts outweigh one.

    Source: the idea only, "truth-serum" loss (LessWrong uZrZgCqEeA4xqB2fd). A bank's responses are
    means over all prompts, the still ones included.

    Raises:
        SettingError: when called with too few prompts for one of the two terms.
    """

    inner: Divergence
    still: int
    weight: float | int = 1.0

    def __post_init__(self) -> None:
        if self.still < 1 or not 0 <= self.weight < float("inf"):
            raise SettingError(
                f"Differential(still={self.still}, weight={self.weight}): expected at least one "
                "prompt to stay still, and a weight of 0 or more."
            )

    def __call__(
        self,
        steered: Float[Tensor, "vec batch pos d_model"],
        clean: Float[Tensor, "batch pos d_model"],
        measured: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, " vec"]:
        if len(clean) <= self.still:
            raise SettingError(
                f"Of {len(clean)} prompts {self.still} are to stay still, so none is left to move: "
                "prompts=[*moving, *still]."
            )
        cut = len(clean) - self.still
        moving = self.inner(steered[:, :cut], clean[:cut], measured[:cut])
        return moving - self.weight * self.inner(steered[:, cut:], clean[cut:], measured[cut:])


@dataclass(frozen=True)
class Population:
    r"""Rewards one response on all prompts: the mean cosine of prompts' responses, pair by pair.

    With $r_i$ the mean change over prompt i's measured tokens,
    $\binom{n}{2}^{-1} \sum_{i<j} \cos(r_i, r_j)$, in [-1, 1]; a prompt that does not move counts 0.

    To be added to a divergence with `Weighted`: it is blind to length, so alone it is content with
    tiny changes. Wrong where prompts differ so much that one behaviour shows as different
    activations.

    Raises:
        SettingError: when called with a single prompt.
    """

    def __call__(
        self,
        steered: Float[Tensor, "vec batch pos d_model"],
        clean: Float[Tensor, "batch pos d_model"],
        measured: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, " vec"]:
        n = len(clean)
        if n < 2:
            raise SettingError("Population compares prompts, so it needs at least two; got one.")
        responses = prompt_responses(steered, clean, measured)
        squares = responses.square().sum(dim=-1, keepdim=True)
        moved = squares > 0
        # The root only where something moved: its gradient at 0 is infinite.
        unit = torch.where(moved, responses / torch.where(moved, squares, 1.0).sqrt(), 0.0)
        pairs = unit.sum(dim=1).square().sum(dim=-1) - unit.square().sum(dim=(1, 2))
        return pairs / (n * (n - 1))


@dataclass(frozen=True, eq=False)
class OffManifold:
    r"""How far steered activations leave the spread of clean ones; a penalty (negative weight).

    With $\mu$ and $\Sigma$ the mean and covariance of `reference`,
    $\Sigma_s = (1-s)\Sigma + s\,\frac{\operatorname{tr}\Sigma}{d} I$ and
    $m(z) = (z-\mu)^\top \Sigma_s^{-1} (z-\mu) / d$, it is the mean over measured tokens of
    $\max(0, m(z_\text{steered}) - m(z_\text{clean}))$, summed over prompts. So growing longer and
    leaving the directions in which clean activations vary both cost; moving within them does not.

    Args:
        reference: clean activations at the target, of many prompts: `segment.clean[segment.mask]`
            of a `Segment` of their own, say, with BOS left out.
        shrinkage: s. With fewer tokens than dimensions it alone sets the price of the directions
            in which no reference token varies.

    Wrong with few reference tokens (nearly everything is then off the manifold), and where massive
    activations dominate the covariance. An ellipsoid is no manifold: activations inside it can be
    as unnatural as any.

    Raises:
        SettingError: fewer than two reference tokens, no spread, or a shrinkage outside (0, 1].
        ShapeError: when called on activations of another width.
    """

    reference: InitVar[Float[Tensor, "token d_model"]]
    shrinkage: float | int = 0.1
    tokens: int = field(init=False)
    sha256: str = field(init=False)  # tells references apart in a bank's provenance

    def __post_init__(self, reference: Tensor) -> None:
        if not 0 < self.shrinkage <= 1 or len(reference) < 2:
            raise SettingError(
                f"OffManifold(shrinkage={self.shrinkage}) of {len(reference)} tokens: expected a "
                "shrinkage above 0 and up to 1, and at least two tokens (hundreds are better)."
            )
        values = reference.detach().double()
        centre = values.mean(dim=0)
        spread, axes = torch.linalg.eigh((values - centre).T @ (values - centre) / len(values))
        scale = float(spread.mean())
        if not 0 < scale < float("inf"):
            raise SettingError("The reference activations do not vary, or are not finite.")
        shrunk = (1 - self.shrinkage) * spread.clamp_min(0) + self.shrinkage * scale
        object.__setattr__(self, "_centre", centre)
        object.__setattr__(self, "_whitening", axes / (shrunk * len(centre)).sqrt())
        object.__setattr__(self, "tokens", len(values))
        digest = hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest()
        object.__setattr__(self, "sha256", digest[:16])

    def __call__(
        self,
        steered: Float[Tensor, "vec batch pos d_model"],
        clean: Float[Tensor, "batch pos d_model"],
        measured: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, " vec"]:
        # relu and not clamp: its gradient is 0 where nothing has moved.
        further = (self.distance(steered) - self.distance(clean)).relu()
        return mean_per_prompt(further, measured)

    def distance(self, activations: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any"]:
        """m(z), about 1 for activations like the reference."""
        centre: Tensor = self.__dict__["_centre"]
        if activations.shape[-1] != len(centre):
            raise ShapeError(
                f"Activations of width {activations.shape[-1]}; the reference has {len(centre)}: "
                "take it at the target."
            )
        values = at_least_float32(activations)
        whitened: Tensor = (values - centre.to(values)) @ self.__dict__["_whitening"].to(values)
        return whitened.square().sum(dim=-1)
