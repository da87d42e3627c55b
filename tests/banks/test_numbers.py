"""What a vector is called: its number in the bank that it was chosen from, wherever it is shown."""

import dataclasses
import json

import pytest
import torch
from conftest import LLAMAS, PROMPTS, bank_of, make
from hypothesis import given, strategies as st
from tiny_monitor import monitor_without_a_model, responses, synthetic

import tl_steer as ts
from tl_steer.banks.file import BANK_FILE
from tl_steer.errors import BankFileError, RowError, SettingError
from tl_steer.monitoring.alert import alert_for
from tl_steer.views import bank_map, logit_change

FAST = {"n_random": 2, "progress": False}


def first_cells(sheet):
    return [row[0] for row in sheet.rows]


@given(st.lists(st.integers(0, 3), max_size=4, unique=True), st.data())
def test_choosing_and_sorting_keep_numbers_and_rows_count_from_zero(rows, data):
    bank = bank_of(make(LLAMAS[0]))
    part = bank[rows]
    assert part.numbers == tuple(rows)
    assert [part[i].numbers for i in range(len(part))] == [(row,) for row in rows]
    again = data.draw(st.permutations(range(len(rows))))
    assert part[again].numbers == tuple(rows[i] for i in again)
    ordered = part.sort(torch.tensor([float(r) for r in rows]), descending=False)
    assert ordered.numbers == tuple(sorted(rows))
    assert all(bank.vectors[n].equal(v) for n, v in zip(part.numbers, part.vectors, strict=True))


def test_a_row_chosen_twice_and_merged_banks_are_counted_anew(one):
    bank = bank_of(one)
    assert bank[[2, 2, 0]].numbers == (0, 1, 2)
    assert bank[[3, 1]].merge(bank[[2]]).numbers == (0, 1, 2)
    assert ts.random_bank(bank[[3, 1]]).numbers == (0, 1)


def test_a_file_keeps_numbers_and_only_where_they_say_something(one, tmp_path):
    bank = bank_of(one)
    part = bank[[3, 1]]
    assert ts.load_bank(part.save(tmp_path / "part")).numbers == (3, 1)
    assert "numbers" not in bank.contents()[0]
    assert ts.load_bank(bank.save(tmp_path / "whole")).numbers == (0, 1, 2, 3)


@pytest.mark.parametrize("bad", [[1], [1, 1], [0, -1], [0, 2**31], [0, 1.0], [0, True], "01"])
def test_numbers_that_are_none_are_refused_in_values_and_in_files(one, tmp_path, bad):
    bank = bank_of(one)[[3, 1]]
    if all(isinstance(i, int) for i in bad):  # others do not get past the types
        with pytest.raises(SettingError, match="expected a whole number for each of the 2 vectors"):
            dataclasses.replace(bank, numbers=tuple(bad))
    meta, tensors = bank.contents()
    path = BANK_FILE.write(tmp_path / "forged", meta | {"numbers": bad}, tensors)
    with pytest.raises(BankFileError, match="not a valid bank"):
        ts.load_bank(path)


def test_a_row_is_found_by_its_number(one):
    bank = bank_of(one)[[3, 1]]
    assert (bank.row(3), bank.row(1)) == (0, 1)
    with pytest.raises(RowError, match="no vector of number 0; there are 3, 1"):
        bank.row(0)


def test_a_learned_bank_is_called_by_its_order(one):
    bank = ts.elicit(
        one,
        PROMPTS,
        source="blocks.1.hook_resid_post",
        target="blocks.3.hook_resid_post",
        n=3,
        radius=4.0,
        measured=ts.Positions(last=1, bos=False),
        method="power",
        progress=False,
    )
    assert bank.numbers == (0, 1, 2)


