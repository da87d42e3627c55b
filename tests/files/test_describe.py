"""Functions and objects in words that do not change between runs."""

import functools
import re
import subprocess
import sys
from dataclasses import dataclass, field

import torch

import tl_steer as ts
from tl_steer.files.describe import describe, name_of, settings_of


def found_again(steered, clean, measured, k=3):
    return steered * k


@dataclass(frozen=True)
class Weigh:
    share: float = 0.5
    key: str = field(default="", repr=False)

    def by(self, steered):
        return steered


def closing(k, values=()):
    def inner(x):
        return (x * k, len(values))

    return inner


def test_dataclasses_show_their_settings_and_objects_their_class():
    class Odd:
        pass

    assert describe(ts.objectives.Displacement(p=4)) == "Displacement(p=4, q=None)"
    assert describe(Odd()).endswith("Odd")
    assert describe(3) == "3"
    nested = ts.objectives.Weighted(((2.0, found_again),))
    assert describe(nested) == "Weighted(parts=[[2.0, 'found_again(k=3)']])"


def test_a_function_shows_its_defaults_and_what_a_partial_fixed():
    assert describe(found_again) == "found_again(k=3)"
    assert describe(functools.partial(found_again, k=7)) == "found_again(k=7)"
    both = functools.partial(functools.partial(found_again, 1), k=Weigh())
    assert describe(both) == "found_again(k=Weigh(share=0.5), steered=1)"
    assert settings_of(both) == {"k": "Weigh(share=0.5)", "steered": 1}
    assert describe(functools.partial(max, 3)) == "max(0=3)"
    assert describe(ts.sweeps.METRICS["kl"]) == "kl"


def test_a_method_of_an_object_shows_the_objects_settings():
    assert describe(Weigh(0.25).by) == "Weigh.by(share=0.25)"
    assert "key" not in settings_of(Weigh(key="secret").by)


def test_a_function_that_no_name_leads_to_is_told_apart_by_what_it_does():
    first, same, other = closing(2), closing(2), closing(3)
    assert describe(first) == describe(same)
    assert re.fullmatch(r"closing\.<locals>\.inner\(k=2, code='[0-9a-f]{8}'\)", describe(first)), (
        describe(first)
    )
    assert settings_of(first)["code"] != settings_of(other)["code"]
    with_values, with_others = (closing(2, torch.full((2,), x)) for x in (0.0, 1.0))
    assert settings_of(with_values)["code"] != settings_of(with_others)["code"]
    assert settings_of(closing(2, (1,)))["code"] != settings_of(closing(2, (2,)))["code"]


def test_what_changes_while_a_function_runs_is_no_setting():
    calls, count = [], 0

    def counting(x):
        nonlocal count
        count += 1
        calls.append(x)

    before = describe(counting)
    counting(3)
    assert (calls, count) == ([3], 1)
    assert describe(counting) == before


def test_two_lambdas_on_one_line_are_two():
    one, two, three = lambda x: x + 1, lambda x: x + 2, lambda x: x + 1
    assert name_of(one) == name_of(three) != name_of(two)
    assert re.fullmatch("lambda_[0-9a-f]{8}", name_of(one))
    assert name_of(functools.partial(one)) == name_of(one)


def test_a_function_that_calls_itself_is_described():
    def down(n):
        return n and down(n - 1)

    assert "down(code=" in describe(down)


def test_nothing_depends_on_the_process():
    program = (
        "from tl_steer.files.describe import describe\n"
        "words = frozenset('abcd')\n"
        "def around(own):\n"
        "    return lambda x: (x in {'p', 'q', 'r', 's'}, own, object)\n"
        "print(describe(around(words)))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert "0x" not in said.pop()
