"""What every method says on its way: how far it is, what it is worth, and when it ends."""

import dataclasses
import math

import pytest
import torch
from curved import ENDS, CurvedHost, final
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import BankFileError, NotFiniteError, SettingError
from tl_steer.methods import Dct, Jacobian, Melbo, Power, Quadratic, Sogi
from tl_steer.methods.dct import alphas
from tl_steer.methods.jacobian import cheapest_block
from tl_steer.methods.parameters import as_state, from_state
from tl_steer.methods.protocol import moved
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Evaluation, Objective
from tl_steer.objectives.response import Derivative, ResponseMap, mean_response
from tl_steer.perturbations.sphere import orthonormal_rows, random_on_sphere, softly_apart

D = 6
F64 = torch.float64
METHODS = [
    Power(steps=4, tolerance=0),
    Melbo(steps=4, lr=0.05),
    Melbo(steps=4, lr=0.05, orthogonal=True),
    Dct(steps=4),
    Sogi(steps=4),
    Quadratic(steps=4),
    Jacobian(passes=4, block=1, signs=(1,)),
]
NAMES = [f"{type(m).__name__}{i}" for i, m in enumerate(METHODS)]


def problem(n, function=lambda x: x + x.square() @ torch.eye(D, dtype=F64).roll(1, 0), radius=1.5):
    host = CurvedHost(function, D, dtype=F64)
    tokens = ts.tokenize(host, ["1 2 3"])
    segment = ts.Segment(host, tokens, *ENDS)
    objective = Objective(segment, Displacement(), tokens.mask)
    generator = torch.Generator().manual_seed(3)
    rows = random_on_sphere(n, D, radius=radius, generator=generator).double()
    return objective, ts.Additive(segment.source, rows, radius=radius)


def all_of(method, objective, start, **knobs):
    with frozen(objective.segment.model):
        return list(method(objective, start, **knobs))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_iterates_count_the_steps_and_hold_a_number_for_every_vector(method):
    objective, start = problem(3)
    way = all_of(method, objective, start)
    assert [(it.step, it.steps) for it in way] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for it in way:
        assert it.value.shape == (3,)
        assert all(score.shape == (3,) for score in it.scores.values())
        assert len(it.perturbation) == 3


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_one_step_is_enough_to_ask_for_and_none_is_too_few(method):
    name = "passes" if isinstance(method, Jacobian) else "steps"
    objective, start = problem(2)
    one = dataclasses.replace(method, **{name: 1})
    assert [(it.step, it.steps) for it in all_of(one, objective, start)] == [(1, 1)]
    with pytest.raises(SettingError, match=f"expected {name} >= 1"):
        dataclasses.replace(method, **{name: 0})


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_a_method_leaves_its_start_as_it_was(method):
    objective, start = problem(3)
    before = start.vectors.detach().clone()
    all_of(method, objective, start)
    assert torch.equal(start.vectors.detach(), before)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_iterate_is_on_the_sphere(method):
    objective, start = problem(3)
    for it in all_of(method, objective, start):
        norms = it.perturbation.vectors.detach().norm(dim=1)
        torch.testing.assert_close(norms, torch.full((3,), 1.5, dtype=F64))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("after", [0, 2])
def test_going_on_counts_on(method, after):
    objective, start = problem(3)
    whole = all_of(method, objective, start)
    rest = all_of(method, objective, start, resume=whole[after].state)
    assert [it.step for it in rest] == [it.step for it in whole[after + 1 :]]
    for mine, theirs in zip(rest, whole[after + 1 :], strict=True):
        assert torch.equal(mine.perturbation.vectors, theirs.perturbation.vectors)
        assert torch.equal(mine.value, theirs.value)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Melbo, {"lr": math.inf}),
        (Melbo, {"lr": -1e-3}),
        (Melbo, {"lr": math.nan}),
        (Power, {"spread": -0.1}),
        (Power, {"spread": 1.001}),
        (Power, {"tolerance": -1e-9}),
        (Power, {"tolerance": math.nan}),
        (Sogi, {"temperature": 0}),
        (Sogi, {"temperature": math.nan}),
        (Jacobian, {"signs": ()}),
        (Jacobian, {"signs": (1, 2)}),
        (Jacobian, {"signs": (0,)}),
        (Jacobian, {"block": 0}),
        (Jacobian, {"tolerance": math.nan}),
    ],
)
def test_settings_beyond_their_range_are_refused(method, settings):
    with pytest.raises(SettingError, match=f"{method.__name__}.*expected"):
        method(**settings)


