"""How far a sweep has come, and what its folder keeps of that."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import safe_open
from torch import Tensor

from tl_steer.errors import SweepFileError
from tl_steer.files.jsons import fields, from_text, text, whole
from tl_steer.files.tensors import TensorFile

STATE_FILE = TensorFile("sweep's state", "tl_steer_sweep", SweepFileError)
RECORD = ("parts", "prompts", "digest", "finished")


def _no_sums() -> Tensor:
    return torch.zeros(0, 32, dtype=torch.uint8, device="cpu")


@dataclass(frozen=True, eq=False)
class State:
    """How far a sweep has come.

    Attributes:
        sums: of the directions of responses, over the prompts of each group; a prompt belongs to
            the group of its number modulo the number of groups.
        counts: how many responses each sum holds; responses of zero have no direction.
        parts, prompts: how many are done.
        digest: of the prompts that are done.
        finished: whether there are no more.
        checks: SHA-256 of every part's file, as bytes. None in folders of version 0.1.0.
    """

    sums: Float[Tensor, "group vec d_target"]
    counts: Float[Tensor, "group vec"]
    parts: int = 0
    prompts: int = 0
    digest: str = ""
    finished: bool = False
    checks: UInt8[Tensor, "part 32"] = field(default_factory=_no_sums)


def read_state(path: Path) -> tuple[State, str]:
    """The state, and the checksum of what it was asked for."""
    meta, tensors = STATE_FILE.read(path)
    record = fields(meta, {*RECORD, "asked", "format"})
    made = State(**fields(tensors, {"sums", "counts", "checks"}), **{n: record[n] for n in RECORD})
    return made, text(record["asked"])


def is_old(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.metadata() or {}) == {"state"}
    except Exception:
        return False  # whoever reads it says why


def read_old_state(path: Path) -> State:
    """As version 0.1.0 wrote it, without checksums."""
    try:
        with safe_open(path, framework="pt") as file:
            record = fields(from_text(file.metadata()["state"]), {*RECORD})
            return State(file.get_tensor("sums"), file.get_tensor("counts"), **record)
    except Exception as error:  # the reader has no error of its own for all that can be wrong
        raise ValueError(str(error)) from error


def refuse_state(state: State, asked: Mapping[str, Any]) -> None:
    parts, prompts = whole(state.parts, least=1), whole(state.prompts, least=1)
    text(state.digest)
    if type(state.finished) is not bool or not parts <= prompts <= parts * asked["part"]:
        raise ValueError(f"{parts} parts of {asked['part']} prompts are not {prompts}")
    sums, counts, checks = state.sums, state.counts, state.checks
    if sums.dtype != torch.float32 or counts.dtype != torch.float32 or sums.ndim != 3:
        raise ValueError("its sums are not those of a sweep")
    if counts.shape != sums.shape[:2] or sums.shape[1] != len(asked["who"]) or 0 in sums.shape:
        raise ValueError("its sums are not those of this sweep's vectors")
    if not bool(sums.isfinite().all()) or not bool(((counts >= 0) & (counts <= prompts)).all()):
        raise ValueError("its sums are not those of so many prompts")
    kept = checks.dtype == torch.uint8 and checks.shape in ((0, 32), (parts, 32))
    if not kept:
        raise ValueError("it does not hold a checksum for every part")


def counted(state: State, *, groups: Tensor, directions: Tensor, digest: str) -> State:
    """The state with one more part.

    Args:
        groups: the group of every prompt.
        directions: of its responses, `[vec batch d_target]`; zeros are left out.
    """
    sums, counts = state.sums.clone(), state.counts.clone()
    sums.index_add_(0, groups, directions.transpose(0, 1))
    counts.index_add_(0, groups, directions.norm(dim=-1).gt(0.5).float().T)
    return replace(
        state,
        sums=sums,
        counts=counts,
        parts=state.parts + 1,
        prompts=state.prompts + len(groups),
        digest=digest,
    )
