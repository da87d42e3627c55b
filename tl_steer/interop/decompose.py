"""Which features of a sparse autoencoder a bank's vectors point along."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import chance_vectors
from tl_steer.banks.given import refuse_unread
from tl_steer.errors import SettingError, ShapeError
from tl_steer.files.record import Record
from tl_steer.files.signatures import typed
from tl_steer.files.tables import MOST_ROWS, Sheet, number

# Of the dictionary and of the bank at once: their cosines take 32 MB.
_FEATURES, _VECTORS = 8192, 1024


@dataclass(frozen=True, repr=False)
class Decomposition(Record):
    """The features nearest to each vector; `decompose` finds them.

    Attributes:
        numbers, labels: of the vectors, as in the bank.
        features: rows of the dictionary, nearest first.
        names: of these features; empty where nobody named them.
        cosines: with these features. Below 0 the vector points away from what the feature writes.
        chance: the largest |cosine| of each of some random vectors with any feature: as many as the
            bank's, and a hundred at least. What is no nearer than these is no finding.
        size: how many features there are.
        source: where the vectors act.
    """

    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    features: tuple[tuple[int, ...], ...]
    names: tuple[tuple[str, ...], ...]
    cosines: tuple[tuple[float, ...], ...]
    chance: tuple[float, ...]
    size: int
    source: str

    def __len__(self) -> int:
        return len(self.numbers)

    def table(self, *, most: int = MOST_ROWS) -> Sheet:
        """One row per vector: its features with their cosines, and whether the nearest is nearer
        than any random vector's."""
        rows = []
        limit = max(self.chance)
        for v in range(min(most, len(self))):
            each = zip(self.features[v], self.names[v], self.cosines[v], strict=True)
            near = "; ".join(f"#{f}{' ' * bool(n)}{n} {c:+.2f}" for f, n, c in each)
            above = "yes" if abs(self.cosines[v][0]) > limit else "no"
            rows.append((str(self.numbers[v]), near, above, self.labels[v]))
        more = f"; {len(self) - len(rows)} more not shown" if len(rows) < len(self) else ""
        note = (
            f"cosines with {self.size} features, vectors at {self.source}; nearest feature of "
            f"{len(self.chance)} random vectors: median and largest |cosine| "
            f"{number(median(self.chance))}, {number(limit)}{more}"
        )
        columns = ("#", "nearest features", "beyond random", "label")
        return Sheet(f"Features of {len(self)} vectors", columns, tuple(rows), note)


@typed
def decompose(
    bank: Bank,
    dictionary: Any,
    *,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    most: int = 5,
    seed: int = 0,
) -> Decomposition:
    """The features whose decoder directions lie nearest to each vector, by |cosine|.

    Memory is bounded whatever the sizes: a million features of a memory-mapped array are read a few
    thousand at a time.

    Args:
        dictionary: decoder directions `[d_sae d_model]`, as a tensor or an array, or an autoencoder
            with such a `W_dec`. It has to be of the bank's own hook point: the same cosines with
            another layer's mean nothing.
        labels: of features: one each, or by their rows.
        most: features a vector.
        seed: of the random vectors.

    Raises:
        SettingError: perturbations that are no vectors, nothing in the bank or the dictionary,
            numbers that are not finite, or labels of another number.
        HookPointError: vectors that are not on the residual stream.
        ShapeError: no dictionary, or one of another width.

    The nearest directions are not what the model's features do: a vector can excite features that
    it is not parallel to, and dictionaries hold directions that are near to each other.
    """
    refuse_unread(bank, most, call="decompose")
    rows = _dictionary(dictionary, bank.source.width)
    size = int(rows.shape[0])
    if labels is not None and not isinstance(labels, Mapping) and len(labels) != size:
        raise SettingError(f"{len(labels)} labels for {size} features; expected one each.")
    near, cosines = _nearest(bank.vectors, rows, min(most, size))
    _, chance = _nearest(chance_vectors(bank, seed=seed), rows, 1)
    return Decomposition(
        bank.numbers,
        bank.labels,
        tuple(map(tuple, near.tolist())),
        tuple(tuple(_name(labels, feature) for feature in each) for each in near.tolist()),
        tuple(map(tuple, cosines.tolist())),
        tuple(chance.abs()[:, 0].tolist()),
        size,
        bank.source.name,
    )


def _dictionary(given: Any, width: int) -> Any:
    """What can be sliced into `[feature d_model]`."""
    rows = getattr(given, "W_dec", given)
    shape = tuple(getattr(rows, "shape", ()))
    if len(shape) != 2:
        raise ShapeError(
            f"The dictionary is {type(given).__name__} {shape or ''}; expected decoder directions "
            "[d_sae d_model], or an autoencoder with W_dec."
        )
    if not shape[0]:
        raise SettingError("The dictionary holds no features.")
    if shape[1] != width:
        turned = "; they lie in its columns: give its transpose" if shape[0] == width else ""
        raise ShapeError(f"The dictionary is {shape[1]} wide, and the vectors are {width}{turned}.")
    return rows


def _nearest(
    vectors: Float[Tensor, "vec d_model"], rows: Any, most: int
) -> tuple[Int[Tensor, "vec most"], Float[Tensor, "vec most"]]:
    """The features of largest |cosine| with each vector, and their cosines."""
    unit = torch.nn.functional.normalize(vectors.detach().to("cpu", torch.float32), dim=1)
    near = torch.zeros(len(unit), 0, dtype=torch.long, device="cpu")
    cosines = torch.zeros(len(unit), 0, dtype=torch.float32, device="cpu")
    for start, part in _parts(rows):
        found = [_best(some, part, min(most, len(part))) for some in unit.split(_VECTORS)]
        at, cosine = (torch.cat(each) for each in zip(*found, strict=True))
        near, cosines = torch.cat([near, at + start], dim=1), torch.cat([cosines, cosine], dim=1)
        order = cosines.abs().argsort(dim=1, descending=True, stable=True)[:, :most]
        near, cosines = near.gather(1, order), cosines.gather(1, order)
    return near, cosines


def _best(vectors: Tensor, part: Tensor, most: int) -> tuple[Tensor, Tensor]:
    cosine = vectors @ part.T
    at = cosine.abs().topk(most, dim=1).indices
    return at, cosine.gather(1, at)


def _parts(rows: Any) -> Iterator[tuple[int, Float[Tensor, "feature d_model"]]]:
    """Unit rows, some at a time, with the first one's number. A dead feature's are zeros."""
    for start in range(0, rows.shape[0], _FEATURES):
        try:
            part = rows[start : start + _FEATURES]
            plain = part.detach().float().cpu() if isinstance(part, Tensor) else part
            # A copy: a mapped file is not to be written to.
            found = torch.from_numpy(np.array(plain, "float32"))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ShapeError(f"The dictionary holds no numbers: {error}") from error
        bad = (~found.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise SettingError(f"Feature {start + int(bad[0])} holds NaN or infinity.")
        yield start, torch.nn.functional.normalize(found, dim=1)


def _name(labels: Sequence[str] | Mapping[int, str] | None, feature: int) -> str:
    if isinstance(labels, Mapping):
        return str(labels.get(feature, ""))
    return "" if labels is None else labels[feature]
