"""Flatness: against plain transformers and plain TransformerLens."""

import dataclasses
import sys

import conftest
import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, SOURCE, bank_of, make
from state import snapshot

import tl_steer as ts
from tl_steer.banks.flatness import Flatness
from tl_steer.errors import SettingError, ShapeError
from tl_steer.models.state import frozen
from tl_steer.perturbations.sphere import random_on_sphere

FILE = sys.modules["tl_steer.banks.flatness"]
FAST = Flatness(length=4)


def scored(model, bank, prompts=PROMPTS, score=FAST):
    with frozen(model), torch.no_grad():
        return score(model, bank, ts.tokenize(model, prompts))


def median_norm(model, prompts):
    """Of the clean stream at the source, BOS left out."""
    norms = []
    for prompt in prompts:
        seen = []

        def keep(activation, hook, seen=seen):
            seen.append(activation)

        with torch.no_grad():
            model.run_with_hooks(ts.tokenize(model, [prompt]).ids, fwd_hooks=[(SOURCE, keep)])
        norms.append(seen[0][0, 1:].norm(dim=1))
    return float(torch.cat(norms).median())


def pushes_of(model, score, prompts=PROMPTS):
    return random_on_sphere(
        score.pushes,
        conftest.D,
        radius=score.share * median_norm(model, prompts),
        generator=torch.Generator().manual_seed(score.seed),
    )


def restated(log_probs, vector, prompts, pushes, length):
    """`log_probs(ids, length of the prompt, what is added)` of the next token."""
    found = []
    for prompt in prompts:
        ids, kl = list(prompt), []
        for _ in range(length):
            p = log_probs(ids, len(prompt), vector)
            for push in pushes:
                q = log_probs(ids, len(prompt), vector + push)
                kl.append(float((p.exp() * (p - q)).sum()))
            ids.append(int(p.argmax()))
        found.append(sum(kl) / len(kl))
    return -sum(found) / len(found)


def ids_of(model, prompts=PROMPTS):
    return [row.tolist() for row in ts.tokenize(model, prompts).rows()]


@pytest.mark.skipif(not HAS_BRIDGE, reason="no bridge over plain transformers")
def test_it_is_what_plain_transformers_give_with_a_hook_of_ones_own():
    model, plain = make("bridge-llama"), conftest._hugging_face("llama").eval()
    bank = bank_of(model)

    def log_probs(ids, _, added):
        def add(module, args, out):
            return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

        handle = plain.model.layers[int(SOURCE.split(".")[1])].register_forward_hook(add)
        with torch.no_grad():
            logits = plain(torch.tensor([ids])).logits[0, -1]
        handle.remove()
        return logits.log_softmax(-1)

    expected = [
        restated(log_probs, v, ids_of(model), pushes_of(model, FAST), FAST.length)
        for v in bank.vectors
    ]
    assert scored(model, bank).tolist() == pytest.approx(expected, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize(
    "positions", [ts.Positions(), ts.Positions(last=2, generated=False)], ids=str
)
def test_it_pushes_where_the_bank_steers_in_every_class(llama, positions):
    bank, score = dataclasses.replace(bank_of(llama), positions=positions), Flatness(0.3, 1, 3, 7)
    before = snapshot(llama)

    def log_probs(ids, length, added):
        def add(activation, hook):
            out = activation + added
            if not positions.everywhere:
                out[:, : length - 2] = activation[:, : length - 2]
                out[:, length:] = activation[:, length:]
            return out

        with torch.no_grad():
            logits = llama.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(SOURCE, add)])
        return logits[0, -1].log_softmax(-1)

    found = scored(llama, bank, score=score)
    assert snapshot(llama) == before
    expected = [
        restated(log_probs, v, ids_of(llama), pushes_of(llama, score), 3) for v in bank.vectors
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_pushes_are_fixed_by_their_seed_and_longer_ones_move_more(one):
    bank = bank_of(one)
    assert torch.equal(scored(one, bank), scored(one, bank))
    assert not torch.equal(scored(one, bank), scored(one, bank, score=Flatness(length=4, seed=1)))
    far = scored(one, bank, score=Flatness(length=4, share=0.6))
    assert bool((far < scored(one, bank)).all())
    assert bool((scored(one, bank) < 0).all())


def test_what_stands_behind_the_end_of_a_text_is_not_looked_at(one, monkeypatch):
    """Rows that have ended go on being filled, and nothing was said there."""
    bank = bank_of(one)
    short = scored(one, bank, score=Flatness(length=2))
    monkeypatch.setattr(FILE, "through_end", lambda model, new: new[:2])
    torch.testing.assert_close(scored(one, bank, score=Flatness(length=6)), short)


def test_it_is_a_score_by_name(one):
    ranked = ts.rank(one, bank_of(one), PROMPTS, by="flatness")
    assert ranked.scores["flatness"].tolist() == sorted(ranked.scores["flatness"], reverse=True)
    assert "flatness" in repr(ranked)


@pytest.mark.parametrize(
    "knobs", [{"share": 0.0}, {"share": float("nan")}, {"pushes": 0}, {"length": 0}]
)
def test_knobs_that_mean_nothing_are_refused(knobs):
    with pytest.raises(SettingError, match="at least one push"):
        Flatness(**knobs)
    with pytest.raises(ShapeError):
        Flatness(seed="a")
