"""Prompts become the tokens that TransformerLens would run, prompt by prompt."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CONTEXT, KINDS, PROMPTS, VOCAB, make, tokenizer

import tl_steer as ts
from tl_steer.errors import PromptError, ShapeError


def test_every_prompt_is_tokenized_as_transformerlens_does(model):
    batch = ts.tokenize(model, PROMPTS)
    for row, prompt in zip(batch.rows(), PROMPTS, strict=True):
        assert torch.equal(row, model.to_tokens(prompt)[0])
    assert batch.mask.sum(dim=1).tolist() == batch.lengths.tolist()
    assert batch.ids.shape[1] == int(batch.lengths.max())


def test_padding_stands_on_the_right_even_if_the_pad_token_is_a_real_one(one):
    # The tokenizer pads with </s>, and a prompt may contain it.
    batch = ts.tokenize(one, ["t5 </s> t6 </s>", "t1"])
    assert batch.ids[0].tolist() == [0, 8, 1, 9, 1]
    assert batch.mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_bos_is_never_doubled(one):
    assert ts.tokenize(one, ["<s> t5"]).ids.tolist() == [[0, 8]]
    rendered = tokenizer().apply_chat_template(
        ts.chat("t5 t6"), tokenize=False, add_generation_prompt=True
    )
    assert (
        ts.tokenize(one, [rendered]).ids.tolist()
        == ts.tokenize(one, [ts.chat("t5 t6")]).ids.tolist()
    )
    assert ts.tokenize(one, [rendered]).ids[0].tolist().count(0) == 1


def test_a_conversation_goes_through_the_chat_template(one):
    batch = ts.tokenize(one, [ts.chat("t5 t6"), ts.chat("t7", system="t8")])
    words = [tokenizer().convert_ids_to_tokens(row.tolist()) for row in batch.rows()]
    assert words[0] == ["<s>", "t1", "t5", "t6", "t2", "t3"]
    assert "t8" in words[1]
    assert batch.texts == ("t5 t6", "t7")


def test_token_tensors_are_left_as_they_are(one):
    batch = ts.tokenize(one, [torch.tensor([5, 6, 7])])
    assert batch.ids.tolist() == [[5, 6, 7]]
    assert not bool(batch.has_bos.any())
    assert ts.tokenize(one, batch) is batch


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "No prompts"),
        ([""], "Prompt 0 is empty"),
        (["t1", "  "], "Prompt 1 is empty"),
        ("t1 t2", "come as a list"),
        ([7], r"one prompt of 1 token ids: pass \[ids\]"),
        ([[]], "no turns"),
        ([torch.ones(2, 2)], "one row"),
        ([torch.tensor([], dtype=torch.long)], "at least one integer"),
    ],
)
def test_bad_prompts_are_named(one, prompts, message):
    with pytest.raises(PromptError, match=message):
        ts.tokenize(one, prompts)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (b"t1", "not a single string"),
        (torch.ones(1, 2, 3).long(), r"shape \(1, 2, 3\): pass ids of \[batch pos\]"),
        (torch.tensor([5, 6]), r"shape \(2,\): pass \[ids\]"),
        (np.array([5, 6]), r"not as a ndarray: pass \[ids\]"),
        ([5, 6], r"one prompt of 2 token ids: pass \[ids\]"),
        (pd.DataFrame({"prompt": ["t1"], "label": [1]}), r"not as a DataFrame.*list\(table"),
        (pd.Series(["t1", "t2"]), r"not as a Series: pass list\(prompts\)"),
        ((text for text in ["t1"]), r"not as a generator: pass list\(prompts\)"),
        ({"t1", "t2"}, "not as a set"),
        ({"role": "user", "content": "t1"}, r"not as a dict: pass \[conversation\]"),
        (ts.chat("t1"), r"one conversation.*\[conversation\]"),
        (5, "not as a int"),
        (None, "not as a NoneType"),
        ([ts.chat("t1"), ["t1", "t2"]], "Prompt 1 is a list"),
        ([["t1"]], "Prompt 0 is a list"),
        (["t1", b"t2"], "Prompt 1 is a bytes"),
        (["t1", np.array([5.0, 6.0])], r"Prompt 1 gives .*torch.float64"),
        (["t1", [5, -6]], "Prompt 1 has the token id -6"),
        (["t1", torch.tensor([[5, 6]])], r"Prompt 1 gives .* \(1, 2\)"),
        (["t1", torch.tensor([True, True])], r"Prompt 1 gives .*torch.bool"),
        (["t1", torch.tensor([5.0, 6.0])], r"Prompt 1 gives .*torch.float32"),
        (["t1", torch.tensor(5)], r"Prompt 1 gives .*shape \(\)"),
        (["t1", torch.tensor([5, -1])], "Prompt 1 has the token id -1.*from 0 to 100"),
        (["t1", torch.tensor([5, VOCAB])], "Prompt 1 has the token id 101"),
        (["t1", torch.tensor([5] * (CONTEXT + 1))], "Prompt 1 is 65 tokens long.* is 64"),
        (["t1", "t5 " * CONTEXT], "Prompt 1 is 65 tokens long"),
        ([ts.chat("t1"), ts.chat("t5 " * CONTEXT)], r"Prompt 1 is 68 tokens long"),
        (["t1", "t2 \ud83d"], "Prompt 1 holds half of a surrogate"),
        (["t1", ts.chat("t2 \udc00")], "Prompt 1 holds half of a surrogate"),
    ],
)
def test_whatever_cannot_be_a_prompt_is_refused_by_its_place(one, prompts, message):
    with pytest.raises(PromptError, match=message):
        ts.tokenize(one, prompts)


IDS = [[5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize(
    "prompts",
    [IDS, tuple(map(tuple, IDS)), torch.tensor(IDS), np.array(IDS), [np.array(r) for r in IDS]],
    ids=["lists", "tuples", "a matrix", "numpy's", "rows"],
)
def test_token_ids_are_taken_as_they_are_whatever_holds_them(one, prompts):
    made = ts.tokenize(one, prompts)
    assert made.ids.tolist() == IDS
    assert made.mask.all()


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT])
def test_a_prompt_that_just_fits_is_whole(one, length):
    text = " ".join(f"t{i}" for i in range(length - 1))
    assert ts.tokenize(one, [text]).ids[0].tolist() == [0, *range(3, length + 2)]
    assert int(ts.tokenize(one, [torch.arange(length)]).lengths[0]) == length


TURNS = {
    "no role": [{"content": "t1"}],
    "role None": [{"role": None, "content": "t1"}],
    "no content": [{"role": "user"}],
    "content None": [{"role": "user", "content": None}],
    "content a number": [{"role": "user", "content": 5}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "t1"}]}],
    "second turn": [{"role": "user", "content": "t1"}, {"role": "assistant", "content": None}],
    "tool calls": [{"role": "assistant", "content": None, "tool_calls": [{"name": "t1"}]}],
}
TEMPLATES = {
    "adds": "{% for m in messages %}{{ 't1 ' + m['content'] }}{% endfor %}",
    "prints": "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}",
}


@pytest.fixture
def templated():
    """A model whose chat template can be changed."""
    model = KINDS[next(iter(KINDS))]()
    model.tokenizer = copy.deepcopy(model.tokenizer)
    return model


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("turns", TURNS)
def test_contents_that_a_template_does_not_know_are_never_printed(templated, template, turns):
    templated.tokenizer.chat_template = TEMPLATES[template]
    with pytest.raises(PromptError, match=r"^Prompt 1 "):
        ts.tokenize(templated, [ts.chat("t1"), TURNS[turns]])


def test_contents_that_a_template_does_know_are_taken(templated):
    templated.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}"
        "{% elif m['tool_calls'] %}{{ m['tool_calls'][0]['name'] }}"
        "{% else %}{{ m['content'][0]['text'] }}{% endif %}{% endfor %}"
    )
    batch = ts.tokenize(templated, [ts.chat("t1"), TURNS["parts"], TURNS["tool calls"]])
    assert [row.tolist() for row in batch.rows()] == [[4]] * 3
    assert batch.texts == ("t1", "t1", "")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system role') }}", "does not take .*no system role"),
        ("{{ broken", "does not take"),
        ("{{ messages[7]['content'] }}", "does not take"),
        ("", "no chat template|makes nothing"),
        ("{% if false %}{% endif %}", "makes nothing"),
        ({"tool_use": "t1"}, "does not take"),
    ],
)
def test_what_a_template_raises_is_a_prompts_fault(templated, template, message):
    templated.tokenizer.chat_template = template
    with pytest.raises(PromptError, match=f"Prompt 0 .*({message})"):
        ts.tokenize(templated, [ts.chat("t1")])


def test_a_named_default_template_is_used(templated):
    templated.tokenizer.chat_template = {"default": "t5 t6", "tool_use": "t7"}
    assert ts.tokenize(templated, [ts.chat("t1")]).ids.tolist() == [[8, 9]]


def test_chat_takes_text_alone():
    with pytest.raises(ShapeError, match=r"chat\(\)"):
        ts.chat(5)


def test_a_model_without_a_tokenizer_takes_ids_and_says_so_of_text(templated):
    templated.tokenizer = None
    batch = ts.tokenize(templated, [torch.tensor([5, 6])])
    assert batch.texts == ("5 6",)
    for prompt in ("t1", ts.chat("t1")):
        with pytest.raises(PromptError, match=r"Prompt 0 is .*no tokenizer|no chat template"):
            ts.tokenize(templated, [prompt])


def test_padding_is_of_the_vocabulary_even_if_the_pad_token_is_not(templated):
    templated.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert templated.tokenizer.pad_token_id >= VOCAB
    batch = ts.tokenize(templated, ["t1 t2", "t1"])
    assert int(batch.ids.max()) < VOCAB
    with torch.no_grad():
        templated(batch.ids)


def test_a_batch_of_another_model_is_looked_at(one):
    batch = ts.tokenize(one, ["t5 t6", "t7"])
    for wrong, message in [
        (dataclasses.replace(batch, ids=batch.ids + 95), "Prompt 0 has the token id 103"),
        (dataclasses.replace(batch, mask=batch.mask.flip(1)), "padded on the right"),
        (dataclasses.replace(batch, mask=batch.mask & False), "empty prompt"),
    ]:
        with pytest.raises(PromptError, match=message):
            ts.tokenize(one, wrong)


def test_a_conversation_needs_a_template():
    model = make(next(iter(KINDS)))
    template, model.tokenizer.chat_template = model.tokenizer.chat_template, None
    try:
        with pytest.raises(PromptError, match="no chat template"):
            ts.tokenize(model, [ts.chat("t1")])
    finally:
        model.tokenizer.chat_template = template


def test_measured_positions_leave_out_bos_and_padding(one):
    batch = ts.tokenize(one, PROMPTS)
    everything = ts.Positions(bos=False).measure(batch.mask, batch.has_bos)
    assert everything.sum(dim=1).tolist() == [5, 2, 7]
    assert not bool(everything[:, 0].any())
    assert not bool((everything & ~batch.mask).any())
    last = ts.Positions(last=2, bos=False).measure(batch.mask, batch.has_bos)
    assert [row.nonzero().flatten().tolist() for row in last] == [[4, 5], [1, 2], [6, 7]]


def test_a_prompt_shorter_than_the_measured_positions_is_named(one):
    batch = ts.tokenize(one, PROMPTS)
    with pytest.raises(PromptError, match="Prompt 1 has 2 tokens that can be measured"):
        ts.Positions(last=3, bos=False).measure(batch.mask, batch.has_bos)
