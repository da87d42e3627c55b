"""Tokens shown one by one can be told apart, whatever the tokenizer's decoder drops."""

import torch
from conftest import bank_of, tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import tl_steer as ts
from tl_steer.models.token_names import token_names

PIECES = ["<unk>", "\u2581the", "the", "\u2581", "\u2581\u2581", "<0xF0>", "<0x9F>", "<0x41>", "A"]


def llama_like():
    inner = Tokenizer(models.BPE({p: i for i, p in enumerate(PIECES)}, [], unk_token="<unk>"))
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def with_pieces(pieces, decoder):
    inner = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token=None))
    inner.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_spaces_and_bytes_that_the_decoder_drops_are_named():
    own = llama_like()
    assert own.decode([1]) == own.decode([2]) == "the"  # what makes it hard
    names = token_names(own, range(len(PIECES)))
    assert names == ("<unk>", " the", "the", " ", "  ", "<0xF0>", "<0x9F>", "<0x41>", "A")


def test_ids_that_the_tokenizer_does_not_have_are_named_by_their_number():
    for own in (llama_like(), tokenizer()):
        n = len(own)
        names = token_names(own, [n, n + 1, 10**6, -1])
        assert names == (f"<{n}>", f"<{n + 1}>", "<1000000>", "<-1>")


def test_byte_level_pieces_are_text_where_they_can_be():
    pieces = ["\u0120the", "the", "\u0120", "\u00f0\u0141", "\u013a", "\u00c3\u00a9", "\u0120."]
    own = with_pieces(pieces, decoders.ByteLevel())
    names = token_names(own, range(len(pieces)))
    assert names[:3] == (" the", "the", " ")
    assert names[3].startswith("<0xF0>")
    assert names[5:] == ("\u00e9", " .")
    assert len(set(names)) == len(pieces)


def test_word_ends_are_told_from_words_within():
    pieces = ["the</w>", "the"]
    names = token_names(with_pieces(pieces, decoders.BPEDecoder(suffix="</w>")), [0, 1])
    assert len(set(names)) == 2


def test_ordinary_tokens_keep_their_names_and_none_need_a_tokenizer():
    own = tokenizer()
    assert token_names(own, [0, 5, 5, 60]) == ("<s>", "t2", "t2", "t57")
    assert token_names(None, [3, 4]) == ("3", "4")


def test_an_inspection_tells_all_its_tokens_apart(one, monkeypatch):
    monkeypatch.setattr(one.tokenizer, "decode", lambda ids, **_: "same")
    seen = ts.inspect(one, bank_of(one)[:1], torch.tensor([5, 6, 7]))
    assert seen.tokens == ("t2", "t3", "t4")
    assert len(set(seen.words.values())) == len(seen.words)
