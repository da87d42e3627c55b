"""A bank over many inputs, against plain TransformerLens, one vector and one prompt at a time."""

import dataclasses
import errno
import functools
import json
import math
import re
import signal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tiny_sweep
import torch
from conftest import PROMPTS, SOURCE, TARGET, adapter_bank, bank_of
from state import snapshot

import tl_steer as ts
from tl_steer.errors import (
    ForeignModelError,
    ModelError,
    PromptError,
    SettingError,
    SweepFileError,
)
from tl_steer.files import write as files
from tl_steer.models.tokens import whole_row
from tl_steer.sweeps.result import RANDOM, UNSTEERED
from tl_steer.sweeps.together import edits_in

FAST = {"n_random": 2, "progress": False}


@dataclasses.dataclass(frozen=True)
class Margin:
    """How much likelier a token becomes, in nats."""

    token: int

    def __call__(self, reading):
        return (reading.steered - reading.clean)[..., self.token]


def shifted(reading, token=4, by=-0.5):
    return Margin(token)(reading) + by


def last(model, ids, hooks=()):
    with torch.no_grad():
        return model.run_with_hooks(ids, fwd_hooks=list(hooks))[0, -1].log_softmax(-1)


def at_target(model, ids, hooks=()):
    with ts.capturing(model, [TARGET]) as seen, torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=list(hooks))
    return seen[TARGET][0]


def entropy(p):
    return float(-(p.exp() * p).sum())


def by_hand(model, bank, vector, prompt):
    """Every metric of a pass for one vector on one prompt."""
    ids = ts.tokenize(model, [prompt]).ids
    hooks = bank[vector].hooks()
    p, q = last(model, ids, hooks), last(model, ids)
    moved = (at_target(model, ids, hooks) - at_target(model, ids))[-1:]
    mean = bank.responses[vector]
    return {
        "kl": float((p.exp() * (p - q)).sum()),
        "entropy": entropy(p) - entropy(q),
        "flip": float(p.argmax() != q.argmax()),
        "divergence": float(moved.norm()),
        "alignment": float(moved[0] @ mean / moved[0].norm() / mean.norm()),
    }


def test_every_cell_is_what_plain_transformerlens_gives(model):
    bank, before = bank_of(model), snapshot(model)
    found = ts.sweep(model, bank, PROMPTS, **FAST)
    assert snapshot(model) == before
    for v in range(len(bank)):
        for p, prompt in enumerate(PROMPTS):
            for name, expected in by_hand(model, bank, v, prompt).items():
                assert found.values(name)[v, p] == pytest.approx(expected, abs=2e-4), name
    assert found.failures() == []
    assert np.abs(found.values("kl", kind=UNSTEERED)).max() < 1e-5


@pytest.mark.parametrize(
    "positions",
    [ts.Positions(), ts.Positions(last=2), ts.Positions(bos=False, generated=False)],
    ids=str,
)
def test_along_the_continuation_only_the_banks_own_positions_are_steered(llama, positions):
    bank = dataclasses.replace(bank_of(llama)[:2], positions=positions)
    found = ts.sweep(llama, bank, PROMPTS, metrics=["continuation_kl", "kl"], generate=3, **FAST)
    for p, prompt in enumerate(PROMPTS):
        tokens = ts.tokenize(llama, [prompt])
        new = llama.generate(
            tokens.ids, max_new_tokens=3, do_sample=False, return_type="tokens", verbose=False
        )[0, tokens.ids.shape[1] :]
        ends = (new == llama.tokenizer.eos_token_id).nonzero().flatten().tolist()
        new = new[: ends[0] + 1] if ends else new
        for v in range(len(bank)):
            nats = []
            for k in range(len(new)):
                ids = torch.cat([tokens.ids[0], new[:k]])[None]
                with ts.perturbing(llama, bank[v].perturbation(), tokens=tokens), torch.no_grad():
                    steered = llama(ids)[0, -1].log_softmax(-1)
                clean = last(llama, ids)
                nats.append(float((steered.exp() * (steered - clean)).sum()))
            assert found.values("continuation_kl")[v, p] == pytest.approx(np.mean(nats), abs=2e-4)
            assert found.values("kl")[v, p] == pytest.approx(nats[0], abs=2e-4)


