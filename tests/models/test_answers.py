"""Every vector's own continuation: what plain generation says, and what plain passes leave."""

import pytest
import torch
from conftest import KINDS, PROMPTS, SOURCE, bank_of, make

import tl_steer as ts
from tl_steer.hook_points.positions import EVERYWHERE
from tl_steer.models import packed
from tl_steer.models.answers import Answers
from tl_steer.models.packed import Packed
from tl_steer.models.state import frozen
from tl_steer.objectives.output_kl import readout

LAST, ALONG = "blocks.3.hook_resid_post", 4
TEMPLATE = "t5 t9 t30 t7 t61 t8"
# Alike at the beginning; one the beginning of another; of one kind; alone.
BATCHES = {
    "a template": [f"{TEMPLATE} t1 t44", f"{TEMPLATE} t70 t2 t3", TEMPLATE],
    "nothing alike": PROMPTS,
    "twice": [PROMPTS[0], PROMPTS[0]],
    "one": PROMPTS[:1],
}
SOME = ts.Positions(last=2, bos=False, generated=False)


def edits_of(model, positions=EVERYWHERE, source=SOURCE, n=3):
    site = ts.models.resolve(model, source)
    vectors = torch.randn(n, site.width, generator=torch.Generator().manual_seed(4))
    return ts.Additive(site, 3 * vectors, positions=positions)


def spoken(model, prompts, edits, *, staged=True):
    with frozen(model):
        tokens = ts.tokenize(model, prompts)
        answers = Answers(model, tokens, edits.site, LAST, along=ALONG, positions=edits.positions)
        if not staged:
            answers.staged = None
        return answers, answers.speak(edits, readout(model))


def plain(model, prompt, edit, said):
    """Streams at the tokens that predict `said`, by two full passes, and what each would say."""
    tokens = ts.tokenize(model, [prompt])
    ids = torch.cat([tokens.ids[0], said[:-1]])[None]
    streams = []
    for under in (None, edit):
        hooks = [] if under is None else under.hooks(prompt=tokens.select(under.positions))
        with frozen(model), torch.no_grad(), ts.capturing(model, [LAST]) as seen:
            logits = model.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits")
        streams.append(seen[LAST][0, -ALONG:])
    return *streams, logits[0, -ALONG:].argmax(dim=-1)


@pytest.mark.parametrize("prompts", BATCHES.values(), ids=list(BATCHES))
def test_what_is_said_is_the_steered_models_own_greedy_answer(model, prompts):
    edits = edits_of(model)
    _, said = spoken(model, prompts, edits)
    for v in range(len(edits)):
        for p, prompt in enumerate(prompts):
            clean, steered, own = plain(model, prompt, edits.select([v]), said.ids[v, p])
            assert said.ids[v, p].tolist() == own.tolist()
            torch.testing.assert_close(said.clean[v, p], clean, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(said.steered[v, p], steered, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "source", ["blocks.1.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out",
               "blocks.1.attn.hook_z"]
)  # fmt: skip
@pytest.mark.parametrize("positions", [EVERYWHERE, SOME], ids=str)
def test_every_source_and_choice_of_tokens(llama, source, positions):
    edits = edits_of(llama, positions, source)
    prompts = BATCHES["a template"]
    _, said = spoken(llama, prompts, edits)
    for p, prompt in enumerate(prompts):
        clean, steered, own = plain(llama, prompt, edits.select([1]), said.ids[1, p])
        assert said.ids[1, p].tolist() == own.tolist()
        torch.testing.assert_close(said.clean[1, p], clean, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(said.steered[1, p], steered, atol=1e-3, rtol=1e-4)


# GPT-2's blocks get their cache by position.
IN_STAGES = pytest.mark.parametrize(
    "name", [n for n in KINDS if n.startswith("bridge-") and "gpt2" not in n]
)


@IN_STAGES
def test_bridges_speak_in_stages_and_gradients_are_those_of_whole_rows(name):
    model, edits = make(name), edits_of(make(name))
    found = []
    for staged in (True, False):
        answers, said = spoken(model, BATCHES["a template"], edits, staged=staged)
        assert isinstance(answers.segment, Packed)
        assert (answers.staged is not None) == staged
        weights = torch.randn(said.steered.shape, generator=torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad((weights * said.steered).sum(), edits.vectors)
        found.append((said.ids, gradient))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-3, rtol=1e-3)


@IN_STAGES
def test_more_continuations_than_one_row_holds_are_spoken_all_the_same(name, monkeypatch):
    model = make(name)
    edits = edits_of(model, n=6)
    _, expected = spoken(model, BATCHES["a template"], edits)
    monkeypatch.setattr(packed, "LONGEST", 24)  # enough for the prompts, too little for a trunk
    answers, said = spoken(model, BATCHES["a template"], edits)
    assert isinstance(answers.segment, Packed)
    assert torch.equal(said.ids, expected.ids)
    torch.testing.assert_close(said.steered, expected.steered, atol=1e-3, rtol=1e-4)


def test_a_vector_says_what_it_says_alone(one):
    edits = edits_of(one, n=5)
    _, together = spoken(one, BATCHES["a template"], edits)
    _, alone = spoken(one, BATCHES["a template"], edits.select([3]))
    assert torch.equal(together.ids[3:4], alone.ids)
    torch.testing.assert_close(together.steered[3:4], alone.steered, atol=1e-4, rtol=1e-4)


def test_an_adapter_speaks_too(one):
    bank = ts.elicit(
        one, PROMPTS[:2], source="blocks.1.hook_mlp_out", target=LAST, n=2, radius=3.0,
        perturbation=ts.elicitation.Adapters(), progress=False,
        measured=ts.Positions(last=1, bos=False),
    )  # fmt: skip
    edits = bank.perturbation()
    _, said = spoken(one, PROMPTS[:2], edits)
    told = ts.generate(one, bank, PROMPTS[:2], max_new_tokens=ALONG)
    for v in range(2):
        for p in range(2):
            text = one.tokenizer.decode(said.ids[v, p], skip_special_tokens=True)
            assert text.startswith(told.texts[v][p])


def test_a_single_token_is_the_next_one(one):
    edits = edits_of(one)
    with frozen(one):
        tokens = ts.tokenize(one, PROMPTS)
        answers = Answers(one, tokens, edits.site, LAST, along=1, positions=EVERYWHERE)
        said = answers.speak(edits, readout(one))
    _, longer = spoken(one, PROMPTS, edits)
    assert torch.equal(said.ids[..., 0], longer.ids[..., 0])
    torch.testing.assert_close(said.steered[:, :, 0], longer.steered[:, :, 0], atol=1e-4, rtol=1e-4)


def test_the_bank_of_a_model_speaks_as_generate_does(model):
    bank = bank_of(model)
    _, said = spoken(model, PROMPTS, bank.perturbation())
    told = ts.generate(model, bank, PROMPTS, max_new_tokens=ALONG)
    for v in range(len(bank)):
        for p in range(len(PROMPTS)):
            text = model.tokenizer.decode(said.ids[v, p], skip_special_tokens=True)
            assert text.startswith(told.texts[v][p])
