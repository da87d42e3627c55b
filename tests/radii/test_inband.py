"""The radius rule that looks at text."""

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from linear import LinearHost
from state import snapshot

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.models.segment import Segment
from tl_steer.radii.inband import InBand
from tl_steer.radii.rules import ShareOfNorm

RULE = InBand(anchor=ShareOfNorm(0.3), factors=(0.5, 1.0, 2.0), n=2, max_new_tokens=4)
MEASURED = ts.Positions(last=1, bos=False)


def segment_of(model, prompts=PROMPTS, source=SOURCE, target=TARGET):
    segment = Segment(model, ts.tokenize(model, prompts), source, target)
    return segment, MEASURED.measure(segment.mask, segment.tokens.has_bos)


@pytest.mark.filterwarnings("ignore:No band")
def test_the_radius_lies_among_those_tried(llama):
    before = snapshot(llama)
    with ts.models.frozen(llama):
        segment, measured = segment_of(llama)
        radius, again = RULE(segment, measured, 0), RULE(segment, measured, 0)
        anchor = RULE.anchor(segment, measured, 0)
    assert 0.5 * anchor <= radius * (1 + 1e-9)
    assert radius <= 2 * anchor * (1 + 1e-9)
    assert radius == again
    assert snapshot(llama) == before


@pytest.mark.filterwarnings("ignore:No band")
def test_elicit_takes_it_as_a_rule(one):
    bank = ts.elicit(
        one, PROMPTS, source=SOURCE, target=TARGET, n=2, radius=RULE, measured=MEASURED,
        progress=False,
    )  # fmt: skip
    assert 0.149 < bank.radius_share < 0.601


def test_the_directions_tried_move_the_target_more_than_random_ones(one):
    with ts.models.frozen(one):
        segment, measured = segment_of(one)
        start = InBand(n=4, steps=0)._directions(segment, measured, 0, 2.0)
        sharp = InBand(n=4)._directions(segment, measured, 0, 2.0)
        objective = ts.objectives.Objective(segment, ts.objectives.Displacement(), measured)
        value = [objective(ts.Additive(segment.source, v)).value.mean() for v in (start, sharp)]
    assert sharp.norm(dim=1) == pytest.approx([2.0] * 4, rel=1e-5)
    assert value[1] > 1.3 * value[0]


def test_place_chooses_within_the_band():
    from tl_steer.radii.band import Band

    for place, radius in ((0, 2.0), (0.5, 4.0), (1, 8.0)):
        assert InBand(place=place)._within(Band(2.0, 8.0)) == pytest.approx(radius)


def test_a_model_that_cannot_speak_gets_the_anchor_and_a_warning():
    host = LinearHost([torch.eye(6), torch.eye(6)])
    with ts.models.frozen(host):
        site = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
        segment, measured = segment_of(host, ["1 2 3"], *site)
        with pytest.warns(UserWarning, match=r"no generate\(\)"):
            radius = RULE(segment, measured, 0)
        assert radius == pytest.approx(0.3 * segment.source_norm())


@pytest.mark.parametrize(
    "knobs",
    [{"factors": ()}, {"factors": (0.0,)}, {"n": 0}, {"steps": -1}, {"place": 1.5},
     {"tolerated": 1}, {"max_new_tokens": 0}],
)  # fmt: skip
def test_bad_settings_are_refused(knobs):
    with pytest.raises(SettingError, match="expected"):
        InBand(**knobs)
