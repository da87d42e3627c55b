"""What a method is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.objectives.objective import Evaluation
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.perturbation import Perturbation


@dataclass(frozen=True)
class Iterate:
    """Where a method stands.

    Attributes:
        perturbation: the newest parameters worth returning.
        value: the objective, `[vec]`, as last evaluated: that of `perturbation`, or of the
            parameters one step before it. For showing progress.
        step, steps: how many steps are done, and how many there will be at the most.
        scores: further numbers per vector that the method knows (singular values, say).
        state: all that the method needs to go on from here, as tensors; empty if it cannot. Given
            back as `resume=`, it must continue to the same result bit for bit.
        evaluation: what the objective said of `perturbation` itself, without gradients, where the
            method has asked. Without it whoever wants responses asks once more (`evaluated`).
    """

    perturbation: Perturbation
    value: Float[Tensor, " vec"]
    step: int
    steps: int
    scores: dict[str, Float[Tensor, " vec"]] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    evaluation: Evaluation | None = None


def evaluated(objective: Any, iterate: Iterate) -> Evaluation:
    """The objective at an iterate: as its method found it, where the objective is `steady`, and
    anew otherwise."""
    if iterate.evaluation is not None and getattr(objective, "steady", False):
        return iterate.evaluation
    found: Evaluation = objective(iterate.perturbation, gradient=False)
    return found


Method = Callable[..., Iterator[Iterate]]
"""`(objective, start) -> iterates`: how an objective is climbed.

The objective is called as `objectives.Objective` is: it takes a perturbation and a step, and
returns values, responses and gradients. A method whose iterates carry a state also takes `resume=`,
the state to go on from.
"""


def columns(values: Tensor) -> Float[Tensor, "column vec d"]:
    """A parameter as the spheres it is made of: its last axis is one; a vector has one, and an
    adapter one for every layer and rank."""
    rows: Tensor = values.detach().flatten(1).unflatten(1, (-1, values.shape[-1]))
    return rows.transpose(0, 1)


def whole(values: Tensor) -> Float[Tensor, "1 vec n"]:
    """A parameter with all that belongs to an edit in one row."""
    return values.detach().flatten(1)[None]


def refuse_crowding(perturbation: Perturbation, rows: Callable[[Tensor], Tensor] = whole) -> None:
    """Orthogonal edits cannot outnumber dimensions: those of whole rows, or of `columns`."""
    for name, values in perturbation.named_parameters():
        width = rows(values).shape[-1]
        if len(values) > width:
            raise SettingError(
                f"{len(values)} orthogonal vectors do not fit into {width} dimensions ({name} at "
                f"{perturbation.site}). Ask for at most {width}, or drop orthogonality."
            )


def refuse_other_kinds(method: object, start: Perturbation) -> None:
    """Refuse what is not steering vectors.

    Raises:
        SettingError: it is another kind.
    """
    if type(start) is not Additive:
        raise SettingError(
            f"{type(method).__name__} is for steering vectors, and this starts from "
            f"{type(start).__name__}s. Use Power, Melbo, Jacobian, Dct, Quadratic or Sogi for them."
        )


def moved(perturbation: Perturbation, rows: Sequence[Tensor]) -> Perturbation:
    """A copy whose parameters point along `rows` (one `[vec n]` each), back at its constraint.

    A row of zeros (no gradient: nothing to gain anywhere) stays where it is.
    """
    there = perturbation.select(slice(None))
    with torch.no_grad():
        for parameter, values in zip(there.parameters(), rows, strict=True):
            still = values.norm(dim=1) == 0
            values = torch.where(still[:, None], parameter.flatten(1).to(values), values)
            parameter.copy_(values.view_as(parameter))
    there.project_()
    return there


def pointed(perturbation: Perturbation, rows: Float[Tensor, "vec n"]) -> Perturbation:
    """`moved`, by rows that hold all parameters of an edit one behind the other."""
    return moved(perturbation, flat(perturbation.of_rows(rows).parameters()))


def state_of(perturbation: Perturbation, step: int) -> dict[str, Tensor]:
    """The parameters and the step, for `Iterate.state`."""
    rows = {f"parameter.{i}": p.detach() for i, p in enumerate(perturbation.parameters())}
    return {**rows, "step": torch.tensor(step, dtype=torch.long, device="cpu")}


def restored(start: Perturbation, state: dict[str, Tensor]) -> tuple[Perturbation, int]:
    """What `state_of` kept, bit for bit: not projected again, which would round."""
    here = start.select(slice(None))
    with torch.no_grad():
        for i, parameter in enumerate(here.parameters()):
            parameter.copy_(state[f"parameter.{i}"])
    return here, int(state["step"])


def flat(values: Iterable[Tensor]) -> list[Float[Tensor, "vec n"]]:
    """Each tensor with one row per edit."""
    return [v.detach().flatten(1) for v in values]
