"""Which vectors an index chooses."""

from typing import Any

import torch
from torch import Tensor

from tl_steer.errors import RowError


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
