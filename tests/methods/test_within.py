"""A search inside a subspace is that search on the coordinates, and never leaves it."""

import dataclasses
import re
from dataclasses import dataclass

import pytest
import torch
from curved import final
from linear import LinearHost
from torch import Tensor

import tl_steer as ts
from tl_steer.errors import BankFileError, SettingError
from tl_steer.methods import Dct, Jacobian, Melbo, Power, Sogi, Within
from tl_steer.methods.protocol import Iterate
from tl_steer.methods.within import Spanned
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.sphere import random_on_sphere

D, K, RADIUS = 8, 3, 1.5
F64 = torch.float64
ENDS = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
METHODS = [Power(steps=4, tolerance=0), Melbo(steps=4, lr=0.05), Dct(steps=4), Sogi(steps=4)]
IDS = [type(m).__name__ for m in METHODS]


def drawn(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=F64)


BASIS = torch.linalg.qr(drawn(D, K))[0].T
MATRIX = drawn(D, D, seed=1)


@dataclass(frozen=True)
class Known:
    """A span that is said outright."""

    rows: Tensor = dataclasses.field(default_factory=lambda: BASIS, repr=False)

    def basis(self, objective):
        return self.rows


def problem(n=2, matrix=MATRIX):
    host = LinearHost([torch.eye(D, dtype=F64), torch.eye(D, dtype=F64), matrix])
    tokens = ts.tokenize(host, ["1 2 3"])
    segment = ts.Segment(host, tokens, *ENDS)
    generator = torch.Generator().manual_seed(3)
    rows = random_on_sphere(n, D, radius=RADIUS, generator=generator).double()
    start = ts.Additive(segment.source, rows, radius=RADIUS)
    return Objective(segment, Displacement(), tokens.mask), start


def all_of(method, objective, start, **knobs):
    with frozen(objective.segment.model):
        return list(method(objective, start, **knobs))


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_every_iterate_lies_in_the_span_and_on_the_sphere(method):
    objective, start = problem()
    way = all_of(Within(Known(), method), objective, start)
    assert [it.step for it in way] == [1, 2, 3, 4]
    for it in way:
        vectors = it.perturbation.vectors.detach()
        assert type(it.perturbation) is ts.Additive
        torch.testing.assert_close(vectors @ BASIS.T @ BASIS, vectors)
        torch.testing.assert_close(vectors.norm(dim=1), torch.full((2,), RADIUS, dtype=F64))


def test_the_top_of_the_span_is_found_where_far_more_lies_outside_of_it():
    full = torch.linalg.qr(torch.cat([BASIS, drawn(D - K, D, seed=2)]).T)[0].T
    gains = torch.tensor([1.0, 0.5, 0.2] + [8.0] * (D - K), dtype=F64)
    objective, start = problem(n=2, matrix=torch.diag(gains) @ full)
    found = final(Within(Known(), Power(steps=60, tolerance=0, spread=0)), objective, start)
    overlap = (found.perturbation.vectors.detach() / RADIUS @ full.T).abs()
    top = torch.eye(D, dtype=F64)[[0, 0]]
    torch.testing.assert_close(overlap, top, atol=1e-6, rtol=0)


def test_gradients_are_those_of_the_vectors_projected():
    objective, start = problem()
    inside = Spanned(start, BASIS)
    with frozen(objective.segment.model):
        (projected,) = objective(inside).gradients
        (whole,) = objective(inside.as_vectors()).gradients
    torch.testing.assert_close(projected, whole @ BASIS.T)


def test_in_the_span_of_everything_it_is_the_method_itself():
    """Power iteration does not mind which axes it is given."""
    objective, start = problem()
    turned = Known(torch.linalg.qr(drawn(D, D, seed=7))[0])
    inside = final(Within(turned, METHODS[0]), objective, start)
    plain = final(METHODS[0], objective, start)
    torch.testing.assert_close(inside.perturbation.vectors, plain.perturbation.vectors)