def test_texts_are_those_of_generate_and_are_judged_by_the_unsteered_model(llama):
    bank = bank_of(llama)
    words = ts.sweeps.Scorer("words", lambda prompt, text: len(text.split()))
    metrics = [words, "perplexity", "kl"]
    found = ts.sweep(llama, bank, PROMPTS, metrics=metrics, generate=4, **FAST)
    assert found.metrics == ("words", "perplexity", "kl", "shared_phrase")
    assert [e.effect.value for e in found.evidence()] == [
        e.effect.value for e in found.evidence("words")
    ]
    texts = ts.generate(llama, bank, PROMPTS, max_new_tokens=4)
    cells = found.to_pandas()
    mine = cells[cells.kind == "bank"].pivot(index="vector", columns="prompt", values="text")
    assert mine.to_numpy().tolist() == [list(row) for row in texts.texts]
    assert found.values("words")[1, 2] == len(texts[1][2].split())
    none = cells[cells.kind == "unsteered"]
    assert list(none.text) == list(texts.unsteered)
    assert list(none.prompt_text) == PROMPTS
    tokens = ts.tokenize(llama, PROMPTS[:1])
    ids = llama.generate(
        tokens.ids, max_new_tokens=4, do_sample=False, return_type="tokens", verbose=False
    )[0]
    ends = (ids[tokens.ids.shape[1] :] == 1).nonzero().flatten().tolist()
    length = tokens.ids.shape[1]
    ids = ids[: length + ends[0] + 1] if ends else ids
    with torch.no_grad():
        logprobs = llama(ids[None])[0].log_softmax(-1)
    nats = [-float(logprobs[i - 1, ids[i]]) for i in range(length, len(ids))]
    assert found.values("perplexity", kind=UNSTEERED)[0, 0] == pytest.approx(
        np.mean(nats), abs=1e-4
    )


