"""Banks: many trained steering vectors, and all that is known of them.

A bank is a value. Slicing, sorting and merging make new banks. It says what its file holds
(`contents`); `tl_steer.banks.file` reads such files.
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

from tl_steer.banks.index import chosen_rows
from tl_steer.banks.provenance import Provenance, check_fits
from tl_steer.errors import BankFileError, SettingError
from tl_steer.files.jsons import plain_json, texts
from tl_steer.files.signatures import refuses
from tl_steer.files.tables import MOST_ROWS, Sheet, Tabled, number
from tl_steer.files.tensors import TensorFile
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.models.fingerprint import same_model
from tl_steer.models.model import HookedModel
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import kind_of, module_of
from tl_steer.perturbations.perturbation import Hooks, Perturbation
from tl_steer.perturbations.sphere import distinct_rows

BANK_FILE = TensorFile("bank", "tl_steer", BankFileError)
_ROWS = 1024  # whose nearest are looked for at once
TENSORS, SCORE = ("vectors", "responses", "objective"), "score."


@dataclass(frozen=True, eq=False, repr=False)
class Bank(Tabled):
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
        kind: how a row is to be read: the name that a kind of perturbation was registered by.
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
        object.__setattr__(self, "form", plain_json(self.form))
        columns = (self.vectors, self.responses, self.objective, *self.scores.values())
        width = kind_of(self.kind).packed_width(self.source, self.form)
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

    @refuses
    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> "Bank":
        """A bank of some of the vectors; `bank[4]` is a bank of one. Numbers may be numpy's or
        torch's, alone or in one axis.

        Raises:
            RowError: a vector that is not in the bank, or what is no choice of vectors.
        """
        chosen = chosen_rows(rows, len(self))
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
        """Both banks' vectors. Radii may differ where the rows hold their own, as vectors do (the
        mean is kept); models and sites may not."""
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
        if self.radius != other.radius and not self._rows_know_their_radius():
            raise SettingError(
                f"Banks of kind {self.kind!r} share one radius, and these have {self.radius:.3g} "
                f"and {other.radius:.3g}: keep two banks."
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

    def _rows_know_their_radius(self) -> bool:
        return kind_of(self.kind).lengths is not Perturbation.lengths

    def nearest(self) -> list[tuple[int, float]]:
        """For each vector the other one whose response is most like its own, and their |cosine|;
        (-1, 0) where there is no other, and NaN where nothing was measured."""
        return self._nearest(len(self))

    def _nearest(self, most: int) -> list[tuple[int, float]]:
        """`nearest` for the first so many, without the cosines of all with all."""
        if len(self) < 2:
            return [(-1, 0.0)] * min(most, len(self))
        unit = torch.nn.functional.normalize(self.responses.double(), dim=1)
        found: list[tuple[int, float]] = []
        for rows in torch.arange(min(most, len(self)), device="cpu").split(_ROWS):
            similar = (unit[rows] @ unit.T).abs()
            similar[torch.arange(len(rows), device="cpu"), rows] = 0.0
            best = similar.max(dim=1)
            found += zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return found

    def label(self, row: int, text: str) -> "Bank":
        """A bank with a note on one vector.

        Raises:
            RowError: a vector that is not in the bank.
        """
        labels = list(self.labels)
        labels[int(chosen_rows([row], len(self)))] = text
        return dataclasses.replace(self, labels=tuple(labels))

    def holding(self, vectors: Float[Tensor, "vec n"]) -> Perturbation:
        """Other vectors in the place of the bank's own, as many as you like."""
        return kind_of(self.kind).unpack(
            self.source, vectors, radius=self.radius, positions=self.positions, form=self.form
        )

    def perturbation(self) -> Perturbation:
        """The vectors as a `Perturbation`, to be trained further or run in a `Segment`."""
        return self.holding(self.vectors)

    def for_model(self, model: HookedModel) -> Perturbation:
        """`perturbation`, for a model that the bank was made for.

        Raises:
            ForeignModelError: it was made for another.
        """
        check_fits(model, self.provenance)
        return self.perturbation()

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

    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a file of it holds: the header, JSON, and the tensors.

        Raises:
            SettingError: what no file could hold, or no reader would accept.
        """
        refuse_nonsense(self)
        tensors = {name: getattr(self, name) for name in TENSORS}
        module = module_of(self.kind)
        return {
            "format": BANK_FILE.version,
            "kind": self.kind,
            "form": dict(self.form),
            "source": dataclasses.asdict(self.source),
            "target": dataclasses.asdict(self.target),
            "radius": self.radius,
            "radius_share": self.radius_share,
            "positions": self.positions.to_json(),
            "labels": list(self.labels),
            "provenance": dataclasses.asdict(self.provenance),
            **({"module": module} if module else {}),
        }, tensors | {SCORE + name: values for name, values in self.scores.items()}

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file. An existing bank stays whole until the new one is
        complete.

        Raises:
            SettingError: it holds what could not be loaded again (vectors that are not finite,
                labels that take too much room); nothing is written.
            WriteError: the file cannot be written.
        """
        return BANK_FILE.write(path, *self.contents())

    def table(self, *, most: int = MOST_ROWS) -> Sheet:
        """One row per vector: objective, size of the response, nearest other response, label."""
        rows = []
        for i, (near, similar) in enumerate(self._nearest(most)):
            known = near >= 0 and not math.isnan(similar)
            nearest = f"{similar:.2f} (#{near})" if known else ""
            size = float(self.responses[i].norm())
            scores = (number(values[i].item()) for values in self.scores.values())
            rows.append(
                (
                    str(i),
                    number(self.objective[i].item()),
                    number(size),
                    nearest,
                    *scores,
                    self.labels[i],
                )
            )
        left_out = len(self) - len(rows)
        source = self.provenance
        no_norm = math.isnan(self.radius_share)
        share = "" if no_norm else f" = {self.radius_share:.3f} of the median residual norm"
        note = (
            f"{source.method or 'no method'} on {source.model}; radius {self.radius:.3g}{share} at "
            f"{self.source}; target {self.target}; seed {source.seed}"
            + (f"; {left_out} more not shown" if left_out > 0 else "")
        )
        kind = "steering vectors" if self.kind == Additive.kind else self.kind
        return Sheet(
            title=f"Bank of {len(self)} {kind}",
            columns=("#", "objective", "|response|", "nearest |cos|", *self.scores, "label"),
            rows=tuple(rows),
            note=note,
        )


