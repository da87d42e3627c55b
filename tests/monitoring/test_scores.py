"""Detector scores against slow restatements, scikit-learn and closed forms."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.monitoring.detectors import detector as d
from tl_steer.monitoring.detectors.gaussian import fit_gaussian, ledoit_wolf
from tl_steer.monitoring.detectors.probes import self_labelled
from tl_steer.monitoring.detectors.scores import (
    cusum,
    energy_split,
    likelihood_ratio,
    mahalanobis,
    matched_filter,
    neighbour_distance,
    raw_cosine,
    relative_mahalanobis,
    soft_likelihood_ratio,
    subspace,
    whitened_cosine,
)

D, VEC = 7, 4


def mix():
    """Crooked, but no direction is so thin that shrinkage is all there is."""
    q = torch.linalg.qr(draw(D, D, seed=1)).Q
    return q * torch.linspace(0.7, 2, D, dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def world():
    """Clean activations with a crooked covariance, responses, and tokens to score."""
    mixing = mix()
    clean = (draw(200, D, seed=2) @ mixing + 3 * draw(D, seed=3)).float()
    responses = (2 * draw(VEC, D, seed=4)).float()
    steered = clean[:30] + responses[:, None]
    tokens = torch.cat([clean[:10], clean[10:20] + responses[1]])
    return d.Reference(clean, responses, steered, clean), tokens


def parts(reference):
    """Mean and inverse covariance, by plain linear algebra."""
    x = reference.clean.double()
    mean = x.mean(dim=0)
    covariance, _ = ledoit_wolf(x - mean)
    return mean, torch.linalg.inv(covariance)


@pytest.mark.parametrize("n", [5, 20, 400])
def test_the_covariance_is_scikit_learns_ledoit_wolf(n):
    sk = pytest.importorskip("sklearn.covariance", reason="the oracle, scikit-learn, is not there")
    x = draw(n, D, seed=n) @ draw(D, D, seed=1)
    theirs = sk.LedoitWolf().fit(x.numpy())
    covariance, shrinkage = ledoit_wolf(x - x.mean(dim=0))
    assert shrinkage == pytest.approx(theirs.shrinkage_)
    torch.testing.assert_close(covariance, torch.tensor(theirs.covariance_))


def test_whitening_makes_a_large_clean_sample_white():
    x = (draw(20000, D) @ mix() + 5).float()
    white = fit_gaussian(x).whiten(x)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(D), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(D), atol=0.02, rtol=0)


def test_fewer_samples_than_dimensions_still_give_a_covariance():
    clean = fit_gaussian(draw(3, D).float())
    assert bool(clean.whitener.isfinite().all())
    assert 0 < clean.shrinkage <= 1


def test_clean_activations_that_cannot_be_used_are_refused():
    with pytest.raises(SettingError, match="needs two"):
        fit_gaussian(torch.ones(1, D))
    with pytest.raises(SettingError, match="equal"):
        fit_gaussian(torch.ones(9, D))
    with pytest.raises(NotFiniteError):
        fit_gaussian(torch.full((9, D), math.inf))


def test_scores_are_their_formulas_token_by_token_and_vector_by_vector(world):
    reference, tokens = world
    mean, precision = parts(reference)
    clean = reference.gaussian
    found = {
        "matched": matched_filter(tokens, reference.responses, clean),
        "cosine": whitened_cosine(tokens, reference.responses, clean),
        "ratio": likelihood_ratio(tokens, reference.responses, clean),
        "raw": raw_cosine(tokens, reference.responses, clean),
    }
    for t, h in enumerate(tokens.double()):
        z = h - mean
        for k, u in enumerate(reference.responses.double()):
            through, size = float(z @ precision @ u), float(u @ precision @ u)
            expected = {
                "matched": through / math.sqrt(size),
                "cosine": through / math.sqrt(size * float(z @ precision @ z)),
                "ratio": through - size / 2,
                "raw": float(z @ u / (z.norm() * u.norm())),
            }
            for name, value in expected.items():
                assert float(found[name][t, k]) == pytest.approx(value, rel=2e-3, abs=2e-4), name
        distance = float(z @ precision @ z)
        assert float(mahalanobis(tokens, clean)[t]) == pytest.approx(distance, rel=1e-3)


def test_the_likelihood_ratio_is_a_difference_of_gaussian_log_densities(world):
    reference, tokens = world
    mean, precision = parts(reference)
    covariance = torch.linalg.inv(precision)
    base = torch.distributions.MultivariateNormal(mean, covariance)
    ratios = []
    for k, u in enumerate(reference.responses.double()):
        moved = torch.distributions.MultivariateNormal(mean + u, covariance)
        ratios.append(moved.log_prob(tokens.double()) - base.log_prob(tokens.double()))
        found = likelihood_ratio(tokens, reference.responses, reference.gaussian)[:, k]
        torch.testing.assert_close(found.double(), ratios[-1], rtol=1e-3, atol=1e-3)
    soft = soft_likelihood_ratio(tokens, reference.responses, reference.gaussian)
    expected = torch.stack(ratios).exp().mean(dim=0).log()
    torch.testing.assert_close(soft.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_matched_filter_is_standard_normal_on_gaussian_clean_tokens():
    mixing = mix()
    clean = (draw(5000, D, seed=2) @ mixing).float()
    fresh = (draw(5000, D, seed=3) @ mixing).float()
    scores = matched_filter(fresh, draw(VEC, D, seed=4).float(), fit_gaussian(clean))
    torch.testing.assert_close(scores.mean(dim=0), torch.zeros(VEC), atol=0.06, rtol=0)
    torch.testing.assert_close(scores.std(dim=0), torch.ones(VEC), atol=0.05, rtol=0)


def test_energy_is_split_along_the_leading_responses(world):
    reference, tokens = world
    clean = reference.gaussian
    explained, unexplained = energy_split(tokens, reference.responses, clean, rank=2)
    basis = subspace(reference.responses, clean, rank=2)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-5, rtol=0)
    along = clean.whiten(tokens) @ basis.T @ basis
    torch.testing.assert_close(explained, along.square().sum(dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        explained + unexplained, mahalanobis(tokens, clean), rtol=1e-4, atol=1e-3
    )
    # With every response in the basis, a pure response is explained entirely.
    pure = clean.mean + reference.responses
    explained, unexplained = energy_split(pure, reference.responses, clean, rank=VEC)
    assert float((unexplained / explained).max()) < 1e-4
    with pytest.raises(SettingError, match="rank=0"):
        subspace(reference.responses, clean, rank=0)


def test_cusum_is_pages_recursion_and_skips_what_is_masked():
    scores = draw(3, 12).float()
    mask = draw(3, 12, seed=1) > -0.5
    found = cusum(scores, allowance=0.2, mask=mask)
    for row in range(3):
        total = 0.0
        for at in range(12):
            if mask[row, at]:
                total = max(0.0, total + float(scores[row, at]) - 0.2)
            assert float(found[row, at]) == pytest.approx(total, abs=1e-5)


def test_neighbours_are_those_of_a_full_sort(world):
    reference, tokens = world
    unit = torch.nn.functional.normalize
    distances = torch.cdist(unit(tokens, dim=1), unit(reference.clean, dim=1))
    expected = distances.sort(dim=1).values[:, 4]
    found = neighbour_distance(tokens, reference.clean, k=5)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    with pytest.raises(SettingError, match="k=999"):
        neighbour_distance(tokens, reference.clean, k=999)


def test_relative_mahalanobis_is_a_difference(world):
    reference, tokens = world
    far = fit_gaussian(reference.clean[:50])
    found = relative_mahalanobis(tokens, reference.gaussian, far)
    expected = mahalanobis(tokens, reference.gaussian) - mahalanobis(tokens, far)
    torch.testing.assert_close(found, expected)


PURE = {
    d.MatchedFilter(): matched_filter,
    d.WhitenedCosine(): whitened_cosine,
    d.LikelihoodRatio(): likelihood_ratio,
    d.RawCosine(): raw_cosine,
}


@pytest.mark.parametrize("score", PURE, ids=str)
def test_fitted_detectors_give_what_the_pure_functions_give(world, score):
    reference, tokens = world
    expected = PURE[score](tokens, reference.responses, reference.gaussian)
    torch.testing.assert_close(score(reference)(tokens), expected, rtol=1e-3, atol=1e-3)


def test_examples_score_a_vector_by_its_nearest_steered_activation(world):
    reference, tokens = world
    mean, precision = parts(reference)
    found = d.Examples()(reference)(tokens)
    assert found.shape == (len(tokens), VEC)
    for i, h in enumerate(tokens.double() - mean):
        for k, examples in enumerate(reference.steered.double() - mean):
            inner = examples @ precision @ h
            lengths = ((examples @ precision) * examples).sum(dim=1) * (h @ precision @ h)
            expected = float((inner / lengths.sqrt()).max())
            assert float(found[i, k]) == pytest.approx(expected, abs=1e-3)


def recurring(share, sharp, seed):
    """Ten prompts' steered activations, two of each, around 0: on a share of them one is along the
    first axis, up to an angle of that cosine."""
    noise = draw(10, 2, D, seed=seed)
    noise[..., 0] = 0
    examples = 5 * normalize(noise, dim=2)
    alike = examples[: round(10 * share), 0]
    alike *= (1 - sharp**2) ** 0.5
    alike[:, 0] = 5 * sharp
    return examples.flatten(0, 1)


def test_a_vector_that_does_it_on_most_prompts_is_named_before_one_that_did_exactly_it_on_one():
    clean = draw(100, D, seed=5).float()
    clean -= clean.mean(dim=0)
    steered = torch.stack([recurring(0.1, 1.0, 6), recurring(0.7, 0.8, 7)]).float()
    reference = d.Reference(clean, steered.mean(dim=1), steered, clean, per_prompt=2)
    seen = 4 * torch.eye(D)[:1]
    found = d.Recurrence()(reference)(seen)
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.7 * 0.8**2]]), rtol=1e-3, atol=1e-3)
    assert int(d.Examples()(reference)(seen).argmax()) == 0
    # What points away is no evidence.
    assert float(d.Recurrence()(reference)(-seen).max()) < 1e-3


@pytest.mark.parametrize("score", [d.Recurrence(), d.Examples()], ids=str)
def test_examples_compared_with_in_small_pieces_give_the_same(world, monkeypatch, score):
    reference, tokens = world
    whole = score(reference)(tokens)
    assert len(whole) == len(tokens)
    monkeypatch.setattr("tl_steer.monitoring.detectors.fitted._NUMBERS", 1)
    torch.testing.assert_close(score(reference)(tokens), whole)


def test_a_search_finds_the_best_of_very_many_vectors_where_their_responses_fill_few_directions():
    spread = draw(3, 40, seed=1)
    responses = (draw(500, 3, seed=2) @ spread).float()
    clean = draw(300, 40, seed=3).float()
    reference = d.Reference(clean, responses, responses[:, None], clean)
    tokens = clean[:20] + 9 * responses[40:60]
    exact = d.WhitenedCosine()(reference)(tokens)
    found = d.Search(rank=4, candidates=8)(reference)(tokens)
    assert torch.equal(found.argmax(dim=1), exact.argmax(dim=1))
    torch.testing.assert_close(found.amax(dim=1), exact.amax(dim=1), rtol=1e-4, atol=1e-4)
    assert bool((found.isfinite().sum(dim=1) == 8).all())


def test_fitted_anomaly_detectors_give_what_the_pure_functions_give(world):
    reference, tokens = world
    clean = reference.gaussian
    distance = mahalanobis(tokens, clean)[:, None]
    torch.testing.assert_close(d.Mahalanobis()(reference)(tokens), distance, rtol=1e-3, atol=1e-3)
    split = d.Unexplained(rank=2)(reference)
    explained, rest = energy_split(tokens, reference.responses, clean, rank=2)
    torch.testing.assert_close(split(tokens)[:, 0], rest, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        split.explained(tokens), explained / (explained + rest), rtol=1e-3, atol=1e-3
    )
    near = neighbour_distance(tokens, reference.clean, k=5)[:, None]
    torch.testing.assert_close(d.Neighbours(5)(reference)(tokens), near, atol=1e-4, rtol=1e-3)
    relative = relative_mahalanobis(tokens, clean, fit_gaussian(reference.background))
    found = d.RelativeMahalanobis()(reference)(tokens)
    torch.testing.assert_close(found[:, 0], relative, rtol=1e-3, atol=1e-3)
    with pytest.raises(SettingError, match="rank"):
        d.Unexplained(rank=D)(reference)


def test_probes_point_where_a_two_class_discriminant_of_scikit_learn_points():
    sk = pytest.importorskip(
        "sklearn.discriminant_analysis", reason="the oracle, scikit-learn, is not there"
    )
    mixing = mix()
    clean = (draw(6000, D, seed=2) @ mixing).float()
    response = draw(1, D, seed=4).float()
    positives = (draw(6000, D, seed=5) @ mixing).float() + response
    weights, bias = self_labelled(positives[None], clean)
    x = torch.cat([clean, positives]).numpy()
    y = [0] * len(clean) + [1] * len(positives)
    theirs = sk.LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    cosine = torch.cosine_similarity(weights[0].double(), torch.tensor(theirs.coef_[0]), dim=0)
    assert float(cosine) > 0.999
    decided = (torch.tensor(x) @ weights[0] + bias[0] > 0).long()
    agreement = (decided == torch.tensor(theirs.predict(x))).double().mean()
    assert float(agreement) > 0.995


def test_a_probe_tells_its_own_vector_from_the_others_and_from_clean():
    shared = 6 * draw(D, seed=9).float()
    own = 4 * torch.linalg.qr(draw(D, D, seed=8)).Q[:VEC].float()
    clean = draw(400, D, seed=2).float()
    steered = draw(VEC, 50, D, seed=3).float() + (own + shared)[:, None]
    weights, bias = self_labelled(steered, clean)
    fresh = draw(VEC, 50, D, seed=5).float() + (own + shared)[:, None]
    scores = torch.einsum("vnd,kd->vnk", fresh, weights) + bias
    assert float((scores.argmax(dim=2) == torch.arange(VEC)[:, None]).double().mean()) > 0.95
    assert float((draw(400, D, seed=6).float() @ weights.T + bias).amax(dim=1).median()) < 0


def test_vectors_of_one_group_share_a_probe():
    clean = draw(100, D, seed=2).float()
    steered = draw(VEC, 20, D, seed=3).float() + 5 * draw(VEC, D, seed=4).float()[:, None]
    weights, _ = self_labelled(steered, clean, groups=("hate", "rhyme", "hate", "code"))
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    with pytest.raises(SettingError, match="2 groups for 4"):
        self_labelled(steered, clean, groups=("a", "b"))
    with pytest.raises(SettingError, match="empty"):
        self_labelled(steered[:, :0], clean)


def test_a_score_of_ones_own_is_a_function(world):
    reference, tokens = world

    def mean_difference(reference):
        weights = reference.responses.T.contiguous()
        return d.Affine(weights, -reference.gaussian.mean @ weights)

    found = mean_difference(reference)(tokens)
    expected = (tokens - reference.gaussian.mean) @ reference.responses.T
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
