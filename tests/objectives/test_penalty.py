"""Composed divergences equal their parts; penalties are zero where nothing moves."""

import math

import pytest
import torch
from conftest import KINDS, PROMPTS, SOURCE, TARGET
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import LinearHost

import tl_steer as ts
from tl_steer.banks.provenance import describe
from tl_steer.errors import ModelError, SettingError, ShapeError
from tl_steer.models.hooks import perturbing
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Cosine, Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.output_kl import OutputKL
from tl_steer.objectives.penalty import Differential, OffManifold, Population, Weighted

VEC, BATCH, POS, D = 3, 4, 5, 6
LONG = [PROMPTS[0], PROMPTS[2]]
REFERENCE = torch.randn(50, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
PENALTIES = [
    Weighted(((2.0, Displacement()), (-0.5, Cosine()))),
    Differential(Displacement(), still=2, weight=0.3),
    Population(),
    OffManifold(REFERENCE),
]


def activations(seed):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(BATCH, POS, D, generator=generator, dtype=torch.float64)
    moved = torch.randn(VEC, BATCH, POS, D, generator=generator, dtype=torch.float64)
    measured = torch.rand(BATCH, POS, generator=generator) < 0.6
    measured[:, -1] = True
    return clean + moved, clean, measured


seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: type(p).__name__)
def test_nothing_moved_gives_zero_with_a_zero_gradient(penalty):
    _, clean, measured = activations(1)
    steered = clean.expand(VEC, -1, -1, -1).clone().requires_grad_(True)
    value = penalty(steered, clean, measured)
    (gradient,) = torch.autograd.grad(value.sum(), steered)
    torch.testing.assert_close(value, torch.zeros(VEC, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: type(p).__name__)
def test_gradient_equals_finite_differences(penalty):
    steered, clean, measured = activations(3)
    steered.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: penalty(s, clean, measured), (steered,))


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: type(p).__name__)
def test_unmeasured_tokens_change_nothing(penalty):
    steered, clean, measured = activations(2)
    noisy = torch.where(measured[None, :, :, None], steered, 1e6)
    torch.testing.assert_close(penalty(noisy, clean, measured), penalty(steered, clean, measured))


@settings(max_examples=20, deadline=None)
@given(seeds, st.permutations(range(BATCH)), st.sampled_from([0, 2, 3]))
def test_the_order_of_prompts_does_not_matter(seed, order, which):
    steered, clean, measured = activations(seed)
    before = PENALTIES[which](steered, clean, measured)
    after = PENALTIES[which](steered[:, order], clean[order], measured[order])
    torch.testing.assert_close(after, before)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_weighted_is_the_sum_of_its_parts(seed, a, b):
    steered, clean, measured = activations(seed)
    whole = Weighted(((a, Displacement(p=4)), (b, Cosine())))(steered, clean, measured)
    first, second = (f(steered, clean, measured) for f in (Displacement(p=4), Cosine()))
    torch.testing.assert_close(whole, a * first + b * second)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, BATCH - 1), st.floats(0, 3))
def test_differential_is_the_two_sets_computed_apart(seed, still, weight):
    steered, clean, measured = activations(seed)
    cut = BATCH - still
    moving = Displacement()(steered[:, :cut], clean[:cut], measured[:cut])
    kept = Displacement()(steered[:, cut:], clean[cut:], measured[cut:])
    whole = Differential(Displacement(), still=still, weight=weight)(steered, clean, measured)
    torch.testing.assert_close(whole, moving - weight * kept)


def test_differential_on_a_model_equals_two_runs(llama):
    divergence = Differential(Displacement(), still=1, weight=0.7)
    measured = ts.Positions(last=2, bos=False)

    def objective(prompts, divergence):
        tokens = ts.tokenize(llama, prompts)
        segment = ts.Segment(llama, tokens, SOURCE, TARGET)
        generator = torch.Generator().manual_seed(0)
        edit = ts.Additive.random(segment.source, 3, radius=2.0, generator=generator)
        return Objective(segment, divergence, tokens.select(measured))(edit)

    with frozen(llama):
        whole = objective(LONG, divergence)
        moving, still = (objective([prompt], Displacement()) for prompt in LONG)
    torch.testing.assert_close(whole.value, moving.value - 0.7 * still.value, rtol=1e-4, atol=1e-4)
    expected = moving.gradients[0] - 0.7 * still.gradients[0]
    torch.testing.assert_close(whole.gradients[0], expected, rtol=1e-3, atol=1e-4)


