"""Banks: many trained steering vectors, and all that is known of them.

A bank is a value. Slicing, sorting and merging make new banks; `tl_steer.bankfile` reads and writes
them.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.adapter import Adapter
from tl_steer.errors import SettingError
from tl_steer.perturbation import Additive, Hooks, Packable
from tl_steer.positions import EVERYWHERE, Positions
from tl_steer.site import Site
from tl_steer.sphere import distinct_rows

# Kinds of perturbation that a bank can hold, by the name in its file.
KINDS: dict[str, type[Packable]] = {Additive.kind: Additive, Adapter.kind: Adapter}
_CONTROL_STREAM = 0x636F6E74


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a model's residual stream (see `tl_steer.model.fingerprint`)."""

    signature: tuple[float, ...]
    d_model: int
    n_layers: int
    d_vocab: int
    dtype: str


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


@dataclass(frozen=True, eq=False)
class Bank:
    """Steering vectors and what each does at the target.

    Attributes:
        vectors: what is added at `source`; rows have norm `radius`. For other kinds, each row holds
            all parameters of one perturbation.
        responses: the mean effect at `target`, over measured tokens and prompts.
        objective: what the method climbed, for each vector. Comparable within a bank only.
        radius: norm of the vectors; `radius_share` is the same over the median clean norm of the
            residual stream at the source (BOS left out), which is comparable across layers. For
            adapters the radius is R in W' = W + R B A^T, and there is no share (NaN).
        positions: the tokens that the vectors are added at.
        labels: a note on each vector, the user's own.
        kind: how a row is to be read; a key of `KINDS`.
        form: what else that kind needs to know (layers and rank of an adapter).
        scores: further numbers per vector, by name (singular values, say).
    """

    vectors: Float[Tensor, "vec d_model"]
    responses: Float[Tensor, "vec d_target"]
    objective: Float[Tensor, " vec"]
    source: Site
    target: Site
    radius: float
    radius_share: float
    provenance: Provenance
    positions: Positions = EVERYWHERE
    labels: tuple[str, ...] = ()
    kind: str = Additive.kind
    form: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Float[Tensor, " vec"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.labels:
            object.__setattr__(self, "labels", ("",) * len(self.vectors))
        if self.kind not in KINDS:
            raise SettingError(f"Unknown kind {self.kind!r}; there are {', '.join(KINDS)}.")
        columns = (self.vectors, self.responses, self.objective, *self.scores.values())
        width = KINDS[self.kind].packed_width(self.source, self.form)
        if {len(self.labels), *map(len, columns)} != {len(self.vectors)} or (
            self.vectors.shape[1] != width
        ):
            raise SettingError(
                f"A bank needs one response, objective, score and label per vector, and rows of "
                f"{width} ({self.kind} at {self.source}); got vectors {tuple(self.vectors.shape)}, "
                f"responses {tuple(self.responses.shape)}, objective {tuple(self.objective.shape)} "
                f"and {len(self.labels)} labels."
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> "Bank":
        """A bank of some of the vectors; `bank[4]` is a bank of one."""
        index = torch.arange(len(self))
        if isinstance(rows, int):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"bank[{rows}]: the bank holds {len(self)} vectors")
            chosen = index[rows : rows + 1] if rows != -1 else index[-1:]
        else:
            chosen = index[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        return dataclasses.replace(
            self,
            vectors=self.vectors[chosen],
            responses=self.responses[chosen],
            objective=self.objective[chosen],
            labels=tuple(self.labels[i] for i in chosen.tolist()),
            scores={name: values[chosen] for name, values in self.scores.items()},
        )

    def __iter__(self) -> Iterator["Bank"]:
        return (self[i] for i in range(len(self)))

    def sort(
        self, by: str | Float[Tensor, " vec"] = "objective", *, descending: bool = True
    ) -> "Bank":
        """Ordered by objective, by one of the `scores`, or by numbers of your own (NaN comes
        last)."""
        keys = self.score(by) if isinstance(by, str) else by
        if len(keys) != len(self):
            raise SettingError(f"{len(keys)} numbers cannot order {len(self)} vectors.")
        worst = -math.inf if descending else math.inf
        keys = torch.where(keys.isnan(), worst, keys)
        return self[torch.argsort(keys, descending=descending, stable=True)]

    def score(self, name: str) -> Float[Tensor, " vec"]:
        """The objective, or one of the `scores`, by name."""
        if name == "objective":
            return self.objective
        if name not in self.scores:
            there = ", ".join(("objective", *self.scores))
            raise SettingError(f"This bank has no score {name!r}; there are {there}.")
        return self.scores[name]

    def with_score(self, name: str, values: Float[Tensor, " vec"]) -> "Bank":
        """A bank with one more number per vector, shown in its table and saved with it."""
        return dataclasses.replace(self, scores={**self.scores, name: values.detach().cpu()})

    def distinct(self, *, threshold: float | int = 0.9) -> "Bank":
        """Without near-duplicates: of vectors whose responses have |cosine| >= `threshold`, the
        first.

        Orthogonal vectors can have the same effect, so responses are compared and not vectors.
        """
        return self[distinct_rows(self.responses, threshold)]

    def merge(self, other: "Bank") -> "Bank":
        """Both banks' vectors. Radii may differ (the mean is kept); models and sites may not."""
        if not KINDS[self.kind].mergeable:
            raise SettingError(f"Banks of kind {self.kind!r} merge with nothing; keep two banks.")
        for name in ("source", "target", "positions", "kind", "form"):
            if getattr(self, name) != getattr(other, name):
                raise SettingError(
                    f"Banks with different {name} cannot be merged: {getattr(self, name)} and "
                    f"{getattr(other, name)}. Keep them as two banks."
                )
        if not same_model(self.provenance.fingerprint, other.provenance.fingerprint):
            raise SettingError(
                f"These banks come from different models ({self.provenance.model}, "
                f"{other.provenance.model}) and cannot be merged."
            )
        note = f"merged {len(self)} with {len(other)} vectors ({other.provenance.method})"
        share = len(self) / (len(self) + len(other))
        return dataclasses.replace(
            self,
            vectors=torch.cat([self.vectors, other.vectors]),
            responses=torch.cat([self.responses, other.responses]),
            objective=torch.cat([self.objective, other.objective]),
            labels=self.labels + other.labels,
            scores={
                name: torch.cat([self.scores[name], other.scores[name]])
                for name in self.scores.keys() & other.scores.keys()
            },
            radius=share * self.radius + (1 - share) * other.radius,
            radius_share=share * self.radius_share + (1 - share) * other.radius_share,
            provenance=dataclasses.replace(self.provenance, notes=(*self.provenance.notes, note)),
        )

    def label(self, row: int, text: str) -> "Bank":
        """A bank with a note on one vector."""
        labels = list(self.labels)
        labels[row] = text
        return dataclasses.replace(self, labels=tuple(labels))

    def perturbation(self) -> Packable:
        """The vectors as a `Perturbation`, to be trained further or run in a `Segment`."""
        return KINDS[self.kind].unpack(
            self.source,
            self.vectors,
            radius=self.radius,
            positions=self.positions,
            form=self.form,
        )

    def hooks(self, *, rows: Tensor | None = None, prompt: Tensor | None = None) -> Hooks:
        """TransformerLens hooks, as data: `model.run_with_hooks(..., fwd_hooks=bank[4].hooks())`.

        Nothing can check here that the model is the right one; `perturbing` does.
        """
        return self.perturbation().hooks(rows=rows, prompt=prompt)

    def digest(self) -> str:
        """Identifies what the bank does and where, labels and scores aside: 16 hex digits."""
        measured, form = self.provenance.measured, dict(self.form)
        what = (self.kind, form, self.source.name, self.target.name, self.positions, measured)
        own = hashlib.sha256(repr(what).encode())
        for values in (self.vectors, self.responses):
            own.update(values.float().contiguous().numpy().tobytes())
        own.update(repr(self.provenance.fingerprint).encode())
        return own.hexdigest()[:16]

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file. An existing bank stays whole until the new one is
        complete."""
        from tl_steer.bankfile import save_bank

        return save_bank(self, path)

    def __repr__(self) -> str:
        from tl_steer.tables import bank_table, to_text

        return to_text(bank_table(self))

    def _repr_html_(self) -> str:
        from tl_steer.tables import bank_table, to_html

        return to_html(bank_table(self))


def random_bank(like: Bank, *, n: int | None = None, seed: int = 0) -> Bank:
    """The control: random vectors at the same site, as long as the bank's row by row (over and over
    where n is larger). Responses and objectives are NaN."""
    n = len(like) if n is None else n
    # Not the stream that `elicit` draws its starting points from, whatever the seed.
    generator = torch.Generator().manual_seed(seed + _CONTROL_STREAM)
    drawn = KINDS[like.kind].unpack(
        like.source,
        torch.randn(n, like.vectors.shape[1], generator=generator),
        radius=like.radius,
        positions=like.positions,
        form=like.form,
    )
    drawn.project_()
    vectors = drawn.pack()
    if like.kind == Additive.kind:  # a merged bank's vectors have several lengths
        vectors *= like.vectors.norm(dim=1)[torch.arange(n) % len(like), None] / like.radius
    return dataclasses.replace(
        like,
        vectors=vectors,
        responses=torch.full((n, like.target.width), math.nan),
        objective=torch.full((n,), math.nan),
        labels=("random",) * n,
        scores={},
        provenance=dataclasses.replace(like.provenance, method="random", settings={}, seed=seed),
    )


def same_model(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two fingerprints can come from one model, seen through different classes or
    dtypes."""
    if (a.d_model, a.n_layers, a.d_vocab) != (b.d_model, b.n_layers, b.d_vocab):
        return False
    tolerance = 1e-3 if a.dtype == b.dtype and a.dtype in ("float32", "float64") else 0.05
    x, y = torch.tensor(a.signature), torch.tensor(b.signature)
    return x.shape == y.shape and bool((x - y).norm() <= tolerance * x.norm())


def largest(bank: Bank, n: int) -> list[int]:
    """The rows of largest objective, at most n, in the bank's order; unmeasured ones come last."""
    keys = bank.objective.nan_to_num(-math.inf)
    rows: list[int] = keys.topk(min(n, len(bank))).indices.sort().values.tolist()
    return rows