def test_settings_at_the_ends_of_their_range_are_taken():
    objective, start = problem(2)
    for method in (
        Power(steps=2, spread=0, tolerance=0),
        Power(steps=2, spread=1),
        Melbo(steps=2, lr=1.5),
        Sogi(steps=2, temperature=0.5),
        Jacobian(passes=1, signs=(-1,)),
    ):
        assert len(final(method, objective, start).perturbation) == 2


@pytest.mark.parametrize(
    "method", [Power(steps=2, spread=1), Melbo(steps=2, orthogonal=True), Dct(2), Quadratic(2)]
)
def test_as_many_orthogonal_vectors_as_dimensions_fit(method):
    objective, start = problem(D)
    found = final(method, objective, start).perturbation.vectors.detach()
    assert len(found) == D
    objective, start = problem(D + 1)
    with pytest.raises(SettingError, match=f"{D + 1} orthogonal vectors do not fit into {D}"):
        final(method, objective, start)


def test_defaults_are_those_of_the_sources():
    """MELBO trains at a rate of 1e-3; DCT and CPE iterate ten times, CPE at T = 1."""
    assert Melbo().lr == 1e-3
    assert (Dct().steps, Quadratic().steps, Sogi().steps, Sogi().temperature) == (10, 10, 10, 1)
    assert all(method.init is None for method in (Dct(), Sogi()))
    assert not Melbo().orthogonal
    assert Power().spread == 0.7  # docs/methods.md says why


@pytest.mark.parametrize(
    "method", [Power(steps=9, tolerance=0), Melbo(steps=9), Dct(steps=9), Sogi(steps=9)]
)
def test_an_overflow_on_the_way_names_the_step_and_the_vector(method, monkeypatch):
    objective, start = problem(3)
    objective.vec_batch = 1
    passes, run = [], objective.segment.run

    def breaks(part):
        passes.append(1)
        # Three passes a step: the fifth is the second vector's, in the second step.
        return run(part) * (math.nan if len(passes) == 5 else 1.0)

    monkeypatch.setattr(objective.segment, "run", breaks)
    with pytest.raises(NotFiniteError, match="at step 2 for vector 1:"):
        all_of(method, objective, start)


# --- melbo


def adamw_slowly(objective, start, steps, lr, *, orthogonal):
    """AdamW with amsgrad on the tangent, and back to the sphere, number by number; with
    orthogonality each vector within what those before it leave."""

    def apart(rows):
        kept = []
        for row in rows:
            for other in kept if orthogonal else []:
                row = row - (row @ other) * other / 1.5**2
            kept.append(1.5 * row / row.norm())
        return torch.stack(kept)

    theta, m, v, most = apart(start.vectors.detach()), 0.0, 0.0, 0.0
    values = []
    for step in range(1, steps + 1):
        at = objective(ts.Additive(start.site, theta, radius=1.5))
        values.append(at.value)
        g = -at.gradients[0]
        for k in range(len(g)):
            for before in [*(theta[:k] if orthogonal else []), theta[k]]:
                g[k] = g[k] - (g[k] @ before) * before / 1.5**2
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        most = torch.maximum(v, torch.as_tensor(most))
        theta = theta - lr * (m / (1 - 0.9**step)) / ((most / (1 - 0.98**step)).sqrt() + 1e-8)
        theta = apart(theta)
    return theta, values


