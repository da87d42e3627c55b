"""Texts that begin alike give together what each gives alone."""

import sys

import pytest
import torch
from conftest import KINDS, LAYERS, make
from linear import LinearHost
from state import snapshot

import tl_steer as ts
from tl_steer.models.branches import last_stream
from tl_steer.models.state import frozen

START = "t5 t9 t30 t7 t61 t8 t9 t10"
TEXTS = [f"{START} t1 t44 t12", f"{START} t70", START, f"{START} t70 t3 t4", f"{START} t1 t44 t9"]
BRANCHES = sys.modules["tl_steer.models.branches"]
BRIDGES = [name for name in KINDS if name.startswith("bridge-")]


def alone(model, text):
    """The last residual stream of one text, by plain TransformerLens."""
    seen = []

    def keep(activation, hook):
        seen.append(activation)

    name = f"blocks.{LAYERS - 1}.hook_resid_post"
    with torch.no_grad():
        model.run_with_hooks(ts.tokenize(model, [text]).ids, fwd_hooks=[(name, keep)])
    return seen[0][0]


def test_each_text_gives_what_it_gives_alone_and_the_model_is_left_as_it_was(model):
    before, tokens = snapshot(model), ts.tokenize(model, TEXTS)
    with frozen(model), torch.no_grad():
        found = last_stream(model, tokens)
    for i, text in enumerate(TEXTS):
        expected = alone(model, text)
        assert len(expected) == int(tokens.lengths[i])
        torch.testing.assert_close(found[i, : len(expected)], expected, atol=1e-4, rtol=1e-4)
    assert snapshot(model) == before


# GPT-2's blocks get no mask for one text from some versions of the bridge: texts stay apart.
@pytest.mark.parametrize("name", [name for name in BRIDGES if "gpt2" not in name])
def test_bridges_read_the_beginning_once(name, monkeypatch):
    model, tokens = make(name), None
    tokens = ts.tokenize(model, TEXTS)
    monkeypatch.delattr(BRANCHES, "_apart")  # whoever goes there falls
    with frozen(model), torch.no_grad():
        assert last_stream(model, tokens).shape[:2] == tokens.ids.shape


@pytest.mark.parametrize("name", BRIDGES[:1])
def test_texts_that_share_nothing_stay_apart(name, monkeypatch):
    model = make(name)
    monkeypatch.delattr(BRANCHES, "_packed")
    with frozen(model), torch.no_grad():
        last_stream(model, ts.tokenize(model, ["t5 t9 t30", "t7 t61 t8"]))


@pytest.mark.parametrize("name", BRIDGES[:1])
def test_a_row_that_does_not_give_what_its_longest_text_gives_is_not_used(name, monkeypatch):
    """Where blocks take the mask and do something else with it, texts are read apart."""
    model = make(name)
    real = BRANCHES.with_mask

    def wrong(call, packing, padded, dtype):
        made = real(call, packing, padded, dtype)
        made.kwargs["attention_mask"] = torch.zeros_like(made.kwargs["attention_mask"])
        return made

    monkeypatch.setattr(BRANCHES, "with_mask", wrong)
    with frozen(model), torch.no_grad():
        found = last_stream(model, ts.tokenize(model, TEXTS))
    torch.testing.assert_close(found[1, :9], alone(model, TEXTS[1])[:9], atol=1e-4, rtol=1e-4)


def test_many_texts_apart_are_read_a_few_at_a_time():
    host = LinearHost([2 * torch.eye(6), torch.eye(6)])
    tokens = ts.tokenize(host, [f"{i % 31} 5 {i % 7}" for i in range(40)])
    sizes = []
    host.blocks[0].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    with frozen(host), torch.no_grad():
        found = last_stream(host, tokens)
    torch.testing.assert_close(found, 2 * host.embed[tokens.ids].detach())
    assert sizes == [16, 16, 8]
