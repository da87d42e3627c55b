"""An objective whose pass is recorded once as a CUDA graph: the same kernels, launched at one go.

A graph reads and writes the same memory at every replay, so edits are copied in and results out.
"""

from collections.abc import Callable
from typing import Any

import torch

from tl_steer.errors import SettingError, SteerError, TooLargeError
from tl_steer.files.signatures import refuses
from tl_steer.files.text import said
from tl_steer.objectives.objective import Evaluation, Objective, refuse_nonfinite
from tl_steer.objectives.parts import is_out_of_memory
from tl_steer.objectives.same import refuse_unlike
from tl_steer.perturbations.perturbation import Perturbation

# The type of the devices that have graphs.
_GRAPHED = "cuda"


def graph_of(run: Callable[[], Evaluation]) -> tuple[Evaluation, Callable[[], None]]:
    """What `run` gave, and what computes it anew into the same tensors."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    return found, graph.replay


class Recorded:
    """Called as an `Objective` is, with gradients, for as many edits as `like` has.

    Raises:
        NotFiniteError: on NaN or infinity, naming the step and the vector.
        SettingError: the edits are not on a CUDA device; the objective is none of activations; its
            edits do not go into one pass; the pass cannot be recorded, or its replay on other edits
            differs from a launched pass.
        TooLargeError: memory runs out; passes are not made smaller here.
    """

    @refuses
    def __init__(self, objective: Objective, like: Perturbation) -> None:
        _refuse(objective, like)
        self._edits = like.select(slice(None))
        try:
            self._found, self._replay = graph_of(lambda: objective.one_pass(self._edits, True))
        except SteerError:
            raise
        except Exception as error:
            raise _unrecorded(error, len(like)) from error
        self._refuse_unlike(objective, like)

    def __call__(self, perturbation: Perturbation, *, step: int | None = None) -> Evaluation:
        with torch.no_grad():
            for own, given in zip(self._edits.parameters(), perturbation.parameters(), strict=True):
                own.copy_(given)
        self._replay()
        found = self._found
        refuse_nonfinite((found.value, *found.gradients), step=step)
        return Evaluation(
            found.value.clone(),
            found.response.clone(),
            tuple(gradient.clone() for gradient in found.gradients),
        )

    def _refuse_unlike(self, objective: Objective, like: Perturbation) -> None:
        """Other edits than those that were recorded must give what a launched pass gives them."""
        other = like.select(slice(None))
        with torch.no_grad():
            for values in other.parameters():
                values.neg_()
        refuse_unlike(
            objective.one_pass(other, True),
            self(other),
            objective.segment.clean.dtype,
            "A CUDA graph of this objective's pass does not give what the pass gives: the model, "
            "the edits or the divergence do something else at every call, or compute on the CPU. "
            "Take the method without Replayed.",
        )


def _refuse(objective: Any, like: Perturbation) -> None:
    if not isinstance(objective, Objective):
        raise SettingError(
            f"{type(objective).__name__} runs other tokens at every step, which a CUDA graph "
            "cannot replay. Take the method without Replayed."
        )
    device = next(like.parameters()).device
    if device.type != _GRAPHED:
        raise SettingError(
            f"The model is on {device}, and CUDA graphs are of CUDA devices. Take the method "
            "without Replayed."
        )
    if len(like) > objective.vec_batch:
        raise SettingError(
            f"A CUDA graph holds one pass, and {len(like)} vectors need more than one of "
            f"vec_batch={objective.vec_batch}. Give vec_batch={len(like)} if memory has room, "
            "search fewer vectors at a time, or take the method without Replayed."
        )


def _unrecorded(error: Exception, n: int) -> Exception:
    if is_out_of_memory(error):
        return TooLargeError(
            f"Memory ran out when the pass of {n} vectors was recorded. Search fewer at a time, or "
            "take the method without Replayed, which makes passes smaller by itself."
        )
    return SettingError(
        f"The pass cannot be recorded as a CUDA graph ({said(error, most=200)}): something in the "
        "model, the edits or the divergence waits for the device. Take the method without Replayed."
    )