def gained_by_others(cells, kind, vector):
    """The texts' own columns, prompt by prompt and other prompt by other prompt."""
    texts, unsteered = (
        [*cells[(cells.kind == k) & (cells.vector == v)].sort_values("prompt").text]
        for k, v in ((kind, vector), (UNSTEERED, 0))
    )

    def runs(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {tuple(words)}

    gained = [runs(a) - runs(b) for a, b in zip(texts, unsteered, strict=True)]
    return [
        max(
            (np.mean([p in gained[j] for j in range(len(gained)) if j != i]) for p in own),
            default=0.0,
        )
        for i, own in enumerate(gained)
    ]


def test_with_continuations_verdicts_rest_on_what_texts_share_and_without_on_the_first_token(
    llama, tmp_path
):
    bank = bank_of(llama)
    prompts = [*PROMPTS, "t1 t2", "t3 t3 t4"]
    found = ts.sweep(llama, bank, prompts, generate=4, save=tmp_path / "s", part=2, **FAST)
    assert found.metrics[:2] == ("shared_phrase", "kl")
    for sweep in (found, ts.load_sweep(tmp_path / "s")):
        cells = sweep.to_pandas()
        assert "shared_phrase" not in cells
        for kind in ("bank", RANDOM):
            shares = sweep.values("shared_phrase", kind=kind)
            for v, row in enumerate(shares):
                np.testing.assert_allclose(row, gained_by_others(cells, kind, v))
        assert shares.any()  # else nothing was compared
        assert not sweep.values("shared_phrase", kind=UNSTEERED).any()
        assert "verdicts rest on shared_phrase" in sweep.table().note
    again = ts.sweep(llama, bank, prompts, generate=4, resume=tmp_path / "s", part=2, **FAST)
    assert again.to_json() == found.to_json()
    plain = ts.sweep(llama, bank, prompts, **FAST)
    assert plain.metrics[0] == "kl"
    assert "verdicts rest on kl (what vectors are trained to move" in plain.table().note
    with pytest.raises(SettingError, match="shared_phrase"):
        plain.values("shared_phrase")


def test_a_folder_that_never_heard_of_shared_phrases_has_them_if_it_has_texts(llama, tmp_path):
    knobs = {"generate": 3, "n_random": 2, "progress": False}
    ts.sweep(llama, bank_of(llama), PROMPTS, metrics=["kl"], save=tmp_path / "s", **knobs)
    asked = json.loads((tmp_path / "s" / "_sweep.json").read_text())
    assert (asked["order"], asked["of_text"]) == (["kl"], [])  # as older versions wrote it
    found = ts.load_sweep(tmp_path / "s")
    expected = ts.sweep(llama, bank_of(llama), PROMPTS, metrics=["shared_phrase"], **knobs)
    np.testing.assert_array_equal(found.values("shared_phrase"), expected.values("shared_phrase"))
    assert "verdicts rest on kl" in found.table().note
    assert [e.reason for e in found.evidence("shared_phrase")] == [
        e.reason for e in expected.evidence()
    ]
    with pytest.raises(SweepFileError, match="another sweep"):
        ts.sweep(llama, bank_of(llama), PROMPTS, resume=tmp_path / "s", **knobs)


def test_batches_parts_and_budgets_do_not_matter(one):
    bank = bank_of(one)
    prompts = [*PROMPTS, "t1 t2", "t3 t4 t5 t6 t7 t8 t9 t1 t2 t3 t4"]
    whole = ts.sweep(one, bank, prompts, **FAST)
    small = ts.sweep(one, bank, prompts, part=2, budget_gib=1e-9, **FAST)
    for name in whole.metrics:
        for kind in ("bank", RANDOM, UNSTEERED):
            a, b = whole.values(name, kind=kind), small.values(name, kind=kind)
            np.testing.assert_allclose(a, b, atol=2e-4)
    for a, b in zip(whole.evidence(), small.evidence(), strict=True):
        assert a.consistency.value == pytest.approx(b.consistency.value, abs=1e-4)


def test_a_budget_is_a_number_of_rows_that_falls_with_their_length(one):
    short, long = ts.tokenize(one, ["t1 t2"]), ts.tokenize(one, [" ".join(["t1"] * 40)])
    assert edits_in(1, one, short, prompts=1) == 1
    of_short, of_long = (edits_in(2**30, one, tokens, prompts=1) for tokens in (short, long))
    assert of_short > of_long >= 1
    assert edits_in(2**20, one, long, prompts=1) <= of_long


def test_on_a_linear_model_responses_agree_perfectly():
    found = tiny_sweep.run()
    model = tiny_sweep.Reading()
    bank = tiny_sweep.bank(model)
    matrix = model.blocks[1].matrix.detach()
    expected = (bank.vectors @ matrix.T).norm(dim=1) * math.sqrt(3)  # three measured tokens
    np.testing.assert_allclose(
        found.values("divergence"), expected[:, None].expand(3, 13), rtol=1e-4
    )
    assert np.allclose(found.values("alignment"), 1.0, atol=1e-5)
    assert np.isnan(found.values("alignment", kind=RANDOM)).all()
    for one in found.evidence():
        assert one.consistency.value == pytest.approx(1.0, abs=1e-5)
        assert one.consistency.low == pytest.approx(1.0, abs=1e-5)
        assert one.prompts == 13


def test_opposites_and_doses_stand_side_by_side():
    found = tiny_sweep.run(doses=(1, -1, 0.5))
    assert found.doses == (1.0, -1.0, 0.5)
    whole, half = found.values("divergence"), found.values("divergence", dose=0.5)
    np.testing.assert_allclose(half, whole / 2, rtol=1e-4)
    np.testing.assert_allclose(found.values("divergence", dose=-1), whole, rtol=1e-4)
    assert np.allclose(found.values("alignment", dose=-1), 1.0, atol=1e-5)
    assert found.values("kl", kind=RANDOM, dose=0.5).shape == (4, 13)
    assert len(found.evidence(dose=-1)) == 3
    assert repr(found).count("random") >= 3


def test_adapters_are_swept_as_well_and_a_dose_is_a_share_of_their_edit(one):
    bank = adapter_bank(one)
    found = ts.sweep(one, bank, PROMPTS, metrics=["kl"], **FAST)
    for p, prompt in enumerate(PROMPTS):
        ids = ts.tokenize(one, [prompt]).ids
        a, b = last(one, ids, bank[1].hooks()), last(one, ids)
        expected = float((a.exp() * (a - b)).sum())
        assert found.values("kl")[1, p] == pytest.approx(expected, abs=2e-4)
    half = dataclasses.replace(bank, radius=bank.radius / 2)
    expected = ts.sweep(one, half, PROMPTS, metrics=["kl"], **FAST).values("kl")
    found = ts.sweep(one, bank, PROMPTS, metrics=["kl"], doses=(0.5,), **FAST)
    np.testing.assert_allclose(found.values("kl", dose=0.5), expected, atol=1e-4)


def test_your_own_metric_is_a_function_of_a_reading(one):
    def margin(reading: ts.sweeps.Reading):
        return (reading.steered - reading.clean)[..., 5]

    found = ts.sweep(one, bank_of(one), PROMPTS, metrics=[margin, "kl"], **FAST)
    ids = ts.tokenize(one, PROMPTS[:1]).ids
    expected = last(one, ids, bank_of(one)[2].hooks())[5] - last(one, ids)[5]
    assert found.values("margin")[2, 0] == pytest.approx(float(expected), abs=2e-4)
    assert found.metrics[0] == "margin"


def test_what_raises_marks_its_cells_and_the_sweep_goes_on(one):
    def broken(reading: ts.sweeps.Reading):
        raise RuntimeError("no such thing")

    def odd(prompt, text):
        if prompt == PROMPTS[1]:
            raise OSError("the judge is out")
        return 1

    metrics = [
        "kl",
        broken,
        ts.sweeps.Scorer("odd", odd),
        ts.sweeps.Scorer("fine", lambda p, t: 1.0, workers=3),
    ]
    found = ts.sweep(one, bank_of(one), PROMPTS, metrics=metrics, generate=2, **FAST)
    assert np.isnan(found.values("broken")).all()
    assert np.isnan(found.values("odd")).sum() == 4
    assert (found.values("fine") == 1).all()
    assert np.isfinite(found.values("kl")).all()
    failed = {(i, v): error for i, v, error in found.failures()}
    assert "broken: RuntimeError: no such thing" in failed["0", 0]
    assert "odd: OSError: the judge is out" in failed["1", 2]
    assert "cells failed" in repr(found)


def test_an_overflowing_vector_is_marked_and_the_others_are_not(one):
    bank = bank_of(one)
    scale = torch.ones(len(bank))
    scale[1] = 3e38  # finite, and so many times the vector is not
    found = ts.sweep(one, bank, PROMPTS, scale=scale, n_random=0, progress=False)
    whole = ts.sweep(one, bank, PROMPTS, n_random=0, progress=False)
    assert np.isnan(found.values("kl")[1]).all()
    np.testing.assert_allclose(found.values("kl")[0], whole.values("kl")[0], atol=2e-4)
    assert {v for _, v, error in found.failures() if "overflows" in error} == {1}
    assert found.evidence()[1].prompts == 0


# Files


def same(a, b):
    pd.testing.assert_frame_equal(a.to_pandas(), b.to_pandas(), check_exact=True)
    assert torch.equal(a.state.sums, b.state.sums)
    assert a.state.prompts == b.state.prompts
    assert a.state.finished
    assert b.state.finished


def test_a_folder_holds_what_memory_would(tmp_path):
    whole, kept = tiny_sweep.run(), tiny_sweep.run(tmp_path / "s")
    same(whole, kept)
    again = ts.load_sweep(tmp_path / "s")
    same(whole, again)
    assert repr(again) == repr(whole)
    assert "<table" in again._repr_html_()
    assert json.loads(json.dumps(again.to_json()))["evidence"]["1.0"][0]["vector"] == 0
    frame = again.to_pandas()
    assert frame.equals(pq.read_table(tmp_path / "s").to_pandas()), "any tool reads the folder"
    assert not frame.duplicated(["prompt", "kind", "vector", "dose"]).any()


def test_kill_9_at_any_moment_loses_no_row_and_doubles_none(tmp_path, processes):
    path = tmp_path / "s"
    torch.set_num_threads(1)
    whole = tiny_sweep.run()
    for kill_at in (1, 4, None):
        process = processes.Process(target=tiny_sweep.keep_going, args=(path, kill_at))
        process.start()
        process.join()
        assert process.exitcode == (0 if kill_at is None else -signal.SIGKILL)
        if kill_at not in (None, 1):
            half = ts.load_sweep(path)
            assert (half.prompts, half.finished) == (3 * (kill_at - 1), False)
            first = whole.to_pandas().iloc[: half.prompts * 8]
            pd.testing.assert_frame_equal(half.to_pandas(), first, check_categorical=False)
            assert "not finished" in repr(half)
    same(whole, ts.load_sweep(path))
    assert {p.name[0] for p in path.iterdir()} == {"_", "p"}


def test_ctrl_c_returns_what_is_done_and_resume_goes_on(tmp_path):
    calls = []

    def stopping(reading: ts.sweeps.Reading):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return reading.steered[..., 0] * 0 + 1

    found = tiny_sweep.run(tmp_path / "s", metrics=[stopping])
    assert 0 < found.prompts < 13
    assert not found.finished
    assert (found.values("stopping") == 1).all()
    rest = tiny_sweep.run(tmp_path / "s", metrics=[stopping])
    assert (rest.prompts, rest.finished) == (13, True)
    calls[:] = [1] * 3
    with pytest.raises(KeyboardInterrupt):
        tiny_sweep.run(metrics=[stopping])


def test_a_finished_sweep_is_read_back_and_grows_with_its_prompts(tmp_path):
    first = tiny_sweep.run(tmp_path / "s", n=6)
    same(first, tiny_sweep.run(tmp_path / "s", n=6))
    same(tiny_sweep.run(), tiny_sweep.run(tmp_path / "s"))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"metrics": ["kl"]}, "metrics is"),
        ({"seed": 5}, "seed is 0 there, 5 here"),
        ({"n_random": 5}, "who is"),
        ({"n": 4}, "only 4 are given"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(tmp_path, knobs, told):
    tiny_sweep.run(tmp_path / "s")
    with pytest.raises(SweepFileError, match=told):
        tiny_sweep.run(tmp_path / "s", **knobs)


def test_a_folder_of_another_bank_or_of_other_prompts_is_refused(tmp_path):
    model = tiny_sweep.Reading()
    tiny_sweep.run(tmp_path / "s")
    given = {"resume": tmp_path / "s", "n_random": 4, "part": 3, "progress": False}
    other = tiny_sweep.bank(model)[[2, 1, 0]]
    with pytest.raises(SweepFileError, match="bank is"):
        ts.sweep(model, other, tiny_sweep.prompts(), **given)
    with pytest.raises(SweepFileError, match="other prompts"):
        ts.sweep(model, tiny_sweep.bank(model), tiny_sweep.prompts()[::-1], **given)
    with pytest.raises(SweepFileError, match="holds a sweep already"):
        tiny_sweep.run(save=tmp_path / "s")


def test_a_full_disk_leaves_what_is_written_readable(tmp_path, monkeypatch):
    writes, fsync = [], files.os.fsync

    def filling(descriptor):
        writes.append(descriptor)
        if len(writes) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", filling)
    with pytest.raises(SweepFileError, match=r"No space left.*resume="):
        tiny_sweep.run(tmp_path / "s")
    half = ts.load_sweep(tmp_path / "s")
    assert 0 < half.prompts < 13
    assert len(half.cells()) == half.prompts * 8
    same(tiny_sweep.run(), tiny_sweep.run(tmp_path / "s"))


def test_damaged_folders_are_refused_with_the_reason(tmp_path):
    with pytest.raises(SweepFileError, match="no sweep in"):
        ts.load_sweep(tmp_path)
    path = tmp_path / "s"
    tiny_sweep.run(path)
    (path / "part-000001.parquet").write_bytes(b"no")
    with pytest.raises(SweepFileError, match="part-000001"):
        ts.load_sweep(path).cells()
    (path / "part-000001.parquet").unlink()
    with pytest.raises(SweepFileError, match="is gone"):
        ts.load_sweep(path)
    (path / "_state.safetensors").write_bytes(b"no")
    with pytest.raises(SweepFileError, match="cannot be read"):
        ts.load_sweep(path)
    (path / "_sweep.json").write_text('{"version": 99}')
    with pytest.raises(SweepFileError, match="no sweep that this version"):
        ts.load_sweep(path)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SweepFileError, match="is a file"):
        tiny_sweep.run(file)


