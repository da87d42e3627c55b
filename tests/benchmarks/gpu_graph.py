"""An objective whose pass is recorded once and replayed: the same kernels, launched at one go."""

from typing import Any

import torch

from tl_steer.objectives.objective import Evaluation, Objective, refuse_nonfinite
from tl_steer.perturbations.perturbation import Perturbation


class Replayed:
    """Called as an `Objective` is, for as many edits as `like` has, all in one pass.

    A CUDA graph reads and writes the same memory at every replay, so edits are copied in and
    results out. Where there is no such device, the pass is run.
    """

    def __init__(self, objective: Objective, like: Perturbation) -> None:
        self._objective, self._edits = objective, like.select(slice(None))
        self._graph: Any = None
        if self._edits.flat().is_cuda:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    self._pass()
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._found = self._pass()

    def _pass(self) -> Evaluation:
        return self._objective._evaluate(self._edits, True)

    def __call__(
        self, perturbation: Perturbation, *, gradient: bool = True, step: int | None = None
    ) -> Evaluation:
        with torch.no_grad():
            for own, given in zip(self._edits.parameters(), perturbation.parameters(), strict=True):
                own.copy_(given)
        if self._graph is None:
            self._found = self._pass()
        else:
            self._graph.replay()
        found = self._found
        refuse_nonfinite((found.value, *found.gradients), step=step)
        return Evaluation(
            found.value.clone(),
            found.response.clone(),
            tuple(gradient.clone() for gradient in found.gradients),
        )
