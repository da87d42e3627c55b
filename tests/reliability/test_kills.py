"""A few of the kills that `make torture` makes 200 of."""

import torch
import torture_kills


def test_nothing_that_was_told_to_be_safe_is_lost_by_kill_9(processes):
    torch.set_num_threads(1)
    sizes = {"elicit": 1, "sweep": 2, "save": 3, "log": 4, "watch": 1}
    found = torture_kills.rows(processes, sizes, seed=1)
    assert [row for row in found if row.failures] == []
    assert sum(row.cases for row in found) >= 13
