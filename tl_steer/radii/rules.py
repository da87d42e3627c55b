r"""How long a perturbation should be.

Too short and the model paraphrases, too long and it babbles; the useful band is about a factor of
two wide and its place depends on model and layer. **Calibration** finds it from the model alone
(Mack, "Deep causal transcoding", LessWrong fSRg5qs9TPbNy3sm5): with $\Delta(\theta)$ the mean
change at the target over prompts and measured tokens, and J its Jacobian at 0, find R such that
over random unit vectors v

$$\lambda(R) = \sqrt{\operatorname{mean}_v \|\Delta(Rv)-R\,Jv\|^2/\|R\,Jv\|^2} = 0.5 .$$

That is where random vectors leave the linear regime. Trained vectors leave it sooner, since they
look for where the model reacts most, and how much sooner differs between layers: `radius="auto"` is
`InBand`, which starts from the calibration and reads what the steered model says.
"""

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.models.segment import Segment
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.response import ResponseMap
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.sphere import random_on_sphere

RadiusRule = Callable[[Segment, Bool[Tensor, "batch pos"], int], float]
"""`(segment, measured, seed) -> radius`, in the units of the activations at the source."""

# Where R is looked for, in shares of the source's median norm.
_BRACKET = (1e-3, 4.0)
# Where most models have it; the search starts here and doubles or halves.
_GUESS = 0.2


def radius_of(given: float | int | str | RadiusRule) -> float | int | str | RadiusRule:
    """A radius that may be written as text: "0.25x" is a share of the norm, "2.5" a number.

    Raises:
        SettingError: other text than that and "auto".
    """
    if not isinstance(given, str) or given == "auto":
        return given
    try:
        number = float(given.removesuffix("x"))
    except ValueError:
        raise SettingError(
            f"radius={given!r}: expected a number, a share of the residual norm such as '0.25x', "
            "'auto' or a radius rule."
        ) from None
    return ShareOfNorm(number) if given.endswith("x") else number


def length_of(
    radius: float | int | RadiusRule,
    segment: Segment,
    measured: Bool[Tensor, "batch pos"],
    seed: int,
) -> float:
    """A radius as a number: itself, or what a rule finds.

    Raises:
        NotFiniteError: a rule found none.
    """
    if isinstance(radius, (int, float)):
        return float(radius)
    found = float(radius(segment, measured, seed))
    if not 0 < found < math.inf:
        raise NotFiniteError(f"{radius} gave radius {found}; give radius= as a number.")
    return found


@typed_fields
@dataclass(frozen=True)
class ShareOfNorm:
    """A share of the median clean norm of the residual stream at the source (BOS left out)."""

    share: float | int

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise SettingError(f"ShareOfNorm({self.share}): expected a number above 0.")

    def __call__(self, segment: Segment, measured: Bool[Tensor, "batch pos"], seed: int) -> float:
        return self.share * segment.source_norm()


@typed_fields
@dataclass(frozen=True)
class Calibrated:
    """DCT's calibration, times `scale`.

    Args:
        ratio: the nonlinear-to-linear ratio asked for.
        scale: what the calibrated radius is multiplied with; 1 is as published.
        n: random directions.

    Where the ratio is not reached between 0.001 and 4 times the source's norm (a linear model never
    reaches it), the nearer end of that bracket is used, with a warning.
    """

    ratio: float | int = 0.5
    scale: float | int = 1
    n: int = 30

    def __post_init__(self) -> None:
        if not (self.ratio > 0 and self.scale > 0 and self.n >= 1):
            raise SettingError(f"{self}: expected ratio > 0, scale > 0 and n >= 1.")

    def __call__(self, segment: Segment, measured: Bool[Tensor, "batch pos"], seed: int) -> float:
        from scipy.optimize import brentq  # late: a fifth of a second to import

        generator = torch.Generator().manual_seed(seed)
        unit = random_on_sphere(self.n, segment.source.width, radius=1.0, generator=generator)
        linear = linear_response(segment, unit, measured)
        norm = segment.source_norm()

        @functools.cache
        def excess(log_radius: float) -> float:
            ratio = nonlinearity(segment, unit, linear, measured, math.exp(log_radius))
            if not math.isfinite(ratio):
                raise NotFiniteError(
                    f"The nonlinearity at radius {math.exp(log_radius):.3g} is {ratio}: some "
                    f"direction at {segment.source} has no effect on {segment.target}, or the "
                    "model overflows. Give radius= as a number."
                )
            # brentq runs on straight lines best: log ratio against log radius.
            return math.log(max(ratio, 1e-9) / self.ratio)

        low, high = (math.log(norm * share) for share in _BRACKET)
        before, behind = _around(excess, math.log(norm * _GUESS), low, high)
        if before == behind:
            warnings.warn(
                f"A nonlinear-to-linear ratio of {self.ratio} is not reached between {_BRACKET[0]} "
                f"and {_BRACKET[1]} times the residual norm at {segment.source}; using radius "
                f"{math.exp(before):.3g}. Consider giving radius= yourself.",
                stacklevel=2,
            )
            return self.scale * math.exp(before)
        return self.scale * math.exp(float(brentq(excess, before, behind, xtol=2e-3)))


def _around(
    excess: Callable[[float], float], guess: float, low: float, high: float
) -> tuple[float, float]:
    """Two places a factor of two apart with a change of sign between them; twice the same end of
    the bracket where there is none."""
    rising = excess(guess) < 0
    here, end, step = guess, high if rising else low, math.log(2) * (1 if rising else -1)
    while here != end:
        there = min(here + step, high) if rising else max(here + step, low)
        if (excess(there) < 0) != rising:
            return min(here, there), max(here, there)
        here = there
    return end, end


def linear_response(
    segment: Segment, unit: Float[Tensor, "vec width"], measured: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "vec d_target"]:
    """J v for every row v: the exact derivative of the mean response."""
    objective = Objective(segment, Displacement(), measured)
    vectors = Additive(segment.source, unit.to(segment.clean.device), radius=1.0)
    return ResponseMap(objective).derivative(vectors).push(vectors.vectors.detach())


@torch.no_grad()
def nonlinearity(
    segment: Segment,
    unit: Float[Tensor, "vec width"],
    linear: Float[Tensor, "vec d_target"],
    measured: Bool[Tensor, "batch pos"],
    radius: float,
) -> float:
    r"""$\lambda(R)$: how much of the response at `radius` its linear part leaves unexplained."""
    steps = Additive(segment.source, radius * unit.to(segment.clean.device), radius=radius)
    response = ResponseMap(Objective(segment, Displacement(), measured))(steps)
    rest = (response - radius * linear).square().sum(dim=1)
    return math.sqrt(float((rest / (radius * linear).square().sum(dim=1)).mean()))
