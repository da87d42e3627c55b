"""Methods find what linear algebra says they must; the radius is where the equation puts it."""

import itertools
import math

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from curved import final
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.sphere import cosines, random_on_sphere
from tl_steer.radii import rules as radius
from tl_steer.radii.rules import linear_response, nonlinearity

D = 8
ENDS = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


def known_matrix(seed=0):
    """J with singular values far enough apart for power iteration."""
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
    return u @ torch.diag(2.0 ** -torch.arange(D, dtype=torch.float64)) @ v.T


def linear_problem(n, radius=3.0, prompts=("1 2 3", "4 5")):
    """Source behind block 0, target behind block 2, so that J is the product of two matrices."""
    first, second = torch.eye(D, dtype=torch.float64) * 1.5, known_matrix()
    host = LinearHost([torch.eye(D, dtype=torch.float64), first, second])
    tokens = ts.tokenize(host, list(prompts))
    segment = ts.Segment(host, tokens, *ENDS)
    objective = Objective(segment, Displacement(), tokens.mask)
    vectors = random_on_sphere(n, D, radius=radius, generator=torch.Generator().manual_seed(3))
    return objective, ts.Additive(segment.source, vectors.double(), radius=radius), 1.5 * second


def test_power_iteration_finds_the_top_right_singular_vector():
    objective, start, jacobian = linear_problem(n=4)
    found = final(ts.methods.Power(steps=40, tolerance=0, spread=0), objective, start)
    top = torch.linalg.svd(jacobian).Vh[0]
    for vector in found.perturbation.vectors.detach():
        assert abs(float(vector @ top)) / 3.0 == pytest.approx(1, abs=1e-6)


def test_orthogonal_power_iteration_finds_the_singular_vectors_one_by_one():
    objective, start, jacobian = linear_problem(n=4)
    found = final(ts.methods.Power(steps=60, tolerance=0, spread=1), objective, start)
    right = torch.linalg.svd(jacobian).Vh[:4]
    overlap = (found.perturbation.vectors.detach() / 3.0 @ right.T).abs()
    torch.testing.assert_close(overlap, torch.eye(4, dtype=torch.float64), atol=1e-4, rtol=0)


def test_the_objective_on_a_linear_model_is_known():
    objective, start, jacobian = linear_problem(n=3)
    # 3 tokens in one prompt and 2 in the other: (sqrt 3 + sqrt 2) |J theta|
    expected = (start.vectors.detach() @ jacobian.T).norm(dim=1) * (math.sqrt(3) + math.sqrt(2))
    torch.testing.assert_close(objective(start).value, expected)


def test_power_iteration_never_descends_on_a_convex_objective():
    objective, start, _ = linear_problem(n=3)
    values = [
        it.value.sum().item()
        for it in ts.methods.Power(steps=10, tolerance=0, spread=0)(objective, start)
    ]
    assert all(b >= a * (1 - 1e-9) for a, b in itertools.pairwise(values))
    assert values[-1] > values[0]


def test_power_iteration_stops_when_converged():
    objective, start, _ = linear_problem(n=3)
    steps = list(ts.methods.Power(steps=200, tolerance=1e-3, spread=0)(objective, start))
    assert steps[-1].step < 40


def test_melbo_climbs_and_stays_on_the_sphere():
    objective, start, jacobian = linear_problem(n=3)
    found = final(ts.methods.Melbo(steps=300, lr=0.05), objective, start)
    vectors = found.perturbation.vectors.detach()
    torch.testing.assert_close(vectors.norm(dim=1), torch.full((3,), 3.0, dtype=torch.float64))
    top = torch.linalg.svd(jacobian).Vh[0]
    assert float((vectors @ top).abs().min()) / 3.0 > 0.99


def test_orthogonal_melbo_stays_orthogonal():
    objective, start, jacobian = linear_problem(n=3)
    found = final(ts.methods.Melbo(steps=400, lr=0.05, orthogonal=True), objective, start)
    vectors = found.perturbation.vectors.detach()
    torch.testing.assert_close(
        cosines(vectors), torch.eye(3, dtype=torch.float64), atol=1e-8, rtol=0
    )
    overlap = (vectors / 3.0 @ torch.linalg.svd(jacobian).Vh[:3].T).abs()
    assert float(overlap.diagonal().min()) > 0.98


