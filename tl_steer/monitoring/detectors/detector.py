r"""Detectors: scores fitted to one model's clean activations, ready for one pass per token.

A *score* is any function of a `Reference` that returns a detector, and a *detector* any function
from activations `[token d]` to scores `[token m]`: one column per vector of the bank, or a single
one; larger is more suspicious. Those here return frozen records of tensors, which a monitor's file
can hold. Return one of these from a function of your own and it can be saved too, as can a record
of your own that is registered (`registry.py`):

    def mean_difference(reference):
        weights = reference.responses.T
        return Affine(weights, -reference.gaussian.mean @ weights)

With $z = (h - \mu) \Sigma^{-1/2}$ a token's white activation and $u_k = U_k \Sigma^{-1/2}$ vector
k's white response:

    MatchedFilter      z·u / |u|         N(0, 1) on Gaussian clean tokens, whatever the amplitude
    WhitenedCosine     z·u / (|z| |u|)   the same angle, blind to the size of z
    Unexplained        |z - Pz|²         P onto the span of the leading white responses
    Mahalanobis        |z|²              a baseline: it knows no vectors and names none

The first two are the adaptive matched filter and the adaptive coherence estimator (ACE) of
library-based target detection (Kraut, Scharf and McWhorter 2001). docs/monitoring.md compares them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.monitoring.detectors.fitted import (
    Affine,
    Cosines,
    Energy,
    Residual,
    Searched,
    SharedEnergy,
)
from tl_steer.monitoring.detectors.gaussian import Gaussian, fit_gaussian
from tl_steer.monitoring.detectors.neighbourhood import (
    LocalEnergy,
    LocalFilter,
    local_energy,
    local_filter,
)

Detector: TypeAlias = Callable[[Float[Tensor, "token d"]], Float[Tensor, "token m"]]


@dataclass(frozen=True, eq=False)
class Reference:
    """All that a score may look at; no anomaly is among it.

    Attributes:
        clean: activations of clean tokens of the kind that will be scored.
        responses: mean effect of every vector on such tokens.
        steered: activations of such tokens under every vector, prompt after prompt.
        background: activations of clean tokens of all kinds.
        per_prompt: how many of `steered` are of one prompt.
    """

    clean: Float[Tensor, "n d"]
    responses: Float[Tensor, "vec d"]
    steered: Float[Tensor, "vec sample d"]
    background: Float[Tensor, "all d"]
    per_prompt: int = 1

    @functools.cached_property
    def gaussian(self) -> Gaussian:
        return fit_gaussian(self.clean)

    @functools.cached_property
    def frame(self) -> "Frame":
        return frame_of(self.gaussian, self.responses)


@dataclass(frozen=True, eq=False)
class Frame:
    """White coordinates h M + b, turned so that the bank's white responses vary most along the
    first axes. Lengths and angles are those of any white coordinates; scores that share these share
    one product.

    Attributes:
        weights, bias: M and b.
        responses: the white responses in them, each of unit length.
    """

    weights: Float[Tensor, "d d"]
    bias: Float[Tensor, " d"]
    responses: Float[Tensor, "vec d"]


def frame_of(clean: Gaussian, responses: Float[Tensor, "vec d"]) -> Frame:
    unit = normalize(clean.whiten_change(responses).double(), dim=1)
    # The second-moment matrix is d by d, however many vectors there are.
    axes = torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1)
    weights = (clean.whitener.double() @ axes).float()
    return Frame(weights, -clean.mean @ weights, (unit @ axes).float())


Score: TypeAlias = Callable[[Reference], Detector]
"""A function of a `Reference` that fits a detector: what `Monitor.fit(score=)` takes."""


@typed_fields
@dataclass(frozen=True)
class MatchedFilter:
    """How far an activation has moved along each response, in clean standard deviations.

    Half the square of its positive part is the likelihood ratio for an unknown amplitude. Wrong
    where long contexts or odd topics inflate all of z: then everything matches a little.
    """

    def __call__(self, reference: Reference) -> Affine:
        clean = reference.gaussian
        unit = normalize(clean.whiten_change(reference.responses), dim=1)
        weights = clean.whitener @ unit.T
        return Affine(weights, -clean.mean @ weights)


@typed_fields
@dataclass(frozen=True)
class WhitenedCosine:
    """The cosine of activation and response in white coordinates: the share of what is unusual
    about a token that the response accounts for.

    Wrong where the behaviour is a small part of a large move: `MatchedFilter` keeps the size.
    """

    def __call__(self, reference: Reference) -> Cosines:
        frame = reference.frame
        return Cosines(frame.weights, frame.bias, frame.responses.T.contiguous())


@typed_fields
@dataclass(frozen=True)
class Recurrence:
    r"""On what share of clean prompts a vector brings about what is seen, as far as one activation
    can tell: the largest squared cosine with a prompt's steered activations, in deviations from the
    clean mean and raw coordinates, averaged over prompts (`SharedEnergy`).

    A squared cosine is the share of one change's energy that lies along another. The mean over
    prompts prefers vectors that do the same again and again to those which did it once, and the
    largest within a prompt leaves room for all else that a vector makes the model say there. Made
    for naming (`namer=` of a monitor), on prompts that the bank was not learned on: on its own
    prompt nearly every vector does what it does nowhere else.
    """

    def __call__(self, reference: Reference) -> SharedEnergy:
        mean = reference.clean.mean(dim=0)
        examples = normalize(reference.steered - mean, dim=2)
        return SharedEnergy(mean, examples.unflatten(1, (-1, reference.per_prompt)).half())


@typed_fields
@dataclass(frozen=True)
class Search:
    """`WhitenedCosine` for banks too large to compare with one by one: most vectors are ruled out
    in the few directions in which the bank's white responses vary most.

    Args:
        rank: of the sketch; `candidates` are compared exactly.

    Approximate: a vector that the sketch rules out is not found. Thresholds are calibrated on the
    same search, so false alarms are as promised all the same.
    """

    rank: int = 32
    candidates: int = 64

    def __call__(self, reference: Reference) -> Searched:
        frame = reference.frame
        vec, d = frame.responses.shape
        rank = min(self.rank, d)
        return Searched(
            frame.weights,
            frame.bias,
            sketches=frame.responses[:, :rank].T.contiguous(),
            directions=frame.responses,
            candidates=min(self.candidates, vec),
        )


@typed_fields
@dataclass(frozen=True)
class Unexplained:
    """The energy that the bank does not explain, |z - Pz|².

    Args:
        rank: of what counts as explained; `None` is a quarter of d_model, or the whole bank where
            that is smaller. Directions beyond the bank's own rank explain nothing.
    """

    rank: int | None = None

    def __call__(self, reference: Reference) -> Residual:
        vec, d = reference.responses.shape
        rank = max(1, min(vec, d // 4)) if self.rank is None else self.rank
        if rank >= d:
            raise SettingError(f"rank={rank} of {d} leaves nothing unexplained.")
        return Residual(reference.frame.weights, reference.frame.bias, rank)


@typed_fields
@dataclass(frozen=True)
class Mahalanobis:
    """The squared Mahalanobis distance |z|², a baseline."""

    def __call__(self, reference: Reference) -> Energy:
        return Energy.around(reference.gaussian)


@typed_fields
@dataclass(frozen=True)
class Outlier:
    """`LocalEnergy`: how much farther a token is from its nearest clean ones than they are from
    theirs. Give it as `unknown`.

    Args:
        k: neighbours; all there are but one, if that is fewer.
        most: clean tokens to fit on and to look for neighbours among, at regular intervals.
    """

    k: int = 5
    most: int = 4096

    def __call__(self, reference: Reference) -> LocalEnergy:
        clean = _at_most(reference.clean, self.most)
        return local_energy(clean, k=_no_more_than(self.k, clean))


@typed_fields
@dataclass(frozen=True)
class LocalMatchedFilter:
    """`LocalFilter`: the same along every response. Give it as `score`.

    Args:
        k, most: as for `Outlier`.
    """

    k: int = 5
    most: int = 4096

    def __call__(self, reference: Reference) -> LocalFilter:
        clean = _at_most(reference.clean, self.most)
        return local_filter(clean, reference.responses, k=_no_more_than(self.k, clean))


def _at_most(clean: Float[Tensor, "token d"], most: int) -> Float[Tensor, "few d"]:
    """Tokens at regular intervals: comparing with each costs as much as with a vector."""
    if len(clean) <= most:
        return clean
    return clean[torch.linspace(0, len(clean) - 1, most, dtype=torch.float32, device="cpu").long()]


def _no_more_than(k: int, clean: Float[Tensor, "token d"]) -> int:
    """Neighbours, where a monitor may be fitted on a few requests."""
    return min(k, max(1, len(clean) - 1))