@pytest.mark.parametrize("orthogonal", [False, True])
def test_melbo_is_adamw_on_the_sphere_restated_slowly(orthogonal):
    objective, start = problem(3)
    with frozen(objective.segment.model):
        expected, values = adamw_slowly(objective, start, 25, 0.05, orthogonal=orthogonal)
    way = all_of(Melbo(steps=25, lr=0.05, orthogonal=orthogonal), objective, start)
    torch.testing.assert_close(way[-1].perturbation.vectors.detach(), expected)
    for it, value in zip(way, values, strict=True):
        torch.testing.assert_close(it.value, value)


def test_orthogonal_melbo_pulls_each_vector_off_those_before_it_and_not_behind_it():
    """The first vector moves as if it were alone; the second within what the first leaves."""
    objective, start = problem(3)
    method = Melbo(steps=12, lr=0.05, orthogonal=True)
    together = final(method, objective, start).perturbation.vectors.detach()
    alone = final(method, objective, start.select([0])).perturbation.vectors.detach()
    torch.testing.assert_close(together[:1], alone)
    two = final(method, objective, start.select([0, 1])).perturbation.vectors.detach()
    torch.testing.assert_close(together[:2], two)
    assert float((together[1:] - start.vectors.detach()[1:]).norm(dim=1).min()) > 0.1


# --- power


class Told(Objective):
    """An objective whose totals are given; its gradients turn the vectors, so that steps differ."""

    def __init__(self, totals):
        self.totals, self.seen = list(totals), []

    def __call__(self, here, *, step):
        self.seen.append(here.vectors.detach().clone())
        share = torch.full((len(here),), self.totals[step - 1] / len(here), dtype=F64)
        gradient = here.vectors.detach().roll(1, 1)
        return Evaluation(share, torch.zeros(len(here), D, dtype=F64), (gradient,))


@pytest.mark.parametrize(
    ("totals", "steps", "best"),
    [
        ([10.0, 12, 14, 16, 18], 5, 5),
        ([10.0, 10, 10, 12, 14], 3, 1),
        ([10.0, 10, 12, 12, 14], 5, 5),
        ([10.0, 10.9, 11.9, 13], 3, 3),  # rises of less than a tenth are no progress
        ([10.0, 12, 11, 9, 20], 4, 2),
        ([10.0, 11.5, 11.6, 13, 13.1, 13.2, 99], 6, 6),
    ],
)
def test_power_ends_after_two_steps_in_a_row_without_a_rise_and_keeps_its_best(totals, steps, best):
    _, start = problem(2)
    told = Told(totals)
    way = list(Power(steps=len(totals), tolerance=0.1, spread=0)(told, start))
    assert len(way) == steps
    assert torch.equal(way[-1].perturbation.vectors, told.seen[best - 1])
    assert float(way[-1].value.sum()) == pytest.approx(totals[best - 1])


def test_power_goes_where_the_gradient_points():
    objective, start = problem(3)
    way = all_of(Power(steps=3, tolerance=0, spread=0), objective, start)
    with frozen(objective.segment.model):
        (gradient,) = objective(start).gradients
    step = 1.5 * torch.nn.functional.normalize(gradient, dim=1)
    torch.testing.assert_close(way[0].state["here.vectors"], step)
    torch.testing.assert_close(way[0].value, objective(start, gradient=False).value)
    # Nothing is worth less than what came before on a convex objective, so the second is the best.
    torch.testing.assert_close(way[1].perturbation.vectors.detach(), step)


