"""Gradient ascent on the sphere: the equation's steps, the best iterate, and going on."""

import dataclasses

import pytest
import torch
from curved import final
from test_methods import linear_problem

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.methods import Ascent
from tl_steer.objectives.objective import Evaluation

RADIUS = 3.0


def slowly(objective, vector, *, steps, stride, decline, momentum):
    """One vector, step by step; every point at which the objective was looked at."""
    kept, seen = torch.zeros_like(vector), []
    for t in range(steps):
        edit = ts.Additive(objective.segment.source, vector[None], radius=RADIUS)
        at = objective(edit)
        seen.append((vector, float(at.value)))
        gradient = at.gradients[0][0]
        unit = vector / vector.norm()
        tangent = gradient - (gradient @ unit) * unit
        kept = momentum * kept + (1 - momentum) * tangent / tangent.norm()
        moved = unit + stride * (1 - decline * t / steps) * kept / kept.norm()
        vector = RADIUS * moved / moved.norm()
    return seen


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_it_takes_the_steps_of_the_equation(momentum):
    objective, start, _ = linear_problem(n=3)
    how = {"steps": 5, "stride": 0.3, "decline": 0.5, "momentum": momentum}
    *_, last = Ascent(**how)(objective, start)
    for k in range(3):
        seen = slowly(objective, start.vectors.detach()[k], **how)
        vector, value = max(seen, key=lambda point: point[1])
        torch.testing.assert_close(last.perturbation.vectors.detach()[k], vector)
        assert float(last.value[k]) == pytest.approx(value)


def test_it_finds_the_top_singular_vector():
    objective, start, jacobian = linear_problem(n=4)
    found = final(Ascent(steps=200, stride=0.2, decline=1), objective, start)
    top = torch.linalg.svd(jacobian).Vh[0]
    for vector in found.perturbation.vectors.detach():
        assert abs(float(vector @ top)) / RADIUS == pytest.approx(1, abs=1e-2)


class Peaked:
    """An objective that grows for ever, with a score that has been at its best after three steps
    for the first vector, and after one for the others."""

    def __init__(self, inner):
        self.inner, self.segment, self.looked = inner, inner.segment, 0

    def __call__(self, perturbation, *, gradient=True, step=None):
        at = self.inner(perturbation, gradient=gradient)
        self.looked += 1
        best = torch.ones(len(perturbation))
        best[0] = 3
        return dataclasses.replace(at, scores={"lead": -(best - self.looked).abs()})


def test_every_vector_comes_back_from_where_its_score_was_best():
    objective, start, _ = linear_problem(n=3)
    how = {"steps": 5, "stride": 0.3, "decline": 0.0, "momentum": 0.0}
    *_, last = Ascent(**how, keep="lead")(Peaked(objective), start)
    for k, at in ((0, 2), (1, 0), (2, 0)):
        vector, value = slowly(objective, start.vectors.detach()[k], **how)[at]
        torch.testing.assert_close(last.perturbation.vectors.detach()[k], vector)
        assert float(last.value[k]) == pytest.approx(value)


def test_it_goes_on_from_any_step_to_the_same_result():
    objective, start, _ = linear_problem(n=3)
    method = Ascent(steps=6)
    iterates = list(method(objective, start))
    for done in (1, 3, 5):
        *_, last = method(objective, start, resume=iterates[done - 1].state)
        assert torch.equal(last.perturbation.vectors, iterates[-1].perturbation.vectors)
        assert torch.equal(last.value, iterates[-1].value)
    assert [i.step for i in method(objective, start, resume=iterates[3].state)] == [5, 6]


def test_a_vector_without_a_gradient_stays_where_it_is():
    objective, start, _ = linear_problem(n=2)

    def flat(perturbation, *, gradient=True, step=None):
        at = objective(perturbation)
        return Evaluation(at.value, at.response, (torch.zeros_like(at.gradients[0]),))

    *_, last = Ascent(steps=3)(flat, start)
    torch.testing.assert_close(last.perturbation.vectors, start.vectors)


def test_settings_that_mean_nothing_are_refused():
    wrong = ({"steps": 0}, {"stride": 0}, {"decline": 1.1}, {"momentum": 1})
    for knobs in wrong:
        with pytest.raises(SettingError, match="expected"):
            Ascent(**knobs)
    objective, start, _ = linear_problem(n=1)
    with pytest.raises(SettingError, match="objective"):
        next(Ascent(keep="lead")(objective, start))
