"""Banks: many trained steering vectors, and all that is known of them.

A bank is a value. Slicing, sorting and merging make new banks; saving writes one safetensors file,
beside the old one and then in its place, never pickle.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from tl_steer.errors import BankFileError, SettingError
from tl_steer.perturbation import Additive, Hooks
from tl_steer.positions import EVERYWHERE, Positions
from tl_steer.site import STAGES, Site
from tl_steer.sphere import distinct_rows, random_on_sphere

FORMAT_VERSION = 1
_MOST_METADATA = 1 << 20  # bytes; a bank's is a few thousand
_CONTROL_STREAM = 0x636F6E74
_TENSORS = ("vectors", "responses", "objective")


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
        vectors: what is added at `source`; rows have norm `radius`.
        responses: the mean effect at `target`, over measured tokens and prompts.
        objective: what the method climbed, for each vector. Comparable within a bank only.
        radius: norm of the vectors; `radius_share` is the same over the median clean norm of the
            residual stream at the source (BOS left out), which is comparable across layers.
        positions: the tokens that the vectors are added at.
        labels: a note on each vector, the user's own.
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

    def __post_init__(self) -> None:
        if not self.labels:
            object.__setattr__(self, "labels", ("",) * len(self.vectors))
        lengths = {len(self.vectors), len(self.responses), len(self.objective), len(self.labels)}
        if len(lengths) != 1 or self.vectors.shape[1] != self.source.width:
            raise SettingError(
                f"A bank needs one response, objective and label per vector, and vectors as wide "
                f"as its source ({self.source.width}); got vectors {tuple(self.vectors.shape)}, "
                f"responses {tuple(self.responses.shape)}, objective {tuple(self.objective.shape)} "
                f"{len(self.labels)} labels."
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
        )

    def __iter__(self) -> Iterator["Bank"]:
        return (self[i] for i in range(len(self)))

    def sort(self, *, descending: bool = True) -> "Bank":
        """Ordered by objective."""
        return self[torch.argsort(self.objective, descending=descending, stable=True)]

    def distinct(self, *, threshold: float | int = 0.9) -> "Bank":
        """Without near-duplicates: of vectors whose responses have |cosine| >= `threshold`, the
        first.

        Orthogonal vectors can have the same effect, so responses are compared and not vectors.
        """
        return self[distinct_rows(self.responses, threshold)]

    def merge(self, other: "Bank") -> "Bank":
        """Both banks' vectors. Radii may differ (the mean is kept); models and sites may not."""
        for name in ("source", "target", "positions"):
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
            radius=share * self.radius + (1 - share) * other.radius,
            radius_share=share * self.radius_share + (1 - share) * other.radius_share,
            provenance=dataclasses.replace(self.provenance, notes=(*self.provenance.notes, note)),
        )

    def label(self, row: int, text: str) -> "Bank":
        """A bank with a note on one vector."""
        labels = list(self.labels)
        labels[row] = text
        return dataclasses.replace(self, labels=tuple(labels))

    def perturbation(self) -> Additive:
        """The vectors as a `Perturbation`, to be trained further or run in a `Segment`."""
        return Additive(self.source, self.vectors, radius=self.radius, positions=self.positions)

    def hooks(self, *, rows: Tensor | None = None, prompt: Tensor | None = None) -> Hooks:
        """TransformerLens hooks, as data: `model.run_with_hooks(..., fwd_hooks=bank[4].hooks())`.

        Nothing can check here that the model is the right one; `perturbing` does.
        """
        return self.perturbation().hooks(rows=rows, prompt=prompt)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file. An existing bank stays whole until the new one is
        complete."""
        path = Path(path)
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in _TENSORS}
        meta = _to_json(self)
        meta["sha256"] = _digest(meta, tensors)
        payload = to_bytes(tensors, metadata={"tl_steer": json.dumps(meta)})
        write_beside(path, payload)
        return path

    def __repr__(self) -> str:
        from tl_steer.tables import bank_table, to_text

        return to_text(bank_table(self))

    def _repr_html_(self) -> str:
        from tl_steer.tables import bank_table, to_html

        return to_html(bank_table(self))


def random_bank(like: Bank, *, n: int | None = None, seed: int = 0) -> Bank:
    """The control: random vectors at the same site and radius. Responses and objectives are NaN."""
    n = len(like) if n is None else n
    # Not the stream that `elicit` draws its starting points from, whatever the seed.
    generator = torch.Generator().manual_seed(seed + _CONTROL_STREAM)
    return dataclasses.replace(
        like,
        vectors=random_on_sphere(n, like.source.width, radius=like.radius, generator=generator),
        responses=torch.full((n, like.target.width), math.nan),
        objective=torch.full((n,), math.nan),
        labels=("random",) * n,
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


def load_bank(path: str | Path) -> Bank:
    """Read a bank that `Bank.save` wrote. No model is needed, and nothing in the file is executed.

    Raises:
        BankFileError: the file is missing, truncated, tampered with, or not a bank.
    """
    path = Path(path)
    if not path.is_file():
        raise BankFileError(f"No bank at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("tl_steer", "")
            if set(file.keys()) != set(_TENSORS):
                raise BankFileError(f"{path} holds {sorted(file.keys())}, not a tl_steer bank.")
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise BankFileError(f"{path} is damaged or not a safetensors file: {error}") from error
    meta = _read_header(path, header)
    if meta.pop("sha256", None) != _digest(meta, tensors):
        raise BankFileError(f"{path} was changed after it was saved: its checksum does not match.")
    return _from_json(meta, tensors, path)


def _read_header(path: Path, header: str) -> dict[str, Any]:
    if not 0 < len(header) <= _MOST_METADATA:
        raise BankFileError(f"{path} has no tl_steer header (or one of an absurd size).")
    try:
        meta = json.loads(header)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BankFileError(f"{path} has an unreadable header: {error}") from error
    version = meta.get("format") if isinstance(meta, dict) else None
    if version != FORMAT_VERSION:
        raise BankFileError(
            f"{path} has bank format {version!r}; this tl_steer reads {FORMAT_VERSION}. "
            "If it is newer, upgrade tl_steer."
        )
    return dict(meta)


def _digest(meta: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Finds damage, and edits by accident; it is no signature, so it does not stop a forger."""
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in _TENSORS:
        sha.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _to_json(bank: Bank) -> dict[str, Any]:
    provenance = dataclasses.asdict(bank.provenance)
    return {
        "format": FORMAT_VERSION,
        "kind": "additive",
        "source": dataclasses.asdict(bank.source),
        "target": dataclasses.asdict(bank.target),
        "radius": bank.radius,
        "radius_share": bank.radius_share,
        "positions": bank.positions.to_json(),
        "labels": list(bank.labels),
        "provenance": provenance,
    }


