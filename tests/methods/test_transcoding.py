"""Jacobian, DCT, quadratic DCT and SOGI find what was planted, or what linear algebra says."""

import math

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from curved import ENDS, CurvedHost, final
from hypothesis import given, settings, strategies as st

import tl_steer as ts
from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.methods import Dct, Jacobian, Quadratic, Sogi
from tl_steer.methods.dct import alphas
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Displacement, mean_response
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.response import ResponseMap, stacked_response
from tl_steer.perturbations.sphere import orthonormal_rows, random_on_sphere, softly_apart

D = 12
F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(seed, d=D):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=F64))[0]


def problem(function, n, *, radius=1.0, d=D, prompts=("1 2 3",), seed=3):
    host = CurvedHost(function, d, dtype=F64)
    tokens = ts.tokenize(host, list(prompts))
    segment = ts.Segment(host, tokens, *ENDS)
    objective = Objective(segment, Displacement(), tokens.mask)
    rows = random_on_sphere(n, d, radius=radius, generator=generator(seed)).double()
    return objective, ts.Additive(segment.source, rows, radius=radius)


def unit_rows(iterate):
    rows = iterate.perturbation.vectors.detach()
    return rows / rows.norm(dim=1, keepdim=True)


def on_model(model, n, *, prompts=PROMPTS, dtype=torch.float32):
    tokens = ts.tokenize(model, prompts)
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    measured = tokens.select(ts.Positions(last=2, bos=False))
    objective = Objective(segment, Displacement(), measured)
    rows = random_on_sphere(n, segment.source.width, radius=2.0, generator=generator(1))
    return objective, ts.Additive(segment.source, rows.to(dtype), radius=2.0)


# --- responses and their derivatives


def test_a_pulled_cotangent_is_the_gradient_of_its_inner_product_with_the_response(model):
    with frozen(model):
        objective, start = on_model(model, 3)
        cotangents = torch.randn(3, 24, generator=generator(4))
        responses = ResponseMap(objective)
        _, (pulled,) = responses.pull(start, cotangents)
        direction = torch.randn(3, 24, generator=generator(5))
        step = 1e-2
        ahead, behind = (
            responses(ts.Additive(start.site, start.vectors.detach() + s * direction))
            for s in (step, -step)
        )
        slope = ((ahead - behind) / (2 * step) * cotangents).sum(dim=1)
    torch.testing.assert_close((pulled * direction).sum(dim=1), slope, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("pool", [mean_response, stacked_response])
def test_push_and_pull_at_zero_are_adjoint_and_match_finite_differences(model, pool):
    with frozen(model):
        objective, start = on_model(model, 2)
        responses = ResponseMap(objective, pool)
        linear = responses.derivative(start)
        v = torch.randn(2, 24, generator=generator(4))
        u = torch.randn(2, linear.k, generator=generator(5))
        pushed, pulled = linear.push(v), linear.pull(u)
        torch.testing.assert_close(
            (pushed * u).sum(dim=1), (pulled * v).sum(dim=1), rtol=1e-3, atol=1e-3
        )
        step = 1e-2
        ahead, behind = (responses(ts.Additive(start.site, s * v)) for s in (step, -step))
        torch.testing.assert_close(pushed, (ahead - behind) / (2 * step), rtol=2e-2, atol=2e-2)


def test_the_derivative_respects_the_positions_that_are_steered(one):
    with frozen(one):
        objective, start = on_model(one, 2, prompts=PROMPTS[:1])
        only_last = ts.Additive(start.site, start.vectors.detach(), positions=ts.Positions(last=1))
        responses = ResponseMap(objective)
        v = torch.randn(2, 24, generator=generator(4))
        pushed = responses.derivative(only_last).push(v)
        ahead = responses(ts.Additive(start.site, 1e-2 * v, positions=ts.Positions(last=1)))
    torch.testing.assert_close(pushed, ahead / 1e-2, rtol=5e-2, atol=5e-2)


def test_a_stacked_response_has_the_root_mean_square_of_token_changes_as_its_norm():
    steered = torch.randn(4, 2, 5, 3, generator=generator())
    clean = torch.randn(2, 5, 3, generator=generator(1))
    measured = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 1, 0]]).bool()
    squares = (steered - clean).square().sum(dim=-1)
    expected = (squares[:, 0, 1:4].mean(dim=1) + squares[:, 1, 3]) / 2
    found = stacked_response(steered, clean, measured).square().sum(dim=1)
    torch.testing.assert_close(found, expected)


