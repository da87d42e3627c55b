"""The band between paraphrase and gibberish, from doses made by hand."""

import json
import math

import pytest
from hypothesis import given, settings, strategies as st

from tl_steer.errors import SettingError
from tl_steer.radii.band import Dose, DoseResponse, quantile, reaches


def dose(radius, *, kl=1.0, surprise=0.0, repetition=0.0, changed=True, sign=1, vector=0, **more):
    return Dose(
        radius=radius,
        share=radius / 10,
        sign=sign,
        vector=vector,
        prompt=0,
        control=more.get("control", False),
        kl=kl,
        surprise=surprise,
        repetition=repetition,
        changed=changed,
        text=more.get("text", f"text {vector}"),
    )


def response(*doses, fluent=1.0, salad=5.0):
    return DoseResponse(tuple(doses), "blocks.1.x", 10.0, fluent, salad, ("p",), ("u",), {})


def growing(kls, surprises, **knobs):
    """One vector at radii 1, 2, 4, ..."""
    pairs = zip(kls, surprises, strict=True)
    return response(*(dose(2.0**i, kl=k, surprise=s) for i, (k, s) in enumerate(pairs)), **knobs)


def test_the_band_lies_between_the_two_crossings():
    # Surprise 2 is a quarter of the way from 1 (fluent) to 5 (salad); crossed midway from 4 to 8.
    band = growing([0.0, 0.2, 1.0, 2.0], [0.0, 0.0, 1.0, 3.0]).band()
    assert band.lowest == pytest.approx(2**0.5)
    assert band.highest == pytest.approx(4 * 2**0.5)
    assert band.note == ""


def test_a_loop_is_gibberish_although_the_model_expects_it():
    found = response(dose(1.0), dose(2.0, surprise=-2.0, repetition=1.0))
    assert found.band().highest == pytest.approx(2**0.5)


def test_text_that_nothing_changes_is_paraphrase_whatever_its_next_token():
    found = response(dose(1.0, changed=False), dose(4.0, changed=True))
    assert found.band().lowest == pytest.approx(2.0)


def test_tolerance_is_the_share_that_may_be_gibberish():
    bad = [dose(2.0, vector=v, surprise=9.0 if v == 0 else 0.0) for v in range(4)]
    found = response(*(dose(1.0, vector=v) for v in range(4)), *bad)
    assert found.band().highest == 2.0
    assert "no gibberish" in found.band().note
    assert found.band(tolerated=0).highest < 2.0


@pytest.mark.parametrize(
    ("kls", "surprises", "nearest", "reason"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 4.0, "paraphrases"),
        ([1.0, 1.0, 1.0], [9.0, 9.0, 9.0], 1.0, "already gives gibberish"),
        ([0.0, 0.0, 1.0], [0.0, 2.0, 9.0], 2.0, "before paraphrase ends"),
    ],
)
def test_without_a_band_the_nearest_end_is_returned_with_a_warning(kls, surprises, nearest, reason):
    with pytest.warns(UserWarning, match=reason):
        band = growing(kls, surprises).band()
    assert (band.lowest, band.highest) == (pytest.approx(nearest), pytest.approx(nearest))
    assert reason in band.note


def test_signs_and_controls_are_judged_apart():
    found = response(
        *(dose(r, sign=s, surprise=s * r) for r in (1.0, 4.0) for s in (1, -1)),
        *(dose(r, control=True, surprise=10 * r) for r in (1.0, 4.0)),
    )
    assert found.band(sign=1).highest < 4
    assert found.band(sign=-1).highest == 4
    with pytest.warns(UserWarning, match="already"):
        assert found.band(control=True).highest == 1
    with pytest.raises(SettingError, match="measure them first"):
        found.band(control=True, sign=-1)


def test_a_model_that_is_not_surprised_by_shuffled_text_is_judged_by_repetition_alone():
    found = response(dose(1.0, surprise=50.0), dose(2.0, repetition=0.9), fluent=2.0, salad=2.0)
    assert found.band().highest < 2.0
    assert found.incoherence(found.doses[0]) == 0.0


@pytest.mark.parametrize(
    "knobs", [{"changed": 0}, {"tolerated": 1}, {"incoherence": 0}, {"repetition": 0}, {"kl": -1}]
)
def test_impossible_thresholds_are_refused(knobs):
    with pytest.raises(SettingError, match="expected"):
        response(dose(1.0)).band(**knobs)


VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=6)


@settings(deadline=None, max_examples=50)
@given(VALUES, st.floats(-4, 4), st.floats(0, 3))
def test_a_higher_level_is_reached_no_sooner(values, level, more):
    radii = [2.0**i for i in range(len(values))]
    here, there = reaches(radii, values, level), reaches(radii, values, level + more)
    assert here <= there * (1 + 1e-12)
    assert here == math.inf or radii[0] <= here <= radii[-1]


LEVELS = st.floats(0.05, 1.0)


@pytest.mark.filterwarnings("ignore:No band")
@settings(deadline=None, max_examples=50)
@given(VALUES, LEVELS, LEVELS)
def test_stricter_ideas_of_gibberish_never_widen_the_band(surprises, a, b):
    found = growing([1.0] * len(surprises), surprises)
    strict, lax = sorted((a, b))
    assert found.band(incoherence=strict).highest <= found.band(incoherence=lax).highest + 1e-9
    assert found.band(tolerated=0).highest <= found.band(tolerated=0.9).highest + 1e-9


def test_quantiles_are_numpys():
    import numpy

    values = [3.0, -1.0, 4.0, 1.0, 5.0]
    for part in (0, 0.1, 0.25, 0.5, 0.9, 1):
        assert quantile(values, part) == pytest.approx(float(numpy.quantile(values, part)))


def test_it_saves_and_shows(tmp_path):
    found = growing([0.0, 1.0], [0.0, 9.0])
    kept = json.loads(found.save(tmp_path / "d.json").read_text())
    assert kept["doses"][1]["surprise"] == 9.0
    for text in (repr(found), found._repr_html_()):
        assert "surprise" in text
        assert "shuffled" in text
