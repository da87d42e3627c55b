"""Geometry: what must hold for any vectors."""

import torch
from hypothesis import given, settings, strategies as st

from tl_steer.perturbations.neighbours import distinct_rows
from tl_steer.perturbations.sphere import (
    cosines,
    random_on_sphere,
    spread_apart,
    to_sphere,
    to_tangent,
)

seeds = st.integers(0, 10_000)
many = settings(max_examples=40, deadline=None)


def draw(seed, n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@many
@given(seeds, st.floats(0.01, 100))
def test_vectors_land_on_the_sphere_without_turning(seed, radius):
    before = draw(seed, 5, 7)
    after = to_sphere(before, radius)
    torch.testing.assert_close(after.norm(dim=1), torch.full((5,), radius, dtype=torch.float64))
    torch.testing.assert_close(cosines(torch.stack([before[0], after[0]]))[0, 1].item(), 1.0)


@many
@given(seeds)
def test_tangents_are_orthogonal_to_their_vectors(seed):
    vectors, gradient = draw(seed, 4, 6), draw(seed + 1, 4, 6)
    tangent = to_tangent(gradient, vectors)
    assert float((tangent * vectors).sum(dim=1).abs().max()) < 1e-9
    torch.testing.assert_close(to_tangent(tangent, vectors), tangent)


@many
@given(seeds, st.integers(1, 6))
def test_spread_one_is_gram_schmidt_in_order(seed, n):
    rows = draw(seed, n, 6)
    expected: list[torch.Tensor] = []
    for row in rows:
        for earlier in expected:
            row = row - (row @ earlier) * earlier
        expected.append(row / row.norm())
    torch.testing.assert_close(spread_apart(rows, 1), torch.stack(expected), atol=1e-6, rtol=1e-6)


@many
@given(seeds, st.floats(0.05, 0.95))
def test_spread_takes_its_share_of_the_span_of_earlier_rows(seed, share):
    rows = draw(seed, 4, 9)
    rows = rows / rows.norm(dim=1, keepdim=True)
    apart = spread_apart(rows, share)
    for k in range(4):
        basis = torch.linalg.qr(rows[:k].T)[0] if k else torch.zeros(9, 0, dtype=rows.dtype)
        expected = rows[k] - share * basis @ (basis.T @ rows[k])
        torch.testing.assert_close(apart[k], expected / expected.norm(), atol=1e-7, rtol=1e-7)


@many
@given(seeds)
def test_spread_below_one_allows_more_rows_than_dimensions(seed):
    apart = spread_apart(draw(seed, 9, 4), 0.7)
    torch.testing.assert_close(apart.norm(dim=1), torch.ones(9, dtype=torch.float64))


def test_no_spread_only_normalises():
    rows = draw(0, 5, 3)
    torch.testing.assert_close(spread_apart(rows, 0), rows / rows.norm(dim=1, keepdim=True))


def test_distinct_rows_keeps_the_first_of_each_kind_whatever_its_sign():
    rows = torch.tensor([[1.0, 0], [-2, 0.01], [0, 1], [1, 1]])
    assert distinct_rows(rows, 0.9) == [0, 2, 3]
    assert distinct_rows(rows, 0.6) == [0, 2]


def test_a_seed_gives_the_same_vectors():
    def once(seed):
        return random_on_sphere(3, 5, radius=2, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(once(4), once(4))
    assert not torch.equal(once(4), once(5))
