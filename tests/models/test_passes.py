"""Edits of some tokens find them in whatever is run: against each prompt alone, steered by hand."""

import pytest
import torch
from conftest import HAS_BRIDGE, LLAMAS, PROMPTS, SOURCE, make
from state import snapshot

import tl_steer as ts
from tl_steer.errors import PromptError, ShapeError
from tl_steer.models.hooks import installed, perturbing

CHOICES = [
    ts.Positions(last=1),
    ts.Positions(last=2, generated=False),
    ts.Positions(last=0),
    ts.Positions(bos=False),
    ts.Positions(generated=False),
    ts.Positions(),
]
BRIDGES = [name for name in LLAMAS if not name.startswith("hooked")]
bridges = pytest.mark.parametrize("kind", BRIDGES or [pytest.param("", marks=pytest.mark.skip)])


def vector(model, positions):
    generator = torch.Generator().manual_seed(5)
    return ts.Additive.random(
        ts.models.resolve(model, SOURCE), 1, radius=8.0, generator=generator, positions=positions
    )


def adapter(model, positions):
    site = ts.models.resolve(model, "blocks.1.hook_mlp_out")
    generator = torch.Generator().manual_seed(6)
    reads, writes = (torch.randn(1, 2, 2, d, generator=generator) for d in (40, 24))
    made = ts.perturbations.Adapter(
        site, reads, writes, layers=(1, 2), radius=6.0, positions=positions
    )
    made.project_()
    return made


def chosen(positions, length, total):
    """Which of `total` tokens are edited where the first `length` are the prompt."""
    first = 0 if positions.last is None else max(0, length - positions.last)
    return [
        positions.generated if i >= length else i >= first and (positions.bos or i > 0)
        for i in range(total)
    ]


def alone(model, edit, prompt, n):
    """Logits and greedy tokens of one prompt, each step in one plain pass under plain hooks."""
    ids = ts.tokenize(model, [prompt]).ids if isinstance(prompt, str) else prompt[None]
    length = ids.shape[1]
    for _ in range(n):
        mask = torch.tensor([chosen(edit.positions, length, ids.shape[1])])
        hooks = edit.hooks(prompt=mask)
        with torch.no_grad():
            logits = model.run_with_hooks(ids, fwd_hooks=hooks)
        ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
    return logits[0], ids[0, length:].tolist()


def generated(model, texts, n, call="generate", **knobs):
    """The new tokens of a batch, up to the end."""
    out = getattr(model, call)(
        texts, max_new_tokens=n, do_sample=False, return_type="tokens", **knobs
    )
    return [row[len(row) - n :].tolist() for row in out]


def same_up_to_the_end(found, expected):
    for own, truth in zip(found, expected, strict=True):
        end = truth.index(1) + 1 if 1 in truth else len(truth)
        assert own[:end] == truth[:end]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("positions", CHOICES, ids=str)
@pytest.mark.parametrize("kind", BRIDGES)
@pytest.mark.parametrize("make_edit", [vector, adapter])
def test_left_padded_generation_is_steered_as_each_prompt_alone(kind, positions, cached, make_edit):
    model, n = make(kind), 4
    edit = make_edit(model, positions)
    truth = [alone(model, edit, prompt, n)[1] for prompt in PROMPTS]
    plain = generated(model, PROMPTS, n, verbose=False)
    before = snapshot(model)
    with perturbing(model, edit, tokens=ts.tokenize(model, PROMPTS)):
        for _ in range(2):  # the same prompts once more in one block
            found = generated(model, PROMPTS, n, use_past_kv_cache=cached, verbose=False)
            same_up_to_the_end(found, truth)
        if cached:
            found = generated(model, PROMPTS, n, "hf_generate", stop_at_eos=False)
            same_up_to_the_end(found, truth)
    assert found != plain
    assert snapshot(model) == before


@bridges
def test_streams_are_steered(kind):
    model, positions = make(kind), ts.Positions(last=1, generated=False)
    if not hasattr(model, "generate_stream"):
        pytest.skip("this TransformerLens does not stream")
    edit = vector(model, positions)
    truth = [alone(model, edit, prompt, 4)[1] for prompt in PROMPTS]
    with perturbing(model, edit, tokens=ts.tokenize(model, PROMPTS)):
        parts = model.generate_stream(
            PROMPTS, max_new_tokens=4, do_sample=False, return_type="tokens", verbose=False,
            stop_at_eos=False,
        )  # fmt: skip
        found = torch.cat(list(parts), dim=1)[:, -4:].tolist()
    same_up_to_the_end(found, truth)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("positions", CHOICES, ids=str)
