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
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.files.progress import Show, unseen
from tl_steer.files.signatures import typed_fields
from tl_steer.models.segment import Segment
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.response import ResponseMap
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.sphere import random_on_sphere

RadiusRule = Callable[..., float]
"""`(segment, measured, seed) -> radius`, in the units of the activations at the source. A rule that
takes `show=` as well tells by it how far it is (`files.progress`)."""

# Where R is looked for, in shares of the source's median norm.
_BRACKET = (1e-3, 4.0)
# Where most models have it, and how steeply the ratio rises there, both on a log scale: what is not
# linear grows with the square of R, and what is linear with R.
_GUESS, _SLOPE = 0.2, 1.0
# A few directions tell about where; then all of them, where exactly. In log radius.
_FEW, _ABOUT, _EXACTLY = 5, 0.05, 2e-3


def radius_of(given: float | int | str | RadiusRule) -> float | int | str | RadiusRule:
    """A radius that may be written as text: "0.25x" is a share of the norm, "2.5" a number.

    Raises:
        SettingError: other text than that and "auto", or a number that is no length.
    """
    if isinstance(given, (int, float)) and not 0 < given < math.inf:
        raise SettingError(
            f"radius={given}: expected a finite number above 0. At 0 the objective has no "
            "gradient; 'auto' finds a radius for you."
        )
    if not isinstance(given, str) or given == "auto":
        return given
    try:
        number = float(given.removesuffix("x"))
    except ValueError:
        raise SettingError(
            f"radius={given!r}: expected a number, a share of the residual norm such as '0.25x', "
            "'auto' or a radius rule."
        ) from None
    return ShareOfNorm(number) if given.endswith("x") else radius_of(number)


def length_of(
    radius: float | int | RadiusRule,
    segment: Segment,
    measured: Bool[Tensor, "batch pos"],
    seed: int,
    show: Show = unseen,
) -> float:
    """A radius as a number: itself, or what a rule finds.

    Raises:
        NotFiniteError: a rule found none.
    """
    if isinstance(radius, (int, float)):
        return float(radius)
    told = {"show": show} if "show" in inspect.signature(radius).parameters else {}
    found = float(radius(segment, measured, seed, **told))
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

    Good to about 0.2%, where the secant method ends (`crossing`). Where the ratio is not reached
    between 0.001 and 4 times the source's norm (a linear model never reaches it), the nearer end of
    that bracket is used, with a warning.
    """

    ratio: float | int = 0.5
    scale: float | int = 1
    n: int = 30

    def __post_init__(self) -> None:
        if not (self.ratio > 0 and self.scale > 0 and self.n >= 1):
            raise SettingError(f"{self}: expected ratio > 0, scale > 0 and n >= 1.")

    def __call__(self, segment: Segment, measured: Bool[Tensor, "batch pos"], seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        unit = random_on_sphere(self.n, segment.source.width, radius=1.0, generator=generator)
        linear = linear_response(segment, unit, measured)
        norm = segment.source_norm()

        def excess(rows: slice, log_radius: float) -> float:
            at = math.exp(log_radius)
            ratio = nonlinearity(segment, unit[rows], linear[rows], measured, at)
            if not math.isfinite(ratio):
                raise NotFiniteError(
                    f"The nonlinearity at radius {at:.3g} is {ratio}: some direction at "
                    f"{segment.source} has no effect on {segment.target}, or the model overflows. "
                    "Give radius= as a number."
                )
            # Secants run on straight lines best: log ratio against log radius.
            return math.log(max(ratio, 1e-9) / self.ratio)

        ends = math.log(norm * _BRACKET[0]), math.log(norm * _BRACKET[1])
        place, slope = math.log(norm * _GUESS), _SLOPE
        if self.n > 2 * _FEW:
            few = functools.partial(excess, slice(_FEW))
            place, slope = crossing(few, place, slope, ends, within=_ABOUT)
        every = functools.partial(excess, slice(None))
        place, _ = crossing(every, place, slope, ends, within=_EXACTLY)
        if place in ends:
            warnings.warn(
                f"A nonlinear-to-linear ratio of {self.ratio} is not reached between {_BRACKET[0]} "
                f"and {_BRACKET[1]} times the residual norm at {segment.source}; using radius "
                f"{math.exp(place):.3g}. Consider giving radius= yourself.",
                stacklevel=2,
            )
        return self.scale * math.exp(place)


# Steps of the secant method: a factor of four at most; the last of ten times the tolerance at most.
_STRIDE, _LAST, _MOST = math.log(4), 10, 40


def crossing(
    rising: Callable[[float], float],
    start: float,
    slope: float,
    ends: tuple[float, float],
    *,
    within: float,
) -> tuple[float, float]:
    """Where a rising function is 0, and its slope there, by the secant method.

    Each step goes where a straight line would be 0: at first one of the given `slope`, then the one
    through the last two places. It ends, near the crossing, where two slopes in a row agree to
    `within` on where that is. No step leaves the places that are known to lie on either side of it:
    half way between them is tried instead. Without a crossing the result is the nearer end.
    """
    (below, above), tested = ends, {False: False, True: False}
    here, value = start, rising(start)
    for _ in range(_MOST):
        if value == 0:
            break
        over = value > 0
        below, above, tested[over] = (below, here, True) if over else (here, above, True)
        there = here - max(-_STRIDE, min(_STRIDE, value / slope))
        if not below < there < above:
            both = tested[False] and tested[True]
            there = (below + above) / 2 if both else min(max(there, below), above)
        if there == here or above - below < within:
            return there, slope
        before, (at, here) = value, (here, there)
        value = rising(here)
        steeper = (value - before) / (here - at)
        if steeper <= 0:
            continue
        apart = abs(value / steeper - value / slope)
        slope = steeper
        if abs(value / slope) < _LAST * within and apart < within:
            return min(max(here - value / slope, ends[0]), ends[1]), slope
    return here, slope


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
