"""The colour of a value is the colour that the legend has at that value."""

import re

import pytest
from browsing import in_a_browser
from conftest import bank_of
from test_views import inspection

import tl_steer as ts

pytestmark = in_a_browser

STYLES = """(selector) => [...document.querySelectorAll(selector)].map(
  (node) => getComputedStyle(node).backgroundColor)"""
LEGEND = "() => getComputedStyle(document.querySelector('.scale i')).backgroundImage"
RGBA = r"rgba?\((\d+), (\d+), (\d+)(?:, ([\d.]+))?\)"


def rgba(match):
    return *(int(x) for x in match.groups()[:3]), float(match[4] or 1)


def at(gradient, share):
    """The colour of a CSS gradient: straight lines between its stops."""
    stops = [(float(m[5]) / 100, rgba(m)) for m in re.finditer(RGBA + r" ([\d.]+)%", gradient)]
    before = max((stop for stop in stops if stop[0] <= share), key=lambda stop: stop[0])
    after = min((stop for stop in stops if stop[0] >= share), key=lambda stop: stop[0])
    part = 0 if after[0] == before[0] else (share - before[0]) / (after[0] - before[0])
    return tuple(a + part * (b - a) for a, b in zip(before[1], after[1], strict=True))


def compared(page, selector, shares):
    """Colours of nodes, beside those that the legend has where their values are."""
    gradient = page.evaluate(LEGEND)
    colours = [rgba(re.fullmatch(RGBA, text)) for text in page.evaluate(STYLES, selector)]
    assert len(colours) == len(shares)
    for colour, share in zip(colours, shares, strict=True):
        expected = at(gradient, share)
        assert colour[:3] == expected[:3] or colour[3] == 0
        assert colour[3] == pytest.approx(expected[3], abs=0.03)
    return colours


def test_the_legend_of_next_tokens_is_their_colours(one, opened):
    seen = inspection(one)
    page = opened(ts.views.logit_change(seen, 0).html())
    shares = (seen.kl[0] / seen.kl[0].max()).tolist()
    colours = compared(page, ".token", shares)
    assert max(c[3] for c in colours) == pytest.approx(at(page.evaluate(LEGEND), 1)[3], abs=1e-3)


def test_the_legend_of_the_response_is_its_cells_colours(one, opened):
    seen = inspection(one)
    page = opened(ts.views.residual_response(seen, 1).html())
    share = seen.response[1] / seen.clean
    compared(page, ".cells i", (share / share.max()).flatten().tolist())


def test_the_legend_of_steered_tokens_is_their_colours(one, opened):
    seen = inspection(one)
    share = seen.added[2] / seen.entering
    page = opened(ts.views.steered_tokens(seen, 2).html())
    compared(page, ".token", (share / share.max()).tolist())


def test_a_legend_of_more_and_less_has_both_colours(one, opened):
    page = opened(ts.views.bank_map(bank_of(one)).html())
    gradient = page.evaluate(LEGEND)
    assert at(gradient, 0)[:3] != at(gradient, 1)[:3]
    assert at(gradient, 0.5)[3] == 0
    assert at(gradient, 0)[3] == at(gradient, 1)[3] == 1
