"""Continuations, selections and verdicts as values, and what generation is asked for."""

import dataclasses
import sys

import pytest
import torch
from conftest import PROMPTS, bank_of
from linear import LinearHost

import tl_steer as ts
from tl_steer.banks.generations import Generations
from tl_steer.banks.provenance import Provenance
from tl_steer.banks.selection import Round, Selection
from tl_steer.banks.verdict import VERDICTS, verdict_of
from tl_steer.errors import ForeignModelError, SettingError
from tl_steer.models.fingerprint import Fingerprint

TOLD = Generations(
    prompts=("one", "two"),
    unsteered=("a", "b"),
    texts=(("a", "x"), ("a", "b"), ("y", "x")),
    labels=("", "french", "red"),
    settings={},
)


def test_continuations_are_counted():
    assert (len(TOLD), TOLD[2]) == (3, ("y", "x"))
    assert TOLD.changed() == 3  # x, y and x
    assert TOLD.distinct() == 4  # a and y after "one", x and b after "two"


def test_continuations_are_shown_prompt_by_prompt_below_the_unsteered_one():
    sheet = TOLD.table()
    assert sheet.columns == ("#", "vector", "continuation")
    assert sheet.rows == (
        ("", "prompt", "one"),
        ("", "unsteered", "a"),
        ("0", "", "a"),
        ("1", "french", "a"),
        ("2", "red", "y"),
        ("", "prompt", "two"),
        ("", "unsteered", "b"),
        ("0", "", "x"),
        ("1", "french", "b"),
        ("2", "red", "x"),
    )


def test_long_continuations_are_cut_in_a_terminal_and_hardly_in_a_notebook():
    long = dataclasses.replace(TOLD, unsteered=("word " * 200, "b"))
    assert all(len(row[2]) <= 40 for row in long.table(width=40).rows)
    assert max(len(row[2]) for row in long.table().rows) == 160
    assert "word " * 150 in long._repr_html_()


def test_a_selection_shows_winners_random_vectors_and_the_bare_model():
    found = Selection(
        winners=(4, 2),
        validation=(9.0, 7.0),
        held_out=(8.0, 6.0),
        rounds=(Round(8, 2, 9.0, (4, 2, 1, 0)), Round(4, 4, 9.0, (4, 2))),
        random_validation=(3.0, 2.0),
        random_held_out=(1.0, 0.5),
        unsteered_validation=0.25,
        unsteered_held_out=0.75,
        labels=("red", "blue"),
        settings={"held_out": 5},
    )
    assert len(found) == 2
    sheet = found.table()
    assert [row[:2] for row in sheet.rows] == [
        ("4", "red"),
        ("2", "blue"),
        ("", "random"),
        ("", "random"),
        ("", "unsteered"),
    ]
    numbers = [tuple(map(float, row[2:])) for row in sheet.rows]
    assert numbers == [(9, 8), (7, 6), (3, 1), (2, 0.5), (0.25, 0.75)]
    assert "8 on 2, 4 on 4" in sheet.note
    assert "only the 5 held-out prompts" in sheet.note


# --- verdicts


@pytest.mark.parametrize(
    ("label", "verdict"),
    [
        ("dangerous: talks of bombs", "dangerous"),
        ("benign", "benign"),
        ("  Benign : yes: no", "benign"),
        ("not dangerous", ""),
        ("dangerously: so", ""),
        ("unclear: says so on one prompt", "unclear"),
        ("", ""),
        (": benign", ""),
    ],
)
def test_a_verdict_is_the_word_before_the_colon(label, verdict):
    assert verdict_of(label) == verdict


def test_marks_are_labels_and_find_their_vectors(one):
    bank = bank_of(one)
    some = ts.mark(ts.mark(bank, 1, "dangerous", note="bombs"), 3, "benign")
    assert some.labels == ("", "dangerous: bombs", "", "benign")
    assert bank.labels == ("",) * 4
    assert torch.equal(ts.banks.marked(some, "dangerous").vectors, bank.vectors[[1]])
    assert ts.banks.marked(some, ("benign", "dangerous")).labels == ("dangerous: bombs", "benign")
    assert torch.equal(ts.banks.marked(some, "").vectors, bank.vectors[[0, 2]])
    assert ts.mark(some, 1, "benign").labels[1] == "benign"
    with pytest.raises(SettingError, match="'fine': expected one of benign, dangerous"):
        ts.mark(bank, 0, "fine")
    with pytest.raises(SettingError, match=r"marked 'benign or dangerous or unclear'.*ts\.mark"):
        ts.banks.marked(bank, VERDICTS)