def test_a_vector_without_a_gradient_stays_where_it_is_and_the_others_move():
    """Only the first component reaches the target, so a vector without it can gain nothing."""
    objective, _ = problem(1, function=lambda x: x * torch.eye(D, dtype=F64)[0])
    rows = torch.zeros(2, D, dtype=F64)
    rows[0, :2], rows[1, 3] = torch.tensor([0.9, 1.2]), 1.5
    start = ts.Additive(objective.segment.source, rows, radius=1.5)
    for method in (Power(steps=2, spread=0.5, tolerance=0), Dct(steps=2)):
        found = final(method, objective, start).perturbation.vectors.detach()
        torch.testing.assert_close(found[1].abs(), rows[1].abs())
        torch.testing.assert_close(found[0].abs(), 1.5 * torch.eye(D, dtype=F64)[0])


def test_moving_leaves_rows_of_zeros_and_the_radius_alone():
    _, start = problem(3)
    rows = torch.zeros(3, D, dtype=F64)
    rows[1, 4] = -0.01
    there = moved(start, [rows]).vectors.detach()
    torch.testing.assert_close(there[[0, 2]], start.vectors.detach()[[0, 2]])
    torch.testing.assert_close(there[1], -1.5 * torch.eye(D, dtype=F64)[4])


# --- jacobian


def krylov(matrix, block, passes):
    """The blocks of the Krylov space, one below the other."""
    blocks = [block]
    for _ in range(passes - 1):
        blocks.append(blocks[-1] @ matrix.T @ matrix)
    return torch.cat(blocks)


def spans_the_same(a, b):
    """Whether two bases (rows) have one span."""
    qa, qb = orthonormal_rows(a), orthonormal_rows(b)
    return len(a) == len(b) and float(torch.linalg.svdvals(qa @ qb.T).min()) > 1 - 1e-6


def test_the_jacobian_walks_the_krylov_space_of_the_start():
    matrix = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=F64)
    objective, start = problem(2, function=lambda x: x @ matrix.T)
    way = all_of(Jacobian(passes=3, block=2, signs=(1,)), objective, start)
    rows = start.vectors.detach()
    for passes, it in enumerate(way, start=1):
        basis = it.state["basis"]
        assert spans_the_same(basis, krylov(matrix, rows, passes))
        # The best that this span has to offer: singular values of J restricted to it.
        within = torch.linalg.svdvals(matrix @ orthonormal_rows(basis).T)[:2]
        torch.testing.assert_close(it.scores["singular value"], within)
        torch.testing.assert_close(it.value, 1.5 * within)


@pytest.mark.parametrize(
    ("n", "signs", "block", "width"),
    [
        (2, (1,), None, 4),
        (2, (1, -1), None, 2),
        (3, (1, -1), None, 4),
        (5, (1,), None, D),
        (2, (1,), 3, 3),
        (4, (1,), 1, 1),
        (2, (1,), 9, D),
    ],
)
def test_a_pass_has_twice_the_singular_vectors_asked_for_or_what_is_said(n, signs, block, width):
    objective, start = problem(n)
    way = all_of(Jacobian(passes=2, block=block, signs=signs), objective, start)
    assert len(way[0].state["basis"]) == width
    # Where the space is spanned there is nothing left to do.
    assert len(way) == (1 if width == D else 2)


def test_the_jacobian_starts_where_it_is_told_and_adds_directions_of_its_own():
    objective, start = problem(2)
    basis = all_of(Jacobian(passes=1, block=4, signs=(1,)), objective, start)[0].state["basis"]
    assert spans_the_same(basis[:2], start.vectors.detach())
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=F64), atol=1e-12, rtol=0)
    again = all_of(Jacobian(passes=1, block=4, signs=(1,)), objective, start)[0].state["basis"]
    assert torch.equal(again, basis)


def test_vectors_beyond_the_first_passes_span_stay_at_their_start():
    objective, start = problem(5)
    first = all_of(Jacobian(passes=3, block=2, signs=(1,)), objective, start)[0]
    assert torch.equal(first.scores["singular value"][2:], torch.zeros(3, dtype=F64))
    assert float(first.scores["singular value"][:2].min()) > 0.1
    torch.testing.assert_close(first.perturbation.vectors.detach()[2:], start.vectors.detach()[2:])


