"""Texts have the contrast that WCAG asks of them (AA), what is pressed is large enough, and motion
can be switched off."""

import pytest
from browsing import in_a_browser, location, settle
from conftest import bank_of
from test_views import INSIDE, inspection, poisoned_generations

import tl_steer as ts

pytestmark = in_a_browser

# Of every text that is seen: what it says, its contrast, what it needs, by WCAG 2.2's formulas.
CONTRASTS = r"""() => {
  const parsed = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((x, i) => x * a + under[i] * (1 - a));
  const linear = (x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const up = (node) => (node ? [...up(node.parentElement), node] : []);
  const contrast = (node, own) => {
    const all = up(node).map((one) => getComputedStyle(one));
    const lay = (ground, one) => over(parsed(one.backgroundColor), ground);
    const under = all.reduce(lay, [255, 255, 255]);
    const [r, g, b, a] = parsed(node.namespaceURI.endsWith("svg") ? own.fill : own.color);
    const opacity = all.reduce((share, one) => share * Number(one.opacity), a);
    const both = [light(over([r, g, b, opacity], under)), light(under)];
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    const own = getComputedStyle(node), box = node.getBoundingClientRect();
    const left = "script, style, noscript, option, .sheet, .tip";
    if (!text || !box.width || !box.height || node.closest(left)) continue;
    const size = parseFloat(own.fontSize), bold = Number(own.fontWeight) >= 700;
    const named = `${text.slice(0, 40)} (${node.tagName}.${node.getAttribute("class")})`;
    found.push([named, contrast(node, own), size >= 24 || (size >= 18.66 && bold) ? 3 : 4.5]);
  }
  return found;
}"""


def faint(page):
    found = page.evaluate(CONTRASTS)
    assert len(found) > 5
    return sorted({(text, round(ratio, 2)) for text, ratio, needed in found if ratio < needed})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_views_can_be_read(one, opened, scheme):
    for view in INSIDE:
        page = opened(view(inspection(one), 0).html())
        page.emulate_media(color_scheme=scheme)
        settle(page)
        assert faint(page) == [], view.__name__


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_report_can_be_read(one, opened, scheme):
    texts = poisoned_generations(4)
    page = opened(
        ts.report(
            bank_of(one), inspections=[inspection(one)], generations=texts, control=texts
        ).html()
    )
    page.emulate_media(color_scheme=scheme)
    page.evaluate("() => document.querySelectorAll('table.bank tbody tr')[1].classList.add('same')")
    for address in ("", "#v0", "#v1/response", "#map", "#provenance"):
        page.goto(page.url.split("#")[0] + address)
        settle(page)
        assert faint(page) == [], address


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_dots_of_charts_stand_out_from_paper(opened, scheme):
    script = """(root, data, T) => data.forEach((name) => {
      const value = getComputedStyle(document.documentElement).getPropertyValue("--" + name);
      const colour = /^\\s*\\d/.test(value) ? `rgb(${value})` : value;
      T.add(root, T.el("p", { style: { color: colour } }, name)); })"""
    names = ["paper", "base", "hatch", "more", "less", "accent"]
    page = opened(ts.views.own_view("Colours", names, script=script).html())
    page.emulate_media(color_scheme=scheme)
    page.reload()
    settle(page)
    ratios = {text.split()[0]: ratio for text, ratio, _ in page.evaluate(CONTRASTS)}
    assert ratios.pop("paper") == 1
    assert min(ratios.values()) >= 3, ratios


def test_what_is_pressed_is_24_pixels_or_in_a_line_of_text(one, opened):
    texts = poisoned_generations(4)
    report = ts.report(bank_of(one), inspections=[inspection(one)], generations=texts)
    for address in ("", "#v0/tokens", "#v0/attribution", "#v0/response"):
        page = opened(report.html(), address=address)
        small = page.locator("button:visible, select:visible, input:visible").evaluate_all(
            """(all) => all.filter((node) => !node.closest("label"))
              .map((node) => [node.textContent || node.tagName, node.getBoundingClientRect()])
              .filter(([, box]) => box.height < 23.5 || box.width < 23.5)
              .map(([text, box]) => `${text} ${box.width} ${box.height}`)"""
        )
        assert small == [], address


def test_what_has_the_focus_is_seen(one, opened):
    page = opened(ts.views.logit_change(inspection(one), 0).html())
    page.keyboard.press("Tab")
    seen = "() => getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate("() => document.activeElement.className").startswith("token")
    assert page.evaluate(seen) == "solid"


def test_nothing_moves_for_those_who_want_no_motion(opened):
    script = """(root, data, T) => T.el("p", { style: {
      transition: "opacity 3s", animation: "x 3s infinite", scrollBehavior: "smooth" } }, "text")"""
    page = opened(ts.views.own_view("Moving", script=script).html())
    page.emulate_media(reduced_motion="reduce")
    own = """(node) => {
      const own = getComputedStyle(node);
      return [own.transitionDuration, own.animationName, own.scrollBehavior];
    }"""
    assert page.locator("p").evaluate(own) == ["0s", "none", "auto"]


def test_keys_skip_to_what_the_report_is_about(one, opened):
    page = opened(ts.report(bank_of(one)).html())
    page.keyboard.press("Tab")
    link = page.locator("a.skip")
    assert link.evaluate("(node) => node === document.activeElement")
    assert link.bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "content"
    assert not location(page).endswith("#content"), "the address says what is open"
