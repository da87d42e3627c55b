r"""Objectives: how far steered activations have moved from clean ones.

A `Divergence` is any callable `(steered, clean, measured) -> [vec]` with gradients:

    steered   [vec batch pos d_model]   activations at the target, one copy of the batch per vector
    clean     [batch pos d_model]       the same without a perturbation
    measured  [batch pos]               which tokens count (BOS and padding never do)

Write your own as a plain function; `docs/extending.md` does so in a dozen lines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.hook_points.site import Site

Steered: TypeAlias = Float[Tensor, "vec batch pos d_model"]
"""Activations at the target under every vector."""
Clean: TypeAlias = Float[Tensor, "batch pos d_model"]
"""The same without any: one copy, since it is the same for all vectors."""
Measured: TypeAlias = Bool[Tensor, "batch pos"]
"""Which tokens count: neither padding nor those that `measured=` leaves out."""
PerVector: TypeAlias = Float[Tensor, " vec"]
"""A number for each vector."""
Divergence: TypeAlias = Callable[[Steered, Clean, Measured], PerVector]
"""`(steered, clean, measured) -> [vec]`: how far activations moved, to be maximised. It has to be
differentiable in `steered`, and 0 where nothing moves."""


def refuse_target(divergence: Any, target: Site) -> None:
    """Let a divergence refuse a target by a method `refuse_target(target)`, if it has one.

    Raises:
        HookPointError: it cannot be measured there.
    """
    refuse = getattr(divergence, "refuse_target", None)
    if refuse is not None:
        refuse(target)


@typed_fields
@dataclass(frozen=True)
class Displacement:
    r"""MELBO's objective: $\sum_i \big(\sum_{\tau\in I_i} \|\Delta_{i,\tau}\|_2^p\big)^{1/q}$.

    $\Delta_{i,\tau}$ is the change at prompt i and token $\tau$; the norm runs over `d_model`.
    Source: Mack and Turner, "Mechanistically eliciting latent behaviors in language models" (2024).
    Their code takes the norm over *tokens*, which agrees with the equation only at p = 2.

    Args:
        p: 2 or 4 in the paper. Large p looks at the few tokens that move most.
        q: 1 or p; `None` means p. A large p with q = 1 is flat near the start: prefer q = p.

    Wrong to use without a radius: it has no maximum. Massive activations dominate it where a
    perturbation creates one (a token that becomes an attention sink); `Cosine` is bounded.
    """

    p: float | int = 2
    q: float | int | None = None

    def __post_init__(self) -> None:
        for name, value in (("p", self.p), ("q", self.q)):
            if value is not None and not (1 <= value < float("inf")):
                raise SettingError(
                    f"Displacement({name}={value}): expected a number of at least 1."
                )

    def __call__(self, steered: Steered, clean: Clean, measured: Measured) -> PerVector:
        delta = at_least_float32(steered - clean)
        # The p-th power of the norm, written without its root: the root's gradient at 0 is NaN.
        powers = delta.square().sum(dim=-1)
        if self.p != 2:
            powers = _safe_power(powers, self.p / 2)
        per_prompt = torch.where(measured, powers, 0.0).sum(dim=-1)
        return _safe_power(per_prompt, 1 / (self.q or self.p)).sum(dim=-1)


@typed_fields
@dataclass(frozen=True)
class Cosine:
    r"""Mean over measured tokens of $1 - \cos(Z_\tau(\theta), Z_\tau(0))$, summed over prompts.

    Bounded by 2 per prompt, blind to length. Use it where displacement is dominated by massive
    activations; do not use it to compare vectors of very different radii.
    """

    def __call__(self, steered: Steered, clean: Clean, measured: Measured) -> PerVector:
        steered, clean = at_least_float32(steered), at_least_float32(clean)
        away = 1 - torch.cosine_similarity(steered, clean.expand_as(steered), dim=-1)
        per_prompt = torch.where(measured, away, 0.0).sum(dim=-1) / measured.sum(dim=-1)
        return per_prompt.sum(dim=-1)


def mean_response(
    steered: Steered, clean: Clean, measured: Measured
) -> Float[Tensor, "vec d_model"]:
    """The response of every vector: the mean change over measured tokens, then over prompts.

    Prompts count equally, however long. Units are those of the target's activations.
    """
    delta = torch.where(measured[..., None], at_least_float32(steered - clean), 0.0)
    return (delta.sum(dim=2) / measured.sum(dim=-1)[:, None]).mean(dim=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision overflows at p = 4; float64 is left as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _safe_power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for x >= 0, with gradient 0 at x = 0 (MELBO's is 0 there, the root's
    infinite)."""
    if exponent == 1:
        return x
    # Asked in this way NaN stays NaN; `x > 0` would turn what cannot be measured into "no effect".
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).pow(exponent))
