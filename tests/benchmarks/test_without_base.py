"""Objectives without a base are their equations, on models that are run as anybody would."""

import pytest
import torch
from conftest import LLAMAS, PROMPTS, SOURCE, make
from cpe import Cpe
from plateau import Alike, Continued, Plateau
from soft_tokens import Slot, value_and_lead, within
from torch.nn.functional import normalize
from two_models import edits_of, log_probabilities

import tl_steer as ts
from tl_steer.elicitation.start import Adapters
from tl_steer.methods import Ascent
from tl_steer.models.state import frozen
from tl_steer.perturbations.sphere import random_on_sphere

LAST = "blocks.3.hook_resid_post"
BRIDGES = [name for name in LLAMAS if name.startswith("bridge")]
TEXTS = ("t5 t9 t30", "t44 t12 t13 t14")


def climb_of(model, goal):
    with frozen(model):
        segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, LAST)
        return goal.on(segment)


def pushes_of(goal, edits, step):
    generator = torch.Generator().manual_seed(step)
    radius = goal.share * edits.radius
    return random_on_sphere(goal.pushes, edits.site.width, radius=radius, generator=generator)


def shifted(edits, v, push):
    return ts.Additive(edits.site, edits.vectors.detach()[v : v + 1] + push, radius=edits.radius)


def last_of(model, ids, edit=None):
    hooks = [] if edit is None else edit.hooks()
    seen = {}
    with frozen(model), torch.no_grad():
        model.run_with_hooks(
            ids[None],
            fwd_hooks=[*hooks, (LAST, lambda x, hook: seen.update(x=x[0, -1]))],
            return_type=None,
        )
    return seen["x"]


def test_a_plateau_is_movement_less_what_pushes_change(one):
    goal, edits = Plateau(weight=2.0), edits_of(one, n=2)
    with frozen(one):
        found = climb_of(one, goal)(edits, step=5).value
    for v in range(len(edits)):
        value = 0.0
        for ids in ts.tokenize(one, PROMPTS).rows():
            clean, there = last_of(one, ids), last_of(one, ids, edits.select([v]))
            value += float((there - clean).square().sum())
            for push in pushes_of(goal, edits, 5):
                away = last_of(one, ids, shifted(edits, v, push)) - there
                value -= goal.weight / goal.pushes * float(away.square().sum())
        assert float(found[v]) == pytest.approx(value, rel=1e-3)


def test_along_a_continuation_it_is_the_gain_less_the_divergence_under_pushes(one):
    goal, edits = Continued(weight=2.0, along=3, bound=0.5), edits_of(one, n=2)
    with frozen(one):
        found = climb_of(one, goal)(edits, step=5).value
    (push,) = pushes_of(goal, edits, 5)
    for v in range(len(edits)):
        terms = []
        for ids in ts.tokenize(one, PROMPTS).rows():
            for _ in range(goal.along):
                p, q, clean = (
                    log_probabilities(one, ids, edit)[-1].detach()
                    for edit in (edits.select([v]), shifted(edits, v, push), None)
                )
                gain = (p.exp() * (p - clean).clamp(max=0.5)).sum()
                terms.append(float(gain - goal.weight * (p.exp() * (p - q)).sum()))
                ids = torch.cat([ids, p.argmax()[None]])
        assert float(found[v]) == pytest.approx(sum(terms) / len(terms), abs=1e-4)


def test_alike_is_the_gain_and_the_confidence_in_every_prompt_s_answer(one):
    goal, edits = Alike(weight=2.0, along=3, bound=0.5), edits_of(one, n=2)
    with frozen(one):
        found = climb_of(one, goal)(edits).value
    prompts = ts.tokenize(one, PROMPTS).rows()
    for v in range(len(edits)):
        edit, gains, said = edits.select([v]), [], []
        for ids in prompts:
            grown = ids
            for _ in range(goal.along):
                p, clean = (log_probabilities(one, grown, e)[-1].detach() for e in (edit, None))
                gains.append(float((p.exp() * (p - clean).clamp(max=0.5)).sum()))
                grown = torch.cat([grown, p.argmax()[None]])
            said.append(grown[len(ids) :])
        sure = [
            float(log_probabilities(one, torch.cat([ids, y[:k]]), edit)[-1][y[k]].detach())
            for ids in prompts for y in said for k in range(goal.along)
        ]  # fmt: skip
        value = sum(gains) / len(gains) + goal.weight * sum(sure) / len(sure)
        assert float(found[v]) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("goal", [Plateau(), Continued(along=2), Alike(along=2)])