def test_the_start_is_projected_and_has_its_length_back():
    _, start = problem()
    inside = Spanned(start, BASIS).as_vectors().vectors.detach()
    expected = start.vectors.detach() @ BASIS.T @ BASIS
    expected = RADIUS * expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(inside, expected)


def test_the_positions_that_are_steered_stay():
    objective, start = problem()
    start = ts.Additive(
        start.site, start.vectors.detach(), radius=RADIUS, positions=ts.Positions(last=1)
    )
    found = final(Within(Known(), METHODS[0]), objective, start).perturbation
    assert found.positions == ts.Positions(last=1)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.parametrize("after", [0, 2])
def test_going_on_ends_where_an_uninterrupted_run_does(method, after):
    objective, start = problem()
    whole = all_of(Within(Known(), method), objective, start)

    class Gone:
        def basis(self, objective):
            raise AssertionError("the state has it")

    rest = all_of(Within(Gone(), method), objective, start, resume=whole[after].state)
    assert [it.step for it in rest] == [it.step for it in whole[after + 1 :]]
    for mine, theirs in zip(rest, whole[after + 1 :], strict=True):
        assert torch.equal(mine.perturbation.vectors, theirs.perturbation.vectors)


def test_a_state_of_another_method_is_refused():
    objective, start = problem()
    (state,) = (it.state for it in all_of(Power(steps=1), objective, start))
    with pytest.raises(BankFileError, match=r"no 'within\.basis'"):
        all_of(Within(Known(), Power()), objective, start, resume=state)


def test_a_method_of_ones_own_that_keeps_no_state_does():
    def still(objective, start):
        yield Iterate(start, objective(start, gradient=False).value, 1, 1)

    objective, start = problem()
    (it,) = all_of(Within(Known(), still), objective, start)
    assert it.state == {}
    torch.testing.assert_close(it.perturbation.vectors, Spanned(start, BASIS).as_vectors().vectors)


def test_the_jacobian_within_a_span_is_that_of_its_coordinates():
    objective, start = problem()
    *_, last = all_of(Within(Known(), Jacobian(passes=3, signs=(1,))), objective, start)
    _, values, right = torch.linalg.svd(MATRIX @ BASIS.T)
    torch.testing.assert_close(last.scores["singular value"], values[:2])
    found = last.perturbation.vectors.detach() / RADIUS
    torch.testing.assert_close(
        (found * (right[:2] @ BASIS)).sum(dim=1).abs(), torch.ones(2).double()
    )


def test_more_orthogonal_vectors_than_the_span_has_dimensions_are_refused():
    objective, start = problem(n=K + 1)
    with pytest.raises(SettingError, match=f"{K + 1} orthogonal vectors do not fit into {K}"):
        all_of(Within(Known(), Dct()), objective, start)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (2 * BASIS, "not orthonormal"),
        (BASIS[:, :5], r"shape \(3, 5\); expected rows of 8"),
        (BASIS[:0], r"shape \(0, 8\)"),
        (BASIS[0], r"shape \(8,\)"),
    ],
)
def test_a_span_that_is_no_basis_of_the_source_is_refused(rows, told):
    objective, start = problem()
    with pytest.raises(SettingError, match=told):
        all_of(Within(Known(rows)), objective, start)


def test_what_has_no_basis_is_no_span():
    with pytest.raises(SettingError, match=re.escape("has no basis(objective)")):
        Within(BASIS)


def test_provenance_tells_the_span_and_the_method():
    objective, _ = problem()
    bank = ts.elicit(
        objective.segment.model,
        ["1 2 3"],
        source=ENDS[0],
        target=ENDS[1],
        n=2,
        radius=1.0,
        method=Within(Known(), Power(steps=2)),
        progress=False,
    )
    settings = bank.provenance.settings
    assert bank.provenance.method == "within"
    assert settings["span"] == "Known()"
    assert settings["method"] == "Power(steps=2, tolerance=0.01, spread=0.7)"