# --- what generation is asked for


@pytest.fixture
def asked(monkeypatch):
    """What reaches the model's own `generate`."""
    calls = []
    module = sys.modules["tl_steer.banks.generate"]
    true = module.continued

    def spy(model, ids, n, **knobs):
        calls.append({"rows": len(ids), "n": n, **knobs})
        return true(model, ids, n, **knobs)

    monkeypatch.setattr(module, "continued", spy)
    return calls


def test_greedy_unless_a_temperature_is_given(one, asked):
    out = ts.generate(one, bank_of(one, 2), PROMPTS[:1], max_new_tokens=1)
    assert [(c["n"], c["do_sample"], c["cached"]) for c in asked] == [(1, False, True)]
    assert out.settings == {"max_new_tokens": 1, "seed": 0, "do_sample": False}
    asked.clear()
    knobs = {"temperature": 0.5, "top_k": 3, "top_p": 0.9}
    out = ts.generate(one, bank_of(one, 2), PROMPTS[:1], max_new_tokens=2, seed=7, **knobs)
    assert [{k: c[k] for k in knobs} | {"do": c["do_sample"]} for c in asked] == [
        {**knobs, "do": True}
    ]
    assert out.settings == {"max_new_tokens": 2, "seed": 7, "do_sample": True, **knobs}


def test_forty_tokens_and_batches_of_64_unless_said(one, asked):
    out = ts.generate(one, bank_of(one, 2), PROMPTS[:1] * 25)
    assert {c["n"] for c in asked} == {40}
    assert max(c["rows"] for c in asked) <= 64
    assert sum(c["rows"] for c in asked) == 75
    assert out.settings["max_new_tokens"] == 40
    assert out.labels == ("", "")


@pytest.mark.parametrize(
    "knobs",
    [
        {"max_new_tokens": -1},
        {"batch_rows": -3},
        {"temperature": float("nan")},
        {"top_p": 0.5},
        {"top_k": 5, "top_p": 0.5},
    ],
)
def test_settings_without_a_meaning_are_refused_before_any_work(one, asked, knobs):
    with pytest.raises(SettingError):
        ts.generate(one, bank_of(one, 2), PROMPTS, **knobs)
    assert asked == []


@pytest.mark.parametrize("size", [("d_model", 6, 4, 31), ("d_vocab", 24, 4, 31)])
def test_a_foreign_model_is_told_by_its_first_difference(one, size):
    name, d, layers, _ = size
    host = LinearHost([torch.eye(d)] * layers)
    with pytest.raises(ForeignModelError, match=f"it has {name} "):
        ts.generate(host, bank_of(one), ["1 2"])


def test_a_model_of_other_depth_is_foreign():
    def host(layers):
        return LinearHost([torch.eye(6)] * layers)

    ends = {"source": "blocks.0.hook_resid_post", "target": "blocks.1.hook_resid_post"}
    bank = ts.elicit(host(2), ["1 2 3"], **ends, n=2, radius=1.0, progress=False)
    with pytest.raises(ForeignModelError, match="it has n_layers 2, this one 3"):
        ts.rank(host(3), bank, ["1 2"], by="novelty")
    with pytest.raises(ForeignModelError, match="other residual streams"):
        ts.rank(LinearHost([torch.eye(6), 2 * torch.eye(6).roll(1, 0)]), bank, ["1"], by="novelty")


# --- records


RECORDS = [
    TOLD,
    Round(8, 2, 9.0, (1,)),
    ts.banks.Growth(),
    ts.banks.Toward("a", 3),
    Fingerprint((0.0,), 6, 4, 31, "float32"),
    Provenance("tiny", Fingerprint((0.0,), 6, 4, 31, "float32")),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_records_are_values_that_compare_and_do_not_change(record):
    assert dataclasses.replace(record) == record
    for each in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, each.name, None)


def test_banks_compare_by_identity_and_do_not_change(one):
    bank = bank_of(one)
    assert bank != dataclasses.replace(bank)
    with pytest.raises(dataclasses.FrozenInstanceError):
        bank.radius = 1.0


def test_a_text_differs_whether_it_comes_before_or_behind_the_unsteered_one_in_the_alphabet():
    told = dataclasses.replace(
        TOLD, prompts=("p",), unsteered=("m",), texts=(("a",), ("m",), ("z",)), labels=("",) * 3
    )
    assert told.changed() == 2