def test_differential_finds_what_leaves_the_still_prompt_alone(one):
    def ratio(divergence):
        bank = ts.elicit(
            one,
            LONG,
            source=SOURCE,
            target=TARGET,
            n=4,
            radius=2.0,
            divergence=divergence,
            measured=ts.Positions(last=1, bos=False),
            method=ts.methods.Power(steps=8, spread=0),
            progress=False,
        )
        tokens = ts.tokenize(one, LONG)
        segment = ts.Segment(one, tokens, SOURCE, TARGET)
        last = tokens.select(ts.Positions(last=1))
        with torch.no_grad():
            moved = (segment.run(bank.perturbation()) - segment.clean).norm(dim=-1)[:, last]
        return float((moved[:, 0] / moved[:, 1]).mean())

    assert ratio(Differential(Displacement(), still=1, weight=2.0)) > ratio(Displacement())


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_population_is_the_mean_cosine_of_pairs_whatever_the_length(seed, scale):
    steered, clean, measured = activations(seed)
    value = Population()(steered, clean, measured)
    for v in range(VEC):
        delta = [(steered[v, i] - clean[i])[measured[i]].mean(dim=0) for i in range(BATCH)]
        pairs = [
            float(torch.cosine_similarity(delta[i], delta[j], dim=0))
            for i in range(BATCH)
            for j in range(i)
        ]
        assert float(value[v]) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)
    torch.testing.assert_close(
        Population()(clean + scale * (steered - clean), clean, measured), value
    )