def test_as_many_singular_vectors_as_dimensions_fit_on_both_sides():
    matrix = torch.diag(torch.arange(D, 0, -1, dtype=F64))
    objective, start = problem(2 * D, function=lambda x: x @ matrix)
    found = final(Jacobian(), objective, start)
    expected = torch.arange(D, 0, -1, dtype=F64).repeat_interleave(2)
    torch.testing.assert_close(found.scores["singular value"], expected)
    rows = found.perturbation.vectors.detach() / 1.5
    torch.testing.assert_close(rows[::2].abs(), torch.eye(D, dtype=F64), atol=1e-9, rtol=0)
    torch.testing.assert_close(rows[1::2], -rows[::2])


def test_an_odd_number_of_vectors_ends_with_one_side():
    matrix = torch.diag(torch.arange(D, 0, -1, dtype=F64))
    objective, start = problem(3, function=lambda x: x @ matrix)
    found = final(Jacobian(), objective, start)
    torch.testing.assert_close(found.scores["singular value"], torch.tensor([6.0, 6, 5], dtype=F64))


def products(method, objective, start):
    """How many vectors go through the Jacobian or its transpose, and where the method ends."""
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        real = Derivative._batched
        patch.setattr(
            Derivative,
            "_batched",
            lambda self, output, wanted, rows: (
                counts.append(len(rows)) or real(self, output, wanted, rows)
            ),
        )
        return counts, final(method, objective, start)


def wide(n, matrix):
    """A prompt of so many tokens that nothing is gained by wide blocks."""
    host = LinearHost([torch.eye(len(matrix), dtype=F64), matrix])
    tokens = ts.tokenize(host, [" ".join(str(i % 31) for i in range(200))])
    segment = ts.Segment(host, tokens, *ENDS)
    generator = torch.Generator().manual_seed(3)
    rows = random_on_sphere(n, len(matrix), radius=1, generator=generator).double()
    return Objective(segment, Displacement(), tokens.mask), ts.Additive(
        segment.source, rows, radius=1.0
    )


def test_without_passes_it_ends_when_the_span_is_known():
    """Against LAPACK; and four wide passes, with as many products, do not know it yet."""
    matrix = torch.randn(160, 160, generator=torch.Generator().manual_seed(1), dtype=F64)
    objective, start = wide(4, matrix)
    _, values, right = torch.linalg.svd(matrix)

    def off(found):
        rows = found.perturbation.vectors.detach()
        return float(torch.linalg.matrix_norm(rows - rows @ right[:4].T @ right[:4], 2))

    knobs = {"signs": (1,), "pool": mean_response}
    counts, found = products(Jacobian(**knobs), objective, start)
    assert off(found) < 0.05
    singular = found.scores["singular value"]
    torch.testing.assert_close(singular, values[:4], rtol=1e-3, atol=0)
    assert found.step < found.steps
    assert sum(counts) <= 70
    before, wider = products(Jacobian(passes=4, **knobs), objective, start)
    assert sum(before) == 56
    assert off(wider) > 0.3


def test_equal_singular_values_do_not_keep_it_going():
    objective, start = wide(2, torch.eye(40, dtype=F64))
    counts, found = products(Jacobian(signs=(1,), pool=mean_response), objective, start)
    assert sum(counts) <= 2 * 10 * 2
    torch.testing.assert_close(found.scores["singular value"], torch.ones(2, dtype=F64))


def test_a_block_is_as_wide_as_reading_the_weights_is_dear():
    def block(tokens, product=1e9):
        return cheapest_block(16, product=product, tokens=tokens, dimensions=4096)

    assert 1 <= block(400) < block(12) < block(1) <= 32


# --- DCT and its kin


