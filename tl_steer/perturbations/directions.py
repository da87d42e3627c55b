"""Rows of numbers for the kinds that are made of vectors: what is none is refused."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_steer.errors import ShapeError
from tl_steer.hook_points.site import Point, Site, site_at
from tl_steer.perturbations.perturbation import Perturbation


def as_rows(rows: Any) -> Any:
    """A single vector as one row, and numpy's numbers as a tensor's; all else as it is."""
    if isinstance(rows, np.ndarray) and np.issubdtype(rows.dtype, np.floating):
        rows = torch.tensor(rows, dtype=torch.float32, device="cpu")
    return rows[None] if isinstance(rows, Tensor) and rows.ndim == 1 else rows


def site_of(where: Point, rows: Any) -> Site:
    """Where these rows act: a site, or by its name, as wide as they are.

    Raises:
        HookPointError, ShapeError: no hook point.
    """
    return site_at(where, rows.shape[-1] if isinstance(rows, Tensor) and rows.ndim else 0)


def refuse_rows(kind: Perturbation, name: str, rows: object, *, n: int | None = None) -> None:
    """Refuse what is no matrix of one row per edit, as wide as the site.

    Raises:
        ShapeError: saying what came, and what was expected.
    """
    what = f"{type(kind).__name__}: {name}"
    wanted = f"[{'vec' if n is None else n} {kind.site.width or 'width'}]"
    if not isinstance(rows, Tensor):
        raise ShapeError(f"{what} is a {type(rows).__name__}; expected a tensor {wanted}.")
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ShapeError(
            f"{what} of shape {tuple(rows.shape)} ({rows.dtype}); expected floating point "
            f"{wanted}, one row per edit, or one vector."
        )
    if rows.shape[1] != kind.site.width or (n is not None and len(rows) != n):
        raise ShapeError(f"{what} {tuple(rows.shape)} do not fit {kind.site}; expected {wanted}.")
