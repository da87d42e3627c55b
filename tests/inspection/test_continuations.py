"""Continuations: every number is what plain transformers gives with a hook of the test's own, or
what an inspection of the longer prompt says."""

import dataclasses

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, _hugging_face, bank_of, make
from linear import LinearHost
from state import snapshot
from tampered import meta_of, tamper

import tl_steer as ts
import tl_steer.models.rows
from tl_steer.errors import InspectionFileError, ModelError, PromptError, SettingError
from tl_steer.hook_points import EVERYWHERE, GENERATED, PROMPT as OF_PROMPT, Positions
from tl_steer.inspection.generated import AXES

PROMPT = PROMPTS[0]
FEW = {"max_new_tokens": 5}
LAST = {"last": 2, "generated": False}
bridged = pytest.mark.skipif(not HAS_BRIDGE, reason="this TransformerLens has no bridge")


def found(model, **changes):
    return ts.inspection.continuations(model, bank_of(model), PROMPT, **(FEW | changes))


def strengths(n, pos, total, kind):
    """How strongly each token is edited, by the test's own count."""
    at = torch.arange(total)
    if kind == "prompt":
        return (at < pos).float()
    if kind == "generated":
        return (at >= pos).float()
    if kind == "last two of the prompt":
        return ((at >= pos - 2) & (at < pos)).float()
    if kind == "weaker and weaker":
        return torch.where(at < pos, torch.ones(total), 0.5 ** (at - pos + 1).clamp(min=0))
    return torch.ones(total)


WHERE = {
    "everywhere": EVERYWHERE,
    "prompt": OF_PROMPT,
    "generated": GENERATED,
    "last two of the prompt": Positions(**LAST),
    "weaker and weaker": Positions(decay=0.5),
}


def plain_log_probs(plain, ids, pos, vector, kind):
    """Log-probabilities [pos vocabulary] of transformers' own model, with a hook behind block 1."""
    strong = strengths(len(ids), pos, len(ids), kind)[:, None]

    def hook(_module, _args, out):
        stream = out[0] if isinstance(out, tuple) else out
        stream = stream + strong * vector
        return (stream, *out[1:]) if isinstance(out, tuple) else stream

    handle = plain.model.layers[1].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return plain(ids[None]).logits[0].log_softmax(dim=-1)
    finally:
        handle.remove()


def greedy(plain, ids, n, vector, kind):
    pos = len(ids)
    for _ in range(n):
        told = plain_log_probs(plain, ids, pos, vector, kind)
        ids = torch.cat([ids, told[-1:].argmax(dim=-1)])
    return ids[pos:]


@bridged
@pytest.mark.parametrize("kind", WHERE)
def test_log_probabilities_are_those_of_plain_transformers_with_a_hook(kind):
    model, plain = make("bridge-llama"), _hugging_face("llama").eval()
    bank = bank_of(model)
    ids = ts.tokenize(model, [PROMPT]).ids[0]
    told = found(model, positions=WHERE[kind])
    zero = torch.zeros_like(bank.vectors[0])
    assert torch.equal(told.own, greedy(plain, ids, 5, zero, kind))
    for v, vector in enumerate(bank.vectors):
        new = told.new[v, : int(told.lengths[v])]
        assert torch.equal(new, greedy(plain, ids, len(new), vector, kind))
        text = torch.cat([ids, new])
        runs = [plain_log_probs(plain, text, len(ids), x, kind) for x in (zero, vector)]
        before, after = (run[len(ids) - 1 : -1] for run in runs)
        for run, each in enumerate((before, after)):
            lp = each.gather(1, new[:, None])
            torch.testing.assert_close(told.lp[v, run], lp[:, 0], rtol=0, atol=1e-5)
            assert told.rank[v, run].tolist() == (each > lp).sum(dim=1).tolist()
            assert torch.equal(told.likely[v, run], each.topk(6).indices)
            for other, lps in enumerate((before, after)):
                both = lps.gather(1, told.likely[v, run])
                torch.testing.assert_close(told.likely_lp[v, run, :, :, other], both, **_TIGHT)
        kl = (after.exp() * (after - before)).sum(dim=1)
        torch.testing.assert_close(told.kl[v], kl, **_TIGHT)
        torch.testing.assert_close(told.log_ratio(v), told.lp[v, 1] - told.lp[v, 0])
        text = torch.cat([ids, told.own])
        own = plain_log_probs(plain, text, len(ids), vector, kind)[len(ids) - 1 : -1]
        torch.testing.assert_close(
            told.own_lp[v + 1], own.gather(1, told.own[:, None])[:, 0], **_TIGHT
        )