def test_dct_reports_the_response_where_it_stands():
    objective, start = problem(3)
    way = all_of(Dct(steps=3), objective, start)
    responses = ResponseMap(objective)
    here = start
    for it in way[:-1]:
        apart = ts.Additive(start.site, 1.5 * orthonormal_rows(here.vectors.detach()), radius=1.5)
        torch.testing.assert_close(it.value, responses(apart).norm(dim=1))
        assert it.scores == {}
        here = it.perturbation
    at_end = responses(way[-1].perturbation)
    torch.testing.assert_close(way[-1].value, at_end.norm(dim=1))
    assert list(way[-1].scores) == ["alpha"]


def test_a_start_that_a_method_finds_is_where_that_method_ends():
    """Two methods in a row are the one started from where the other ended."""
    objective, start = problem(3)
    first = final(Jacobian(passes=2, pool=mean_response, signs=(1,)), objective, start)
    apart = all_of(Dct(steps=2), objective, first.perturbation)[-1]
    together = all_of(
        Dct(steps=2, init=Jacobian(passes=2, pool=mean_response, signs=(1,))), objective, start
    )[-1]
    assert torch.equal(together.perturbation.vectors, apart.perturbation.vectors)


def test_quadratic_dct_is_the_published_iteration_restated_slowly():
    tensor = torch.randn(D, D, D, generator=torch.Generator().manual_seed(2), dtype=F64)
    tensor = tensor + tensor.transpose(1, 2)  # D²Δ(0) of <T, x, x> / 2
    objective, start = problem(
        3, function=lambda x: torch.einsum("kij,...i,...j->...k", tensor, x, x) / 2
    )
    way = all_of(Quadratic(steps=3), objective, start)
    rows = start.vectors.detach()
    for it in way:
        unit = orthonormal_rows(rows)
        second = torch.einsum("kij,li,lj->lk", tensor, unit, unit)
        u = second / second.norm(dim=1, keepdim=True)
        rows = torch.einsum("kij,lk,li->lj", tensor, u, unit)
        expected = 1.5 * rows / rows.norm(dim=1, keepdim=True)
        torch.testing.assert_close(it.perturbation.vectors.detach(), expected)
        torch.testing.assert_close(it.scores["curvature"], second.norm(dim=1))


def test_sogi_is_the_published_iteration_restated_slowly():
    function = lambda x: x + x.square() @ torch.eye(D, dtype=F64).roll(1, 0)  # noqa: E731
    objective, start = problem(4, function)
    way = all_of(Sogi(steps=3, temperature=0.5), objective, start)
    rows, weights = start.vectors.detach() / 1.5, torch.ones(4, dtype=F64)
    for it in way:
        pushed = []
        for j in range(4):
            others = [i for i in range(4) if i != j]
            share = torch.stack([weights[i] * (rows[i] @ rows[j] / 0.5).exp() for i in others])
            pushed.append(rows[j] - (share / share.sum()) @ rows[others])
        at = torch.stack(pushed)
        at = (1.5 * at / at.norm(dim=1, keepdim=True)).requires_grad_()
        response = function(at)
        along = (response / response.norm(dim=1, keepdim=True)).detach()
        (gradient,) = torch.autograd.grad((response * along).sum(), at)
        weights = gradient.norm(dim=1)
        rows = gradient / weights[:, None]
        torch.testing.assert_close(it.perturbation.vectors.detach(), 1.5 * rows)


def test_the_value_of_a_quadratic_factor_is_half_its_curvature_at_the_radius():
    objective, start = problem(2)
    for it in all_of(Quadratic(steps=3), objective, start):
        torch.testing.assert_close(it.value, it.scores["curvature"] * 1.5**2 / 2)


def test_a_quarter_of_a_pass_fits_three_derivatives(monkeypatch):
    objective, start = problem(5)
    objective.vec_batch = 8
    sizes, run = [], objective.segment.run
    monkeypatch.setattr(
        objective.segment, "run", lambda part: (sizes.append(len(part)), run(part))[1]
    )
    all_of(Quadratic(steps=1), objective, start)
    assert sizes == [2, 2, 1]
    objective.vec_batch = 3
    sizes.clear()
    all_of(Quadratic(steps=1), objective, start)
    assert sizes == [1, 1, 1, 1, 1]


