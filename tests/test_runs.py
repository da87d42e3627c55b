"""Long runs: memory that runs out, checkpoints, and going on from them."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from tl_steer.errors import TooLargeError
from tl_steer.objective import in_parts

CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 9000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def holder(vec_batch):
    return SimpleNamespace(vec_batch=vec_batch, said_smaller=False)


def room_for(most, error, seen):
    """A function of rows that runs out of memory above `most` rows."""

    def function(rows):
        if rows.stop - rows.start > most:
            raise error
        seen.append(rows)
        return list(range(rows.start, rows.stop))

    return function


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_ALLOCATOR), MemoryError()],
)
def test_when_memory_runs_out_parts_are_halved_and_nothing_is_done_twice(error):
    own, seen = holder(16), []
    with pytest.warns(UserWarning, match="vec_batch=4") as warned:
        done = in_parts(21, own, room_for(5, error, seen))
    assert [i for part in done for i in part] == list(range(21))
    assert [rows.stop - rows.start for rows in seen] == [4, 4, 4, 4, 4, 1]
    assert own.vec_batch == 4
    assert len(warned) == 1


def test_the_warning_comes_once_and_the_smaller_number_is_kept():
    own, seen = holder(8), []
    with pytest.warns(UserWarning, match="vec_batch=4"):
        in_parts(8, own, room_for(4, MemoryError(), seen))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_parts(8, own, room_for(2, MemoryError(), seen))
        in_parts(8, own, room_for(8, MemoryError(), seen))
    assert [rows.stop - rows.start for rows in seen] == [4, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_single_row_that_does_not_fit_is_an_error_that_says_what_to_do():
    with pytest.raises(TooLargeError, match=r"single perturbation.*Use fewer or shorter prompts"):
        in_parts(4, holder(4), room_for(0, MemoryError("no room"), []))


def test_other_errors_are_passed_on_at_once():
    own = holder(4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        in_parts(4, own, room_for(0, RuntimeError("size mismatch"), []))
    assert own.vec_batch == 4
