"""Planted faults are the ones described: seeded, runnable, and never in a type."""

import ast
import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")
sys.path.insert(0, str(Path(__file__).parent))

from mutations import OPERATORS, mutant, places, sample
from told import report

CODE = '''"""A module."""
from dataclasses import dataclass


@dataclass
class Held:
    size: int | None = None


def checked(rows: list[int] | None, *, most: int = 3) -> int:
    if rows is None or len(rows) > most:
        raise ValueError("too many")
    rows.sort(reverse=True)
    return rows[0] + most
'''


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


def changes(tree, operator):
    ways = [way for at in places(tree, "code.py").values() for way in at if way[0] == operator]
    return [(made.before, made.after) for way in ways if (made := mutant(tree, "code.py", *way))]


def test_a_refusal_that_never_comes_a_call_not_made_and_an_argument_not_passed(tree):
    condition = "rows is None or len(rows) > most"
    assert changes(tree, "own/SilentRefusal") == [
        (f"if {condition}:", f"if False and ({condition}):")
    ]
    assert changes(tree, "own/CallNotMade") == [("rows.sort(reverse=True)", "pass")]
    assert changes(tree, "own/ArgumentNotPassed") == [
        ("rows.sort(reverse=True)", "rows.sort( **{})")
    ]


def test_types_are_left_alone_and_every_fault_is_a_program(tree):
    for at in places(tree, "code.py").values():
        for way in at:
            made = mutant(tree, "code.py", *way)
            if made is not None:
                assert "int |" not in made.before or "int | None" in made.after
                ast.parse(made.source(tree))
    assert (tree / "code.py").read_text() == CODE


def test_a_sample_is_fixed_by_its_seed_and_a_longer_one_begins_with_it(tree):
    assert sample(tree, ["code.py"], 3, 1) == sample(tree, ["code.py"], 3, 1)
    assert sample(tree, ["code.py"], 5, 1)[:3] == sample(tree, ["code.py"], 3, 1)
    assert sample(tree, ["code.py"], 5, 1) != sample(tree, ["code.py"], 5, 2)
    assert len(OPERATORS) > 100


def test_the_page_counts_what_was_killed_and_tells_of_what_lives():
    told = {"path": "tl_steer/a.py", "before": "a > b", "after": "a >= b", "why": ""}
    ends = [("killed", ""), ("slow", ""), ("alive", ""), ("alive", "a is never b")]
    found = [{"wing": "methods", **told, "end": end, "why": why} for end, why in ends]
    text = report(found, seed=3, size=4)
    assert "| methods | 4 | 2 | 1 | 1 | 75% |" in text
    assert "- `a.py` `a > b` became `a >= b`\n" in text
    assert text.endswith("became `a >= b`: a is never b")