# --- jacobian


@pytest.mark.parametrize("pool", [mean_response, stacked_response])
def test_jacobian_agrees_with_the_svd_of_the_whole_matrix(llama, pool):
    with frozen(llama):
        objective, start = on_model(llama, 6)
        found = final(Jacobian(passes=4, block=6, signs=(1,), pool=pool), objective, start)
        whole = ResponseMap(objective, pool).derivative(start).push(torch.eye(24)).T
    _, values, right = torch.linalg.svd(whole.double())
    torch.testing.assert_close(
        found.scores["singular value"].double(), values[:6], rtol=1e-3, atol=0
    )
    overlap = torch.linalg.svdvals(unit_rows(found).double() @ right[:6].T)
    assert float(overlap.min()) > 0.999


def test_singular_vectors_are_rows_of_vh_and_come_with_both_signs():
    left, right = rotation(0), rotation(1)
    values = 2.0 ** -torch.arange(D, dtype=F64)
    matrix = left @ torch.diag(values) @ right.T
    objective, start = problem(lambda x: x @ matrix.T, 6)
    found = final(Jacobian(passes=3, block=6), objective, start)
    rows = unit_rows(found)
    torch.testing.assert_close(rows[::2], -rows[1::2])
    torch.testing.assert_close(
        (rows[::2] @ right[:, :3]).abs(), torch.eye(3, dtype=F64), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(found.scores["singular value"][::2], values[:3])


def test_a_map_of_low_rank_is_no_trouble():
    matrix = torch.outer(rotation(0)[0], rotation(1)[0])
    objective, start = problem(lambda x: x @ matrix.T, 4)
    found = final(Jacobian(passes=3, block=4, signs=(1,)), objective, start)
    assert found.scores["singular value"].tolist() == pytest.approx([1, 0, 0, 0], abs=1e-9)
    assert abs(float(unit_rows(found)[0] @ rotation(1)[0])) == pytest.approx(1)


def test_more_singular_vectors_than_dimensions_are_refused():
    objective, start = problem(lambda x: x, 2 * D + 1)
    with pytest.raises(SettingError, match=f"at most {2 * D}"):
        final(Jacobian(), objective, start)


# --- exponential DCT


def exponential(u, v, alpha):
    return lambda x: torch.expm1(x @ v.T) * alpha @ u


def test_dct_recovers_the_factors_of_an_exponential_map():
    u, v, alpha = rotation(0)[:4], rotation(1)[:4], torch.tensor([1.0, 1.3, 1.6, 2.0], dtype=F64)
    objective, start = problem(exponential(u, v, alpha), 6, radius=2.0)
    found = final(Dct(steps=40), objective, start)
    best = (unit_rows(found) @ v.T).abs().max(dim=0).values
    assert float(best.min()) > 0.99


def test_dct_is_the_published_iteration_restated_slowly():
    u, v, alpha = rotation(0)[:5], rotation(1)[:5], torch.linspace(1, 2, 5, dtype=F64)
    radius, function = 1.5, exponential(u, v, alpha)
    objective, start = problem(function, 4, radius=radius)
    found = final(Dct(steps=3), objective, start)
    columns = (start.vectors.detach() / radius).T.clone()
    for _ in range(3):
        columns = columns @ torch.diag(1 / columns.norm(dim=0))
        kept = []
        for column in columns.T:  # Gram-Schmidt
            for other in kept:
                column = column - (column @ other) * other
            kept.append(column / column.norm())
        new = []
        for column in kept:
            at = (radius * column).requires_grad_()
            response = function(at)
            direction = (response / response.norm()).detach()
            (gradient,) = torch.autograd.grad(direction @ response, at)
            new.append(gradient / gradient.norm())
        columns = torch.stack(new, dim=1)
    torch.testing.assert_close(unit_rows(found), columns.T)


def test_alpha_is_the_weight_of_each_factor_when_factors_are_exact():
    u, v, alpha = rotation(0)[:4], rotation(1)[:4], torch.tensor([1.0, 1.3, 1.6, 2.0], dtype=F64)
    objective, _ = problem(exponential(u, v, alpha), 1)
    exact = ts.Additive(objective.segment.source, v, radius=1.0)
    response = ResponseMap(objective)(exact)
    torch.testing.assert_close(alphas(exact, response), alpha)


def test_identical_factors_share_their_weight_instead_of_blowing_up():
    v = rotation(1)[:1].repeat(3, 1)
    site = problem(lambda x: x, 1)[1].site
    found = alphas(ts.Additive(site, v), 2 * math.expm1(1) * rotation(0)[:1].repeat(3, 1))
    torch.testing.assert_close(found, torch.full((3,), 2 / 3, dtype=F64))


def test_hard_orthogonality_refuses_more_vectors_than_dimensions_and_soft_does_not():
    function = exponential(rotation(0)[:4], rotation(1)[:4], torch.ones(4, dtype=F64))
    objective, start = problem(function, D + 1)
    for method in (Dct(), Quadratic()):
        with pytest.raises(SettingError, match=f"at most {D}"):
            final(method, objective, start)
    assert len(final(Sogi(steps=2), objective, start).perturbation) == D + 1


def test_dct_can_start_from_the_jacobian():
    u, v, alpha = rotation(0)[:4], rotation(1)[:4], torch.tensor([1.0, 1.3, 1.6, 2.0], dtype=F64)
    objective, start = problem(exponential(u, v, alpha), 4, radius=2.0)
    init = Jacobian(pool=mean_response, signs=(1,))
    found = final(Dct(steps=2, init=init), objective, start)
    assert float((unit_rows(found) @ v.T).abs().max(dim=0).values.min()) > 0.99


# --- quadratic DCT


def quadratic(u, v, alpha, linear):
    return lambda x: (x @ v.T).square() * alpha @ u + x @ linear.T


def test_quadratic_dct_recovers_the_hessian_and_not_the_jacobian():
    u, v, alpha = rotation(0)[:3], rotation(1)[:3], torch.tensor([1.0, 1.5, 2.0], dtype=F64)
    linear = 100 * torch.outer(rotation(0)[5], rotation(1)[5])
    objective, start = problem(quadratic(u, v, alpha, linear), 3)
    found = final(Quadratic(steps=30), objective, start)
    assert float((unit_rows(found) @ v.T).abs().max(dim=0).values.min()) > 0.999
    # D²Δ[v, v] of alpha <v, x>² u is 2 alpha u
    assert sorted(found.scores["curvature"].tolist()) == pytest.approx([2.0, 3.0, 4.0], rel=1e-3)


def test_quadratic_dct_stays_put_where_there_is_no_curvature():
    objective, start = problem(lambda x: x @ rotation(0).T, 3)
    found = final(Quadratic(steps=2), objective, start)
    assert found.scores["curvature"].tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_hessian_products_work_through_attention_and_norms(model):
    with frozen(model):
        objective, start = on_model(model, 2)
        found = final(Quadratic(steps=1), objective, start)
        responses, unit = ResponseMap(objective), orthonormal_rows(start.vectors.detach())
        step = 0.05
        ahead, behind = (responses(ts.Additive(start.site, s * unit)) for s in (step, -step))
    curvature = (ahead + behind) / step**2
    torch.testing.assert_close(
        found.scores["curvature"], curvature.norm(dim=1), rtol=0.1, atol=0.02
    )


# --- soft orthogonality


def test_soft_orthogonality_is_its_formula():
    rows, weights, temperature = torch.randn(5, 7, generator=generator()), torch.rand(5), 0.3
    unit = rows / rows.norm(dim=1, keepdim=True)
    expected = []
    for j in range(5):
        others = [i for i in range(5) if i != j]
        e = [weights[i] * math.exp(float(unit[i] @ unit[j]) / temperature) for i in others]
        moved = unit[j] - sum(w / sum(e) * unit[i] for w, i in zip(e, others, strict=True))
        expected.append(moved / moved.norm())
    found = softly_apart(rows, weights, temperature=temperature)
    torch.testing.assert_close(found, torch.stack(expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 2.0))
def test_soft_orthogonality_does_not_care_about_order_or_length(seed, temperature):
    rows = torch.randn(6, 4, generator=generator(seed), dtype=F64)
    weights = torch.rand(6, generator=generator(seed), dtype=F64) + 0.1
    order = torch.randperm(6, generator=generator(seed))
    found = softly_apart(rows, weights, temperature=temperature)
    permuted = softly_apart(3 * rows[order], weights[order], temperature=temperature)
    torch.testing.assert_close(permuted, found[order])


def test_two_equal_rows_are_pushed_apart_only_by_others():
    """The average of what is most like a row can be the row itself: nothing is left but rounding,
    and the result must be finite."""
    rows = torch.eye(3)[[0, 0, 1]]
    assert bool(softly_apart(rows, torch.ones(3), temperature=0.01).isfinite().all())


# --- all of them


ALL = [Jacobian(passes=2), Dct(steps=3), Sogi(steps=3), Quadratic(steps=2)]
NAMES = [type(m).__name__ for m in ALL]


@pytest.mark.parametrize("method", ALL, ids=NAMES)
def test_every_method_works_on_every_model_and_keeps_the_radius(model, method):
    bank = ts.elicit(
        model,
        PROMPTS,
        source=SOURCE,
        target=TARGET,
        n=4,
        radius=2.0,
        method=method,
        measured=ts.Positions(last=1),
        progress=False,
    )
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.full((4,), 2.0))
    assert bool(bank.responses.isfinite().all())


