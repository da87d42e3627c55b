"""What measures the parts of a sweep, here or in a worker: all that it needs but for the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Site
from tl_steer.models.model import HookedModel
from tl_steer.models.state import frozen
from tl_steer.objectives.output_kl import readout
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.sweeps.cells import Cells, Read
from tl_steer.sweeps.plan import Plan
from tl_steer.sweeps.result import Who
from tl_steer.sweeps.together import Together

# The table of a part, and the directions of its responses, `[vec batch d_target]`.
Measured: TypeAlias = tuple[pa.Table, Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Prompts that are measured together, the first of which has the number `first`."""

    first: int
    prompts: Sequence[Read]


@dataclass(frozen=True, eq=False)
class Bench:
    """What measures parts, but for the model.

    Args:
        who: what each edit is; the last is the unsteered model.
        mean: the bank's responses, as `Together` has them.
        budget: bytes that one pass may take, roughly.
        batch_rows: rows per batch in generation.
    """

    edits: Perturbation
    who: Sequence[Who]
    plan: Plan
    target: Site
    measured: Positions
    mean: Float[Tensor, "vec d_target"]
    budget: int
    batch_rows: int

    def __call__(self, model: HookedModel) -> Callable[[Part], Measured]:
        """What measures parts on a model."""
        together = Together(
            model,
            self.edits,
            readout(model) if self.plan.reads_logits else None,
            target=self.target,
            measured=self.measured,
            mean=self.mean,
            budget=self.budget,
        )
        rows = self.batch_rows
        cells = Cells(model, self.edits, self.who, self.plan, together, batch_rows=rows)

        def measure(part: Part) -> Measured:
            with frozen(model), torch.no_grad():
                return cells(part.prompts, first=part.first)

        return measure
