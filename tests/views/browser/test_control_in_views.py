"""Random vectors stand behind the numbers of views; the lens says how likely its words are."""

import dataclasses
import re

import pytest
import torch
from browsing import drawn, in_a_browser, location, settle
from conftest import PROMPTS, bank_of
from test_views import inspection

import tl_steer as ts

pytestmark = in_a_browser


def control_of(one, n=3):
    return ts.inspect(one, ts.random_bank(bank_of(one), n=n), PROMPTS[0])


def numbers(text):
    return [float(found.replace("−", "-")) for found in re.findall(r"−?\d+\.?\d*(?:e−\d+)?", text)]


def test_kl_of_a_token_reads_beside_that_of_random_vectors(one, opened):
    seen, control = inspection(one), control_of(one)
    page = opened(ts.views.logit_change(seen, 2, control=control).html())
    line = page.locator(".card p").first.inner_text()
    low, high = (float(end) for end in (control.kl[:, -1].min(), control.kl[:, -1].max()))
    assert numbers(line.split("random")[1]) == pytest.approx([low, high], rel=0.02, abs=0.006)
    assert "lowest to highest of 3 random vectors" in page.locator("#root").inner_text()
    above = (seen.kl[2] > control.kl.amax(dim=0)).tolist()
    classes = [node.get_attribute("class") for node in page.locator(".token").all()]
    assert ["above" in each.split() for each in classes] == above
    assert any(above)
    page.locator(".token").first.click()
    assert "random" in page.locator(".card p").first.inner_text()
    assert location(page).endswith("?t=0")
    plain = opened(ts.views.logit_change(seen, 2).html(), address="#?t=1")
    assert "(token 1)" in plain.locator(".card p").first.inner_text()
    assert "andom" not in plain.locator("#root").inner_text()


def test_response_and_attribution_have_random_vectors_beside_them(one, opened):
    seen, control = inspection(one), control_of(one)
    page = opened(ts.views.residual_response(seen, 1, control=control).html())
    cell = page.locator("tbody tr").last.locator("td.num").nth(2).inner_text()
    share = (control.response / control.clean)[:, -1, -1]
    expected = [float(share.min()), float(share.max())]
    assert numbers(cell) == pytest.approx(expected, rel=0.06, abs=0.006)
    page.locator(".cells").last.hover()
    assert ", random " in page.locator(".tip").inner_text()
    page = opened(ts.views.logit_attribution(seen, 1, control=control).html())
    assert page.locator(".bars .band").count() > 3
    page.locator("select").first.select_option("1")
    assert page.locator(".bars .band").count() == 0
    assert "first pair of tokens only" in page.locator("#root").inner_text()
    drawn(page)


def lens_by_hand(one):
    """At the end: a word of 18 %, and one of 2 in a million whose logit rises furthest."""
    seen = inspection(one)
    likely, rare = torch.tensor([0.01, 0.18]), torch.tensor([1e-7, 2e-6])
    words = dict(seen.words) | {5: "likely", 6: "rare"}

    def filled(like, value):
        return torch.full_like(like, value)

    return dataclasses.replace(
        seen,
        words=words,
        lens_gained=filled(seen.lens_gained, 5),
        lens_gained_p=likely.expand_as(seen.lens_gained_p),
        promoted=filled(seen.promoted, 6),
        promoted_p=rare.expand_as(seen.promoted_p),
    )


def test_the_lens_names_what_becomes_likely_and_greys_what_does_not(one, opened):
    page = opened(ts.views.residual_response(lens_by_hand(one), 0).html())
    words = page.locator("tbody tr").last.locator(".word")
    assert set(words.all_inner_texts()) == {"likely"}
    colour = "(node) => getComputedStyle(node).color"
    ink = words.first.evaluate(colour)
    page.locator("td.lens").last.hover()
    assert "“likely” 1.0\xa0% → 18\xa0%" in page.locator(".tip").inner_text()
    page.get_by_role("button", name="logit", exact=True).click()
    words = page.locator("tbody tr").last.locator(".word")
    assert set(words.all_inner_texts()) == {"rare"}
    assert words.first.evaluate(colour) != ink
    assert location(page).endswith("?lens=logit")
    page.locator("td.lens").last.hover()
    assert "(<0.1\xa0%)" in page.locator(".tip").inner_text()


def test_an_inspection_without_probabilities_is_read_by_logits(one, opened):
    names = (
        "promoted_p",
        "suppressed_p",
        "lens_gained",
        "lens_gained_p",
        "lens_lost",
        "lens_lost_p",
    )
    old = dataclasses.replace(inspection(one), **dict.fromkeys(names))
    page = opened(ts.views.residual_response(old, 0).html())
    assert page.locator("tbody tr").last.locator(".word").count() == 4
    assert page.locator(".word.unlikely").count() == 0
    assert page.get_by_role("button", name="logit", exact=True).count() == 0


def dumbbell(page, row):
    """Where the two ends of a line stand, in per cent."""
    ends = page.locator(".moves tr").nth(row).locator(".odds .end")
    return [ends.nth(i).evaluate("(node) => parseFloat(node.style.left)") for i in (0, 1)]


def test_probabilities_move_on_an_axis_of_log_odds(one, opened):
    seen = inspection(one)
    pairs = torch.tensor([[0.001, 0.01], [0.01, 0.1], [0.1, 0.9], [0.9, 0.99]])
    both = seen.gained_p[..., :4, :].clone()
    both[:] = pairs
    few = {
        f"{k}{p}": getattr(seen, f"{k}{p}")[:, :, :4]
        for k in ("gained", "lost")
        for p in ("", "_p")
    }
    few |= {"likely": seen.likely[:, :, :4], "likely_lp": seen.likely_lp[:, :, :4]}
    seen = dataclasses.replace(seen, **(few | {"gained_p": both, "lost_p": both}))
    page = opened(ts.views.logit_change(seen, 0).html())
    places = [dumbbell(page, row) for row in range(4)]
    odds = torch.log(pairs / (1 - pairs))
    whole = odds[3, 1] - odds[0, 0]
    expected = (odds - odds[0, 0]) / whole * 100
    assert torch.tensor(places) == pytest.approx(expected, abs=0.1)
    # Equal steps of odds are equal on the page: 1 to 10 % moves less than 10 to 90 %.
    assert places[1][1] - places[1][0] < places[2][1] - places[2][0]
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    drawn(page)