# Prompts


def test_long_prompts_are_refused_by_their_place_or_cut_if_asked(one):
    long = " ".join(f"t{i % 90}" for i in range(100_000))
    with pytest.raises(PromptError, match=r"Row 1 is 10000[01] tokens long"):
        ts.sweep(one, bank_of(one), [PROMPTS[0], long], **FAST)
    found = ts.sweep(one, bank_of(one), [PROMPTS[0], long], truncate=6, **FAST)
    ids = whole_row(one, long)
    cut = torch.cat([ids[:1], ids[-5:]]) if int(ids[0]) == 0 else ids[-6:]
    expected = ts.sweep(one, bank_of(one), [cut], **FAST)
    np.testing.assert_allclose(found.values("kl")[:, 1], expected.values("kl")[:, 0], atol=2e-4)


def test_a_prompt_with_fewer_tokens_than_the_bank_measured_is_refused_by_its_place(one, tmp_path):
    knobs = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 2.0, "progress": False}
    bank = ts.elicit(one, PROMPTS[:1], **knobs)
    with pytest.raises(PromptError, match=r"Row 1: .* 2 tokens that can be measured"):
        ts.sweep(one, bank, PROMPTS, save=tmp_path / "s", **FAST)
    assert not (tmp_path / "s").exists()


