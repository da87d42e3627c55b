"""Things on a plane and in clusters, against scipy and scikit-learn; the map of a bank."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import bank_of
from scipy.spatial.distance import pdist, squareform
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import pairwise_distances
from test_views import ATTACKS, poisoned_generations

import tl_steer as ts
from tl_steer.banks.generations import Generations
from tl_steer.errors import SettingError
from tl_steer.views.plane import clusters, of_texts, plane

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "some", "other", "words", "went", "by"]


def texts(n, seed=0):
    draw = np.random.default_rng(seed)
    return [(" ".join(draw.choice(WORDS, 12)),) for _ in range(n)]


def test_points_of_a_plane_are_found_again_from_their_distances():
    points = np.random.default_rng(0).normal(size=(30, 2))
    found, share = plane(squareform(pdist(points)))
    assert np.allclose(pdist(found), pdist(points))
    assert share == pytest.approx(1)


def test_what_has_more_dimensions_is_shown_in_part():
    cloud = np.random.default_rng(1).normal(size=(40, 6))
    centred = cloud - cloud.mean(axis=0)
    variances = np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1]
    found, share = plane(squareform(pdist(cloud)))
    assert share == pytest.approx(variances[:2].sum() / variances.sum())
    assert np.allclose(found.var(axis=0) * 40, variances[:2])


def test_signs_are_chosen_so_that_one_bank_has_one_map():
    points = np.random.default_rng(2).normal(size=(12, 2))
    found = plane(squareform(pdist(points)))[0]
    for axis in found.T:
        assert axis[np.abs(axis).argmax()] > 0
    again = plane(squareform(pdist(-points)))[0]
    assert np.allclose(found, again)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_things_or_equal_ones_have_a_place(n):
    found, share = plane(np.zeros((n, n)))
    assert found.shape == (n, 2)
    assert np.isfinite(found).all()
    assert share == 1.0
    assert len(clusters(np.zeros((n, n)), apart=0.5)) == (n > 1)


def test_clusters_are_what_is_near_and_their_middle_is_the_nearest_to_all():
    places = np.array([0, 0.1, 0.3, 5, 5.2, 9])[:, None]
    found = clusters(squareform(pdist(places)), apart=0.5)
    assert [one.members for one in found] == [(0, 1, 2), (3, 4)]
    assert found[0].representative == 1


def test_distances_of_texts_are_scikit_learns():
    said = [own[0] for own in texts(25)]
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=(3, 3), lowercase=False, sublinear_tf=True
    )
    expected = pairwise_distances(vectorizer.fit_transform(said).toarray(), metric="cosine")
    assert np.allclose(of_texts([(text,) for text in said]), expected, atol=1e-12)


def test_texts_that_say_nothing_are_alike_and_far_from_others():
    found = of_texts([("",), ("",), ("ab",), ("ab", ""), ("x" * 10**6,)])
    assert found[0, 1] == 0
    assert found[0, 2] == 1
    assert found[2, 4] == 1


def mapped(one, generations=None, **changes):
    bank = dataclasses.replace(bank_of(one), **changes)
    return ts.views.bank_map(bank, generations=generations)


def test_near_on_the_map_means_that_responses_are_alike_whatever_their_sign(one):
    directions = torch.eye(24)[[0, 1, 0, 2]]
    directions[2] *= -3
    data = mapped(one, responses=directions).data
    (found,) = data["planes"]
    place = dict(zip(data["order"], found["points"], strict=True))
    assert np.allclose(place[0], place[2], atol=1e-6), "opposites are one finding"
    assert np.linalg.norm(np.subtract(place[0], place[1])) > 0.5
    assert [{data["order"][i] for i in own["members"]} for own in found["clusters"]] == [{0, 2}]


def test_by_text_there_is_the_unsteered_one_too_and_what_each_says(one):
    said = (("same text here", "b"), ("quite another one", "c"), ("same text here", "b"))
    made = Generations(("p", "q"), ("quite", "b"), (*said, ("quite", "b")), ("",) * 4, {})
    data = mapped(one, made).data
    response, text = data["planes"]
    assert response["unsteered"] is None
    place = dict(zip(data["order"], text["points"], strict=True))
    assert np.allclose(place[0], place[2], atol=1e-6)
    assert np.allclose(text["unsteered"], place[3], atol=1e-6)
    said_by = dict(zip(data["order"], data["texts"], strict=True))
    assert said_by[0] == "same text here"
    assert said_by[3] == "quite", "nothing changed, so the first"


def test_generations_of_other_vectors_are_refused(one):
    with pytest.raises(SettingError, match="no vectors"):
        mapped(one, poisoned_generations(2))


def test_unmeasured_responses_have_no_map_and_no_nearest(one):
    view = ts.views.bank_map(ts.random_bank(bank_of(one)))
    assert view.data["planes"] == []
    assert view.data["responses"] is None
    assert "most alike" not in repr(view)


def test_large_banks_and_long_texts_are_bounded(one):
    bank = ts.random_bank(bank_of(one), n=260)
    bank = dataclasses.replace(bank, responses=torch.randn(260, 24))
    rows = tuple((ATTACKS[i % 9] * 900, "x" * 9000) for i in range(260))
    made = Generations(("p", "q"), ("u", "v"), rows, ("",) * 260, {})
    view = ts.views.bank_map(bank, generations=made)
    assert len(view.data["order"]) == 200
    assert max(map(len, view.data["texts"])) < 260
    assert len(view.html()) < 1_500_000
