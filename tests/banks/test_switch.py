"""The switch: against plain transformers, and on texts whose every number is known."""

import dataclasses
import itertools
import math

import conftest
import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, SOURCE, adapter_bank, bank_of, make
from linear import LinearHost
from state import snapshot

import tl_steer as ts
from tl_steer.banks.switch import Switch
from tl_steer.errors import ModelError, NotFiniteError, PromptError, SettingError
from tl_steer.models.state import frozen

# Random weights are surprised by everything: with little drag there is something to compare.
MILD = Switch(length=6, drag=0.05, cap=4.0)
# They begin and end alike, with a template around the question.
FRAMED = ["t1 t9 t30 t7 t2 t3", "t1 t8 t2 t3", "t1 t70 t44 t12 t13 t14 t2 t3"]


def scored(model, bank, prompts, score=MILD):
    with frozen(model), torch.no_grad():
        return score(model, bank, ts.tokenize(model, prompts))


# --- the definition, restated


def text_of(log_probs, prompt, n):
    """A greedy continuation without any cache, and the log-probability of each token."""
    ids, sure = list(prompt), []
    while len(sure) < n:
        p = log_probs(ids)
        ids.append(int(p.argmax()))
        sure.append(float(p.max()))
        if ids[-1] == 1:  # </s>
            break
    return ids[len(prompt) :], sure


def nats(log_probs, start, text):
    return [-float(log_probs([*start, *text[:k]])[text[k]]) for k in range(len(text))]


def loops(y, k, head):
    """Does token k belong to a stretch of at most `head` that says the one before once more?"""
    return any(
        end - size <= k < end and y[end - size : end] == y[end - 2 * size : end - size]
        for size in range(1, head + 1)
        for end in range(2 * size, len(y) + 1)
    )


def restated(steered, plain, prompts, frame, score):
    """The score of one vector, from two functions that give log-probabilities of the next token."""
    h, told = score.head, []
    for x in prompts:
        y, sure = text_of(steered, x, score.length)
        s = nats(plain, x, y)
        pairs = list(itertools.pairwise(x))
        own = [
            k
            for k in range(min(h, len(y)))
            if tuple(y[k : k + 2]) not in pairs and (k == 0 or tuple(y[k - 1 : k + 1]) not in pairs)
        ]
        before = [sum(s[k] for k in own)]
        if frame is not None:
            unasked = nats(plain, frame, y)
            before.append(sum(unasked[k] for k in own))
        gain = min(min(before) + sum(sure[k] for k in own), score.cap)
        most = score.cap / score.drag
        behind = [max(s[k], most) if loops(y, k, h) else s[k] for k in range(h, len(y))]
        told.append(
            (y[:h], max(0, gain - score.drag * (sum(behind) / len(behind) if behind else most)))
        )
    worth = [
        alone
        * (
            1
            + score.transfer
            * sum(y == z for j, (z, _) in enumerate(told) if j != i)
            / (len(told) - 1)
        )
        for i, (y, alone) in enumerate(told)
    ]
    return sum(worth) / len(worth)


def ids_of(model, prompts):
    return [row.tolist() for row in ts.tokenize(model, prompts).rows()]


def expected_of(steered, plain, model, prompts, n):
    """`steered(v)` and `plain` give the log-probabilities of the next token."""
    # What these prompts share: a template, or BOS alone.
    frame = ids_of(model, ["t1 t2 t3"])[0] if prompts is FRAMED else [0]
    rows = ids_of(model, prompts)
    values = [restated(steered(v), plain, rows, frame, MILD) for v in range(n)]
    assert sum(value > 0.05 for value in values) >= 3, "nothing to compare"
    return pytest.approx(values, abs=2e-3)