def test_bad_rows_are_found_before_any_work_is_done(one, tmp_path):
    with pytest.raises(PromptError, match="Row 2 has no text"):
        ts.sweep(one, bank_of(one), [*PROMPTS[:2], " "], save=tmp_path / "s", **FAST)
    assert not (tmp_path / "s").exists()


def test_a_stream_that_goes_bad_keeps_what_came_before(one, tmp_path):
    rows = iter([{"text": PROMPTS[0]}, {"text": PROMPTS[1]}, {"text": ""}])
    with pytest.raises(PromptError, match="Row 2"):
        ts.sweep(one, bank_of(one), rows, save=tmp_path / "s", part=1, **FAST)
    assert ts.load_sweep(tmp_path / "s").prompts == 2


@pytest.mark.parametrize("prompts", [[], iter([])])
def test_no_prompts_are_refused(one, prompts):
    with pytest.raises(PromptError, match="No prompts"):
        ts.sweep(one, bank_of(one), prompts, **FAST)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"metrics": ["size"]}, "Unknown metric 'size'"),
        ({"metrics": ["kl", "kl"]}, "names of their own; kl"),
        ({"metrics": [ts.sweeps.Scorer("error", len)], "generate": 1}, "error cannot be used"),
        ({"metrics": []}, "at least one"),
        ({"metrics": [lambda prompt, text: 0]}, r"is given as Scorer\('a_name', lambda_"),
        ({"metrics": [lambda: 0]}, "expected a function of one `Reading`"),
        ({"metrics": [Margin(3), Margin(3)]}, "names of their own; Margin_token_3 cannot be"),
        ({"metrics": ["perplexity"]}, "generate="),
        ({"metrics": ["shared_phrase"]}, "generate="),
        ({"metrics": [ts.sweeps.refusal]}, "generate="),
        ({"doses": ()}, "doses"),
        ({"doses": (1, 1.0)}, "doses"),
        ({"doses": (0,)}, "doses"),
        ({"n_random": -1}, "expected"),
        ({"part": 0}, "expected"),
        ({"budget_gib": 0}, "expected"),
        ({"truncate": 0}, "truncate"),
        ({"save": "a", "resume": "b"}, "not both"),
    ],
)
def test_bad_settings_are_refused(one, knobs, told):
    with pytest.raises(SettingError, match=told):
        ts.sweep(one, bank_of(one), PROMPTS, **(FAST | knobs))


