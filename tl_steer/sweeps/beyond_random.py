"""Effects beside those of random vectors, prompt by prompt. See `tl_steer.sweeps.systematic`."""

import numpy as np
from jaxtyping import Float

QUANTILE = 0.95


def thresholds(
    control: Float[np.ndarray, "random prompt"], floor: float
) -> Float[np.ndarray, " prompt"]:
    """The effect that counts, prompt by prompt. A failed cell (NaN) of a control is left out."""
    found: np.ndarray = np.maximum(floor, _quantile(np.sort(control, axis=0)))
    return found


def without_itself(
    control: Float[np.ndarray, "random prompt"], floor: float
) -> Float[np.ndarray, "random prompt"]:
    """The thresholds that each random vector meets: those of the others."""
    order = np.sort(control, axis=0)
    rank = np.argsort(np.argsort(control, axis=0, kind="stable"), axis=0, kind="stable")
    valid = np.isfinite(order).sum(axis=0)
    # Without one value, what stands behind it moves up by one.
    own = np.isfinite(control).astype(int)
    at = _place(valid - own)
    moved = at + ((rank <= at) & (own == 1))
    found = np.take_along_axis(order, np.clip(moved, 0, len(order) - 1), axis=0)
    met: np.ndarray = np.maximum(floor, np.where(valid - own > 0, found, -np.inf))
    return met


def _place(valid: np.ndarray) -> np.ndarray:
    """Where the quantile stands among so many sorted values: at the larger neighbour."""
    place: np.ndarray = np.ceil(QUANTILE * np.maximum(valid - 1, 0) - 1e-9).astype(int)
    return place


def _quantile(order: np.ndarray) -> np.ndarray:
    if len(order) == 0:
        return np.full(order.shape[1], -np.inf)
    valid = np.isfinite(order).sum(axis=0)
    found = np.take_along_axis(order, _place(valid)[None], axis=0)[0]
    return np.where(valid > 0, found, -np.inf)


def superiority(
    effects: Float[np.ndarray, "vec prompt"], control: Float[np.ndarray, "random prompt"]
) -> Float[np.ndarray, "vec prompt"]:
    """The share of random vectors with a smaller effect on that prompt; ties count half."""
    above = np.zeros_like(effects)
    for one in control:
        above += np.where(np.isfinite(one), (effects > one) + 0.5 * (effects == one), 0.0)
    valid = np.isfinite(control).sum(axis=0)
    return np.where(np.isfinite(effects) & (valid > 0), above / np.maximum(valid, 1), np.nan)


def exceeding(
    effects: Float[np.ndarray, "vec prompt"], threshold: np.ndarray
) -> Float[np.ndarray, "vec prompt"]:
    """1 where an effect exceeds the threshold, 0 where not, NaN where the cell failed."""
    return np.where(np.isfinite(effects), (effects > threshold).astype(float), np.nan)
