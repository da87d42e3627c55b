"""As many edits in one pass as memory has room for."""

import gc
import warnings
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch

from tl_steer.errors import TooLargeError

# The CPU's allocator and Apple's have no exception class of their own.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
Result = TypeVar("Result")


@runtime_checkable
class Holder(Protocol):
    """Whoever remembers how many edits fit into one pass; an `Objective`, as a rule."""

    vec_batch: int
    said_smaller: bool


def in_parts(n: int, holder: Holder, function: Callable[[slice], Result]) -> list[Result]:
    """`function(rows)` for `n` rows, `holder.vec_batch` of them at a time, in order.

    Where memory runs out, `holder.vec_batch` is halved and the part is tried again; parts that are
    done stay done, and the smaller number is kept. `function` must therefore leave nothing behind
    when it fails. One warning per holder, with the number that fits.

    Raises:
        TooLargeError: memory ran out with one edit per pass.
    """
    done: list[Result] = []
    start, shrunk = 0, False
    while start < n:
        rows = slice(start, min(start + holder.vec_batch, n))
        try:
            done.append(function(rows))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            complaint = str(error).strip().partition("\n")[0]
        else:
            start = rows.stop
            if shrunk and not holder.said_smaller:
                _say_smaller(holder)
            continue
        # Out here, because inside the except the traceback keeps the failed pass's tensors alive.
        _make_room(holder, rows.stop - rows.start, complaint)
        shrunk = True
    return done


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, and was not found to be too small altogether."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return not isinstance(error, TooLargeError)
    return any(words in str(error) for words in _NO_MEMORY)


def _make_room(holder: Holder, tried: int, complaint: str) -> None:
    if tried == 1:
        raise TooLargeError(
            f"Memory ran out with a single perturbation in the pass ({complaint}). Use fewer or "
            "shorter prompts, a target nearer to the source, a model in half precision, or a "
            "device with more memory."
        )
    holder.vec_batch = tried // 2
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _say_smaller(holder: Holder) -> None:
    holder.said_smaller = True
    warnings.warn(
        f"Memory ran out; going on with vec_batch={holder.vec_batch}. Give that number to save the "
        "failed tries next time.",
        stacklevel=3,
    )
