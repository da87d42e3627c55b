"""The text under a vector in pages: what is in it, and how it stays small."""

import base64
import dataclasses

import pytest
import torch
from conftest import PROMPTS, bank_of
from packed import read

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.views.blocks import Words
from tl_steer.views.panels import continued

_made = []


def told(one, **changes):
    """Continuations of the tiny bank's vectors; made once."""
    if not _made:
        given = {"vectors": [2, 0, 1], "max_new_tokens": 5}
        _made.append(ts.inspection.continuations(one, bank_of(one), PROMPTS[0], **given))
    return dataclasses.replace(_made[0], **changes)


def unpacked(packed):
    return torch.tensor(list(base64.b64decode(packed["u8"]))).reshape(packed["shape"])


def test_the_view_holds_what_was_measured(one):
    found = told(one)
    data = ts.views.continuation(found, 0).data
    v, n = found.index(0), int(found.lengths[found.index(0)])
    assert data["tokens"] == [found.word(token) for token in found.new[v, :n].tolist()]
    assert data["unsteered"] == [found.word(token) for token in found.own.tolist()]
    for run in (0, 1):
        assert data["lp"][run] == pytest.approx(found.lp[v, run, :n].tolist(), rel=1e-3)
    assert data["unsteered_lp"][1] == pytest.approx(found.own_lp[v + 1].tolist(), rel=1e-3)
    rows = found.rows[v, :n].float()
    torch.testing.assert_close(unpacked(data["rows"]) / 255, rows.nan_to_num(0), rtol=0, atol=2e-3)
    assert [head[:2] for head in data["heads"][1]] == found.kept[v, 1].tolist()
    direct = torch.tensor(data["direct"]).sum(dim=(1, 2))
    torch.testing.assert_close(direct, found.moved[v, :n], rtol=2e-2, atol=2e-2)


def test_alternatives_are_named_once_with_both_log_probabilities(one):
    found = told(one)
    v, likely = found.index(2), ts.views.continuation(found, 2).data["likely"][0]
    words = [word for word, *_ in likely]
    assert len(set(words)) == len(words)
    both = dict(zip(words, (lp for _, *lp in likely), strict=True))
    for run in (0, 1):
        for k, token in enumerate(found.likely[v, run, 0].tolist()):
            expected = found.likely_lp[v, run, 0, k].tolist()
            assert both[found.word(token)] == pytest.approx(expected, rel=1e-3)


def test_a_shorter_text_is_shown_without_what_is_filled_up(one):
    found = told(one)
    lengths = found.lengths.clone()
    lengths[found.index(0)] = 2
    data = ts.views.continuation(dataclasses.replace(found, lengths=lengths), 0).data
    assert len(data["tokens"]) == len(data["kl"]) == len(data["heads"]) == 2
    assert data["rows"]["shape"][-1] == len(found.tokens) + 1


def test_a_model_without_attention_and_readable_layers_says_so(one):
    found = told(one)
    bare = dataclasses.replace(
        found,
        kept=found.kept[:, :, :0],
        change=found.change[:, :, :0],
        rows=found.rows[:, :, :0],
        mean_rows=found.mean_rows * torch.nan,
        direct=found.direct * torch.nan,
    )
    data = ts.views.continuation(bare, 0).data
    assert data["attends"] is False
    assert data["direct"] is None


def test_a_vector_that_was_not_continued_is_refused(one):
    with pytest.raises(SettingError, match=r"Vector 3 was not continued; there are 2, 0, 1\."):
        ts.views.continuation(told(one), 3)


def test_the_terminal_shows_both_texts_and_the_tokens_that_hang_on_the_vector(one):
    found = told(one)
    said = repr(ts.views.continuation(found, 1))
    assert found.unsteered in said
    assert found.texts[found.index(1)] in said
    assert "nats" in said


def test_a_report_has_the_texts_of_the_prompt_they_continue(one):
    page = ts.report(bank_of(one), continuations=[told(one)])
    panel = read(page, "v2.continuation.0")
    assert panel["kind"] == "continuation"
    assert panel["data"]["tokens"] == ts.views.continuation(told(one), 2).data["tokens"]
    assert "v3.continuation.0" not in page.blocks
    assert page.notes == ()
    with pytest.raises(SettingError, match=r"continuations of .* of another bank"):
        ts.report(ts.random_bank(bank_of(one)), continuations=[told(one)])


def test_where_texts_take_too_much_room_fewer_heads_are_shown_and_that_is_said(one):
    found = told(one)
    whole, nothing = continued([found], [found.prompt], Words(), most=10**7)
    assert nothing == []
    room = sum(map(len, whole.values())) - 1
    fewer, said = continued([found], [found.prompt], Words(), most=room)
    assert sum(map(len, fewer.values())) <= room
    assert "attention of 2 heads a token" in said[0]
    none, said = continued([found], [found.prompt], Words(), most=0)
    assert "attention of 0 heads a token" in said[0]
    assert set(none) == set(whole)
