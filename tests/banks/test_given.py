"""Vectors of one's own: what they do is measured, against plain hooks on the model."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, adapter_bank, bank_of
from hypothesis import given, settings, strategies as st
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import HookPointError, SettingError, ShapeError

D = 24
LAST = ts.Positions(last=1, bos=False)
ENDS = {"source": SOURCE, "target": TARGET, "prompts": PROMPTS, "measured": LAST}


def rows(n=3, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def by_hand(model, vector, prompt):
    """Change at the target's last token, by plain TransformerLens hooks."""
    ids, seen = ts.tokenize(model, [prompt]).ids, []

    def keep(activation, hook=None):
        seen.append(activation[0, -1].detach().clone())

    def add(activation, hook=None):
        return activation + vector

    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=[(TARGET, keep)])
        model.run_with_hooks(ids, fwd_hooks=[(SOURCE, add), (TARGET, keep)])
    return seen[1] - seen[0]


# --- measuring


def test_responses_and_objective_are_those_of_plain_hooks(model):
    bank = ts.Bank.from_vectors(model, rows(), **ENDS)
    for i, vector in enumerate(rows()):
        changes = torch.stack([by_hand(model, vector, prompt) for prompt in PROMPTS])
        assert torch.allclose(bank.responses[i], changes.mean(dim=0), atol=2e-4)
        expected = float(changes.norm(dim=1).sum())  # MELBO's with p = q = 2
        assert float(bank.objective[i]) == pytest.approx(expected, rel=1e-3)
    assert bank.radius == pytest.approx(float(rows().norm(dim=1).mean()))
    with ts.capturing(model, [SOURCE]) as seen:
        norms = []
        for prompt in PROMPTS:
            tokens = ts.tokenize(model, [prompt])
            model(tokens.ids)
            norms += seen[SOURCE][0, int(tokens.has_bos) :].norm(dim=1).tolist()
    assert bank.radius / bank.radius_share == pytest.approx(sorted(norms)[(len(norms) - 1) // 2])


def test_it_agrees_with_what_elicit_found(one):
    found = bank_of(one)
    given = ts.Bank.from_vectors(one, found.vectors, **ENDS)
    assert torch.allclose(given.responses, found.responses, atol=1e-5)
    assert torch.allclose(given.objective, found.objective, rtol=1e-4)
    assert given.provenance.method == "given, not trained"
    assert given.provenance.seed is None
    assert given.provenance.prompts == found.provenance.prompts
    assert "given, not trained" in given.table().note


def test_given_vectors_go_through_every_verb(one, tmp_path):
    bank = ts.Bank.from_vectors(one, {"a": rows()[0], "b": rows()[1]}, **ENDS)
    assert ts.Bank.load(bank.save(tmp_path / "b")).digest() == bank.digest()
    assert ts.generate(one, bank, PROMPTS[:1], max_new_tokens=2).labels == ("a", "b")
    assert len(ts.rank(one, bank, PROMPTS, by="novelty")) == 2
    with ts.perturbing(one, bank[1]):
        one(ts.tokenize(one, PROMPTS[:1]).ids)


# --- forms


def forms(matrix):
    return {
        "tensor": matrix,
        "half": matrix.half(),
        "array": matrix.numpy(),
        "lists": matrix.tolist(),
        "tensors": list(matrix),
        "arrays": tuple(matrix.numpy()),
        "names": dict(zip("abc", matrix, strict=True)),
        "rows of one": {name: row[None] for name, row in zip("abc", matrix, strict=True)},
        "autoencoder": SimpleNamespace(W_dec=torch.nn.Parameter(matrix)),
    }


@pytest.mark.parametrize("form", forms(rows()))
def test_vectors_come_in_many_forms(one, form):
    bank = ts.Bank.from_vectors(one, forms(rows())[form], **ENDS)
    assert torch.allclose(bank.vectors, rows(), atol=2e-3 if form == "half" else 0)
    assert bank.vectors.dtype == torch.float32
    assert bank.labels == (("a", "b", "c") if form in ("names", "rows of one") else ("",) * 3)


@pytest.mark.parametrize("one_vector", [rows()[0], rows()[0].numpy(), rows()[0].tolist()])
def test_one_vector_is_a_bank_of_one(one, one_vector):
    assert ts.Bank.from_vectors(one, one_vector, **ENDS).vector.equal(rows()[0])


def test_labels_may_be_given(one):
    assert ts.Bank.from_vectors(one, rows(2), labels=["x", "y"], **ENDS).labels == ("x", "y")


@pytest.mark.parametrize(
    ("vectors", "error", "says"),
    [
        (rows().T, ShapeError, r"3 wide and .* is 24; they lie in its columns: give vectors\.T"),
        (torch.zeros(2, 7), ShapeError, "7 wide and blocks.1.hook_resid_post is 24"),
        (torch.zeros(1, 2, 24), ShapeError, r"of shape \(1, 2, 24\); expected \[vec width\]"),
        (torch.zeros(0, 24), ShapeError, r"of shape \(0, 24\)"),
        ({}, ShapeError, "expected \\[vec width\\]"),
        ("vectors.npy", ShapeError, "vectors are str"),
        ({"a": torch.zeros(24), "b": torch.zeros(7)}, ShapeError, "vectors are"),
        (torch.full((2, 24), math.nan), SettingError, "row 0 holds NaN"),
    ],
)
def test_what_is_no_vector_is_refused_in_a_sentence(one, vectors, error, says):
    with pytest.raises(error, match=says):
        ts.Bank.from_vectors(one, vectors, **ENDS)


def test_bad_arguments_are_refused_in_a_sentence(one):
    with pytest.raises(SettingError, match="give source= and target="):
        ts.Bank.from_vectors(one, rows(), prompts=PROMPTS)
    with pytest.raises(SettingError, match="1 labels for 3 vectors"):
        ts.Bank.from_vectors(one, rows(), labels=["a"], **ENDS)
    with pytest.raises(ShapeError, match=r"from_vectors\(\).*Did you mean prompts="):
        ts.Bank.from_vectors(one, rows(), prompt=PROMPTS)


# --- banks: arithmetic, and another model


def test_a_bank_is_measured_where_it_was_not(one):
    bank = bank_of(one)
    doubled = ts.Bank.from_vectors(one, bank[[2, 0]] * 2, prompts=PROMPTS)
    plain = ts.Bank.from_vectors(one, 2 * bank.vectors[[2, 0]], **ENDS)
    assert doubled.responses.equal(plain.responses)
    assert doubled.numbers == (2, 0)
    assert doubled.provenance.measured == LAST
    assert doubled.provenance.notes[-2] == "times 2"
    made = bank.provenance
    was = f"made on {made.model}, prompts {made.prompts}, {made.divergence}"
    assert doubled.provenance.notes[-1] == f"measured anew; {was}"
    assert doubled.provenance.prompts == plain.provenance.prompts
    with pytest.raises(SettingError, match="holds no vectors"):
        ts.Bank.from_vectors(one, bank[:0], prompts=PROMPTS)
    assert doubled.provenance.method == bank.provenance.method


def test_a_bank_of_adapters_is_measured_as_one(one):
    found = adapter_bank(one)
    again = ts.Bank.from_vectors(one, found, prompts=PROMPTS)
    assert (again.kind, again.form) == (found.kind, found.form)
    assert torch.allclose(again.responses, found.responses, atol=1e-5)


def test_a_bank_of_another_model_still_needs_the_hook_points(one):
    foreign = bank_of(one)
    host = LinearHost([torch.eye(6)] * 4)
    with pytest.raises(HookPointError, match="6 wide on this model and 24 in the bank"):
        ts.Bank.from_vectors(host, foreign, prompts=["1 2"])


# --- contrast


def test_contrast_is_the_difference_of_means_at_the_last_token(model):
    def mean(prompts):
        found = []
        for prompt in prompts:
            _, cache = model.run_with_cache(ts.tokenize(model, [prompt]).ids)
            found.append(cache[SOURCE][0, -1])
        return sum(found) / len(found)

    found = ts.contrast(model, PROMPTS[:2], PROMPTS[2:], source=SOURCE)
    expected = mean(PROMPTS[:2]) - mean(PROMPTS[2:])
    assert found.shape == (D,)
    assert torch.allclose(found, expected.detach(), atol=1e-5)
    bank = ts.Bank.from_vectors(model, {"one thing": found}, **ENDS)
    assert bank.labels == ("one thing",)


def test_contrast_reads_the_tokens_it_is_told_to(one):
    at = ts.Positions(bos=False)
    found = ts.contrast(one, PROMPTS[:1], PROMPTS[1:2], source=SOURCE, at=at)
    means = []
    for prompt in PROMPTS[:2]:
        _, cache = one.run_with_cache(ts.tokenize(one, [prompt]).ids)
        means.append(cache[SOURCE][0, 1:].mean(dim=0))
    assert torch.allclose(found, (means[0] - means[1]).detach(), atol=1e-5)


@pytest.mark.parametrize("head", [0, 2])
def test_contrast_at_one_head_is_that_heads_part_of_all(one, head):
    lists = PROMPTS[:1], PROMPTS[1:2]
    whole = ts.contrast(one, *lists, source="blocks.1.attn.hook_z")
    found = ts.contrast(one, *lists, source=f"blocks.1.attn.hook_z[{head}]")
    torch.testing.assert_close(found, whole.view(3, -1)[head])
    paid = ts.contrast(one, *lists, source="blocks.1.attn.hook_pattern")  # all of it, both times
    torch.testing.assert_close(paid, torch.zeros(3), atol=1e-5, rtol=0)


@settings(max_examples=10)
@given(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3))
def test_contrast_of_a_list_with_itself_is_nothing(prompts):
    host = LinearHost([torch.eye(6)] * 4)
    both = [["1 2", "3"][len(p) % 2] for p in prompts]
    found = ts.contrast(host, both, both, source="blocks.1.hook_resid_post")
    assert float(found.norm()) == 0.0


def test_an_array_of_a_bank_goes_round(one):
    bank = bank_of(one)
    assert ts.Bank.from_vectors(one, np.asarray(bank), **ENDS).vectors.equal(bank.vectors)
