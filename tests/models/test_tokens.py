"""Prompts become the tokens that TransformerLens would run, prompt by prompt."""

import pytest
import torch
from conftest import KINDS, PROMPTS, make, tokenizer

import tl_steer as ts
from tl_steer.errors import PromptError


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
        ([7], "is a int"),
        ([[]], "no turns"),
        ([torch.ones(2, 2)], "one row"),
        ([torch.tensor([], dtype=torch.long)], "at least one integer"),
    ],
)
def test_bad_prompts_are_named(one, prompts, message):
    with pytest.raises(PromptError, match=message):
        ts.tokenize(one, prompts)


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
