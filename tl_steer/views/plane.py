"""Things on a plane by how far apart they are, and in clusters: by response, or by text."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Letters of a text that are compared, and how many of them in a row.
_LENGTH, _GRAM = 2000, 3


@dataclass(frozen=True, eq=False)
class Cluster:
    """Places of its members, the largest cluster first, and of the one nearest to all others."""

    members: tuple[int, ...]
    representative: int


def plane(distances: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, "n 2"], float]:
    """Classical scaling: points whose distances are, as far as a plane has room, those given; and
    the share of what is apart that it shows. Points of a plane come back as they were, turned.

    With $B = -\\frac12 J D^2 J$, $J = 1 - \\frac1n 11^T$, the coordinates are B's two leading
    eigenvectors times the roots of their eigenvalues (Torgerson 1952). Signs are free: on each axis
    the point that is farthest out is on the positive side, so that one bank always has one map.
    """
    n = len(distances)
    squared = distances**2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-(centred + centred.T) / 4)
    points = np.zeros((n, 2))
    for axis in range(min(2, n)):
        own = vectors[:, -1 - axis] * math.sqrt(max(0.0, values[-1 - axis]))
        out = np.argmax(np.abs(own).round(9))
        points[:, axis] = own if own[out] >= 0 else -own
    total = np.abs(values).sum()
    return points, float(values[-2:].clip(0).sum() / total) if total > 1e-12 else 1.0


def clusters(distances: Float[np.ndarray, "n n"], *, apart: float) -> list[Cluster]:
    """Average linkage, cut where members are `apart` on average; who is alone is in none."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(distances) < 2:
        return []
    pairs = squareform((distances + distances.T) / 2, checks=False)
    names = fcluster(linkage(pairs, method="average"), apart, criterion="distance")
    groups = [np.flatnonzero(names == name) for name in np.unique(names)]
    groups = [own for own in groups if len(own) > 1]
    groups.sort(key=lambda own: (-len(own), own[0]))
    return [
        Cluster(tuple(own.tolist()), int(own[distances[np.ix_(own, own)].sum(axis=1).argmin()]))
        for own in groups
    ]


def of_texts(texts: Sequence[Sequence[str]]) -> Float[np.ndarray, "n n"]:
    """How far apart things are by what they say: 1 - cosine of counts of three letters in a row,
    each count as $1 + \\log$ of it, and rarer ones weighing more (tf-idf).

    Args:
        texts: one or several of each; the first 2000 letters of all together are compared.
    """
    from scipy.sparse import csr_array

    counts = [_grams("\n".join(own)[:_LENGTH]) for own in texts]
    shared = Counter(gram for own in counts for gram in own)
    column = {gram: i for i, gram in enumerate(shared)}
    weights = {gram: math.log((1 + len(texts)) / (1 + k)) + 1 for gram, k in shared.items()}
    places = [(row, column[gram]) for row, own in enumerate(counts) for gram in own]
    values = [(1 + math.log(k)) * weights[gram] for own in counts for gram, k in own.items()]
    rows, columns = np.array(places, dtype=int).reshape(-1, 2).T
    table = csr_array((values, (rows, columns)), shape=(len(texts), max(1, len(column))))
    products = (table @ table.T).toarray()
    norms = np.sqrt(products.diagonal())
    silent = norms == 0
    lengths = np.where(silent, 1, norms)
    distances: np.ndarray = 1 - (products / np.outer(lengths, lengths)).clip(-1, 1)
    distances[np.ix_(silent, silent)] = 0  # two that say nothing say the same
    np.fill_diagonal(distances, 0)
    return distances


def _grams(text: str) -> Counter[str]:
    """Texts that are shorter than three letters count as one."""
    found = Counter(text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1))
    return found if found or not text else Counter([text])
