"""Detector scores against slow restatements, scikit-learn and closed forms."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.monitoring.detectors import detector as d
from tl_steer.monitoring.detectors.gaussian import fit_gaussian, ledoit_wolf

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
    found = {
        "matched": d.MatchedFilter()(reference)(tokens),
        "cosine": d.WhitenedCosine()(reference)(tokens),
    }
    distances = d.Mahalanobis()(reference)(tokens)
    assert distances.shape == (len(tokens), 1)
    for t, h in enumerate(tokens.double()):
        z = h - mean
        for k, u in enumerate(reference.responses.double()):
            through, size = float(z @ precision @ u), float(u @ precision @ u)
            expected = {
                "matched": through / math.sqrt(size),
                "cosine": through / math.sqrt(size * float(z @ precision @ z)),
            }
            for name, value in expected.items():
                assert float(found[name][t, k]) == pytest.approx(value, rel=2e-3, abs=2e-4), name
        assert float(distances[t, 0]) == pytest.approx(float(z @ precision @ z), rel=1e-3)


@pytest.mark.parametrize("rank", [1, 2, VEC])
def test_unexplained_is_what_the_leading_responses_leave_of_the_energy(world, rank):
    reference, tokens = world
    clean = reference.gaussian
    white = clean.whiten(tokens).double()
    unit = normalize(clean.whiten_change(reference.responses), dim=1).double()
    basis = torch.linalg.svd(unit, full_matrices=False).Vh[:rank]
    rest = (white - white @ basis.T @ basis).square().sum(dim=1)
    detector = d.Unexplained(rank=rank)(reference)
    torch.testing.assert_close(detector(tokens)[:, 0].double(), rest, rtol=1e-3, atol=1e-3)
    share = 1 - rest / white.square().sum(dim=1)
    torch.testing.assert_close(detector.explained(tokens).double(), share, rtol=1e-3, atol=1e-3)


def test_with_every_response_in_the_basis_a_pure_response_is_explained_entirely(world):
    reference, _ = world
    pure = reference.gaussian.mean + reference.responses
    detector = d.Unexplained(rank=VEC)(reference)
    torch.testing.assert_close(detector.explained(pure), torch.ones(VEC), rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingError, match="rank"):
        d.Unexplained(rank=D)(reference)


def test_the_matched_filter_is_standard_normal_on_gaussian_clean_tokens():
    mixing = mix()
    clean = (draw(5000, D, seed=2) @ mixing).float()
    fresh = (draw(5000, D, seed=3) @ mixing).float()
    responses = draw(VEC, D, seed=4).float()
    reference = d.Reference(clean, responses, responses[:, None], clean)
    scores = d.MatchedFilter()(reference)(fresh)
    torch.testing.assert_close(scores.mean(dim=0), torch.zeros(VEC), atol=0.06, rtol=0)
    torch.testing.assert_close(scores.std(dim=0), torch.ones(VEC), atol=0.05, rtol=0)


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
    nearest = torch.cosine_similarity(steered, seen, dim=2).amax(dim=1)
    assert int(nearest.argmax()) == 0, "by its best example alone, the other would be named"
    # What points away is no evidence.
    assert float(d.Recurrence()(reference)(-seen).max()) < 1e-3


def test_examples_compared_with_in_small_pieces_give_the_same(world, monkeypatch):
    (reference, tokens), score = world, d.Recurrence()
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


def test_a_score_of_ones_own_is_a_function(world):
    reference, tokens = world

    def mean_difference(reference):
        weights = reference.responses.T.contiguous()
        return d.Affine(weights, -reference.gaussian.mean @ weights)

    found = mean_difference(reference)(tokens)
    expected = (tokens - reference.gaussian.mean) @ reference.responses.T
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
