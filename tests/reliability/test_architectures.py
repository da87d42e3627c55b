"""A part of the matrix of architectures, and that it finds what is wrong."""

import dataclasses

import pytest
import torture_architectures as matrix
from architecture_cells import CELLS
from architecture_table import ABSENT, CRASH, REFUSED, RIGHT, WRONG, Cell, page, rows

import tl_steer as ts

# A soft cap behind post-norms, values that are not as wide as queries, and states beside attention.
FAMILIES = ("gemma2", "deepseek3", "jamba")
# The slow ones are asked by `make architectures` alone, where they are asked of every family.
_SLOW = ("elicit auto", "monitor", "attach", "train mode", "bfloat16", "replay")
QUICK = [name for name in CELLS if name not in (*_SLOW, "padded left, last")]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_verb_is_right_or_refuses_truly(family):
    kind = matrix.kinds()[0]
    cells = list(matrix.asked(family, kind, QUICK))
    if cells[-1].outcome == ABSENT:
        pytest.skip(f"this TransformerLens makes no {family}: {cells[-1].note}")
    assert [cell for cell in cells if cell.failed] == []
    assert sum(cell.outcome == RIGHT for cell in cells) > len(QUICK) / 2


def test_a_wrong_edit_fails_every_cell_that_steers(monkeypatch):
    right = ts.Additive.forward

    def slightly_more(self, activation, rows):
        return activation + 1.01 * (right(self, activation, rows) - activation)

    monkeypatch.setattr(ts.Additive, "forward", slightly_more)
    asked = ["segment post", "segment pre", "elicit", "perturbing", "perturbing positions", "sweep"]
    cells = list(matrix.asked("llama", matrix.kinds()[0], asked))
    assert {cell.cell: cell.outcome for cell in cells[1:-1]} == dict.fromkeys(asked, WRONG)


def test_a_foreign_exception_and_a_changed_model_are_failures(monkeypatch):
    def broken(subject):
        next(iter(subject.model.parameters())).requires_grad_(False)
        raise ZeroDivisionError("by the way")

    monkeypatch.setitem(matrix.CELLS, "broken", broken)
    _, cell, state = matrix.asked("llama", matrix.kinds()[0], ["broken"])
    assert (cell.outcome, state.outcome) == (CRASH, WRONG)
    assert "ZeroDivisionError" in cell.note
    assert "broken: flags" in state.note


def test_a_refusal_counts_as_right_only_if_it_is_known_to_be_true():
    cell = Cell("llama", "raw", "segment z", REFUSED, "", "4.3.0", 0.0)
    known = dataclasses.replace(cell, note="HookPointError: There is no hook point 'x'.")
    unknown = dataclasses.replace(cell, note="SettingError: Not today.")
    assert (known.failed, unknown.failed) == (False, True)
    (row,) = rows([known, unknown, dataclasses.replace(known, outcome=RIGHT)])
    assert (row.cases, row.failures) == (3, 1)
    assert "| SettingError: Not today. | 1 | segment z | ? |" in page([known, unknown], ["make"])
