"""Checkpoints: the bank as it stands and all that its run needs to go on, in one bank file.

    state.run          how the run was asked for, JSON as bytes
    state.method.*     the method's own state (`Iterate.state`)

`Bank.load` reads such a file as the bank that it is. A file is replaced whole (written beside, then
renamed), so whenever the process dies, the last complete checkpoint is there.
"""

import os
import re
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.file import load_checkpoint, save_checkpoint
from tl_steer.banks.provenance import Provenance
from tl_steer.errors import BankFileError, SettingError
from tl_steer.files.jsons import fields, from_text, plain_json, text, to_text, whole
from tl_steer.files.lock import locked
from tl_steer.files.write import beside, tidy
from tl_steer.hook_points.site import Site
from tl_steer.models.fingerprint import same_model
from tl_steer.perturbations.perturbation import Perturbation

_RUN, _METHOD = "run", "method."
_MOST_RECORD = 1 << 20


@dataclass(frozen=True)
class RunRecord:
    """What a run needs to know of itself beside the bank and the method's state.

    Attributes:
        radius: how the radius was asked for: a number or a rule, in words.
        vec_batch: edits per pass; another number would round differently.
        step: steps done.
    """

    radius: str
    vec_batch: int
    step: int

    def to_tensor(self) -> Tensor:
        encoded = list(to_text(vars(self)).encode())
        return torch.tensor(encoded, dtype=torch.uint8, device="cpu")

    @classmethod
    def from_tensor(cls, values: Tensor) -> "RunRecord":
        """Undo `to_tensor`.

        Raises:
            ValueError: it is something else.
        """
        if values.dtype != torch.uint8 or values.ndim != 1 or len(values) > _MOST_RECORD:
            raise ValueError(f"expected up to {_MOST_RECORD} bytes")
        found = fields(from_text(bytes(values.tolist()).decode()), {*cls.__annotations__})
        steps = whole(found["vec_batch"], least=1), whole(found["step"])
        return cls(text(found["radius"]), *steps)


_FEWER = "{} of the {} vectors that were asked for: the method has no more"


def fewer(found: int, asked: int) -> str:
    """A bank's note that it holds all that there is."""
    return _FEWER.format(found, asked)


@dataclass(frozen=True)
class Saved:
    """A bank file read back; `record` and `state` are there if its run had not ended."""

    path: Path
    bank: Bank
    record: RunRecord | None
    state: dict[str, Tensor]

    @property
    def finished(self) -> bool:
        """Whether the run had ended. One that Ctrl-C ended had not, even if saved without state."""
        return self.record is None and not self.bank.provenance.unfinished

    @property
    def n(self) -> int:
        """How many vectors were asked for; the bank has fewer where its method had no more."""
        told = (re.match(_FEWER.format(r"\d+", r"(\d+)"), n) for n in self.bank.provenance.notes)
        return next((int(found[1]) for found in told if found), len(self.bank))

    def vec_batch(self, asked: int) -> int:
        """Memory that ran out then will run out again."""
        return asked if self.record is None else min(asked, self.record.vec_batch)


def read(path: str | Path) -> Saved:
    """Read a checkpoint or a finished bank.

    Raises:
        BankFileError: as `Bank.load`, or the run's state in it is not one.
    """
    bank, state = load_checkpoint(Bank, path)
    own = {n.removeprefix(_METHOD): t for n, t in state.items() if n.startswith(_METHOD)}
    if not state:
        return Saved(Path(path), bank, None, {})
    try:
        record = RunRecord.from_tensor(state[_RUN])
    except (KeyError, ValueError) as error:
        raise BankFileError(f"{path} has a run's state that cannot be read: {error}") from error
    return Saved(Path(path), bank, record, own)


