"""Rows of numbers for the kinds that are made of vectors: what is none is refused."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from tl_steer.errors import ShapeError
from tl_steer.perturbations.perturbation import Perturbation

NONE: Mapping[str, Any] = MappingProxyType({})


def refuse_rows(kind: Perturbation, name: str, rows: object, *, n: int | None = None) -> None:
    """Refuse what is no matrix of one row per edit, as wide as the site.

    Raises:
        ShapeError: saying what came, and what was expected.
    """
    wanted = f"[{'vec' if n is None else n} {kind.site.width}]"
    if not isinstance(rows, Tensor):
        raise ShapeError(
            f"{type(kind).__name__}: {name} is a {type(rows).__name__}; expected a tensor {wanted}."
        )
    if rows.ndim != 2 or not rows.is_floating_point():
        hint = f"; one is {name}[None]" if rows.ndim == 1 else ""
        raise ShapeError(
            f"{type(kind).__name__}: {name} of shape {tuple(rows.shape)} ({rows.dtype}); expected "
            f"floating point {wanted}, one row per edit{hint}."
        )
    if rows.shape[1] != kind.site.width or (n is not None and len(rows) != n):
        raise ShapeError(
            f"{type(kind).__name__}: {name} {tuple(rows.shape)} do not fit {kind.site}; expected "
            f"{wanted}."
        )
