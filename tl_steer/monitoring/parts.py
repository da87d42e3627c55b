"""A phase's detectors, made ready for requests under way: every part's number at a token.

What `Phase.read` and `Phase.parts` give, by the shortest way. Reading matrices from memory is most
of what a token costs, and starting operations is most of the rest. So all maps that detectors look
through are one matrix, the same map only once in it, and of a vector's scores only the largest is
made (`detectors/peaks.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.monitoring.detectors.detector import Detector
from tl_steer.monitoring.detectors.fitted import Mapped
from tl_steer.monitoring.detectors.peaks import Map, Peak, Peaking
from tl_steer.monitoring.reader import Phase, Standard


@dataclass(frozen=True, eq=False)
class Parts:
    """One layer's and phase's.

    Attributes:
        weights, bias: all maps side by side, of activations around `centre`.
        peaks: of each part, and the columns of the maps that it looks through.
    """

    weights: Float[Tensor, "d columns"] | None
    bias: Float[Tensor, " columns"] | None
    centre: Float[Tensor, " d"] | None
    peaks: tuple[tuple[Peak, tuple[slice, ...]], ...]

    @classmethod
    def of(cls, phase: Phase) -> "Parts":
        peaks = [_peak_of(known) for known in phase.known]
        if phase.unknown is not None:
            peaks.append(_plain(phase.unknown))
        maps = {each.place: each for peak in peaks for each in peak.maps}
        columns = dict(zip(maps, _side_by_side(list(maps.values())), strict=True))
        centre = next((peak.centre for peak in peaks if peak.centre is not None), None)
        biases = [each.bias if centre is None else each.around(centre) for each in maps.values()]
        return cls(
            torch.cat([each.weights for each in maps.values()], dim=1) if maps else None,
            torch.cat(biases) if maps else None,
            centre,
            tuple((peak, tuple(columns[own.place] for own in peak.maps)) for peak in peaks),
        )

    @property
    def count(self) -> int:
        return len(self.peaks)

    def __call__(self, activations: Float[Tensor, "token d"]) -> list[list[float]]:
        """Every part's numbers, a list for each; behind them, lists of what has to be finite for a
        token to count."""
        mapped = self._mapped(activations)
        values, conditions = [], [activations.square().sum(dim=1)]
        for peak, columns in self.peaks:
            value, *needed = peak.largest(activations, *(mapped[:, own] for own in columns))
            values.append(value)
            conditions += needed
        found: list[list[float]] = torch.stack([*values, *conditions]).tolist()
        return found

    def _mapped(self, activations: Tensor) -> Tensor:
        if self.weights is None or self.bias is None:
            return activations
        centred = activations if self.centre is None else activations - self.centre
        return torch.addmm(self.bias, centred, self.weights)


def _side_by_side(maps: Sequence[Map]) -> Iterator[slice]:
    end = 0
    for each in maps:
        begin, end = end, end + len(each.bias)
        yield slice(begin, end)


def _peak_of(known: Standard) -> Peak:
    detector: Any = known.detector
    if isinstance(detector, Peaking):
        return detector.peak(known.shift, known.inverse)
    if isinstance(detector, Mapped):
        return Peak(
            lambda _, mapped: (known.scaled(detector.of(mapped)).amax(dim=1),), (detector.map,)
        )
    return Peak(lambda activations: (known(activations).amax(dim=1),))


def _plain(detector: Detector) -> Peak:
    """A single column as it is."""
    if isinstance(detector, Mapped):
        return Peak(lambda _, mapped: (detector.of(mapped)[:, 0],), (detector.map,))
    return Peak(lambda activations: (detector(activations)[:, 0],))
