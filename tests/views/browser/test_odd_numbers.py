"""Infinite and missing numbers look like themselves, not like zero; signs are seen in grey."""

import dataclasses
import math

import pytest
import torch
from browsing import drawn, in_a_browser
from test_views import inspection

import tl_steer as ts

pytestmark = in_a_browser

VALUES = [0.0, 1.0, -1.0, math.inf, -math.inf, math.nan]
DRAWN = """(root, data, T) => {
  const of = data.values.map(T.value), names = data.values.map((_, i) => "t" + i);
  T.add(root, T.tokens(names, { share: (i) => of[i], says: (i) => T.num(of[i]) }));
  T.add(root, T.bars(data.values.map((value, i) => ({ name: names[i], value })), { signed: true }));
  T.add(root, T.spark(data.values, { bars: true, label: "a spark" }));
}"""
LOOK = """(nodes) => nodes.map((node) => {
  const own = getComputedStyle(node), after = getComputedStyle(node, "::after");
  return [own.backgroundColor, own.backgroundImage, after.content];
})"""


def page_of(opened, values):
    return opened(ts.views.own_view("Odd", {"values": values}, script=DRAWN).html())


def test_in_every_chart_each_of_them_looks_different_from_zero_and_each_other(opened):
    page = page_of(opened, VALUES)
    tokens = page.locator(".token").evaluate_all(LOOK)
    bars = page.locator(".bar").evaluate_all(LOOK)
    assert len({str(each) for each in tokens}) == len(VALUES)
    assert len({str(each) for each in bars[2:]}) == len(bars[2:])
    for found in (tokens, bars):
        assert [each[2] == '"∞"' for each in found] == [math.isinf(v) for v in VALUES]
        assert ["-45deg" in each[1] for each in found] == [math.isnan(v) for v in VALUES]
    assert page.locator("svg text").all_text_contents() == ["∞", "∞"]
    assert page.locator("svg rect.gap").count() == 1
    said = page.locator("svg").get_attribute("aria-label")
    assert said == "a spark; 3 of 6 infinite (∞) or no number (shaded)"
    drawn(page)


def test_an_infinite_token_is_as_deep_as_the_largest(opened):
    looks = page_of(opened, VALUES).locator(".token").evaluate_all(LOOK)
    assert looks[3][0] == looks[1][0]
    assert looks[4][0] == looks[2][0]


def test_a_legend_says_what_the_marks_mean_where_there_are_any(opened):
    page = page_of(opened, VALUES)
    assert page.locator(".odd").all_inner_texts() == ["infinite\nno number"] * 2
    assert page_of(opened, [0.0, 1.0, -1.0]).locator(".odd").count() == 0
    assert page_of(opened, [1.0, math.inf]).locator(".odd").first.inner_text() == "infinite"


def test_a_fall_is_told_from_a_rise_in_grey(opened):
    page = page_of(opened, [0.5, -0.5])
    (up, down) = page.locator(".token").evaluate_all(LOOK)
    assert up[1] == "none"
    assert "repeating-linear-gradient(0deg" in down[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_of_an_inspection_mark_them(one, opened, scheme):
    seen = inspection(one)
    kl = seen.kl.clone()
    kl[0, 1], kl[0, 2] = torch.inf, torch.nan
    view = ts.views.logit_change(dataclasses.replace(seen, kl=kl), 0)
    page = opened(view.html())
    page.emulate_media(color_scheme=scheme)
    looks = page.locator(".token").evaluate_all(LOOK)
    assert looks[1][2] == '"∞"'
    assert "-45deg" in looks[2][1]
    assert page.locator(".token").nth(1).get_attribute("aria-label").endswith(": ∞ nats")
    assert page.locator(".token").nth(2).get_attribute("aria-label").endswith(": – nats")