def refuse_nonsense(bank: Bank) -> None:
    """Refuse what is no bank, whoever made it: a program that wants it saved, or a file.

    Raises:
        SettingError: saying what.
    """
    columns = {name: getattr(bank, name) for name in TENSORS} | dict(bank.scores)
    for name, values in columns.items():
        if values.dtype not in _FLOATS:
            raise SettingError(f"{name} must hold floats, not {values.dtype}.")
        if values.ndim != (2 if name in ("vectors", "responses") else 1):
            raise SettingError(f"{name} must hold one number per vector, or one row.")
    if bank.responses.shape[1] != bank.target.width:
        raise SettingError("responses do not have the target's width.")
    if not bool(bank.vectors.isfinite().all()) or not math.isfinite(bank.radius):
        raise SettingError("the vectors are not finite.")
    try:
        for site in (bank.source, bank.target):
            site.refuse_kinds()
        texts(bank.labels)
        bank.positions.refuse_kinds()
        bank.provenance.refuse_kinds()
    except ValueError as error:
        raise SettingError(f"{error}.") from error


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def largest(bank: Bank, n: int) -> list[int]:
    """The rows of largest objective, at most n, in the bank's order; unmeasured ones come last."""
    keys = bank.objective.nan_to_num(-math.inf)
    rows: list[int] = keys.topk(min(n, len(bank))).indices.sort().values.tolist()
    return rows
