"""What sets a token apart from its nearest clean ones, against the formulas restated slowly."""

import pytest
import torch
from sklearn.covariance import LedoitWolf

from tl_steer.errors import SettingError
from tl_steer.monitoring.detectors import neighbourhood
from tl_steer.monitoring.detectors.detector import (
    LocalMatchedFilter,
    Mahalanobis,
    Outlier,
    Reference,
)

D, K = 6, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(clean, responses=None):
    responses = draw(3, D, seed=9) if responses is None else responses
    return Reference(clean, responses, responses[:, None], clean)


def nearest(point, clean, *, leave_out=None):
    """Rows of the K clean points at the smallest angle with `point`, seen from the mean."""
    mean = clean.mean(dim=0)
    angles = [
        (float(torch.cosine_similarity(point - mean, row - mean, dim=0)), i)
        for i, row in enumerate(clean)
        if i != leave_out
    ]
    return [i for _, i in sorted(angles, reverse=True)[:K]]


def slowly(clean, tokens):
    """White residuals of tokens, and the mean energy of their neighbours."""
    left = torch.stack(
        [h - clean[nearest(h, clean, leave_out=i)].mean(dim=0) for i, h in enumerate(clean)]
    ).double()
    precision = torch.tensor(LedoitWolf(assume_centered=True).fit(left.numpy()).precision_)
    values, vectors = torch.linalg.eigh(precision)
    whitener = (vectors * values.sqrt()) @ vectors.T
    energies = (left @ whitener).square().sum(dim=1)
    white, levels = [], []
    for h in tokens:
        near = nearest(h, clean)
        residual = (h - clean[near].mean(dim=0)).double()
        white.append(residual @ whitener)
        levels.append(energies[near].mean())
    return torch.stack(white), torch.stack(levels), whitener


def test_many_tokens_are_compared_some_at_a_time(world, monkeypatch):
    clean, tokens = world
    fitted = Outlier(K)(reference(clean))
    together = fitted(tokens)
    widths = []
    plain = neighbourhood._residual

    def counted(clean, inverse, centred, k, **own):
        widths.append(len(centred))
        return plain(clean, inverse, centred, k, **own)

    monkeypatch.setattr(neighbourhood, "_residual", counted)
    monkeypatch.setattr(neighbourhood, "_ROWS", 4)
    torch.testing.assert_close(fitted(tokens), together)
    assert widths == [4, 4, 1]


@pytest.fixture
def world():
    mixing = draw(D, D, seed=1)
    return draw(60, D, seed=2) @ mixing + 2, 3 * draw(9, D, seed=3) @ mixing + 2


def test_an_outlier_is_measured_by_its_neighbours_own_distances(world):
    clean, tokens = world
    white, levels, _ = slowly(clean, tokens)
    expected = (white.square().sum(dim=1) / levels).float()
    found = Outlier(K)(reference(clean))(tokens)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_the_local_filter_is_the_residual_along_every_unit_response(world):
    clean, tokens = world
    responses = draw(5, D, seed=4)
    white, levels, whitener = slowly(clean, tokens)
    columns = []
    for response in responses.double():
        direction = response @ whitener
        columns.append(white @ direction / direction.norm() / levels.sqrt())
    found = LocalMatchedFilter(K)(reference(clean, responses))(tokens)
    torch.testing.assert_close(found, torch.stack(columns, dim=1).float(), rtol=1e-3, atol=1e-3)


def test_what_is_odd_for_a_narrow_kind_is_seen_though_another_kind_is_wide():
    """A Gaussian of both kinds is as wide as the wide one."""
    side = torch.zeros(D)
    side[0] = 20.0
    narrow, wide = 0.05 * draw(200, D, seed=5) + side, 3 * draw(200, D, seed=6) - side
    clean = torch.cat([narrow[:150], wide[:150]])
    odd = narrow[150:] + torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    fresh = torch.cat([narrow[150:], wide[150:]])

    def caught(score):
        detector = score(reference(clean))
        return float((detector(odd) > detector(fresh).max()).double().mean())

    assert caught(Outlier()) == 1.0
    assert caught(Mahalanobis()) == 0.0


def test_clean_text_seen_before_is_no_outlier_and_gives_finite_numbers():
    often = draw(2, D, seed=7).repeat(8, 1)
    found = Outlier(K)(reference(torch.cat([often, draw(40, D, seed=8)])))(often)
    assert bool(found.isfinite().all())
    assert float(found.max()) < 1.0


def test_many_clean_tokens_are_taken_in_parts_and_none_is_its_own_neighbour():
    clean = draw(1500, D, seed=8)
    fitted = Outlier(1)(reference(clean))
    for i in (0, 1023, 1024, 1499):
        left = clean[i] - clean[nearest_one(i, clean)]
        energy = float((left @ fitted.whitener).square().sum())
        assert float(fitted.energies[i]) == pytest.approx(energy, rel=1e-3)


def nearest_one(i, clean):
    centred = torch.nn.functional.normalize(clean - clean.mean(dim=0), dim=1)
    similar = centred @ centred[i]
    similar[i] = -2
    return int(similar.argmax())


@pytest.mark.parametrize("k", [0, 60, 99])
def test_a_neighbourhood_needs_more_clean_tokens_than_neighbours(world, k):
    with pytest.raises(SettingError, match=f"k={k}: expected 1 to 59"):
        neighbourhood.local_energy(world[0], k=k)
    with pytest.raises(SettingError, match=f"k={k}: expected 1 to 59"):
        neighbourhood.local_filter(world[0], draw(3, D), k=k)
