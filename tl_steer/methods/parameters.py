"""A perturbation's parameters, and what an objective said of them, as part of a method's state,
there and back bit for bit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tl_steer.errors import BankFileError
from tl_steer.objectives.objective import Evaluation
from tl_steer.perturbations.perturbation import Perturbation


def as_state(prefix: str, perturbation: Perturbation) -> dict[str, Tensor]:
    """The parameters under `prefix`; no copies, so hand over what nobody changes later."""
    return {f"{prefix}.{name}": values.detach() for name, values in perturbation.named_parameters()}


def from_state(prefix: str, like: Perturbation, state: Mapping[str, Tensor]) -> Perturbation:
    """A copy of `like` with the parameters that `as_state` put under `prefix`.

    Not projected: projecting what is on the constraint already moves it by a rounding error.

    Raises:
        BankFileError: the state lacks a parameter, or has it in another shape.
    """
    made = like.select(slice(None))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            values = state_tensor(f"{prefix}.{name}", state)
            if values.shape != parameter.shape:
                raise BankFileError(
                    f"The checkpoint has {prefix}.{name} in shape {tuple(values.shape)}; the run "
                    f"needs {tuple(parameter.shape)}."
                )
            parameter.copy_(values)
    return made


def state_tensor(name: str, state: Mapping[str, Tensor]) -> Tensor:
    """One tensor of a state, or a `BankFileError` that says which is missing."""
    if name not in state:
        raise BankFileError(
            f"The checkpoint's state has no {name!r}: another method wrote it. It has "
            f"{', '.join(sorted(state)) or 'nothing'}."
        )
    return state[name]


def evaluation_state(found: Evaluation) -> dict[str, Tensor]:
    """An evaluation under "value", "response" and "score.NAME"."""
    scores = {f"score.{name}": values for name, values in found.scores.items()}
    return {"value": found.value, "response": found.response, **scores}


def evaluation_from(state: Mapping[str, Tensor]) -> Evaluation:
    """What `evaluation_state` kept.

    Raises:
        BankFileError: the state has none.
    """
    scores = {n.removeprefix("score."): v for n, v in state.items() if n.startswith("score.")}
    value, response = (state_tensor(name, state) for name in ("value", "response"))
    return Evaluation(value, response, scores=scores)
