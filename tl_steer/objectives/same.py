"""Two ways to evaluate an objective have to give the same."""

import torch
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.objectives.objective import Evaluation


def refuse_unlike(one: Evaluation, other: Evaluation, dtype: torch.dtype, advice: str) -> None:
    """Compare values, responses and gradients, up to rounding in `dtype`.

    Raises:
        SettingError: they differ; it says `advice`.
    """
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 0.05
    for a, b in zip(_parts(one), _parts(other), strict=True):
        if not float((a - b).norm()) <= tolerance * float(a.norm()):
            raise SettingError(advice)


def _parts(found: Evaluation) -> tuple[Tensor, ...]:
    return tuple(part.double() for part in (found.value, found.response, *found.gradients))
