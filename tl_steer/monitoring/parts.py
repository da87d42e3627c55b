"""A phase's detectors, made ready for requests under way: every part's number at a token.

What `Phase.read` and `Phase.parts` give, by the shortest way: maps that detectors share are used
once, and of a vector's scores only the largest is made (`detectors/peaks.py`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.monitoring.detectors.detector import Detector
from tl_steer.monitoring.detectors.fitted import Mapped
from tl_steer.monitoring.detectors.peaks import Peak, Peaking
from tl_steer.monitoring.reader import Phase, Standard


@dataclass(frozen=True, eq=False)
class Parts:
    """One layer's and phase's.

    Attributes:
        maps: the different ones that detectors look through.
        peaks: of each part, and which map it looks through.
    """

    maps: tuple[tuple[Tensor, Tensor], ...]
    peaks: tuple[tuple[Peak, int | None], ...]

    @classmethod
    def of(cls, phase: Phase) -> "Parts":
        peaks = [_peak_of(known) for known in phase.known]
        if phase.unknown is not None:
            peaks.append(_plain(phase.unknown))
        maps: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for peak in peaks:
            if peak.map is not None:
                maps.setdefault(_place(peak.map), peak.map)
        places = list(maps)
        numbered = ((p, None if p.map is None else places.index(_place(p.map))) for p in peaks)
        return cls(tuple(maps.values()), tuple(numbered))

    @property
    def count(self) -> int:
        return len(self.peaks)

    def __call__(self, activations: Float[Tensor, "token d"]) -> list[list[float]]:
        """Every part's numbers, a list for each; behind them, lists of what has to be finite for a
        token to count."""
        mapped = [torch.addmm(bias, activations, weights) for weights, bias in self.maps]
        values, conditions = [], [activations.square().sum(dim=1)]
        for peak, place in self.peaks:
            value, *needed = peak.largest(
                activations, activations if place is None else mapped[place]
            )
            values.append(value)
            conditions += needed
        found: list[list[float]] = torch.stack([*values, *conditions]).tolist()
        return found


def _place(map: tuple[Tensor, Tensor]) -> tuple[int, int]:
    return id(map[0]), id(map[1])


def _peak_of(known: Standard) -> Peak:
    detector: Any = known.detector
    if isinstance(detector, Peaking):
        return detector.peak(known.shift, known.inverse)
    if isinstance(detector, Mapped):
        return Peak(
            lambda _, mapped: (known.scaled(detector.of(mapped)).amax(dim=1),),
            (detector.weights, detector.bias),
        )
    return Peak(lambda activations, _: (known(activations).amax(dim=1),))


def _plain(detector: Detector) -> Peak:
    """A single column as it is."""
    if isinstance(detector, Mapped):
        return Peak(
            lambda _, mapped: (detector.of(mapped)[:, 0],), (detector.weights, detector.bias)
        )
    return Peak(lambda activations, _: (detector(activations)[:, 0],))
