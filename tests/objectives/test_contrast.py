"""A contrast is the published equation, of two models that are run as anybody would run them."""

import math

import pytest
import torch
from conftest import KINDS, PROMPTS, SOURCE, TARGET, make
from linear import LinearHost
from state import snapshot
from two_models import STREAMED, base_of, edits_of, slowly

import tl_steer as ts
from tl_steer.errors import ModelError, SettingError
from tl_steer.models.state import frozen
from tl_steer.objectives import contrast
from tl_steer.objectives.contrast import Contrast

LAST = "blocks.3.hook_resid_post"


@pytest.fixture(params=STREAMED)
def pair(request):
    return make(request.param), base_of(request.param)


@pytest.fixture
def two(one):
    return one, base_of(next(name for name in KINDS if name.endswith("llama")))


def objective_of(model, contrast, prompts=PROMPTS, vec_batch=None):
    with frozen(model):
        segment = ts.Segment(model, ts.tokenize(model, prompts), SOURCE, LAST)
        return contrast.on(segment, vec_batch=vec_batch)


def evaluated(model, contrast, edits, gradient=True, **how):
    objective = objective_of(model, contrast, **how)
    with frozen(model):
        return objective(edits, gradient=gradient)


@pytest.mark.parametrize(("share", "bound"), [(0.5, math.inf), (1.0, 1.0), (0.3, 0.5)])
def test_value_and_lead_are_the_equations(pair, share, bound):
    model, base = pair
    edits = edits_of(model)
    at = evaluated(model, Contrast(base, along=3, share=share, bound=bound), edits)
    for v in range(len(edits)):
        value, lead = slowly(model, base, edits.select([v]), along=3, share=share, bound=bound)
        assert float(at.value[v]) == pytest.approx(value, abs=1e-4)
        assert float(at.scores["lead"][v]) == pytest.approx(lead, abs=1e-3)


def test_the_lead_does_not_grow_with_how_odd_a_text_is():
    """Two prompts, two tokens, all certain: twelve nats at most, and three for being the same."""
    ids = torch.tensor([[[0, 1], [0, 1]], [[0, 1], [1, 1]]])
    certain = torch.zeros(2, 2, 2, 3)
    for nats, expected in ((3.0, (6 + 3, 6 + 1.5)), (40.0, (12 + 3, 12 + 1.5))):
        assert contrast._lead(ids, certain, certain - nats).tolist() == list(expected)


def test_a_single_prompt_has_nobody_to_agree_with(two):
    model, base = two
    edits = edits_of(model, n=1)
    at = evaluated(model, Contrast(base, along=2), edits, prompts=PROMPTS[:1])
    value, lead = slowly(model, base, edits, along=2, share=0.5, bound=5.0, prompts=PROMPTS[:1])
    assert float(at.value) == pytest.approx(value, abs=1e-4)
    assert float(at.scores["lead"]) == pytest.approx(lead, abs=1e-3)


def test_the_gradient_equals_finite_differences(two):
    """Small steps leave the answer as it is, and the answer is held fixed in the gradient."""
    model, base = two
    edits, step = edits_of(model, n=1), 1e-2
    unbounded = Contrast(base, along=3, bound=math.inf)
    gradient = evaluated(model, unbounded, edits).gradients[0][0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        along = torch.nn.functional.normalize(
            torch.randn(len(gradient), generator=generator), dim=0
        )
        ends = []
        for side in (1, -1):
            there = edits.select(slice(None))
            with torch.no_grad():
                there.vectors += side * step * along
            ends.append(float(evaluated(model, unbounded, there, gradient=False).value))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(gradient @ along) == pytest.approx(slope, abs=2e-3)


def test_a_model_against_itself_alone_shows_nothing(one):
    at = evaluated(one, Contrast(one, along=3, share=1), edits_of(one))
    torch.testing.assert_close(at.value, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(at.gradients[0], torch.zeros(3, 24), atol=1e-4, rtol=0)


def test_parts_give_what_the_whole_gives(two):
    model, base = two
    whole, parts = (
        evaluated(model, Contrast(base), edits_of(model, n=5), vec_batch=size) for size in (5, 2)
    )
    torch.testing.assert_close(whole.value, parts.value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.gradients[0], parts.gradients[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.scores["lead"], parts.scores["lead"], atol=1e-4, rtol=1e-4)


def test_the_response_is_the_mean_change_where_the_answer_is_predicted(two):
    model, base = two
    edits = edits_of(model, n=1)
    at = evaluated(model, Contrast(base, along=1), edits)
    changes = []
    for prompt in PROMPTS:
        ids = ts.tokenize(model, [prompt]).ids
        streams = []
        for hooks in ([], edits.hooks()):
            with frozen(model), torch.no_grad(), ts.capturing(model, [LAST]) as seen:
                model.run_with_hooks(ids, fwd_hooks=hooks)
            streams.append(seen[LAST][0, -1])
        changes.append(streams[1] - streams[0])
    torch.testing.assert_close(
        at.response[0], torch.stack(changes).mean(dim=0), atol=1e-4, rtol=1e-3
    )


def test_both_models_are_left_as_they_were(two):
    model, base = two
    base.train()
    before = snapshot(model), snapshot(base)
    evaluated(model, Contrast(base), edits_of(model))
    assert (snapshot(model), snapshot(base)) == before
    base.eval()


def test_what_is_no_base_is_refused(one):
    with pytest.raises(ModelError):
        Contrast(one.cfg)
    narrow = LinearHost([torch.eye(8) for _ in range(4)])
    with pytest.raises(ModelError, match="cannot be the base"):
        objective_of(one, Contrast(narrow))


def test_settings_and_targets_that_mean_nothing_are_refused(one):
    for wrong in ({"along": 0}, {"share": 0}, {"share": 1.5}, {"bound": 0}, {"bound": -1.0}):
        with pytest.raises(SettingError, match="expected"):
            Contrast(one, **wrong)
    with frozen(one):
        segment = ts.Segment(one, ts.tokenize(one, PROMPTS), SOURCE, "blocks.2.hook_resid_post")
    with pytest.raises(SettingError, match=r"blocks\.3\.hook_resid_post"):
        Contrast(one).on(segment)
    assert TARGET == LAST
