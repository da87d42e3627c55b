"""What a method climbs: values and gradients of many edits, refused where they are no numbers."""

import dataclasses
import math

import pytest
import torch
from curved import ENDS, CurvedHost, final

import tl_steer as ts
from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.methods import Dct, Jacobian, Melbo, Power, Quadratic, Sogi
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Cosine, Displacement
from tl_steer.objectives.objective import Objective, edits_per_pass, refuse_nonfinite
from tl_steer.objectives.response import ResponseMap, mean_response, stacked_response
from tl_steer.objectives.weighted import Weighted
from tl_steer.perturbations.sphere import random_on_sphere

D = 6
F64 = torch.float64
DIVERGENCES = [
    Displacement(),
    Displacement(p=4),
    Displacement(q=1),
    Displacement(p=3, q=2),
    Cosine(),
]
DIVERGENCES += [Weighted(((1.0, Displacement()), (-0.1, Cosine())))]
CLIMBERS = [Power(steps=1), Melbo(steps=1), Dct(steps=1), Sogi(steps=1), Jacobian(passes=1)]


def problem(function, n=5, *, divergence=None, prompts=("1 2 3",), **knobs):
    host = CurvedHost(function, D, dtype=F64)
    tokens = ts.tokenize(host, list(prompts))
    segment = ts.Segment(host, tokens, *ENDS)
    objective = Objective(segment, divergence or Displacement(), tokens.mask, **knobs)
    generator = torch.Generator().manual_seed(3)
    rows = random_on_sphere(n, D, radius=1.5, generator=generator).double()
    return objective, ts.Additive(segment.source, rows, radius=1.5)


def broken_above(limit, axis):
    """NaN wherever one component is large: for some edits only."""
    return lambda x: x + torch.where(x[..., axis : axis + 1] > limit, math.nan, 0.0)


def broken_rows(start, limit, axis):
    return [i for i, row in enumerate(start.vectors.detach()) if row[axis] > limit]


# --- what cannot be measured


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("vec_batch", [1, 2, 5])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_an_edit_that_breaks_the_model_is_named_by_its_number(divergence, vec_batch, gradient):
    """Whatever the pass it is in. A root must not turn NaN into "no effect"."""
    axis = 2
    _, start = problem(lambda x: x)
    limit = float(start.vectors.detach()[:, axis].sort().values[-2])
    first = broken_rows(start, limit, axis)
    assert len(first) == 1
    objective, start = problem(
        broken_above(limit, axis), divergence=divergence, vec_batch=vec_batch
    )
    with pytest.raises(NotFiniteError, match=f"at step 7 for vector {first[0]}:"):
        objective(start, gradient=gradient, step=7)
    with pytest.raises(NotFiniteError, match=f"infinite for vector {first[0]}:"):
        objective(start, gradient=gradient)


@pytest.mark.parametrize("vec_batch", [1, 2, 5])
def test_a_pulled_response_that_is_not_finite_names_its_edit(vec_batch):
    _, start = problem(lambda x: x)
    limit = float(start.vectors.detach()[:, 2].sort().values[-2])
    (row,) = broken_rows(start, limit, 2)
    objective, start = problem(broken_above(limit, 2), vec_batch=vec_batch)
    with pytest.raises(NotFiniteError, match=f"at step 3 for vector {row}:"):
        ResponseMap(objective).pull(start, step=3)


@pytest.mark.parametrize("vec_batch", [1, 2, 4])
def test_a_product_that_overflows_names_its_row(vec_batch):
    objective, start = problem(lambda x: 1e300 * x, vec_batch=vec_batch)
    linear = ResponseMap(objective).derivative(start)
    rows = torch.eye(4, D, dtype=F64)
    rows[2] *= 1e10
    for product in (linear.push, linear.pull):
        with pytest.raises(NotFiniteError, match="for vector 2:"):
            product(rows)


def test_the_first_tensor_with_a_fault_is_blamed_and_in_it_the_first_row():
    fine = torch.ones(3)
    refuse_nonfinite((fine, fine[:, None]))
    bad = torch.tensor([[1.0, 2.0], [1.0, math.inf], [math.nan, 1.0]])
    with pytest.raises(NotFiniteError, match="vector 1:"):
        refuse_nonfinite((fine, bad))
    with pytest.raises(NotFiniteError, match="at step 0 for vector 6:"):
        refuse_nonfinite((torch.tensor([1.0, 1.0, math.nan]), bad), first=4, step=0)


# --- what cannot be climbed


