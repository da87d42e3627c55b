"""The text under a vector in a real browser: picked, walked, linked to, and odd numbers marked."""

import itertools
import re

import pytest
import torch
from browsing import FOREIGN, drawn, in_a_browser, location, settle
from conftest import bank_of
from test_continuation import told
from test_views import ATTACKS

import tl_steer as ts

pytestmark = in_a_browser


def shown(one, **changes):
    return ts.views.continuation(told(one, **changes), 0)


def steered(page):
    return page.locator("[aria-label='Steered text'] .token")


def panel(page):
    return page.locator(".step > p").inner_text()


def test_it_draws_in_light_dark_and_on_a_phone(one, opened):
    page = opened(shown(one).html())
    for scheme, width in itertools.product(("light", "dark"), (1100, 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        settle(page)
        drawn(page)
    assert [t.inner_text().strip() for t in steered(page).all()] == [
        word.strip() for word in shown(one).data["tokens"]
    ]


def test_the_token_that_hangs_most_on_the_vector_is_open_at_first(one, opened):
    found = told(one)
    page = opened(shown(one).html())
    most = int(found.log_ratio(0).argmax())
    assert steered(page).nth(most).get_attribute("aria-pressed") == "true"
    assert f"token {most + 1} of {len(found.log_ratio(0))}" in panel(page)
    assert f"{float(found.log_ratio(0)[most]):+.2f}\u00a0nats" in panel(page)


def test_tokens_are_picked_by_mouse_and_arrow_keys_and_are_in_the_address(one, opened):
    page = opened(shown(one).html())
    steered(page).nth(1).click()
    assert "token 2 of" in panel(page)
    assert location(page).endswith("#?g=1")
    page.keyboard.press("ArrowRight")
    assert "token 3 of" in panel(page)
    assert steered(page).nth(2).evaluate("node => node === document.activeElement")
    assert location(page).endswith("#?g=2")
    again = opened(shown(one).html(), address="#?g=2&h=mean&w=steered")
    assert panel(again) == panel(page)
    pressed = again.locator(".step button[aria-pressed=true]").all_inner_texts()
    assert pressed == ["mean of all heads", "steered"]


@pytest.mark.parametrize("odd", ["#?g=99", "#?g=-1", "#?g=x", "#?g=1&h=77.7&w=<s>"])
def test_an_address_of_nothing_shows_what_there_is(one, opened, odd):
    page = opened(shown(one).html(), address=odd)
    assert "of 5" in panel(page)
    assert page.locator(".step button[aria-pressed=true]").count() == 2


def test_heads_are_switched_and_the_one_in_use_stays_focused(one, opened):
    page = opened(shown(one).html(), address="#?g=3")
    colours = """() => [...document.querySelectorAll('.attended .token')]
      .map((node) => node.style.backgroundColor)"""
    before = page.evaluate(colours)
    button = page.locator(".step [aria-label=Head] button").nth(2)
    name = button.inner_text().split(" ")[0]
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(colours) != before
    assert f"h={name}" in location(page)
    assert page.evaluate("() => document.activeElement.innerText").startswith(name)
    assert page.evaluate("() => document.activeElement.ariaPressed") == "true"
    tokens = page.locator(".attended .token")
    assert tokens.count() == len(told(one).tokens) + 3
    assert "front" in tokens.last.get_attribute("class")


def test_alternatives_stand_with_both_probabilities_likeliest_under_the_vector_first(one, opened):
    found = told(one)
    page = opened(shown(one).html(), address="#?g=0")
    v = found.index(0)
    first = page.locator(".alternatives tbody tr").first
    best = int(found.likely[v, 1, 0, 0])
    assert first.locator(".word").inner_text().strip() == found.word(best).strip()
    p = found.likely_lp[v, 1, 0, 0].exp().tolist()
    for cell, expected in zip(first.locator(".num").all(), p, strict=True):
        said = float(cell.inner_text().replace("\u00a0%", "").lstrip("<"))
        assert said == pytest.approx(100 * expected, abs=0.6)
    assert "chosen" in first.get_attribute("class")


def test_infinite_ratios_and_missing_ones_are_marked_and_the_legend_says_so(one, opened):
    found = told(one)
    lp, v = found.lp.clone(), found.index(0)
    lp[v, 0, 1], lp[v, 1, 2], lp[v, 0, 3] = -torch.inf, -torch.inf, torch.nan
    page = opened(shown(one, lp=lp).html(), address="#?g=1")
    classes = [token.get_attribute("class").split() for token in steered(page).all()]
    assert "infinite" in classes[1]
    assert {"infinite", "falls"} <= set(classes[2])
    assert "missing" in classes[3]
    assert not {"infinite", "missing"} & set(classes[0])
    legend = page.locator("[aria-label='Steered text'] .odd").inner_text()
    assert "infinite" in legend
    assert "no number" in legend
    assert "+∞" in panel(page)
    steered(page).nth(3).click()
    assert "log-ratio –" in panel(page)


def test_the_legend_has_the_colours_of_the_tokens(one, opened):
    """A ratio of 3 where the legend ends at 6 has the colour that the legend has in its middle."""
    found = told(one)
    lp, v = found.lp.clone(), found.index(0)
    lp[v] = torch.tensor([[-9.0, -9, -9, -9, -9], [-1.0, -6, -9, -12, -8]])
    page = opened(shown(one, lp=lp).html())
    (half, falls) = (
        steered(page).nth(k).evaluate("n => getComputedStyle(n).backgroundColor") for k in (1, 3)
    )
    ramp = page.locator(".scale i").first.evaluate("n => getComputedStyle(n).backgroundImage")
    ends = page.locator(".scale").first.inner_text()
    assert "+6 and beyond" in ends
    alpha = {c: float(c.rsplit(",", 1)[1].strip(" )")) for c in (half, falls)}
    stops = [(float(at), float(a)) for a, at in _STOP.findall(ramp)]
    for colour, place in ((half, 75.0), (falls, 25.0)):
        assert alpha[colour] == pytest.approx(_between(stops, place), abs=0.02)


_STOP = re.compile(r"rgba\([^)]*, ([\d.]+)\) ([\d.]+)%")


def _between(stops, place):
    for (a, x), (b, y) in itertools.pairwise(stops):
        if a <= place <= b:
            return x + (y - x) * (place - a) / ((b - a) or 1)
    raise AssertionError(stops)


def test_attacks_are_shown_and_do_not_run(one, opened):
    found = told(one)
    poisoned = {
        "words": {word: ATTACKS[word % len(ATTACKS)] for word in found.words},
        "tokens": tuple(ATTACKS[i % len(ATTACKS)] for i in range(len(found.tokens))),
        "unsteered": ATTACKS[0],
        "texts": tuple(ATTACKS[:3]),
        "prompt": ATTACKS[1],
    }
    page = opened(shown(one, **poisoned).html())
    for node in page.locator("button:visible, .token:visible").all()[:16]:
        node.hover()
        node.click()
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    page.set_viewport_size({"width": 390, "height": 800})
    drawn(page)


def test_a_model_without_attention_and_readable_layers_says_so(one, opened):
    found = told(one)
    bare = {
        "kept": found.kept[:, :, :0],
        "change": found.change[:, :, :0],
        "rows": found.rows[:, :, :0],
        "mean_rows": found.mean_rows * torch.nan,
        "direct": found.direct * torch.nan,
    }
    text = opened(shown(one, **bare).html()).locator(".step").inner_text()
    assert "This model shows no attention." in text
    assert "nothing is attributed" in text


def test_a_reports_vector_has_a_tab_of_generated_text(one, opened):
    page = opened(
        ts.report(bank_of(one), continuations=[told(one)]).html(), address="#v0/generated?g=1"
    )
    page.locator(".step").wait_for()
    assert "token 2 of" in panel(page)
    steered(page).nth(2).click()
    assert location(page).endswith("#v0/generated?g=2")
    page.keyboard.press("ArrowRight")
    assert location(page).endswith("#v0/generated?g=3"), "and not the next vector's page"
    drawn(page)


def test_a_text_is_saved_as_a_table(one, opened):
    page = opened(shown(one).html())
    rows = page.evaluate("() => document.querySelector('figure').rows()")
    found = told(one)
    assert rows[0][0] == "token"
    assert [row[3] for row in rows[1:]] == pytest.approx(found.log_ratio(0).tolist(), abs=2e-3)