def test_all_are_climbed_by_elicit(one, goal):
    bank = ts.elicit(
        one, PROMPTS, source=SOURCE, target=LAST, n=2, radius=3.0, divergence=goal,
        method=Ascent(steps=2), progress=False,
    )  # fmt: skip
    assert bank.objective.isfinite().all()


@pytest.mark.parametrize("name", BRIDGES)
def test_soft_tokens_are_worth_what_the_equation_says(name):
    model = make(name)
    slot = Slot(model, TEXTS, along=3, apart=("t5", "t44"))
    soft = torch.randn(2, 2, 24, generator=torch.Generator().manual_seed(1))
    with frozen(model), torch.no_grad():
        found, _ = value_and_lead(slot, soft, bound=0.5, sure=2.0)
        for v in range(2):
            assert float(found[v]) == pytest.approx(worth(model, soft[v], 3, 0.5, 2.0), abs=1e-4)


def worth(model, soft, along, bound, sure):
    """Without a cache, one prompt and one token at a time."""
    net, rows = model.original_model, ts.tokenize(model, [ts.chat(t) for t in TEXTS]).rows()
    embed = net.get_input_embeddings()

    def told(ids, length):
        known = embed(ids)
        known = known if length == 0 else torch.cat([known[:2], soft, known[2:]])  # <s> t1 | text
        return net(inputs_embeds=known[None]).logits[0, -1].log_softmax(-1)

    gains, said = [], []
    for ids in rows:
        grown = ids
        for _ in range(along):
            p, clean = told(grown, 1), told(grown, 0)
            gains.append((p.exp() * (p - clean).clamp(max=bound)).sum())
            grown = torch.cat([grown, p.argmax()[None]])
        said.append(grown[len(ids) :])
    own = [
        told(torch.cat([ids, y[:k]]), 1)[y[k]] for ids in rows for y in said for k in range(along)
    ]
    return float(sum(gains) / len(gains) + sure * sum(own) / len(own))


def test_soft_tokens_stay_within_their_bound():
    rows = torch.tensor([[[3.0, 4.0], [0.3, 0.4]]])
    assert within(rows, 1.0).norm(dim=-1).tolist()[0] == pytest.approx([1.0, 0.5])


def test_cpe_keeps_every_factor_of_every_layer_at_norm_one(one):
    bank = ts.elicit(
        one, PROMPTS, source="blocks.1.hook_attn_out", target=LAST, n=3, radius=1.0,
        perturbation=Adapters(rank=1, layers=(1, 2)), method=Cpe(steps=2),
        measured=ts.Positions(last=1, bos=False), progress=False,
    )  # fmt: skip
    for values in bank.perturbation().parameters():
        torch.testing.assert_close(normalize(values, dim=-1), values)
        assert values.shape[:3] == (3, 2, 1)


def test_cpe_keeps_whole_factors_apart_in_rounds_before_each_part_gets_norm_one(one):
    segment = ts.Segment(one, ts.tokenize(one, PROMPTS), "blocks.1.hook_attn_out", LAST)
    here = Adapters(rank=1, layers=(1, 2))(segment, 3, 1.0, 0, ts.Positions())
    generator = torch.Generator().manual_seed(3)
    gradients = tuple(torch.randn(p.shape, generator=generator) for p in here.parameters())
    size = torch.cat([g.flatten(1) for g in gradients], dim=1).norm(dim=1)
    w = [torch.cat([g[k].flatten() for g in gradients]) / size[k] for k in range(3)]
    for _ in range(4):
        away = []
        for i in range(3):
            pull = {j: float(size[j] * (w[i] @ w[j] / 0.5).exp()) for j in range(3) if j != i}
            taken = sum(pull[j] / sum(pull.values()) * w[j] for j in pull)
            away.append(normalize(w[i] - taken, dim=0))
        w = away
    found = Cpe(rounds=4, temperature=0.5)._next(here, gradients)
    place = 0
    for parameter in found.parameters():
        one_of = parameter[0].numel()
        expected = torch.stack([row[place : place + one_of].view_as(parameter[0]) for row in w])
        torch.testing.assert_close(parameter.detach(), normalize(expected, dim=-1))
        place += one_of


@pytest.mark.parametrize("name", BRIDGES)
def test_soft_tokens_that_are_words_make_the_model_say_what_the_words_do(name):
    model = make(name)
    slot = Slot(model, TEXTS, along=5, apart=("t5", "t44"))
    soft = slot.embeddings.weight.detach()[[23, 24]][None]  # t20 t21
    for x, text in enumerate(TEXTS):
        ids = ts.tokenize(model, [ts.chat(f"t20 t21 {text}")]).ids
        with frozen(model), torch.no_grad():
            told = slot.speak(*slot.read(soft, x))
            for _ in range(5):
                ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert told.tolist() == ids[:, -5:].tolist()