def test_soft_separation_depends_on_the_temperature():
    objective, start = problem(4)
    warm, cold = (
        final(Sogi(steps=2, temperature=t), objective, start).perturbation.vectors.detach()
        for t in (1.0, 0.1)
    )
    assert float((warm - cold).abs().max()) > 1e-2


# --- states


def test_parameters_go_into_a_state_and_come_back():
    _, start = problem(3)
    state = as_state("here", start)
    back = from_state("here", problem(3)[1], state)
    assert torch.equal(back.vectors, start.vectors)
    assert back.vectors.data_ptr() != state["here.vectors"].data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("here.vectors"), r"no 'here\.vectors'.*It has step\."),
        (lambda s: s.update({"here.vectors": torch.zeros(3, D + 1)}), r"shape \(3, 7\).*\(3, 6\)"),
        (lambda s: s.clear(), "It has nothing"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    _, start = problem(3)
    state = {**as_state("here", start), "step": torch.tensor(1)}
    change(state)
    with pytest.raises(BankFileError, match=message):
        from_state("here", start, state)


def test_a_melbo_state_of_another_method_is_refused():
    objective, start = problem(2)
    power = all_of(Power(steps=2), objective, start)[0].state
    with pytest.raises(BankFileError, match=r"adamw\.vectors\.step.*another method"):
        all_of(Melbo(steps=2), objective, start, resume=power)


# --- edits of several parameters


class Halves(ts.Perturbation):
    """A vector in two halves, each on a sphere of its own."""

    def __init__(self, site, left, right):
        super().__init__(site)
        self.left, self.right = torch.nn.Parameter(left), torch.nn.Parameter(right)

    def forward(self, activation, rows):
        return activation + torch.cat([self.left, self.right], dim=1)[rows][:, None]

    @torch.no_grad()
    def project_(self):
        for half in (self.left, self.right):
            half.copy_(torch.nn.functional.normalize(half, dim=1))


def halves(n):
    objective, start = problem(n)
    rows = start.vectors.detach()
    made = Halves(start.site, rows[:, :3].clone(), rows[:, 3:].clone())
    made.project_()
    return objective, made


@pytest.mark.parametrize("method", [Power(steps=3), Dct(steps=3), Sogi(steps=3), Melbo(steps=3)])
def test_an_edit_of_several_parameters_has_one_value_and_all_of_its_constraints(method):
    objective, start = halves(2)
    way = all_of(method, objective, start)
    for it in way:
        assert it.value.shape == (2,)
        for half in it.perturbation.parameters():
            torch.testing.assert_close(half.detach().norm(dim=1), torch.ones(2, dtype=F64))
    rest = all_of(method, objective, start, resume=way[0].state)
    assert torch.equal(rest[-1].perturbation.right, way[-1].perturbation.right)


def test_the_weight_of_an_edit_is_the_norm_of_its_whole_gradient():
    objective, start = halves(3)
    with frozen(objective.segment.model):
        (it,) = Sogi(steps=1)(objective, start)
        apart = Halves(
            start.site,
            *(softly_apart(half.detach(), torch.ones(3)) for half in (start.left, start.right)),
        )
        _, gradients = ResponseMap(objective).pull(apart)
    torch.testing.assert_close(it.state["weights"], torch.cat(gradients, dim=1).norm(dim=1))


def test_factors_in_halves_weigh_what_they_weigh_whole():
    objective, start = problem(3)
    rows = start.vectors.detach()
    response = ResponseMap(objective)(start)
    apart = Halves(start.site, rows[:, :3].clone(), rows[:, 3:].clone())
    torch.testing.assert_close(alphas(apart, response), alphas(start, response))