_TIGHT = {"rtol": 0, "atol": 1e-5}


def test_attention_and_attribution_are_those_of_the_longer_prompt(model):
    """An inspection of the prompt with what was written so far says the same of its last token."""
    told, bank = found(model, vectors=[2], max_new_tokens=3, heads=2), bank_of(model)
    ids = ts.tokenize(model, [PROMPT]).ids[0]
    for k in range(int(told.lengths[0])):
        text = torch.cat([ids, told.new[0, :k]])
        chosen = [int(told.new[0, k]), int(told.against[0, k])]
        seen = ts.inspect(model, bank, text, vectors=[2], toward=chosen)
        torch.testing.assert_close(
            told.direct[0, k],
            seen.direct[0, ..., -2] - seen.direct[0, ..., -1],
            rtol=1e-3,
            atol=2e-4,
            equal_nan=True,
        )
        moved = float(seen.moved[0, -2] - seen.moved[0, -1])
        assert float(told.moved[0, k]) == pytest.approx(moved, abs=1e-4)
        rows = seen.last_rows[0].float()
        change = (rows[:, :, 1] - rows[:, :, 0]).abs().sum(dim=-1) / 2
        most = change.flatten().topk(2).values
        torch.testing.assert_close(told.change[0, k], most, rtol=0, atol=2e-3)
        for (layer, head), both in zip(told.kept[0, k], told.rows[0, k].float(), strict=True):
            expected = rows[layer, head]
            torch.testing.assert_close(both[:, : len(text)], expected, rtol=0, atol=2e-3)
        mean = told.mean_rows[0, k, :, : len(text)].float()
        torch.testing.assert_close(mean, rows.mean(dim=(0, 1)), rtol=0, atol=2e-3)
        for (layer, head), part in zip(told.by_head[0, k], told.by_head_part[0, k], strict=True):
            expected = seen.heads[0, layer, head, -2] - seen.heads[0, layer, head, -1]
            if not bool(expected.isnan()):
                torch.testing.assert_close(part, expected, rtol=1e-3, atol=2e-4)


def test_attribution_adds_up_to_what_the_logits_moved_by(model):
    told = found(model)
    assert float(told.moved.abs().max()) > 0.1
    torch.testing.assert_close(told.direct.sum(dim=(2, 3)), told.moved, rtol=1e-3, atol=1e-3)


def test_a_token_is_held_against_the_unsteered_favourite_or_its_second(one):
    told = found(one, scale=1e-4)  # as unsteered
    assert told.departs(0) is None
    assert torch.equal(told.against[0], told.likely[0, 0, :, 1])
    told = found(one)
    favourite = told.likely[:, 0, :, 0]
    other = told.new != favourite
    assert other.any()
    assert torch.equal(told.against[other], favourite[other])


def test_texts_end_with_the_token_that_ends_an_answer(one, monkeypatch):
    whole = found(one, vectors=[0, 1])
    end = int(whole.new[0, 1])
    at = whole.new[0].tolist().index(end)
    monkeypatch.setattr(tl_steer.models.rows, "ends_of", lambda _: (end,))
    told = found(one, vectors=[0, 1])
    assert int(told.lengths[0]) == at + 1
    filled = [0] * (told.new.shape[1] - at - 1)  # as long as the longest text
    assert told.new[0].tolist() == [*whole.new[0, : at + 1].tolist(), *filled]
    assert told.lp[0, :, at + 1 :].isnan().all()
    torch.testing.assert_close(told.lp[0, :, : at + 1], whole.lp[0, :, : at + 1], **_TIGHT)
    assert len(told.log_ratio(0)) == at + 1


