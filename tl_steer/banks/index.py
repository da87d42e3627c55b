"""Which vectors an index chooses, and what they are called."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import RowError, SettingError


def chosen_rows(rows: Any, n: int) -> Tensor:
    """The numbers of the rows that an index chooses of `n`.

    Raises:
        RowError: there are no such rows.
    """
    index = torch.arange(n, device="cpu")
    try:
        # Through `range`, because torch knows no step backwards.
        wanted = list(range(n)[rows]) if isinstance(rows, slice) else rows
        wanted = torch.as_tensor(wanted, device="cpu")
        # Bytes would be taken for truth values, and an empty list is of floats.
        whole = wanted.dtype not in (torch.bool, torch.long) and not wanted.is_floating_point()
        found: Tensor = index[wanted.long() if whole or wanted.numel() == 0 else wanted]
    except (TypeError, ValueError, IndexError, RuntimeError):
        raise RowError(
            f"bank[{repr(rows)[:80]}]: the bank holds {n} vectors; expected their numbers, a "
            f"slice, or {n} truth values."
        ) from None
    if found.ndim > 1:
        raise RowError(f"bank[...] with {found.ndim} axes; expected one number, or one axis.")
    return found.reshape(-1)


# What the columns of sweeps hold.
_LARGEST_NUMBER = 2**31 - 1


def numbered(numbers: Iterable[int], n: int) -> tuple[int, ...]:
    """The numbers that `n` vectors are called by; those of a range where there are none.

    Raises:
        SettingError: one is given twice, or they are not `n` whole numbers from 0 on.
    """
    found = tuple(numbers) or tuple(range(n))
    whole = all(type(i) is int and 0 <= i <= _LARGEST_NUMBER for i in found)
    if len(found) != n or not whole or len(set(found)) < n:
        raise SettingError(
            f"numbers={repr(found)[:80]}: expected a whole number for each of the {n} vectors, "
            "from 0 on and no two alike; or none, to count them."
        )
    return found


def chosen_numbers(numbers: tuple[int, ...], rows: Tensor) -> tuple[int, ...]:
    """The numbers of some rows; none where a row is chosen twice, so that they are counted anew."""
    found = tuple(numbers[i] for i in rows.tolist())
    return found if len(set(found)) == len(found) else ()
