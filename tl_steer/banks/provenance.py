"""How a bank came to be, in words and numbers that do not change between runs."""

import hashlib
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from tl_steer.errors import ForeignModelError
from tl_steer.files.describe import describe, name_of, settings_of
from tl_steer.files.jsons import plain_json, text, texts, whole
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.models.fingerprint import Fingerprint, fingerprint, same_model
from tl_steer.models.model import HookedModel, model_name
from tl_steer.models.segment import Segment
from tl_steer.models.tokens import TokenBatch


def is_unfinished(note: str) -> bool:
    """Whether a bank's note says that its run had not ended."""
    return " after step " in note


@dataclass(frozen=True)
class Provenance:
    """How a bank came to be. `fingerprint` is what ties it to its model."""

    model: str
    fingerprint: Fingerprint
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    divergence: str = ""
    measured: Positions = EVERYWHERE
    seed: int | None = None
    prompts: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # As they come back from a file, so that they compare equal then.
        object.__setattr__(self, "settings", plain_json(self.settings))
        object.__setattr__(self, "notes", tuple(self.notes))

    @property
    def unfinished(self) -> str:
        """How far the run had come, where it had not ended (after Ctrl-C, or in a checkpoint);
        empty for one that had."""
        return next(filter(is_unfinished, self.notes), "")

    def refuse_kinds(self) -> None:
        """Raise ValueError where a field holds another kind of value, as one from a file may."""
        for name in ("model", "method", "divergence", "prompts"):
            text(getattr(self, name))
        texts(self.notes)
        if not isinstance(self.settings, dict) or not isinstance(self.versions, dict):
            raise ValueError("a bank's settings and versions are named")
        texts([*self.versions, *self.versions.values(), *self.settings])
        if self.seed is not None:
            whole(self.seed, least=-(1 << 64))
        self.measured.refuse_kinds()
        self.fingerprint.refuse_kinds()


def provenance(
    segment: Segment, method: Any, divergence: Any, measured: Positions, seed: int
) -> Provenance:
    """How a run on this segment is described. Runs the model once, for its fingerprint."""
    return Provenance(
        model=model_name(segment.model),
        fingerprint=fingerprint(segment.model),
        method=name_of(method).lower(),
        settings=settings_of(method),
        divergence=describe(divergence),
        measured=measured,
        seed=seed,
        prompts=prompts_hash(segment.tokens),
        versions={p: version(p) for p in ("tl_steer", "transformer_lens", "torch")},
    )


def check_fits(model: HookedModel, made: Provenance) -> Fingerprint:
    """Refuse a bank that was made for another model; gives the model's own fingerprint.

    Raises:
        ForeignModelError: with the reason and the way round it.
    """
    here, there = fingerprint(model), made.fingerprint
    if same_model(here, there):
        return here
    for name in ("d_model", "n_layers", "d_vocab"):
        if getattr(here, name) != getattr(there, name):
            reason = f"it has {name} {getattr(there, name)}, this one {getattr(here, name)}"
            break
    else:
        reason = "the same tokens give other residual streams"
    raise ForeignModelError(
        f"This bank was made on {made.model}, which is not this model "
        f"({model_name(model)}): {reason}. If you know that its vectors make sense here (a "
        "fine-tune, say), measure them on it: Bank.from_vectors(model, bank, prompts=...)."
    )


def prompts_hash(tokens: TokenBatch) -> str:
    """Identifies prompts without keeping them."""
    rows = str([row.tolist() for row in tokens.rows()])
    return hashlib.sha256(rows.encode()).hexdigest()[:16]