@pytest.mark.parametrize("method", CLIMBERS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("function", [torch.ones_like, lambda x: 2 * x.detach()])
def test_a_target_without_a_gradient_is_refused_in_a_sentence(method, function):
    objective, start = problem(function)
    with pytest.raises(SettingError, match=r"No gradient leads from blocks\.1.*blocks\.0"):
        final(method, objective, start)


@pytest.mark.parametrize("method", CLIMBERS, ids=lambda m: type(m).__name__)
def test_gradients_of_weights_are_not_those_of_edits(method):
    """A model that is not frozen has gradients; those that are climbed must lead to the edits."""
    weight = torch.nn.Parameter(torch.eye(D, dtype=F64))
    objective, start = problem(lambda x: x.detach() @ weight)
    with pytest.raises(SettingError, match="No gradient leads from"):
        list(method(objective, start))


def test_a_divergence_that_breaks_the_gradient_is_refused_and_can_still_be_evaluated():
    def rounded(steered, clean, measured):
        return (steered - clean).detach().round().sum(dim=(1, 2, 3))

    objective, start = problem(lambda x: x, divergence=rounded)
    with pytest.raises(SettingError, match="or the divergence breaks the gradient"):
        objective(start)
    assert objective(start, gradient=False).value.shape == (5,)


def test_a_parameter_that_does_nothing_has_a_gradient_of_zero():
    class Idle(ts.Additive):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.idle = torch.nn.Parameter(torch.ones(len(self.vectors), 2))

    objective, start = problem(lambda x: x)
    idle = Idle(start.site, start.vectors.detach(), radius=1.5)
    gradients = objective(idle).gradients
    torch.testing.assert_close(gradients[0], objective(start).gradients[0])
    assert torch.equal(gradients[1], torch.zeros(5, 2))


# --- sizes of a pass


def test_a_pass_holds_a_few_thousand_rows_and_never_less_than_one_edit():
    objective, _ = problem(lambda x: x, prompts=("1 2 3 4", "5 6"))
    rows = objective.vec_batch * 2 * 4
    assert 1000 < rows <= 10_000
    assert objective.vec_batch == edits_per_pass(objective.segment)
    long = " ".join(["3"] * 900)
    objective, start = problem(lambda x: x, prompts=(long,) * 12)
    assert objective.vec_batch == 1
    assert len(objective(start).value) == 5


def test_a_pass_is_as_large_as_is_said():
    objective, start = problem(lambda x: x, vec_batch=2)
    sizes, run = [], objective.segment.run
    objective.segment.run = lambda part: (sizes.append(len(part)), run(part))[1]
    objective(start)
    ResponseMap(objective)(start)
    assert sizes == [2, 2, 1, 2, 2, 1]


def test_the_response_is_the_mean_over_tokens_and_then_over_prompts():
    function = lambda x: x + x.square()  # noqa: E731
    objective, start = problem(function, prompts=("1 2 3", "4"))
    expected = function(start.vectors.detach())
    found = objective(start)
    torch.testing.assert_close(found.response, expected)
    assert not found.value.requires_grad
    assert not found.response.requires_grad
    assert objective(start, gradient=False).gradients == ()
    # A norm over tokens, summed over prompts: sqrt(3) for three tokens that move alike, 1 for one.
    torch.testing.assert_close(found.value, (math.sqrt(3) + 1) * expected.norm(dim=1))


# --- derivatives


def test_the_derivative_knows_its_widths_and_is_the_matrix():
    matrix = torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=F64)
    objective, start = problem(lambda x: x @ matrix.T + x.square(), prompts=("1 2 3", "4"))
    mean = ResponseMap(objective).derivative(start)
    assert (mean.width, mean.k) == (D, D)
    torch.testing.assert_close(mean.push(torch.eye(D, dtype=F64)), matrix.T)
    torch.testing.assert_close(mean.pull(torch.eye(D, dtype=F64)), matrix)
    stacked = ResponseMap(objective, stacked_response).derivative(start)
    assert stacked.k == 4 * D
    # Prompts count equally, and so do the tokens of one.
    shares = torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2], dtype=F64).sqrt()
    expected = torch.cat([share * matrix.T for share in shares], dim=1)
    torch.testing.assert_close(stacked.push(torch.eye(D, dtype=F64)), expected)


def test_a_pull_without_cotangents_is_the_gradient_of_the_norm_of_the_response():
    objective, start = problem(lambda x: x + x.square(), vec_batch=2)
    with frozen(objective.segment.model):
        response, (found,) = ResponseMap(objective).pull(start)
    theta = start.vectors.detach().clone().requires_grad_()
    norms = (theta + theta.square()).norm(dim=1)
    (expected,) = torch.autograd.grad(norms.sum(), theta)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(response, (theta + theta.square()).detach())


def test_cotangents_belong_to_their_own_edit_whatever_the_pass():
    cotangents = torch.randn(5, D, generator=torch.Generator().manual_seed(1), dtype=F64)
    for vec_batch in (1, 2, 5):
        objective, start = problem(lambda x: x + x.square(), vec_batch=vec_batch)
        _, (found,) = ResponseMap(objective).pull(start, cotangents)
        torch.testing.assert_close(found, cotangents * (1 + 2 * start.vectors.detach()))


# --- settings are values


VALUES = [Displacement(p=4, q=1), Cosine(), Weighted(((1.0, Cosine()),)), Power(), Melbo(), Dct()]
VALUES += [Sogi(), Quadratic(), Jacobian(pool=mean_response)]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_settings_are_values_that_compare_hash_and_do_not_change(value):
    again = dataclasses.replace(value)
    assert again == value
    assert hash(again) == hash(value)
    assert repr(value).startswith(f"{type(value).__name__}(")
    for name in [f.name for f in dataclasses.fields(value)] or ["anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)


@pytest.mark.parametrize("weight", [math.inf, -math.inf, math.nan])
def test_weights_are_finite(weight):
    with pytest.raises(SettingError, match="at least one finite weight"):
        Weighted(((1.0, Cosine()), (weight, Displacement())))


@pytest.mark.parametrize("settings", [{"p": math.inf}, {"q": math.inf}, {"q": math.nan}])
def test_powers_are_finite(settings):
    with pytest.raises(SettingError, match="at least 1"):
        Displacement(**settings)