def test_training_together_equals_one_at_a_time(one):
    tokens = ts.tokenize(one, PROMPTS)
    method = ts.methods.Melbo(steps=15, lr=0.02)
    with frozen(one):
        segment = ts.Segment(one, tokens, SOURCE, TARGET)
        start = ts.Additive.random(
            segment.source, 3, radius=1.0, generator=torch.Generator().manual_seed(0)
        )
        objective = Objective(segment, Displacement(), tokens.mask)
        together = final(method, objective, start).perturbation.vectors.detach()
        for row in range(3):
            alone = final(method, objective, start.select([row])).perturbation.vectors.detach()
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("vec_batch", [1, 2, 5])
def test_splitting_the_vectors_changes_nothing(one, vec_batch):
    tokens = ts.tokenize(one, PROMPTS)
    with frozen(one):
        segment = ts.Segment(one, tokens, SOURCE, TARGET)
        start = ts.Additive.random(
            segment.source, 5, radius=1.0, generator=torch.Generator().manual_seed(0)
        )
        whole = Objective(segment, Displacement(), tokens.mask)(start)
        split = Objective(segment, Displacement(), tokens.mask, vec_batch=vec_batch)(start)
    torch.testing.assert_close(split.value, whole.value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(split.response, whole.response, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(split.gradients[0], whole.gradients[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [ts.methods.Power(spread=1), ts.methods.Melbo(orthogonal=True)])
def test_more_orthogonal_vectors_than_dimensions_are_refused(method):
    objective, start, _ = linear_problem(n=D + 1)
    with pytest.raises(SettingError, match=f"do not fit into {D} dimensions"):
        final(method, objective, start)


def test_more_vectors_than_dimensions_are_fine_without_orthogonality():
    objective, start, _ = linear_problem(n=D + 3)
    assert len(final(ts.methods.Power(steps=3), objective, start).perturbation) == D + 3


def test_a_value_that_is_not_finite_names_the_step_and_the_vector():
    objective, start, _ = linear_problem(n=4)
    plain = objective.divergence

    def breaks(steered, clean, measured):
        value = plain(steered, clean, measured)
        return torch.where(torch.arange(4) == 2, value * float("nan"), value)

    objective.divergence = breaks
    with pytest.raises(NotFiniteError, match="at step 1 for vector 2"):
        final(ts.methods.Power(), objective, start)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ts.methods.Power(steps=0),
        lambda: ts.methods.Power(spread=1.5),
        lambda: ts.methods.Power(spread=float("nan")),
        lambda: ts.methods.Melbo(lr=0),
        lambda: ts.radii.ShareOfNorm(0),
        lambda: ts.radii.Calibrated(ratio=-1),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(SettingError, match="expected"):
        make()


def test_the_linear_response_is_the_jacobian():
    objective, start, jacobian = linear_problem(n=5)
    unit = start.vectors.detach() / 3.0
    linear = linear_response(objective.segment, unit, objective.measured)
    torch.testing.assert_close(linear, unit @ jacobian.T)


def test_the_linear_response_equals_finite_differences(model):
    tokens = ts.tokenize(model, PROMPTS)
    segment = ts.Segment(model, tokens, "blocks.1.hook_mlp_out", TARGET)
    unit = random_on_sphere(4, 24, radius=1, generator=torch.Generator().manual_seed(0))
    linear = linear_response(segment, unit, tokens.mask)
    step = 3e-2
    with torch.no_grad():
        ahead, behind = (
            ts.objectives.mean_response(
                segment.run(ts.Additive(segment.source, sign * step * unit)),
                segment.clean,
                tokens.mask,
            )
            for sign in (1, -1)
        )
    torch.testing.assert_close(linear, (ahead - behind) / (2 * step), atol=5e-3, rtol=2e-2)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_calibration_meets_the_ratio_asked_for(one, ratio):
    tokens = ts.tokenize(one, PROMPTS)
    with frozen(one):
        segment = ts.Segment(one, tokens, SOURCE, TARGET)
        measured = ts.Positions(last=1, bos=False).measure(tokens.mask, tokens.has_bos)
        radius = ts.radii.Calibrated(ratio=ratio)(segment, measured, 0)
        unit = random_on_sphere(30, 24, radius=1, generator=torch.Generator().manual_seed(0))
        linear = linear_response(segment, unit, measured)
        assert nonlinearity(segment, unit, linear, measured, radius) == pytest.approx(
            ratio, rel=0.01
        )


def test_calibration_searches_near_the_usual_place_and_to_both_ends(one, monkeypatch):
    tokens = ts.tokenize(one, PROMPTS)
    segment = ts.Segment(one, tokens, SOURCE, TARGET)
    norm, tried = segment.source_norm(), []

    def square_root(_segment, _unit, _linear, _measured, at):
        tried.append(at)
        return (at / norm) ** 0.5

    monkeypatch.setattr(radius, "nonlinearity", square_root)
    for share in (0.002, 0.09, 0.2, 0.7, 3.9):
        found = ts.radii.Calibrated(ratio=share**0.5)(segment, tokens.mask, 0)
        assert found == pytest.approx(share * norm, rel=3e-3)
    tried.clear()
    ts.radii.Calibrated(ratio=0.5)(segment, tokens.mask, 0)
    assert len(tried) <= 6
    for ratio, end in ((0.01, 1e-3), (3.0, 4.0)):
        with pytest.warns(UserWarning, match="is not reached"):
            assert ts.radii.Calibrated(ratio=ratio)(segment, tokens.mask, 0) == pytest.approx(
                end * norm
            )


def test_a_target_that_the_source_cannot_reach_has_no_calibrated_radius():
    host = LinearHost([torch.eye(D), torch.zeros(D, D)])
    tokens = ts.tokenize(host, ["1 2 3"])
    segment = ts.Segment(host, tokens, ENDS[0], "blocks.1.hook_resid_post")
    with pytest.raises(NotFiniteError, match="has no effect"):
        ts.radii.Calibrated()(segment, tokens.mask, 0)


def test_nested_parameters_are_refused():
    class Nested(ts.Perturbation):
        def __init__(self, site):
            super().__init__(site)
            self.inner = torch.nn.Linear(2, 2)

    with pytest.raises(SettingError, match=r"inner\.weight"):
        Nested(ts.hook_points.Site("blocks.0.hook_resid_post", 0, "hook_resid_post", 2)).select([0])


def test_a_linear_model_has_no_calibrated_radius_and_says_so():
    objective, _, _ = linear_problem(n=1)
    with pytest.warns(UserWarning, match="is not reached"):
        radius = ts.radii.Calibrated()(objective.segment, objective.measured, 0)
    assert radius == pytest.approx(4 * objective.segment.source_norm())


def test_a_share_is_of_the_median_norm_without_bos(one):
    tokens = ts.tokenize(one, PROMPTS)
    segment = ts.Segment(one, tokens, SOURCE, TARGET)
    keep = tokens.mask.clone()
    keep[:, 0] = False
    expected = 0.25 * float(segment.clean_source.norm(dim=-1)[keep].median())
    assert ts.radii.ShareOfNorm(0.25)(segment, keep, 0) == pytest.approx(expected)


def melbo_one_after_another(objective, start, steps, lr, radius):
    """The published order, slowly: each vector is trained to its end against the finished ones."""
    finished = []
    for vector in start.vectors.detach():
        theta, m, v, most = vector.clone(), 0.0, 0.0, 0.0
        for step in range(1, steps + 1):
            here = ts.Additive(start.site, theta[None], radius=radius)
            g = -objective(here).gradients[0][0]
            for unit in [f / f.norm() for f in finished] + [theta / theta.norm()]:
                g = g - (g @ unit) * unit
            m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
            most = torch.maximum(v, torch.as_tensor(most))
            denominator = (most / (1 - 0.98**step)).sqrt() + 1e-8
            theta = theta - lr * (m / (1 - 0.9**step)) / denominator
            for unit in [f / f.norm() for f in finished]:
                theta = theta - (theta @ unit) * unit
            theta = radius * theta / theta.norm()
        finished.append(theta)
    return torch.stack(finished)


def test_orthogonal_melbo_ends_where_training_one_after_another_does():
    objective, start, jacobian = linear_problem(n=2)
    method = ts.methods.Melbo(steps=120, lr=0.1, orthogonal=True)
    with frozen(objective.segment.model):
        slowly = melbo_one_after_another(objective, start, 120, 0.1, 3.0)
    together = final(method, objective, start).perturbation.vectors.detach()
    # Nothing comes before the first vector, so there the two agree step by step.
    torch.testing.assert_close(together[0], slowly[0], atol=1e-6, rtol=1e-6)
    right = torch.linalg.svd(jacobian).Vh[:2]
    for found in (together, slowly):
        agreement = (found @ right.T).abs() / 3.0
        torch.testing.assert_close(agreement, torch.eye(2).double(), atol=0.03, rtol=0)
    gram = together @ together.T / 9.0
    torch.testing.assert_close(gram, torch.eye(2).double(), atol=1e-9, rtol=0)