@pytest.mark.skipif(not HAS_BRIDGE, reason="no bridge over plain transformers")
@pytest.mark.parametrize("prompts", [FRAMED, PROMPTS], ids=["template", "plain"])
def test_it_is_what_plain_transformers_give_with_a_hook_of_ones_own(prompts):
    model, plain = make("bridge-llama"), conftest._hugging_face("llama").eval()
    bank = ts.random_bank(bank_of(model), n=12)

    def under(vector):
        def log_probs(ids):
            def add(module, args, out):
                return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

            layer = plain.model.layers[int(SOURCE.split(".")[1])]
            handle = layer.register_forward_hook(add)
            with torch.no_grad():
                logits = plain(torch.tensor([ids])).logits[0, -1]
            handle.remove()
            return logits.log_softmax(-1)

        return log_probs

    found = scored(model, bank, prompts)
    steered = [under(vector) for vector in bank.vectors]
    bare = under(torch.zeros(conftest.D))
    assert found.tolist() == expected_of(steered.__getitem__, bare, model, prompts, len(bank))


@pytest.mark.parametrize(
    "positions", [ts.Positions(), ts.Positions(last=2, generated=False)], ids=str
)
def test_it_is_what_plain_transformer_lens_gives_in_every_class(llama, positions):
    bank = ts.random_bank(bank_of(llama), n=12)
    bank = dataclasses.replace(bank, positions=positions)
    before, prompts = snapshot(llama), ids_of(llama, FRAMED)

    def under(v):
        def log_probs(ids):
            run = torch.tensor([ids])
            # The prompt that this text goes on from.
            length = max(len(x) for x in prompts if ids[: len(x)] == x) if v is not None else 0

            def add(activation, hook):
                out = activation + bank.vectors[v]
                if not positions.everywhere:
                    out[:, : length - 2], out[:, length:] = (
                        activation[:, : length - 2],
                        activation[:, length:],
                    )
                return out

            hooks = [] if v is None else [(SOURCE, add)]
            with torch.no_grad():
                return llama.run_with_hooks(run, fwd_hooks=hooks)[0, -1].log_softmax(-1)

        return log_probs

    found = scored(llama, bank, FRAMED)
    assert snapshot(llama) == before
    assert found.tolist() == expected_of(under, under(None), llama, FRAMED, len(bank))


@pytest.mark.parametrize("kind", ["vectors", "adapters"])
def test_a_vector_alone_gives_what_it_gives_among_others(one, kind):
    bank = bank_of(one)
    if kind == "adapters":
        bank = adapter_bank(one, n=4, radius=3.0)
    bank = ts.random_bank(bank, n=8)
    for score in (MILD, ts.banks.Flatness(length=3)):
        together = scored(one, bank, FRAMED, score)
        alone = torch.cat([scored(one, bank[v], FRAMED, score) for v in range(len(bank))])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        assert float(together.std()) > 1e-4


# --- refusals


def test_nan_is_heard(one):
    bank = bank_of(one)
    broken = bank.vectors.clone()
    broken[2] = torch.nan
    for by in ("switch", "flatness"):
        with pytest.raises(NotFiniteError, match="Row 2 of the bank's vectors is not finite"):
            ts.rank(one, dataclasses.replace(bank, vectors=broken), PROMPTS, by=by)


@pytest.mark.parametrize(
    "knobs",
    [
        {"head": 0},
        {"head": 8},
        {"length": 3},
        {"cap": math.inf},
        {"drag": -1.0},
        {"transfer": math.nan},
    ],
)
def test_knobs_that_mean_nothing_are_refused(knobs):
    with pytest.raises(SettingError, match="head of at least 1"):
        Switch(**knobs)


def test_models_without_text_and_prompts_without_room_are_refused(one):
    host = LinearHost([torch.eye(6), torch.eye(6)])
    ends = {"source": "blocks.0.hook_resid_post", "target": "blocks.1.hook_resid_post"}
    bank = ts.elicit(host, ["1 2 3"], **ends, n=1, radius=1.0, progress=False)
    long = " ".join(f"t{i % 40}" for i in range(conftest.CONTEXT - 4))
    for by in ("switch", "flatness"):
        with pytest.raises(ModelError, match=r"no generate\(\)"):
            ts.rank(host, bank, ["1 2"], by=by)
        with pytest.raises(PromptError, match="length=8"):
            ts.rank(one, bank_of(one), [long], by=by)