@pytest.mark.parametrize("method", ALL, ids=NAMES)
def test_the_size_of_a_pass_changes_nothing(one, method):
    kinds = {"source": SOURCE, "target": TARGET, "n": 5, "radius": 2.0, "progress": False}
    kinds |= {"method": method, "measured": ts.Positions(last=1)}
    whole, parts = (ts.elicit(one, PROMPTS, **kinds, vec_batch=size) for size in (5, 2))
    torch.testing.assert_close(whole.responses, parts.responses, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ALL, ids=NAMES)
def test_a_run_continues_from_its_state_bit_for_bit(one, method):
    with frozen(one):
        objective, start = on_model(one, 4)
        whole = list(method(objective, start))
        rest = list(method(objective, start, resume=whole[0].state))
    assert len(rest) == len(whole) - 1
    assert torch.equal(rest[-1].perturbation.vectors, whole[-1].perturbation.vectors)


def test_methods_by_name_and_scores_reach_the_bank(one, tmp_path):
    bank = ts.elicit(
        one,
        PROMPTS,
        source=SOURCE,
        target=TARGET,
        n=4,
        radius=2.0,
        method="dct",
        measured=ts.Positions(last=1),
        progress=False,
    )
    assert bank.provenance.method == "dct"
    assert "alpha" in repr(bank)
    again = ts.load_bank(bank.save(tmp_path / "b.safetensors"))
    assert torch.equal(again.scores["alpha"], bank.scores["alpha"])


def test_an_overflow_names_step_and_vector():
    objective, start = problem(lambda x: torch.exp(1e4 * x.abs().sum(dim=-1, keepdim=True)) * x, 2)
    with pytest.raises(NotFiniteError, match="step 1 for vector 0"):
        final(Dct(), objective, start)