def test_tables_of_a_slice_show_the_numbers(one):
    bank = bank_of(one)
    part = bank[[3, 1]]
    assert first_cells(part.table()) == ["3", "1"]
    assert all("(#3)" in row[3] or "(#1)" in row[3] for row in part.table().rows)
    assert bank_map(part).data["order"] in ([3, 1], [1, 3])

    texts = ts.generate(one, part, PROMPTS[:1], max_new_tokens=2)
    assert texts.numbers == (3, 1)
    assert first_cells(texts.table()) == ["", "", "3", "1"]
    assert json.loads(json.dumps(texts.to_json()))["numbers"] == [3, 1]
    whole = ts.generate(one, bank, PROMPTS[:1], max_new_tokens=2)
    assert texts.texts == (whole.texts[3], whole.texts[1])

    doses = ts.dose_response(one, part, PROMPTS[:1], shares=(0.5,), max_new_tokens=2)
    assert {d.vector for d in doses.doses if not d.control} == {3, 1}

    ranked = ts.rank(one, part, PROMPTS, by="response_norm")
    assert sorted(ranked.numbers) == [1, 3]
    assert all(
        bank.vectors[n].equal(v) for n, v in zip(ranked.numbers, ranked.vectors, strict=True)
    )

    def longest(prompts, texts):
        return [float(len(text)) for text in texts]

    chosen = ts.halve(one, part, longest, PROMPTS[:1], held_out=PROMPTS[1:2], max_new_tokens=2)
    assert part[list(chosen.winners)].numbers == chosen.numbers
    assert first_cells(chosen.table())[0] == str(chosen.numbers[0])


def test_a_sweep_of_a_slice_calls_vectors_by_their_numbers_on_disk_too(one, tmp_path):
    bank = bank_of(one)
    whole = ts.sweep(one, bank, PROMPTS, **FAST)
    part = ts.sweep(one, bank[[3, 1]], PROMPTS, **FAST, save=tmp_path / "sweep")
    for found in (part, ts.load_sweep(tmp_path / "sweep")):
        assert [e.vector for e in found.evidence()] == [3, 1]
        assert [row["vector"] for row in found.rows()] == [3, 1]
        assert sorted(first_cells(found.table())) == ["", "1", "3"]
        frame = found.to_pandas()
        assert set(frame[frame.kind == "bank"].vector) == {3, 1}
        name = found.metrics[0]
        kl = frame[(frame.kind == "bank") & (frame.vector == 3)][name]
        assert list(kl) == pytest.approx(list(whole.values(name)[3]), abs=1e-5)


def test_an_inspection_and_a_report_of_a_slice_are_called_by_number(one):
    bank = bank_of(one)
    part = bank[[3, 1]]
    seen = ts.inspect(one, part, PROMPTS[0])
    assert seen.vectors == (3, 1)
    assert first_cells(seen.table()) == ["3", "1"]
    assert "vector 3" in logit_change(seen, 3).title
    assert ts.inspect(one, part, PROMPTS[0], vectors=[1]).vectors == (1,)
    texts = ts.generate(one, part, PROMPTS[:1], max_new_tokens=2)
    swept = ts.sweep(one, part, PROMPTS, **FAST)
    page = ts.report(part, inspections=[seen], generations=texts, sweep=swept)
    of = {name.split(".")[0] for name in page.blocks if name.endswith("logit_change.0")}
    assert of == {"v3", "v1"} == {n.split(".")[0] for n in page.blocks if "sweep_row" in n}
    assert [row["vector"] for row in page.overview["rows"]] == [3, 1]
    assert [row["nearest"] for row in page.overview["rows"]] == [1, 3]
    with pytest.raises(SettingError, match="of another bank"):
        ts.report(part, generations=ts.generate(one, bank[[0, 1]], PROMPTS[:1], max_new_tokens=2))


def test_alerts_name_and_replay_vectors_by_their_numbers(one):
    monitor = monitor_without_a_model()
    numbers = tuple(range(40, 40 + len(monitor.bank)))
    called = dataclasses.replace(monitor, bank=dataclasses.replace(monitor.bank, numbers=numbers))
    traffic = synthetic(1, 9, response=responses()[2])
    ids = [0] * traffic.mask.shape[1]

    def alert(panel):
        scores = panel.score(traffic.activations, mask=traffic.mask)
        return alert_for(panel, scores, 0, request="r", alpha=0.05, ids=ids)

    plain, named = alert(monitor), alert(called)
    assert named.vector == plain.vector + 40
    assert [a.vector for a in named.alternatives] == [a.vector + 40 for a in plain.alternatives]
    assert named.row().vector == named.vector

    part = bank_of(one)[[3, 1]]
    own = dataclasses.replace(named, bank=part, vector=1)
    said = own.replay(one, PROMPTS[:1], max_new_tokens=3)
    assert said.numbers == (1,)
    assert said.texts == ts.generate(one, part[1], PROMPTS[:1], max_new_tokens=3).texts
    assert own.replay(one, PROMPTS[:1], vector=3, max_new_tokens=3).numbers == (3,)
    with pytest.raises(RowError, match="no vector of number 0"):
        own.replay(one, PROMPTS[:1], vector=0)
