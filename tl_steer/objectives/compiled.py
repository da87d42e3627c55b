"""An objective whose blocks run compiled: fewer passes over memory between matrix products."""

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from tl_steer.errors import SettingError, SteerError
from tl_steer.files.text import said
from tl_steer.files.undo import Scope, scoped
from tl_steer.models.unbridged import Unbridged, called
from tl_steer.objectives.objective import Evaluation, Objective
from tl_steer.objectives.parts import is_out_of_memory
from tl_steer.objectives.same import refuse_unlike
from tl_steer.perturbations.perturbation import Perturbation

_BACKEND = "inductor"
_ADVICE = "Take the method without Compiled."


@scoped
def compiled(scope: Scope, objective: Objective, like: Perturbation) -> None:
    """Inside, the objective's blocks run as `torch.compile` makes them of their own modules. All
    blocks that are built alike share one graph; a number of rows not met before makes another.

    Args:
        like: edits like those that will come; they are evaluated once with the blocks as written
            and once compiled.

    Raises:
        SettingError: there is no compiler; the model's blocks cannot do without the bridge, or not
            be compiled; or compiled they give something else.
    """
    _refuse(objective)
    plain = objective.one_pass(_some(objective, like), True)
    blocks = objective.segment.unbridged.values()
    scope.undo(_run_by, blocks, called)
    _run_by(blocks, _by_the_compiler())
    refuse_unlike(
        plain,
        _first(objective, like),
        objective.segment.clean.dtype,
        f"Compiled, the blocks of this model give something else. {_ADVICE}",
    )


def _some(objective: Objective, like: Perturbation) -> Perturbation:
    return like.select(slice(0, objective.vec_batch))


def _first(objective: Objective, like: Perturbation) -> Evaluation:
    try:
        return objective.one_pass(_some(objective, like), True)
    except (SteerError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        inner = getattr(error, "inner_exception", error)
        raise SettingError(
            f"torch.compile does not take this model's blocks ({said(inner, most=200)}). {_ADVICE}"
        ) from error


def _by_the_compiler() -> Callable[..., Any]:
    function = torch.compile(called, backend=_BACKEND)

    def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The model itself runs as it was written meanwhile (`models.state.uncompiled`).
        with torch.compiler.set_stance("default"):
            return function(module, args, kwargs)

    return run


def _run_by(blocks: Iterable[Unbridged], run: Callable[..., Any]) -> None:
    for block in blocks:
        block.run = run


def _refuse(objective: Any) -> None:
    if not isinstance(objective, Objective):
        raise SettingError(
            f"{type(objective).__name__} runs other tokens at every step, and each length would be "
            f"compiled anew. {_ADVICE}"
        )
    if not objective.segment.unbridged:
        raise SettingError(
            "The blocks of this model give other numbers without TransformerLens's parts between "
            f"their modules, so they are not compiled. {_ADVICE}"
        )
    on_cpu = objective.segment.clean.device.type == "cpu"
    if on_cpu and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise SettingError(
            "torch.compile needs a C++ compiler on a CPU, and none is installed (apt-get install "
            f"g++). {_ADVICE}"
        )