def test_a_padded_pass_is_steered_as_each_prompt_alone(llama, positions, side, told):
    if side == "left" and not told:
        pytest.skip("nothing tells the model itself where its prompts begin")
    edit, tokens = vector(llama, positions), ts.tokenize(llama, PROMPTS)
    width = int(tokens.lengths.max())
    ids, mask = torch.ones(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for row, own in enumerate(tokens.rows()):
        at = slice(width - len(own), width) if side == "left" else slice(0, len(own))
        ids[row, at], mask[row, at] = own, 1
    with perturbing(llama, edit, tokens=tokens), torch.no_grad():
        logits = llama(ids, **({"attention_mask": mask} if told else {}))
    for row, prompt in enumerate(PROMPTS):
        truth = alone(llama, edit, prompt, 1)[0]
        own = logits[row][mask[row].bool()]
        torch.testing.assert_close(own, truth, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("cached", [True, False])
def test_one_token_prompts_run_twice_are_prompts_twice(llama, cached):
    edit = vector(llama, ts.Positions(last=0))
    prompts = [torch.tensor([5]), torch.tensor([9])]
    truth = [alone(llama, edit, prompt, 4)[1] for prompt in prompts]
    with perturbing(llama, edit, tokens=ts.tokenize(llama, prompts)):
        for _ in range(2):
            found = generated(
                llama, torch.stack(prompts), 4, use_past_kv_cache=cached, verbose=False,
                stop_at_eos=False,
            )  # fmt: skip
            assert found == truth
            llama(torch.stack(prompts))


def test_a_given_answer_is_steered_as_a_generated_one(llama):
    edit, tokens = vector(llama, ts.Positions(last=1)), ts.tokenize(llama, PROMPTS[:1])
    ids = torch.cat([tokens.ids, torch.tensor([[7, 8, 9]])], dim=1)
    mask = torch.tensor([chosen(edit.positions, tokens.ids.shape[1], ids.shape[1])])
    with torch.no_grad():
        truth = llama.run_with_hooks(ids, fwd_hooks=edit.hooks(prompt=mask))
        with perturbing(llama, edit, tokens=tokens):
            torch.testing.assert_close(llama(ids), truth)


REFUSED = {
    "another prompt of the length": lambda m, t: m(torch.tensor([[0, 8, 12, 33, 10, 65]] * 3)),
    "another order": lambda m, t: m(t.take([1, 0, 2]).ids),
    "fewer prompts": lambda m, t: m(t.take([0, 1]).ids),
    "more rows of a prompt": lambda m, t: m(t.take([0, 0, 1, 1, 2, 2]).ids),
    "generation behind padding": lambda m, t: m.generate(
        t.ids, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False
    ),
    "the same without a cache": lambda m, t: m.generate(
        t.ids, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False,
        use_past_kv_cache=False,
    ),
    "another prompt behind them": lambda m, t: (m(t.ids), m(t.ids + 1)),
    "one token of another": lambda m, t: (m(t.ids), m(torch.tensor([[7], [8], [9]]))),
}  # fmt: skip


@pytest.mark.parametrize("positions", [ts.Positions(last=1), ts.Positions()], ids=str)
@pytest.mark.parametrize("use", REFUSED)
def test_what_are_not_the_prompts_is_refused(llama, use, positions):
    tokens, before = ts.tokenize(llama, PROMPTS), snapshot(llama)
    with (
        pytest.raises((PromptError, ShapeError), match=r"prompt|Prompt"),
        perturbing(llama, vector(llama, positions), tokens=tokens),
        torch.no_grad(),
    ):
        REFUSED[use](llama, tokens)
    assert snapshot(llama) == before


@bridges
@pytest.mark.parametrize("several", [{"num_return_sequences": 2}, {"num_beams": 2}])
def test_several_answers_at_once_are_refused(kind, several):
    model = make(kind)
    edit, tokens = vector(model, ts.Positions(last=1)), ts.tokenize(model, PROMPTS[:1])
    with pytest.raises(ShapeError, match="2 rows"), perturbing(model, edit, tokens=tokens):
        model.hf_generate(tokens.ids, max_new_tokens=3, **several)


def test_a_hook_alone_refuses_prompts_of_different_lengths(llama):
    positions = ts.Positions(last=1)
    edit, tokens = vector(llama, positions), ts.tokenize(llama, PROMPTS)
    hooks = edit.hooks(prompt=tokens.select(positions))
    with pytest.raises(PromptError, match="differ in length"), installed(llama, hooks):
        llama(tokens.ids)
    same = ts.tokenize(llama, [PROMPTS[0], PROMPTS[0]])
    with torch.no_grad(), installed(llama, edit.hooks(prompt=same.select(positions))):
        logits = llama(same.ids)
    truth = alone(llama, edit, PROMPTS[0], 1)[0]
    torch.testing.assert_close(logits[1], truth, atol=1e-4, rtol=1e-4)


def test_embeddings_in_the_place_of_ids_are_refused(llama):
    edit, tokens = vector(llama, ts.Positions(last=1)), ts.tokenize(llama, PROMPTS[:1])
    with torch.no_grad(), ts.capturing(llama, ["blocks.0.hook_resid_pre"]) as seen:
        llama(tokens.ids)
    if HAS_BRIDGE and hasattr(llama, "original_model"):
        run = {"inputs_embeds": llama.original_model.get_input_embeddings()(tokens.ids)}
        call = llama.original_model
    else:
        run = {"input": seen["blocks.0.hook_resid_pre"], "start_at_layer": 0}
        call = llama
    with pytest.raises(PromptError, match="embeddings"), perturbing(llama, edit, tokens=tokens):
        call(**run)
