"""The slider of strengths: one move changes text, KL and probabilities, and is in the address."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from browsing import FOREIGN, drawn, in_a_browser, location, settle
from conftest import PROMPTS, bank_of
from test_views import ATTACKS

import tl_steer as ts
from tl_steer.errors import SettingError

pytestmark = in_a_browser

SCALES = (-2.0, -1.0, 0.5, 1.0, 3.0)


def measured(one, random=2):
    control = ts.random_bank(bank_of(one), n=random) if random else None
    return ts.inspection.strengths(
        one, bank_of(one), PROMPTS[0], scales=SCALES, max_new_tokens=6, control=control
    )


def shown(page):
    """Text, next tokens and KL of tokens, as the page has them."""
    return (
        page.locator(".compare .steered").inner_text(),
        page.locator(".chances").inner_text().replace("\xa0", " "),
        page.evaluate(
            "() => [...document.querySelectorAll('.token')]"
            ".map((n) => n.style.backgroundColor).join()"
        ),
    )


def test_the_slider_moves_text_probabilities_and_kl_together(one, opened):
    found = measured(one)
    page = opened(ts.views.strengths(found, 2).html())
    slider = page.get_by_role("slider", name="Strength")
    assert slider.get_attribute("aria-valuetext").startswith("1 times the vector")
    before = shown(page)
    slider.focus()
    page.keyboard.press("ArrowRight")
    after = shown(page)
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert location(page).endswith("#?d=3")
    strongest = found.of(2)[-1]
    assert found.of(2)[-1].text in after[0].replace("\n", " ")
    for word, p, _ in strongest.top:
        assert word in after[1]
        assert (f"{100 * p:.0f} %" if p >= 0.1 else f"{100 * p:.1f} %") in after[1]
    page.keyboard.press("Home")
    assert location(page).endswith("#?d=-2")
    assert slider.get_attribute("aria-valuetext").startswith("2 times its opposite")
    drawn(page)


def test_the_mouse_picks_a_strength_and_zero_is_the_unsteered_model(one, opened):
    found = measured(one)
    page = opened(ts.views.strengths(found, 0).html())
    page.locator(".stops button").nth(2).click()
    assert page.locator("p.told").inner_text().strip() == "unsteered unsteered"
    assert found.unsteered.text in page.locator(".compare .steered").inner_text()
    assert page.locator(".random").count() == 0
    assert page.locator("mark").count() == 0
    paper = "(n) => getComputedStyle(n).backgroundColor"
    assert all(node.evaluate(paper).endswith(", 0)") for node in page.locator(".token").all())


def test_an_address_opens_a_strength(one, opened):
    found = measured(one)
    page = opened(ts.views.strengths(found, 1).html(), address="#?d=-1")
    assert page.get_by_role("slider").input_value() == "1"
    assert found.of(1)[1].text in page.locator(".compare .steered").inner_text()


def test_random_vectors_of_the_same_strength_stand_beside(one, opened):
    found = measured(one)
    page = opened(ts.views.strengths(found, 1).html(), address="#?d=3")
    assert page.locator(".random").all_inner_texts() == [s.text for s in found.random(3.0)]
    ends = [s.kl[-1] for s in found.random(3.0)]
    low, high = np.min(ends), np.max(ends)
    view = ts.views.strengths(found, 1).data["steps"][-1]["band"]
    assert [view[0][-1], view[1][-1]] == pytest.approx([low, high], rel=1e-2)
    assert "random " in page.locator("p.told").inner_text()
    alone = opened(ts.views.strengths(measured(one, random=0), 1).html(), address="#?d=3")
    assert "random" not in alone.locator("#root").inner_text().lower()


def test_a_text_of_nothing_but_white_space_says_so(one, opened):
    found = measured(one)
    steps = [dataclasses.replace(step, text="\n" * 40) for step in found.steps]
    blank = dataclasses.replace(found, steps=tuple(steps))
    page = opened(ts.views.strengths(blank, 0).html())
    assert "Nothing but white space, 40 characters" in page.locator(".steered").inner_text()
    assert page.locator(".steered").bounding_box()["height"] < 200


def spans(page, kind):
    return page.evaluate(
        """(kind) => [...document.querySelectorAll('.zone.' + kind)].map((node) =>
        [parseFloat(node.style.left), parseFloat(node.style.left) + parseFloat(node.style.width)])
        .filter(([a, b]) => b - a > 0.01)""",
        kind,
    )


def hand_made(one):
    """Strengths with a text that changes from 0.5 to 1 and is gibberish at 3."""
    found = measured(one, random=0)
    steps = []
    for step in found.of(0):
        kind = {0.5: (False, 0.0), 1.0: (True, 1.0), 3.0: (True, 9.0)}.get(step.scale, (True, 1.0))
        changed, surprise = kind
        steps.append(dataclasses.replace(step, changed=changed, surprise=surprise, repetition=0.0))
    return dataclasses.replace(
        found, steps=tuple(steps), vectors=(0,), labels=("",), fluent=1.0, salad=5.0
    )


def test_the_track_shows_where_the_text_changes_and_where_it_is_gibberish(one, opened):
    found = hand_made(one)
    page = opened(ts.views.strengths(found, 0).html())
    leaves, babbles = found.ends(0)
    assert 0.5 < leaves < 1 < babbles < 3
    each = 100 / 6  # stops at -2, -1, 0, 0.5, 1, 3

    def place(strength):
        return float(np.interp(strength, [0.5, 1, 3], [3.5 * each, 4.5 * each, 5.5 * each]))

    assert spans(page, "gibberish") == [pytest.approx([place(babbles), 100], abs=0.1)]
    other = sorted(spans(page, "other"))
    assert other[1] == pytest.approx([place(leaves), place(babbles)], abs=0.1)
    assert other[0] == pytest.approx([0, 1.5 * each], abs=0.1)
    told = page.locator("p.note").first.inner_text()
    assert f"the text changes at about {leaves:.2f}\xa0×" in told
    assert "never turns into gibberish" in told
    states = []
    for address in ("#?d=0.5", "#?d=1", "#?d=3"):
        again = opened(ts.views.strengths(found, 0).html(), address=address)
        states.append(again.locator(".state").inner_text())
    assert states == ["same text", "other text", "gibberish"]


def test_a_report_has_a_tab_of_strengths_whose_address_it_keeps(one, opened):
    found = measured(one)
    page = opened(ts.report(bank_of(one), strengths=[found]).html(), address="#v1/strength?d=-1")
    page.get_by_role("slider").wait_for()
    assert page.locator("nav [aria-current=page]").last.inner_text() == "Strength"
    assert found.of(1)[1].text in page.locator(".compare .steered").inner_text()
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    assert location(page).endswith("#v1/strength?d=0"), "the report's own arrow keys are left alone"
    drawn(page)


def test_hostile_texts_and_odd_numbers_are_shown(one, opened):
    found = measured(one)
    attacked = tuple(
        dataclasses.replace(
            step,
            text=ATTACKS[i % len(ATTACKS)],
            kl=tuple([float("nan"), float("inf")][j % 2] for j in range(len(step.kl))),
            top=tuple((ATTACKS[0], float("nan"), 0.5) for _ in step.top),
        )
        for i, step in enumerate(found.steps)
    )
    odd = dataclasses.replace(
        found,
        steps=attacked,
        prompt=ATTACKS[0],
        tokens=tuple(ATTACKS[1] for _ in found.tokens),
        fluent=float("nan"),
        salad=float("inf"),
    )
    page = opened(ts.views.strengths(odd, 0).html())
    page.get_by_role("slider").focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    assert "NaN" not in page.locator("#root").inner_text()


def test_it_draws_in_the_dark_and_on_a_phone(one, opened):
    page = opened(ts.views.strengths(measured(one), 3).html())
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    drawn(page)
    thumb = page.get_by_role("slider").bounding_box()
    stops = [node.bounding_box() for node in page.locator(".stops button").all()]
    # The ends of the slider's way are the first and the last stop.
    first, last = (box["x"] + box["width"] / 2 for box in (stops[0], stops[-1]))
    assert thumb["x"] + 9 == pytest.approx(first, abs=1.5)
    assert thumb["x"] + thumb["width"] - 9 == pytest.approx(last, abs=1.5)


def test_a_strength_takes_about_a_kilobyte_and_needs_no_model(one):
    found = measured(one)
    view = ts.views.strengths(found, 0)
    size = len(json.dumps(view.data)) / len(SCALES)
    assert size < 1500
    assert "nats" in repr(view)
    with pytest.raises(SettingError, match="there are 0, 1, 2, 3"):
        ts.views.strengths(found, 9)
    assert not any(isinstance(value, torch.Tensor) for value in view.data.values())
