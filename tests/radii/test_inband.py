"""The radius rule that looks at text."""

import math

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from hypothesis import given, strategies as st
from linear import LinearHost
from state import snapshot

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.models.segment import Segment
from tl_steer.radii.band import Dose, DoseResponse
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


def told_by(curve, radii):
    """Four texts at every radius, three of them as surprising as the curve says."""
    surprises = [(radius, curve(radius) if v else 0.0) for radius in radii for v in range(4)]
    doses = [
        Dose(radius, radius, 1, i % 4, 0, False, radius / 10, surprise, 0.0, radius > 1, "")
        for i, (radius, surprise) in enumerate(surprises)
    ]
    return DoseResponse(tuple(doses), "", 1.0, 0.0, 4.0, ("",), ("",), {})


@pytest.mark.filterwarnings("ignore:No band")
@pytest.mark.parametrize("place", [1, 0.5])
@pytest.mark.parametrize("begins", [0.1, 1.5, 2.5, 5.0, 9.0, 100.0])
def test_the_radii_that_are_read_decide_as_all_of_them_would(one, monkeypatch, begins, place):
    rule, read = InBand(place=place, anchor=lambda *_: 4.0), []

    def readings(*_):
        def at(radii):
            read.append(list(radii))
            return told_by(lambda radius: radius / begins, radii)

        return at

    monkeypatch.setattr(InBand, "_readings", readings)
    with ts.models.frozen(one):
        found = rule(*segment_of(one), 0)
    all_of_them = told_by(lambda radius: radius / begins, [1.0, 2.0, 4.0, 8.0])
    assert found == pytest.approx(rule._within(all_of_them.band(tolerated=0.25)))
    assert read[0] == [2.0, 4.0]
    assert [len(radii) for radii in read[1:]] == [1] * (len(read) - 1)
    if place == 1:
        assert len(read) == (1 if 2 < begins <= 4 else 2)


@pytest.mark.filterwarnings("ignore:No band")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_search_gives_what_reading_all_radii_gives(llama, seed):
    rule = InBand(anchor=ShareOfNorm(0.3), factors=(0.25, 0.5, 1, 2), n=3, max_new_tokens=6)
    with ts.models.frozen(llama):
        segment, measured = segment_of(llama)
        anchor = rule.anchor(segment, measured, seed)
        band = rule.measure(segment, measured, seed, anchor).band(tolerated=rule.tolerated)
        assert rule(segment, measured, seed) == pytest.approx(rule._within(band), rel=1e-4)


RISING = st.lists(st.integers(0, 4), min_size=5, max_size=5).map(sorted)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def told_of(spoilt, changed):
    """What reads doses at some radii: of four vectors, so many spoilt and changed at each."""

    def read(radii):
        doses = [
            Dose(
                radius=radius, share=radius, sign=1, vector=v, prompt=0, control=False, kl=1.0,
                surprise=9.0 * (v < spoilt[FACTORS.index(radius)]), repetition=0.0,
                changed=v < changed[FACTORS.index(radius)], text="",
            )
            for radius in radii
            for v in range(4)
        ]  # fmt: skip
        return DoseResponse(tuple(doses), SOURCE, 1.0, 1.0, 5.0, ("p",), ("u",), {})

    return read


@pytest.mark.filterwarnings("ignore")
@given(RISING, RISING, st.sampled_from([0, 0.3, 1]))
def test_a_search_stops_where_further_radii_would_change_nothing(spoilt, changed, place):
    rule, read = InBand(factors=FACTORS, place=place), told_of(spoilt, changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InBand, "_readings", lambda *_: read)
        found = rule._searched(object.__new__(Segment), torch.ones(1, 1), 0, 1.0, lambda **_: None)
    of_all = read(FACTORS).band(tolerated=rule.tolerated)
    expected = rule._within(of_all)
    assert rule._within(found.band(tolerated=rule.tolerated)) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:No band")
def test_a_search_says_how_far_it_is(one, capsys):
    knobs = {"source": SOURCE, "target": TARGET, "n": 2, "measured": MEASURED, "radius": RULE}
    ts.elicit(one, PROMPTS, **knobs)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("radius about ")
    assert "by ShareOfNorm" in told[0]
    radii = [line for line in told if line.startswith("radius 2 of at most 3: ")]
    assert len(radii) == 1
    assert radii[0].count("% gibberish") == 2
    assert any(line.startswith("2 vectors step 1 of 12, objective ") for line in told)
    assert "None" not in "".join(told)


class Counted:
    """Tokens through the blocks of a model, and calls of its last block."""

    def __init__(self, model):
        self.tokens = self.calls = 0
        self.last = len(model.blocks) - 1
        self.handles = [
            block.register_forward_pre_hook(self.count(i), with_kwargs=True)
            for i, block in enumerate(model.blocks)
        ]

    def count(self, layer):
        def hook(_block, args, kwargs):
            self.tokens += math.prod((args[0] if args else kwargs["hidden_states"]).shape[:2])
            self.calls += layer == self.last

        return hook

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


@pytest.mark.filterwarnings("ignore:No band")
def test_what_a_search_runs_through_the_model_does_not_grow(one):
    rule = InBand(n=6, max_new_tokens=8)
    with ts.models.frozen(one):
        segment, measured = segment_of(one)
        rule(segment, measured, 0)  # what is learned of a model once
        with Counted(one) as search:
            rule(segment, measured, 0)
        with Counted(one) as calibration:
            anchor = rule.anchor(segment, measured, 0)
        with Counted(one) as everything:
            rule.measure(segment, measured, 0, anchor)
    # The calibration: all directions at the Jacobian and at two radii, and a few at four.
    assert calibration.calls <= 7
    assert calibration.tokens <= 5_100
    assert search.tokens <= 11_400
    assert search.calls <= 75
    assert search.tokens - calibration.tokens < everything.tokens
