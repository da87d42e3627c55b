"""Scores: numbers per vector, against closed forms and plain TransformerLens."""

import dataclasses
import math
import sys

import pytest
import torch
from conftest import PROMPTS, bank_of
from linear import LinearHost
from state import snapshot

import tl_steer as ts
from tl_steer.banks.rank import SCORES, rank
from tl_steer.banks.scores import (
    Growth,
    Toward,
    next_token_kl,
    novelty,
    response_norm,
    single_token,
)
from tl_steer.errors import ForeignModelError, NotFiniteError, SettingError
from tl_steer.objectives.output_kl import divergence_from

LINEAR = {"source": "blocks.0.hook_resid_post", "target": "blocks.1.hook_resid_post"}


def linear(vectors):
    """A bank on a host whose second block is a known matrix."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(6, 6, generator=generator)
    host = LinearHost([torch.eye(6), matrix])
    bank = ts.elicit(host, ["1 2 3 4"], **LINEAR, n=len(vectors), radius=2.0, progress=False)
    return host, dataclasses.replace(bank, vectors=vectors), matrix


def test_on_a_linear_model_all_scores_have_closed_forms():
    vectors = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    host, bank, matrix = linear(vectors)
    tokens = ts.tokenize(host, ["1 2 3 4", "5 6 7"])
    effect = vectors @ matrix.T
    torch.testing.assert_close(response_norm(host, bank, tokens), effect.norm(dim=1))
    unit = effect / effect.norm(dim=1, keepdim=True)
    off = (unit @ unit.T).abs() - torch.eye(3)
    torch.testing.assert_close(novelty(host, bank, tokens), 1 - off.amax(dim=1), atol=1e-5, rtol=0)
    # |Δ|² grows with R² where the model is linear.
    torch.testing.assert_close(Growth()(host, bank, tokens), torch.full((3,), 2.0))
    # The host's "logits" are its residual stream, so a logit moves by what the vector does there.
    toward = Toward(2, 5)(host, bank, tokens)
    torch.testing.assert_close(toward, effect[:, 2] - effect[:, 5], atol=1e-5, rtol=0)


def test_the_exponent_of_a_known_power_law(monkeypatch):
    """A response that grows with the cube of the radius has exponent 6, since it is squared."""
    host, bank, _ = linear(torch.randn(3, 6))

    def cubic(segment, bank, edits):
        vectors = edits.vectors.detach()
        return vectors * vectors.norm(dim=1, keepdim=True) ** 2

    monkeypatch.setattr(sys.modules["tl_steer.banks.scores"], "_respond", cubic)
    found = Growth()(host, bank, ts.tokenize(host, ["1 2 3 4"]))
    torch.testing.assert_close(found, torch.full((3,), 6.0))


def test_twins_are_not_novel_and_a_lone_vector_is():
    vectors = torch.eye(6)[:2].repeat(2, 1) * torch.tensor([[1.0], [1.0], [-2.0], [1.0]])
    host, bank, _ = linear(vectors)
    tokens = ts.tokenize(host, ["1 2 3 4"])
    assert novelty(host, bank, tokens).tolist() == pytest.approx([0.0] * 4, abs=1e-5)
    assert novelty(host, bank[0], tokens).tolist() == [1.0]


def test_next_token_scores_equal_plain_forward_passes(llama):
    bank, tokens = bank_of(llama, 2), ts.tokenize(llama, PROMPTS)
    a, b = single_token(llama, "t9"), 7
    kl, toward = next_token_kl(llama, bank, tokens), Toward("t9", 7)(llama, bank, tokens)
    for v in range(2):
        nats, moved = [], []
        for prompt in PROMPTS:
            ids = ts.tokenize(llama, [prompt]).ids
            with torch.no_grad():
                steered = llama.run_with_hooks(ids, fwd_hooks=bank[v].hooks())[0, -1]
                clean = llama(ids)[0, -1]
            p, q = steered.log_softmax(-1), clean.log_softmax(-1)
            nats.append(float((p.exp() * (p - q)).sum()))
            moved.append(float(steered[a] - steered[b] - clean[a] + clean[b]))
        assert float(kl[v]) == pytest.approx(sum(nats) / 3, abs=1e-4)
        assert float(toward[v]) == pytest.approx(sum(moved) / 3, abs=1e-4)


@pytest.mark.parametrize("score", [*SCORES.values(), Toward(5, 9)])
def test_scores_follow_their_vectors_whatever_the_order(one, score):
    bank, tokens = bank_of(one), ts.tokenize(one, PROMPTS)
    order = [2, 0, 3, 1]
    with torch.no_grad(), ts.models.frozen(one):
        straight, mixed = score(one, bank, tokens), score(one, bank[order], tokens)
    torch.testing.assert_close(mixed, straight[order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_rank_keeps_the_score_and_orders_by_it(one, name):
    bank, before = bank_of(one), snapshot(one)
    ranked = rank(one, bank, PROMPTS, by=name)
    values = ranked.scores[name].tolist()
    assert values == sorted(values, reverse=True)
    assert name in repr(ranked)
    assert snapshot(one) == before


def test_a_score_of_ones_own_is_a_function(one):
    def first_component(model, bank, tokens):
        return bank.vectors[:, 0]

    ranked = rank(one, bank_of(one), PROMPTS, by=first_component)
    assert ranked.scores["first_component"].tolist() == ranked.vectors[:, 0].tolist()
    named = rank(one, bank_of(one), PROMPTS, by=first_component, name="mine")
    assert list(named.scores) == ["mine"]


def test_what_cannot_be_ranked_is_refused(one):
    bank = bank_of(one)
    with pytest.raises(SettingError, match="there are response_norm"):
        rank(one, bank, PROMPTS, by="beauty")
    with pytest.raises(SettingError, match="one number per vector"):
        rank(one, bank, PROMPTS, by=lambda model, bank, tokens: bank.vectors[0])
    with pytest.raises(NotFiniteError, match="vector 1 is NaN"):
        nan = torch.tensor([0.0, torch.nan, 0.0, 0.0])
        rank(one, bank, PROMPTS, by=lambda model, bank, tokens: nan)
    with pytest.raises(SettingError, match="two different"):
        Growth(factors=(1.0,))
    host = linear(torch.randn(1, 6))[0]
    with pytest.raises(ForeignModelError):
        rank(host, bank, ["1 2 3"], by="novelty")


def test_toward_takes_single_tokens_only(one):
    with pytest.raises(SettingError, match=r"'t5 t9' is 2 tokens.*t5.*t9"):
        single_token(one, "t5 t9")
    with pytest.raises(SettingError, match="outside the vocabulary"):
        single_token(one, 101)
    with pytest.raises(SettingError, match="two different"):
        Toward("t5", "t5")(one, bank_of(one), ts.tokenize(one, PROMPTS))
    with pytest.raises(SettingError, match="no tokenizer"):
        single_token(linear(torch.randn(1, 6))[0], "a")


def test_a_token_is_any_id_of_the_vocabulary_or_one_word(one):
    assert (single_token(one, 0), single_token(one, 100)) == (0, 100)
    assert single_token(one, "t9") == one.tokenizer.convert_tokens_to_ids("t9")
    with pytest.raises(SettingError, match="Token -1 is outside the vocabulary of 101"):
        single_token(one, -1)


@pytest.mark.parametrize(
    "factors", [(), (1.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, float("inf")), (1.0, float("nan"))]
)
def test_growth_needs_two_different_lengths(factors):
    with pytest.raises(SettingError, match="at least two different numbers above 0"):
        Growth(factors=factors)


def test_growth_is_the_slope_that_the_given_radii_have(monkeypatch):
    """On a response that bends, another stretch of radii has another slope."""
    host, bank, _ = linear(torch.eye(6)[:2] * 2)

    def bent(segment, bank, edits):
        vectors = edits.vectors.detach()
        size = vectors.norm(dim=1, keepdim=True)
        return vectors * (1 + size)

    monkeypatch.setattr(sys.modules["tl_steer.banks.scores"], "_respond", bent)
    tokens = ts.tokenize(host, ["1 2 3 4"])
    for factors in ((1.0, 3.0), (0.5, 2.0)):
        low, high = (2 * f for f in factors)
        rise = 2 * torch.tensor(high * (1 + high) / (low * (1 + low))).log()
        expected = rise / torch.tensor(high / low).log()
        found = Growth(factors=factors)(host, bank, tokens)
        torch.testing.assert_close(found, expected.expand(2))
    assert Growth().factors == (0.125, 0.25, 0.5, 1.0)


def test_scores_are_measured_where_the_bank_measured():
    """The mean is over the tokens that the bank's method looked at, prompt by prompt."""
    vectors = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    host, bank, matrix = linear(vectors)
    only = dataclasses.replace(
        bank,
        positions=ts.Positions(last=1),
        provenance=dataclasses.replace(bank.provenance, measured=ts.Positions(last=2, bos=False)),
    )
    # Added at the last token and measured at the last two: half of it is seen.
    found = response_norm(host, only, ts.tokenize(host, ["1 2 3 4", "5 6 7"]))
    torch.testing.assert_close(found, (vectors @ matrix.T).norm(dim=1) / 2)


def test_many_rows_are_scored_batch_by_batch(one):
    """More vectors times prompts than fit into one batch score as few do."""
    bank = bank_of(one, 4)
    prompts = [f"t5 t{i}" for i in range(20)]
    with torch.no_grad(), ts.models.frozen(one):
        whole = next_token_kl(one, bank, ts.tokenize(one, prompts))
        each = [next_token_kl(one, bank, ts.tokenize(one, [p])) for p in prompts]
    torch.testing.assert_close(whole, torch.stack(each).mean(dim=0), atol=1e-5, rtol=1e-4)


def test_divergence_is_never_below_zero_and_is_that_of_the_steered_from_the_unsteered():
    p, q = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert float(divergence_from(q, p)) == pytest.approx(expected)
    rows = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    assert float(divergence_from(rows, rows).min()) == 0.0
    assert float(divergence_from(rows, rows + 1e-7).min()) >= 0.0
    assert divergence_from(rows, rows.roll(1, 0)).shape == (50,)