class Checkpoint:
    """One file that a run keeps up to date.

    Args:
        path: the bank file.
        every: minutes between two writes; 0 writes after every step.
        resumed: the file is the run's own, so it may be replaced.
    """

    def __init__(self, path: str | Path, *, every: float | int, resumed: bool) -> None:
        if not every >= 0:
            raise SettingError(f"every={every}: expected minutes, 0 or more.")
        self.path, self.every = Path(path), every
        self._last: float | None = None
        self.resumed = resumed

    def held(self) -> AbstractContextManager[None]:
        """The file as this run's own, for as long as a `with` block lasts.

        Raises:
            SettingError: another run writes to it.
            WriteError: nothing can be written there.
        """
        return locked(beside(self._target, "lock"), str(self.path), SettingError)

    def begin(self) -> None:
        """Look at what is there, once the file is held.

        Raises:
            SettingError: it holds an unfinished run or no bank at all, and was not resumed.
        """
        if not self.resumed:
            _refuse_to_replace(self.path)
        tidy(self._target.parent, self._target.name)  # what a killed process was writing

    @property
    def _target(self) -> Path:
        return Path(os.path.realpath(self.path))

    def due(self) -> bool:
        """Whether it is time to write: after the first step, then every so many minutes."""
        return self._last is None or time.monotonic() - self._last >= 60 * self.every

    def write(
        self, bank: Bank, record: RunRecord | None = None, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Replace the file: by a checkpoint if there is a state, by a plain bank if not.

        Raises:
            OSError: the very first write fails. Later ones warn: the run is worth more.
        """
        kept: dict[str, Tensor] = {}
        if record is not None and state:
            # Copies: safetensors refuses tensors that share their memory.
            kept = {_METHOD + name: values.detach().cpu().clone() for name, values in state.items()}
            kept[_RUN] = record.to_tensor()
        try:
            save_checkpoint(bank, self.path, kept)
        except OSError as error:
            if self._last is None:
                raise
            warnings.warn(
                f"No checkpoint could be written to {self.path} ({error}); going on. The file "
                "holds the one before.",
                stacklevel=2,
            )
        self._last = time.monotonic()


def _refuse_to_replace(path: Path) -> None:
    if not path.exists():
        return
    try:
        there = read(path)
    except BankFileError as error:
        raise SettingError(
            f"checkpoint={str(path)!r} is there already and is not a bank ({error}) "
            "Choose another path."
        ) from error
    if there.record is not None:
        notes = "; ".join(there.bank.provenance.notes)
        raise SettingError(
            f"{path} holds an unfinished run ({notes}). Go on with it by resume={str(path)!r}, or "
            "delete the file to start anew."
        )


def refuse_other_run(
    saved: Saved,
    asked: Provenance,
    start: Perturbation,
    target: Site,
    *,
    radius: str,
) -> None:
    """Refuse to go on with a run that was asked for differently.

    Args:
        radius: how it is asked for now, in words; a rule is not run again.

    Raises:
        SettingError: naming every argument that differs, as it is there and here.
    """
    bank, made = saved.bank, saved.bank.provenance
    pairs: dict[str, tuple[Any, Any]] = {
        "method": (made.method, asked.method),
        "settings": (made.settings, asked.settings),
        "seed": (made.seed, asked.seed),
        "prompts": (made.prompts, asked.prompts),
        "source": (_place(bank.source), _place(start.site)),
        "target": (_place(bank.target), _place(target)),
        "n": (saved.n, len(start)),
        "divergence": (made.divergence, asked.divergence),
        "measured": (made.measured, asked.measured),
        "positions": (bank.positions, start.positions),
        "kind": ((bank.kind, bank.form), (start.kind, plain_json(start.form()))),
    }
    different = [f"{name} is {a} there and {b} here" for name, (a, b) in pairs.items() if a != b]
    if _other_model(made, asked):
        different.insert(0, f"model is {_model(made)} there and {_model(asked)} here")
    if not _same_radius(saved, radius):
        there = saved.record.radius if saved.record else bank.radius
        different.append(f"radius is {there} there and {radius} here")
    if different:
        raise SettingError(
            f"{saved.path} cannot be resumed, because it is another run: {'; '.join(different)}. "
            "Repeat the arguments that it was started with, or start anew without resume=."
        )


def _other_model(made: Provenance, asked: Provenance) -> bool:
    a, b = made.fingerprint, asked.fingerprint
    return a.dtype != b.dtype or not same_model(a, b)


def _model(of: Provenance) -> str:
    return f"{of.model} ({of.fingerprint})"


def _same_radius(saved: Saved, radius: str) -> bool:
    """A rule must be the rule of then; a number may also be what that rule had found."""
    if saved.record is None:  # a finished bank no longer knows its rule
        return not _is_number(radius) or float(radius) == saved.bank.radius
    outcome = _is_number(radius) and float(radius) == saved.bank.radius
    return outcome or radius == saved.record.radius


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _place(site: Site) -> str:
    """TransformerBridge has several names for one point."""
    head = "" if site.head is None else f"[{site.head}]"
    return f"blocks.{site.layer}.{site.kind}{head}"
