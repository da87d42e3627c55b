"""A sweep under way: rows to tokens, part after part, on disk or in memory."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from tl_steer.errors import PromptError, SettingError, SweepFileError
from tl_steer.hook_points.positions import Positions
from tl_steer.models.engine import Engine, dealt
from tl_steer.models.model import HookedModel, context_of
from tl_steer.models.tokens import whole
from tl_steer.sweeps.bench import Measured, Part
from tl_steer.sweeps.cells import Read
from tl_steer.sweeps.folder import Folder, refuse_other
from tl_steer.sweeps.prompts import Asked
from tl_steer.sweeps.result import SweepResult
from tl_steer.sweeps.state import State, counted


@dataclass(frozen=True)
class Reader:
    """Rows of a source to tokens.

    Args:
        measured: the tokens that the bank measured; a prompt must have as many.

    Raises:
        PromptError: too long, or nothing that can be tokenized, with the row's place.
    """

    model: HookedModel
    measured: Positions
    generate: int = 0
    truncate: int | None = None

    def __post_init__(self) -> None:
        if self.truncate is not None and self.truncate < 1:
            raise SettingError(f"truncate={self.truncate}: expected at least 1 token, or None.")

    def __call__(self, row: Asked) -> Read:
        try:
            tokens = whole(self.model, row.prompt)
        except PromptError as error:
            raise PromptError(f"{row.where}: {error}") from error
        ids, context = tokens.ids[0].cpu(), context_of(self.model)
        if self.truncate is not None and len(ids) > self.truncate:
            kept = int(tokens.has_bos[0]) if self.truncate > 1 else 0
            ids = torch.cat([ids[:kept], ids[len(ids) - self.truncate + kept :]])
        room = len(ids) if context is None else context - self.generate
        if len(ids) > room:
            raise PromptError(
                f"{row.where} is {len(ids)} tokens long, and {room} fit into the model's context "
                "before what is generated. Shorten it, or give truncate= to keep the last tokens."
            )
        try:
            self.measured.measure(
                torch.ones(1, len(ids), dtype=torch.bool, device="cpu"), tokens.has_bos.cpu()
            )
        except PromptError as error:
            raise PromptError(f"{row.where}: {error}") from error
        return Read(row.id, tokens.texts[0], ids)


@dataclass(frozen=True, eq=False)
class Job:
    """A sweep under way: part after part, from where its folder stands.

    Args:
        asked: what makes the sweep the one it is.
        setup: makes what measures parts, here or in a worker of the `engine`.
        folder: where parts go; `None` keeps them in memory.
        part: prompts per part.
        empty: the state before the first.
    """

    asked: dict[str, Any]
    setup: Callable[[], Callable[[Part], Measured]]
    folder: Folder | None
    part: int
    empty: State
    engine: Engine | None = None

    def run(self, prompts: Iterator[Read], advance: Callable[[int], None]) -> SweepResult:
        """To the end, or to Ctrl-C if something is done by then.

        Raises:
            SweepFileError: another process writes to the folder, or it is of another sweep.
        """
        with nullcontext() if self.folder is None else self.folder.held():
            return self._run(prompts, advance)

    def _run(self, prompts: Iterator[Read], advance: Callable[[int], None]) -> SweepResult:
        state, tables = self._begin(), []
        try:
            digest = self._skip(prompts, state, advance)
            parts = _parts(prompts, self.part, state.prompts)
            with dealt(self.engine, self.setup, parts, ordered=True) as outcomes:
                for outcome in outcomes:
                    chunk = outcome.item.prompts
                    for prompt in chunk:
                        digest = _digested(digest, prompt)
                    table, state = self._counted(*outcome.get(), state, digest)
                    if self.folder is None:
                        tables.append(table)
                    advance(len(chunk))
            state = replace(state, finished=True)
            if self.folder is not None:
                self.folder.keep(state)
        except KeyboardInterrupt:
            if state.parts == 0:
                raise
        if state.parts == 0:
            raise PromptError("No prompts were given; expected at least one.")
        path = None if self.folder is None else self.folder.path
        return SweepResult(self.asked, state, path, tuple(tables))

    def _begin(self) -> State:
        if self.folder is None:
            return self.empty
        if not self.folder.exists:
            self.folder.begin(self.asked)
        refuse_other(self.folder.path, self.folder.asked, self.asked)
        state = self.folder.state() or self.empty
        self.folder.tidy(state.parts)
        return state

    def _skip(self, prompts: Iterator[Read], state: State, advance: Callable[[int], None]) -> str:
        """Past the prompts that are done, if they are those that were done."""
        digest = ""
        for number in range(state.prompts):
            prompt = next(prompts, None)
            if prompt is None:
                raise SweepFileError(
                    f"{self._path} holds {state.prompts} prompts, and only {number} are given. "
                    "Give the prompts that it was started with."
                )
            digest = _digested(digest, prompt)
        if digest != state.digest:
            raise SweepFileError(
                f"{self._path} was made with other prompts: the first {state.prompts} differ from "
                "those given. Give the same, in the same order, or save to another folder."
            )
        advance(state.prompts)
        return digest

    def _counted(
        self, table: pa.Table, directions: Tensor, state: State, digest: str
    ) -> tuple[pa.Table, State]:
        numbers = torch.arange(directions.shape[1], device="cpu") + state.prompts
        groups = numbers % len(state.sums)
        state = counted(state, groups=groups, directions=directions, digest=digest)
        if self.folder is not None:
            state = self.folder.add(table, state)
        return table, state

    @property
    def _path(self) -> Path:
        return self.folder.path if self.folder is not None else Path()


def _digested(digest: str, prompt: Read) -> str:
    text = f"{digest} {prompt.id!r} {prompt.ids.tolist()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _parts(prompts: Iterator[Read], size: int, first: int) -> Iterator[Part]:
    while chunk := list(itertools.islice(prompts, size)):
        yield Part(first, chunk)
        first += len(chunk)
