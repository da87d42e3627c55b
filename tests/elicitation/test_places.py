"""Which source and which length for a contrast: a short climb at each says."""

import math

import pytest
from conftest import LLAMAS, PROMPTS, make
from state import snapshot
from two_models import base_of, slowly

import tl_steer as ts
from tl_steer.elicitation import ends, scan_contrast
from tl_steer.elicitation.start import started
from tl_steer.errors import HookPointError, ModelError, SettingError
from tl_steer.methods import Ascent
from tl_steer.models.segment import Segment
from tl_steer.objectives import Contrast
from tl_steer.radii import ShareOfNorm

SOURCES = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
SHORT = {"n": 6, "steps": 2, "seed": 3}


@pytest.fixture(scope="module", params=LLAMAS)
def two(request):
    return make(request.param), base_of(request.param)


@pytest.fixture(scope="module")
def found(two):
    return scan_contrast(two[0], PROMPTS, two[1], sources=SOURCES, lengths=(1.0, 3.0), **SHORT)


def test_every_source_is_tried_at_every_length(found):
    tried = [(place.source, place.radius) for place in found.places]
    assert tried == [(source, radius) for source in SOURCES for radius in (1.0, 3.0)]


def test_a_place_is_worth_the_five_best_leads_of_what_elicit_finds_there(two, found):
    model, base = two
    place = found.places[3]
    bank = ts.elicit(
        model, PROMPTS, against=base, source=place.source, radius=place.radius, n=6, seed=3,
        method=Ascent(steps=2, keep="lead"), progress=False,
    )  # fmt: skip
    assert place.lead == pytest.approx(float(bank.scores["lead"][:5].mean()), abs=1e-3)


def test_beside_it_stand_the_five_best_leads_of_the_random_vectors_it_began_with(two, found):
    model, base = two
    place = found.places[1]
    segment = Segment(model, ts.tokenize(model, PROMPTS), place.source, place.target)
    start = started(ts.Additive, segment, 6, 3.0, 3, ts.Positions())
    leads = [
        slowly(
            model,
            base,
            start.select(slice(i, i + 1)).requires_grad_(False),
            along=4,
            share=0.5,
            bound=5.0,
        )[1]
        for i in range(6)
    ]
    assert place.random == pytest.approx(sum(sorted(leads)[1:]) / 5, abs=1e-2)


def test_the_best_place_has_the_largest_lead_and_comes_first_when_sorted(found):
    leads = [place.lead for place in found.places]
    assert found.best().lead == max(leads)
    assert [place.lead for place in found.sort().places] == sorted(leads, reverse=True)
    assert found.best().source in str(found)


def test_lengths_are_what_elicit_takes_and_are_told_as_shares_of_the_norm(one):
    base = base_of(LLAMAS[0])
    place = {"sources": SOURCES[:1]} | SHORT
    norm = Segment(one, ts.tokenize(one, PROMPTS), SOURCES[0], 3).source_norm()
    lengths = (ShareOfNorm(0.3), "0.3x", repr(0.3 * norm), 0.3 * norm, "auto")
    *alike, own = scan_contrast(one, PROMPTS, base, lengths=lengths, **place).places
    assert [found.share for found in alike] == pytest.approx([0.3] * 4)
    assert [found.lead for found in alike] == pytest.approx([alike[0].lead] * 4, abs=1e-3)
    bank = ts.elicit(
        one, PROMPTS, against=base, source=SOURCES[0], radius="auto", n=2, progress=False,
        method=Ascent(steps=1),
    )  # fmt: skip
    assert own.radius == pytest.approx(bank.radius)


def test_a_contrast_with_settings_of_ones_own_is_scanned_as_it_is(one):
    base = base_of(LLAMAS[0])
    place = {"sources": SOURCES[:1], "lengths": (3.0,)} | SHORT
    whole = scan_contrast(one, PROMPTS, base, **place).best()
    first = scan_contrast(one, PROMPTS, Contrast(base, along=1, bound=1.0), **place).best()
    assert first.lead != pytest.approx(whole.lead, abs=1e-3)


def test_elicit_takes_source_and_length_from_the_scan_unless_they_are_given(one, monkeypatch):
    base, lengths = base_of(LLAMAS[0]), (ShareOfNorm(0.2), ShareOfNorm(0.6))
    monkeypatch.setattr(ends, "LENGTHS", lengths)
    best = scan_contrast(one, PROMPTS, base, lengths=lengths).best()
    bank = ts.elicit(
        one, PROMPTS, against=base, source="auto", target="auto", n=2, progress=False,
        method=Ascent(steps=1),
    )  # fmt: skip
    assert (bank.source.name, bank.radius) == (best.source, pytest.approx(best.radius))
    bank = ts.elicit(
        one, PROMPTS, against=base, source="auto", radius=2.0, n=2, progress=False,
        method=Ascent(steps=1),
    )  # fmt: skip
    assert bank.radius == 2.0


def test_both_models_are_as_before(two):
    before = [snapshot(model) for model in two]
    scan_contrast(two[0], PROMPTS, two[1], sources=SOURCES[:1], lengths=(3.0,), **SHORT)
    assert [snapshot(model) for model in two] == before


def test_what_cannot_be_scanned_is_refused(one):
    base = base_of(LLAMAS[0])
    lengths = [{"lengths": (wrong,)} for wrong in ("wide", "-1x", 0, "0", math.inf)]
    for wrong in ({"n": 4}, {"steps": 0}, {"lengths": ()}, *lengths):
        with pytest.raises(SettingError, match="expected"):
            scan_contrast(one, PROMPTS, base, **wrong)
    with pytest.raises(HookPointError):
        scan_contrast(one, PROMPTS, base, sources=["blocks.99.hook_resid_post"])
    with pytest.raises(ModelError):
        scan_contrast(one, PROMPTS, "base")
