"""Which vectors an index chooses, and what they are called."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from tl_steer.errors import RowError, SettingError

Item = TypeVar("Item")


def chosen_rows(rows: Any, n: int) -> slice | Tensor:
    """The rows that an index chooses of `n`: a run of them, or their numbers.

    Raises:
        RowError: there are no such rows.
    """
    try:
        run = range(n)[rows] if isinstance(rows, slice) else None
    except (TypeError, ValueError):
        raise _no_rows(rows, n) from None
    if run is None:
        return listed_rows(rows, n)
    if run.step == 1:
        return slice(run.start, max(run.start, run.stop))
    return torch.tensor(run, dtype=torch.int64, device="cpu")  # torch knows no step backwards


def listed_rows(rows: Any, n: int) -> Tensor:
    """The numbers of the rows that one number, several, or `n` truth values choose.

    Raises:
        RowError: there are no such rows.
    """
    try:
        found = _whole(torch.as_tensor(rows, device="cpu"), n)
    except (TypeError, ValueError, IndexError, RuntimeError):
        raise _no_rows(rows, n) from None
    if found.ndim > 1:
        raise RowError(f"bank[...] with {found.ndim} axes; expected one number, or one axis.")
    return found.reshape(-1)


def _no_rows(rows: Any, n: int) -> RowError:
    return RowError(
        f"bank[{repr(rows)[:80]}]: the bank holds {n} vectors; expected their numbers, a slice, or "
        f"{n} truth values."
    )


def _whole(wanted: Tensor, n: int) -> Tensor:
    """Truth values and numbers from the end as numbers from 0 on.

    Raises:
        IndexError: there are no such rows.
    """
    if wanted.dtype == torch.bool:
        if wanted.shape != (n,):
            raise IndexError
        return wanted.nonzero().flatten()
    # An empty list is of floats.
    if wanted.numel() and (wanted.is_floating_point() or wanted.is_complex()):
        raise IndexError
    found = wanted.long()
    if bool(((found < -n) | (found >= n)).any()):
        raise IndexError
    return torch.where(found < 0, found + n, found)


def taken(values: Tensor, rows: slice | Tensor) -> Tensor:
    """Some rows: a run of half of them or more is a view, which costs nothing and keeps alive no
    more than twice what it shows; anything else is a copy."""
    part = values[rows]
    return part.clone() if isinstance(rows, slice) and 2 * len(part) < len(values) else part


# What the columns of sweeps hold.
_LARGEST_NUMBER = 2**31 - 1


def numbered(numbers: Iterable[int], n: int) -> tuple[int, ...]:
    """The numbers that `n` vectors are called by; those of a range where there are none.

    Raises:
        SettingError: one is given twice, or they are not `n` whole numbers from 0 on.
    """
    found = tuple(numbers)
    if not found:
        return tuple(range(n))
    whole = set(map(type, found)) == {int} and min(found) >= 0 and max(found) <= _LARGEST_NUMBER
    if len(found) != n or not whole or len(set(found)) < n:
        raise SettingError(
            f"numbers={repr(found)[:80]}: expected a whole number for each of the {n} vectors, "
            "from 0 on and no two alike; or none, to count them."
        )
    return found


def chosen(values: tuple[Item, ...], rows: slice | Tensor) -> tuple[Item, ...]:
    """Some rows of a column that is no tensor."""
    if isinstance(rows, slice):
        return values[rows]
    return tuple(map(values.__getitem__, rows.tolist()))


def chosen_numbers(numbers: tuple[int, ...], rows: slice | Tensor) -> tuple[int, ...]:
    """The numbers of some rows; none where a row is chosen twice, so that they are counted anew."""
    found = chosen(numbers, rows)
    return found if len(set(found)) == len(found) else ()