def test_the_number_of_vectors_in_a_pass_does_not_matter(llama):
    whole, split = found(llama), found(llama, batch_rows=1)
    for name in AXES:
        a, b = getattr(whole, name), getattr(split, name)
        if a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)
        elif name in ("new", "own", "lengths", "against"):
            assert torch.equal(a, b), name


def test_the_model_is_left_as_it_was(llama):
    before = snapshot(llama)
    found(llama)
    assert snapshot(llama) == before


def test_the_table_says_where_texts_depart(one):
    told = found(one, vectors=[3, 1])
    text = repr(told)
    assert "unsteered" in text
    assert "departs at" in text
    sheet = told.table()
    assert [row[0] for row in sheet.rows] == ["", "3", "1"]
    assert told.departs(3) == next(
        k
        for k, (a, b) in enumerate(zip(told.new[0].tolist(), told.own.tolist(), strict=True))
        if a != b
    )


def test_bad_arguments_are_refused(one):
    for changes in ({"max_new_tokens": 0}, {"heads": -1}, {"top": 0}, {"batch_rows": 0}):
        with pytest.raises(SettingError, match="expected at least 1, 0, 1 and 1"):
            found(one, **changes)
    with pytest.raises(SettingError, match="rows from 0 to 3"):
        found(one, vectors=[7])
    with pytest.raises(PromptError, match="Expected one prompt; got 3"):
        ts.inspection.continuations(one, bank_of(one), ts.tokenize(one, PROMPTS))
    with pytest.raises(PromptError, match="context of 64"):
        found(one, max_new_tokens=80)
    with pytest.raises(SettingError, match="was not continued"):
        found(one, vectors=[1]).log_ratio(0)


def test_a_model_that_writes_nothing_is_refused():
    host = LinearHost([torch.eye(6) for _ in range(3)])
    ends = {"source": "blocks.0.hook_resid_post", "target": "blocks.2.hook_resid_post"}
    bank = ts.elicit(host, ["1 2 3"], n=1, radius=1.0, progress=False, **ends)
    with pytest.raises(ModelError, match="no generate"):
        ts.inspection.continuations(host, bank, "1 2 3")


def saved(one, tmp_path):
    told = found(one, vectors=[3, 1])
    return told, told.save(tmp_path / "told.safetensors")


def test_saved_continuations_are_the_same_when_loaded(one, tmp_path):
    told, path = saved(one, tmp_path)
    again = ts.inspection.load_continuations(path)
    for field in dataclasses.fields(told):
        a, b = getattr(told, field.name), getattr(again, field.name)
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            assert a == b, field.name
    assert again.origin.bank == bank_of(one).digest()


meta = meta_of("tl_steer_continuations")

HOSTILE = {
    "another text": lambda h: meta(h, unsteered="changed"),
    "texts of fewer vectors": lambda h: meta(h, texts=["one"]),
    "texts that are numbers": lambda h: meta(h, texts=[1, 2]),
    "no tokens": lambda h: meta(h, tokens=[]),
    "words that are none": lambda h: meta(h, words={"x": "y"}),
    "a missing tensor": lambda h: h.pop("lp"),
    "a shape turned round": lambda h: h["rows"]["shape"].reverse(),
    "another dtype": lambda h: h["new"].update(dtype="F64"),
    "a header that is no object": lambda h: h["__metadata__"].update(tl_steer_continuations="[1]"),
    "an inspection": lambda h: h["__metadata__"].clear(),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_files_that_were_changed_are_refused(one, tmp_path, change):
    _, path = saved(one, tmp_path)
    tamper(path, change)
    with pytest.raises(InspectionFileError):
        ts.inspection.load_continuations(path)


def test_what_could_not_be_loaded_is_not_saved(one, tmp_path):
    told, path = saved(one, tmp_path)
    for change in ({"lengths": told.lengths + 50}, {"new": told.new - 500}, {"tokens": ()}):
        with pytest.raises(SettingError, match="cannot be saved"):
            dataclasses.replace(told, **change).save(path)
    assert ts.inspection.load_continuations(path).texts == told.texts
