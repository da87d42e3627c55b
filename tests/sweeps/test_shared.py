"""Prompts that begin alike are swept together, and nothing is run twice."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import HAS_BRIDGE, TARGET, bank_of, bridge

import tl_steer as ts
from tl_steer.hook_points.positions import EVERYWHERE
from tl_steer.models import stem

pytestmark = pytest.mark.skipif(not HAS_BRIDGE, reason="these blocks take no mask of one's own")
START = "t5 t9 t30 t7 t61 t8 t9 t10 t11 t12"
TAILS = ["t1 t44 t2 t3", "t1 t45 t3", "t70 t71 t2 t3 t4", "t1 t44 t9 t2", "t80 t1 t3", "t1 t45 t8"]
PROMPTS = [f"{START} {tail}" for tail in TAILS]
FAST = {"progress": False, "part": 3}
NAMES = ("kl", "entropy", "divergence", "alignment")


def values(model, bank, prompts, **knobs):
    found = ts.sweep(model, bank, prompts, metrics=NAMES, **({"n_random": 0} | FAST | knobs))
    return np.stack([found.values(name) for name in NAMES])


def by_hand(model, bank, vector, prompt, positions):
    """Every metric for one vector on one prompt, by the whole model."""

    def run(edit=None):
        tokens = ts.tokenize(model, [prompt])
        with torch.no_grad(), ts.capturing(model, [TARGET]) as seen:
            if edit is None:
                logits = model(tokens.ids)
            else:
                with ts.perturbing(model, edit, tokens=tokens, positions=positions):
                    logits = model(tokens.ids)
            return logits[0, -1].log_softmax(-1), seen[TARGET][0, -1]

    (p, there), (q, here) = run(bank[vector]), run()
    moved, mean = there - here, bank.responses[vector].to(there)

    def entropy(x):
        return float(-(x.exp() * x).sum())

    return [
        float((p.exp() * (p - q)).sum()),
        entropy(p) - entropy(q),
        float(moved.norm()),
        float(moved @ mean / moved.norm() / mean.norm()),
    ]


@pytest.mark.parametrize(
    "positions", [EVERYWHERE, ts.Positions(last=1), ts.Positions(weights=(0, 0.5, 2))], ids=str
)
def test_prompts_that_begin_alike_give_what_each_gives_alone(positions):
    model = bridge("neox", dtype=torch.float64)
    bank = bank_of(model)
    prompts = [PROMPTS[0], START, *PROMPTS[1:]]  # one is what the others begin with
    found = values(model, bank, prompts, positions=positions)
    for v in range(len(bank)):
        for p, prompt in enumerate(prompts):
            expected = by_hand(model, bank, v, prompt, positions)
            np.testing.assert_allclose(found[:, v, p], expected, rtol=0, atol=1e-6)


@contextmanager
def counting(model, layer):
    """Tokens that a block runs, and positions that are unembedded."""
    counts = {"block": 0, "unembed": 0}

    def counted(name):
        def count(_module, args, kwargs):
            stream = args[0] if args else kwargs["hidden_states"]
            counts[name] += stream.shape[:-1].numel()

        return count

    hooks = [
        module.register_forward_pre_hook(counted(name), with_kwargs=True)
        for name, module in (("block", model.blocks[layer]), ("unembed", model.unembed))
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def counted(model, bank, n_random, **knobs):
    with counting(model, 3) as counts:
        ts.sweep(model, bank, PROMPTS, metrics=NAMES, n_random=n_random, **(FAST | knobs))
    return counts


def nodes(rows):
    """Tokens of prompts, each behind its own past once."""
    return len({tuple(row[:k]) for row in rows for k in range(1, len(row) + 1)})


def test_no_token_is_run_twice_under_an_edit_and_one_position_a_prompt_is_unembedded():
    model = bridge("llama")
    bank = bank_of(model)
    few, many = (counted(model, bank, n) for n in (4, 12))
    rows = [row.tolist() for row in ts.tokenize(model, PROMPTS).rows()]
    common = len(rows[0]) - len(TAILS[0].split())
    parts = nodes(rows[:3]) - common, nodes(rows[3:]) - common
    assert (many["block"] - few["block"]) / 8 == common + sum(parts)
    assert (many["unembed"] - few["unembed"]) / 8 == len(PROMPTS)


def test_what_a_part_costs_beside_its_edits_does_not_grow():
    """The longest and the shortest prompt apart (twice, as calls are learned), the row, the row
    under no edit; twice the row to check the first."""
    model = bridge("llama")
    bank = bank_of(model)
    counts = counted(model, bank, 0)
    edits = len(bank) + 1
    rows = [row.tolist() for row in ts.tokenize(model, PROMPTS).rows()]
    common = len(rows[0]) - len(TAILS[0].split())
    first, second = nodes(rows[:3]), nodes(rows[3:])
    own = edits * (common + first - common + second - common)
    ends = 2 * max(map(len, rows[:3])) + 2 * max(map(len, rows[3:]))
    learned = min(map(len, rows[:3]))
    setup = ends + learned + 3 * first + second + (first + second - 2 * common)
    assert counts["block"] - own <= setup


def test_a_beginning_that_is_too_large_to_be_kept_is_run_for_every_part(monkeypatch):
    model = bridge("llama")
    bank = bank_of(model)
    runs = []
    real = stem.Rest.begin
    monkeypatch.setattr(stem.Rest, "begin", lambda *args: runs.append(1) or real(*args))
    kept = values(model, bank, PROMPTS)
    once = len(runs)
    again = values(model, bank, PROMPTS, budget_gib=1e-5)
    assert len(runs) - once > once == 1
    np.testing.assert_allclose(again, kept, atol=1e-5)


def test_another_beginning_takes_the_place_of_the_last():
    model = bridge("llama")
    bank = bank_of(model)
    others = [f"t60 t61 t62 t63 t64 t65 t66 t67 t68 t69 {tail}" for tail in TAILS[:3]]
    together = values(model, bank, [*PROMPTS[:3], *others, *PROMPTS[3:]])
    np.testing.assert_allclose(together[:, :, 3:6], values(model, bank, others), atol=1e-5)
    apart = values(model, bank, PROMPTS)
    np.testing.assert_allclose(together[:, :, 6:], apart[:, :, 3:], atol=1e-5)


def test_a_beginning_is_kept_for_the_tokens_that_are_steered_in_it():
    """The last six tokens of short prompts are three of their beginning; of longer ones, one."""
    model = bridge("llama")
    bank = bank_of(model)
    tails = ["t1 t2 t3", "t4 t2 t3", "t5 t6 t3", *(f"t{i} t7 t8 t2 t3" for i in (20, 21, 22))]
    prompts, positions = [f"{START} {tail}" for tail in tails], ts.Positions(last=6)
    found = values(model, bank, prompts, positions=positions)
    for p in (0, 5):
        expected = by_hand(model, bank, 1, prompts[p], positions)
        np.testing.assert_allclose(found[:, 1, p], expected, atol=1e-5)