def test_population_runs_from_minus_one_to_one():
    clean = torch.zeros(2, 1, D)
    ray = torch.randn(D, generator=torch.Generator().manual_seed(0))
    steered = torch.stack([torch.stack([ray, 2 * ray]), torch.stack([ray, -ray])])[:, :, None]
    values = Population()(steered, clean, torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(values, torch.tensor([1.0, -1.0]))


def test_population_makes_responses_agree(one):
    def agreement(divergence):
        tokens = ts.tokenize(one, LONG)
        with frozen(one):
            segment = ts.Segment(one, tokens, SOURCE, TARGET)
            generator = torch.Generator().manual_seed(0)
            start = ts.Additive.random(segment.source, 4, radius=3.0, generator=generator)
            chosen = tokens.select(ts.Positions(last=2, bos=False))
            *_, last = ts.methods.Power(steps=10, spread=0)(
                Objective(segment, divergence, chosen), start
            )
            found = Objective(segment, Population(), chosen)(last.perturbation, gradient=False)
        return float(found.value.mean())

    rewarded = Weighted(((0.1, Displacement()), (20.0, Population())))
    assert agreement(rewarded) > agreement(Displacement())


def test_off_manifold_is_a_mahalanobis_distance():
    penalty = OffManifold(REFERENCE, shrinkage=0.2)
    covariance = torch.cov(REFERENCE.T, correction=0)
    shrunk = 0.8 * covariance + 0.2 * covariance.trace() / D * torch.eye(D, dtype=torch.float64)
    z = torch.randn(7, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    off = z - REFERENCE.mean(dim=0)
    expected = (off @ torch.linalg.inv(shrunk) * off).sum(dim=1) / D
    torch.testing.assert_close(penalty.distance(z), expected)
    assert float(penalty.distance(REFERENCE).mean()) == pytest.approx(1, abs=0.3)


def test_growth_and_leaving_the_subspace_cost_and_coming_closer_is_free():
    flat = REFERENCE.clone()
    flat[:, 3:] = 0  # clean activations vary in three directions only
    penalty = OffManifold(flat)
    clean = flat[:2, None]
    measured = torch.ones(2, 1, dtype=torch.bool)
    inside, outside = torch.zeros(D), torch.zeros(D)
    inside[0], outside[5] = 1.0, 1.0
    centre = flat.mean(dim=0)
    moves = [clean * 3, clean + inside, clean + outside, clean + (centre - clean) / 2]
    longer, within, off, closer = penalty(torch.stack(moves), clean, measured).tolist()
    assert closer == 0 < longer
    assert off > 5 * within


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_off_manifold_does_not_depend_on_units_or_axes(seed, scale):
    steered, clean, measured = activations(seed)
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
    before = OffManifold(REFERENCE)(steered, clean, measured)
    there = [scale * x @ turn for x in (REFERENCE, steered, clean)]
    torch.testing.assert_close(OffManifold(there[0])(*there[1:], measured), before)


def everywhere(model):
    """Last block, every real token."""
    tokens = ts.tokenize(model, PROMPTS)
    return tokens, ts.Segment(model, tokens, SOURCE, TARGET)


def test_output_kl_is_that_of_the_models_own_logits(model):
    tokens, segment = everywhere(model)
    generator = torch.Generator().manual_seed(0)
    edit = ts.Additive.random(segment.source, 2, radius=3.0, generator=generator)
    with torch.no_grad():
        got = OutputKL(model)(segment.run(edit), segment.clean, tokens.mask)
        for row in range(2):
            expected = 0.0
            for ids in tokens.rows():
                before = model(ids[None]).double().log_softmax(dim=-1)
                with perturbing(model, edit.select([row])):
                    after = model(ids[None]).double().log_softmax(dim=-1)
                expected += float((before.exp() * (before - after)).sum())
            assert float(got[row]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
            assert expected > 0.1


def test_output_kl_of_nothing_is_zero(model):
    tokens, segment = everywhere(model)
    steered = segment.clean.expand(2, -1, -1, -1)
    with torch.no_grad():
        value = OutputKL(model)(steered, segment.clean, tokens.mask)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n in KINDS if n in ("bridge-gpt2", "hooked-gpt2")])
def test_the_gradient_of_output_kl_equals_finite_differences(name):
    model = KINDS[name](dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 1, 24, generator=generator, dtype=torch.float64)
    steered = torch.randn(2, 1, 1, 24, generator=generator, dtype=torch.float64).requires_grad_()
    with frozen(model):
        kl, measured = OutputKL(model), torch.ones(1, 1, dtype=torch.bool)
        assert torch.autograd.gradcheck(lambda s: kl(s, clean, measured), (steered,))


def test_maximising_output_kl_moves_the_output_more_than_displacement_does(one):
    def kl_of(divergence):
        tokens = ts.tokenize(one, LONG)
        with frozen(one):
            segment = ts.Segment(one, tokens, SOURCE, TARGET)
            generator = torch.Generator().manual_seed(0)
            start = ts.Additive.random(segment.source, 4, radius=2.0, generator=generator)
            last = tokens.select(ts.Positions(last=1))
            *_, end = ts.methods.Power(steps=10, spread=0)(
                Objective(segment, divergence, last), start
            )
            return float(
                Objective(segment, OutputKL(one), last)(
                    end.perturbation, gradient=False
                ).value.sum()
            )

    free, sought = kl_of(Displacement()), kl_of(OutputKL(one))
    held = kl_of(Weighted(((1.0, Displacement()), (-10.0, OutputKL(one)))))
    assert held < free < sought


def test_a_model_whose_logits_are_made_otherwise_is_refused(llama):
    with pytest.raises(ModelError, match="no ln_final"):
        OutputKL(LinearHost([torch.eye(4), torch.eye(4)]))
    own = llama.ln_final.register_forward_hook(_first_call_only())
    try:
        with pytest.raises(ModelError, match="do not give the logits"):
            OutputKL(llama)
    finally:
        own.remove()


def _first_call_only():
    """Something that the model's own pass has and a later call has not."""
    calls = []

    def hook(_module, _args, out):
        calls.append(1)
        return out * 3 if len(calls) == 1 else out

    return hook


def test_provenance_holds_settings_and_no_address(one):
    whole = Weighted(
        ((1, Differential(Displacement(p=4), still=1)), (-0.1, OutputKL(one)), (-1, PENALTIES[3]))
    )
    text = describe(whole)
    assert "0x" not in text
    for part in ("Displacement(p=4", "still=1", "OutputKL()", "-0.1", "shrinkage=0.1", "tokens=50"):
        assert part in text
    assert describe(OffManifold(REFERENCE)) == describe(OffManifold(REFERENCE.clone()))
    assert describe(OffManifold(REFERENCE + 1)) != describe(OffManifold(REFERENCE))


def test_settings_that_cannot_work_are_refused():
    steered, clean, measured = activations(0)
    with pytest.raises(SettingError, match="at least one finite weight"):
        Weighted(())
    with pytest.raises(SettingError, match="at least one finite weight"):
        Weighted(((math.nan, Displacement()),))
    with pytest.raises(SettingError, match="at least one"):
        Differential(Displacement(), still=0)
    with pytest.raises(SettingError, match="none is left to move"):
        Differential(Displacement(), still=BATCH)(steered, clean, measured)
    with pytest.raises(SettingError, match="at least two"):
        Population()(steered[:, :1], clean[:1], measured[:1])
    with pytest.raises(SettingError, match="shrinkage"):
        OffManifold(REFERENCE, shrinkage=0)
    with pytest.raises(SettingError, match="do not vary"):
        OffManifold(torch.ones(5, D))
    with pytest.raises(ShapeError, match="width 4"):
        OffManifold(REFERENCE)(steered[..., :4], clean[..., :4], measured)