def test_other_models_and_models_without_an_output_are_refused(one):
    with pytest.raises(ForeignModelError):
        ts.sweep(tiny_sweep.Reading(), bank_of(one), ["1 2 3"], **FAST)
    model = tiny_sweep.Reading()
    bank = tiny_sweep.bank(model)
    with pytest.raises(ModelError, match="generate"):
        ts.sweep(model, bank, ["1 2 3 4"], generate=2, **FAST)
    del model.unembed
    model.forward = super(tiny_sweep.Reading, model).forward
    with pytest.raises(ModelError, match="unembed"):
        ts.sweep(model, bank, ["1 2 3 4"], **FAST)


def test_values_that_were_not_measured_are_refused(one):
    found = ts.sweep(one, bank_of(one), PROMPTS, metrics=["kl"], **(FAST | {"n_random": 0}))
    for wrong in (
        {"metric": "flip"},
        {"metric": "kl", "dose": 3},
        {"metric": "kl", "kind": RANDOM},
    ):
        with pytest.raises(SettingError):
            found.values(**wrong)
    assert "undecided" in repr(found)


def test_a_source_chooses_columns_and_wraps(one):
    rows = [{"q": "t5 t9 t7", "key": "a"}, {"q": "t1 t2 t3", "key": "b"}]
    source = ts.sweeps.source_of(rows, column="q", ids="key", wrap=ts.chat)
    found = ts.sweep(one, bank_of(one), source, metrics=["kl"], **FAST)
    expected = ts.sweep(one, bank_of(one), [ts.chat(r["q"]) for r in rows], metrics=["kl"], **FAST)
    np.testing.assert_allclose(found.values("kl"), expected.values("kl"), atol=1e-6)
    assert set(found.to_pandas().id) == {"a", "b"}


