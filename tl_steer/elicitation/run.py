"""A run: a method's iterates followed to the end, shown, kept on disk, and made into a bank.

start     method(objective, start)               -> iterate, iterate, ...   -> bank
resume    method(objective, start, resume=state) -> the iterates that are left -> the same bank
"""

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.banks.given import columns_from
from tl_steer.banks.provenance import Provenance, is_unfinished
from tl_steer.elicitation.checkpoint import Checkpoint, RunRecord, Saved, fewer
from tl_steer.errors import SettingError
from tl_steer.files.progress import bar
from tl_steer.methods import Iterate, Method, evaluated
from tl_steer.perturbations.kinds import bankable
from tl_steer.perturbations.perturbation import Perturbation


@dataclass(frozen=True)
class Run:
    """What is climbed, and what its bank will say of it.

    Args:
        objective: what the method climbs.
        provenance: how the bank came to be.
        asked_radius: how the radius was asked for, in words; `radius` is what came of it.
        file: where checkpoints go, if anywhere.
        n: how many vectors were asked for; the bank has a note where a method finds fewer.
    """

    objective: Any  # an `Objective`, or what a `Goal` makes
    provenance: Provenance
    asked_radius: str
    radius: float
    file: Checkpoint | None = None
    n: int = 0

    def climb(
        self, method: Method, start: Perturbation, *, resume: Saved | None, progress: bool
    ) -> Bank:
        """Run a method to its end, or to Ctrl-C if there is something to return by then."""
        refuse_stateless(method, resume)
        if self.file is not None and not takes_state(method):
            warnings.warn(_STATELESS.format(self.provenance.method), stacklevel=4)
        newest: Iterate | None = None
        kept: Bank | None = None
        try:
            with bar(
                f"{len(start)} vectors",
                "step {done} of {total}, objective {said}",
                total=None,
                done=_done(resume),
                shown=progress,
            ) as show:
                for newest in self._iterates(method, start, resume):
                    bankable(newest.perturbation)  # now, and not when all the steps are done
                    objective = f"{float(newest.value.mean()):.4g}"
                    show(completed=newest.step, total=newest.steps, said=objective)
                    kept = None
                    if self.file is not None and self.file.due():
                        note = f"checkpoint after step {newest.step} of {newest.steps}"
                        kept = self._keep(newest, note)
                if newest is not None and newest.step < newest.steps:
                    early = f"{objective}; {newest.step} of {newest.steps} steps were enough"
                    show(total=newest.step, said=early)
        except KeyboardInterrupt:
            if newest is None:
                raise
            return self._keep(newest, f"interrupted after step {newest.step} of {newest.steps}")
        if newest is None and resume is not None:  # killed between the last step and the end
            kept = resume.bank
        return self._end(newest, kept)

    def bank(self, iterate: Iterate, *notes: str) -> Bank:
        """A bank of where a method stands."""
        found = bankable(iterate.perturbation)
        at = evaluated(self.objective, iterate)
        short = (fewer(len(found), self.n),) if len(found) < self.n else ()
        scores = iterate.scores | at.scores
        bank = Bank(
            **columns_from(found, at, self.objective.segment, self.radius),
            scores={name: v.detach().float().cpu() for name, v in scores.items()},
            provenance=replace(self.provenance, notes=(*short, *notes)),
        )
        # Called by their places in this order, since no other was seen.
        return replace(bank.sort(getattr(self.objective, "order", "objective")), numbers=())

    def _iterates(
        self, method: Method, start: Perturbation, resume: Saved | None
    ) -> Iterator[Iterate]:
        if resume is None:
            return method(self.objective, start)
        device = next(start.parameters()).device
        state = {name: values.to(device) for name, values in resume.state.items()}
        return method(self.objective, start, resume=state)

    def _keep(self, iterate: Iterate, note: str) -> Bank:
        """The bank of an unfinished run, with the method's state beside it on disk."""
        bank = self.bank(iterate, note)
        if self.file is not None:
            record = RunRecord(self.asked_radius, self.objective.vec_batch, iterate.step)
            self.file.write(bank, record, iterate.state)
        return bank

    def _end(self, newest: Iterate | None, kept: Bank | None) -> Bank:
        """The bank of the end; a checkpoint of the last step holds it already."""
        if kept is not None:
            made = kept.provenance
            left = tuple(note for note in made.notes if not is_unfinished(note))
            bank = replace(kept, provenance=replace(made, notes=left))
        elif newest is not None:
            bank = self.bank(newest)
        else:
            raise SettingError("The method ended without a step; it must yield its iterates.")
        if self.file is not None:
            self.file.write(bank)
        return bank


_STATELESS = (
    "The method {!r} takes no resume=, so it cannot go on from a checkpoint. The file will hold "
    "the bank as it stands, but a run that is killed has to start anew."
)


def takes_state(method: Method) -> bool:
    """Whether a method can go on from a state."""
    return "resume" in inspect.signature(method).parameters


def refuse_stateless(method: Method, resume: Saved | None) -> None:
    """Refuse to resume what cannot be.

    Raises:
        SettingError: the method takes no state, or the file has none.
    """
    if resume is None:
        return
    if not resume.state:
        raise SettingError(
            f"{resume.path} holds a bank of an unfinished run ("
            f"{'; '.join(resume.bank.provenance.notes)}) without the run's state, so it cannot be "
            "resumed. Start anew without resume=."
        )
    if not takes_state(method):
        raise SettingError(f"{method!r} takes no resume=, so it cannot go on from {resume.path}.")


def _done(resume: Saved | None) -> int:
    return 0 if resume is None or resume.record is None else resume.record.step