def _from_json(meta: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Bank:
    """Everything in a file is hostile: wrong types and shapes end as `BankFileError`."""
    try:
        if meta["kind"] != "additive":
            raise BankFileError(f"{path} holds perturbations of unknown kind {meta['kind']!r}.")
        given = dict(meta["provenance"])
        mark = given.pop("fingerprint")
        signature = tuple(float(x) for x in mark.pop("signature"))
        provenance = Provenance(
            **{
                **given,
                "fingerprint": Fingerprint(signature=signature, **mark),
                "measured": Positions(**given["measured"]),
                "notes": tuple(map(str, given["notes"])),
            }
        )
        bank = Bank(
            vectors=tensors["vectors"],
            responses=tensors["responses"],
            objective=tensors["objective"],
            source=_site(meta["source"]),
            target=_site(meta["target"]),
            radius=float(meta["radius"]),
            radius_share=float(meta["radius_share"]),
            positions=Positions(**meta["positions"]),
            labels=tuple(map(str, meta["labels"])),
            provenance=provenance,
        )
    except BankFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BankFileError(f"{path} is not a valid bank: {error}") from error
    _refuse_nonsense(bank, path)
    return bank


def _refuse_nonsense(bank: Bank, path: Path) -> None:
    for name in _TENSORS:
        if not getattr(bank, name).is_floating_point():
            raise BankFileError(
                f"{path}: {name} must hold floats, not {getattr(bank, name).dtype}."
            )
    if bank.responses.ndim != 2 or bank.responses.shape[1] != bank.target.width:
        raise BankFileError(f"{path}: responses do not have the target's width.")
    if not bool(bank.vectors.isfinite().all()) or not math.isfinite(bank.radius):
        raise BankFileError(f"{path}: the vectors are not finite.")


def _site(meta: dict[str, Any]) -> Site:
    site = Site(str(meta["name"]), int(meta["layer"]), str(meta["kind"]), int(meta["width"]))
    if site.kind not in STAGES or site.width < 1 or site.layer < 0:
        raise ValueError(f"{meta} is not a hook point")
    return site


def write_beside(path: Path, payload: bytes) -> None:
    """Write beside, flush to disk, rename: readers see the old file or the new one, never a
    part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(draft, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