def test_the_source_and_target_of_the_bank_are_used(one):
    found = ts.sweep(one, bank_of(one), PROMPTS, **FAST)
    assert (found.asked["source"], found.asked["target"]) == (SOURCE, TARGET)


def test_metrics_of_one_class_are_told_apart_by_their_settings(one):
    alone = ts.sweep(one, bank_of(one), PROMPTS, metrics=[Margin(3)], **FAST)
    metrics = [Margin(3), Margin(5), shifted, functools.partial(shifted, token=5, by=0)]
    both = ts.sweep(one, bank_of(one), PROMPTS, metrics=metrics, **FAST)
    assert list(alone.asked["metrics"]) == ["Margin"]
    assert both.asked["metrics"] == {
        "Margin_token_3": "Margin(token=3)",
        "Margin_token_5": "Margin(token=5)",
        "shifted_token_4_by_minus_0_5": "shifted(token=4, by=-0.5)",
        "shifted_token_5_by_0": "shifted(token=5, by=0)",
    }
    np.testing.assert_array_equal(both.values("Margin_token_3"), alone.values("Margin"))
    np.testing.assert_array_equal(
        both.values("shifted_token_5_by_0"), both.values("Margin_token_5")
    )


def test_lambdas_are_metrics_like_others(one, tmp_path):
    metrics = [lambda r: r.steered[..., 3], lambda r: r.steered[..., 5]]
    swept = ts.sweep(one, bank_of(one), PROMPTS, metrics=metrics, save=tmp_path / "s", **FAST)
    names = swept.asked["order"]
    assert all(re.fullmatch("lambda_[0-9a-f]{8}", name) for name in names)
    logprobs = by_hand_logprobs(one, bank_of(one)[1], PROMPTS[0])
    assert [swept.values(name)[1, 0] for name in names] == pytest.approx(
        [float(logprobs[3]), float(logprobs[5])], abs=1e-4
    )
    again = ts.sweep(one, bank_of(one), PROMPTS, metrics=metrics, resume=tmp_path / "s", **FAST)
    np.testing.assert_array_equal(again.values(names[0]), swept.values(names[0]))
    other = [lambda r: r.steered[..., 3], lambda r: r.steered[..., 6]]
    with pytest.raises(SweepFileError):
        ts.sweep(one, bank_of(one), PROMPTS, metrics=other, resume=tmp_path / "s", **FAST)


def by_hand_logprobs(model, vector, prompt):
    return last(model, ts.tokenize(model, [prompt]).ids, vector.hooks())
