"""On paper: colours are kept, nothing is cut, and a vector's page has all of its tabs."""

import pytest
from browsing import in_a_browser, settle
from conftest import bank_of
from test_views import INSIDE, inspection, poisoned_generations

import tl_steer as ts

pytestmark = in_a_browser

CHANGED = "() => dispatchEvent(new Event('{}'))"
# All that has a colour of its own, which a printer leaves out unless it is told.
KEPT = """() => [...document.querySelectorAll("*")].filter((node) => {
  const own = getComputedStyle(node);
  return own.backgroundColor !== "rgba(0, 0, 0, 0)" || own.backgroundImage !== "none";
}).map((node) => getComputedStyle(node).printColorAdjust)"""


def small_report(one):
    texts = poisoned_generations(4)
    return ts.report(bank_of(one), inspections=[inspection(one)], generations=texts, control=texts)


def on_paper(page):
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 703, "height": 1000})
    settle(page)


@pytest.mark.parametrize("view", INSIDE, ids=lambda view: view.__name__)
def test_what_is_drawn_as_a_ground_is_printed_with_its_colours(one, opened, view):
    page = opened(view(inspection(one), 0).html())
    on_paper(page)
    kept = page.evaluate(KEPT)
    assert len(kept) > 1
    assert set(kept) == {"exact"}
    across = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert across <= 1


def test_cards_and_pictures_are_not_split_over_pages(one, opened):
    page = opened(ts.views.logit_change(inspection(one), 0).html())
    on_paper(page)
    inside = "(all) => all.map((node) => getComputedStyle(node).breakInside)"
    assert set(page.locator(".card, svg, tr").evaluate_all(inside)) == {"avoid"}


def test_texts_of_the_table_are_whole_and_what_is_pressed_is_left_out(one, opened):
    page = opened(small_report(one).html())
    on_paper(page)
    clamp = "(all) => all.map((node) => getComputedStyle(node).webkitLineClamp)"
    assert set(page.locator("td.text > span").evaluate_all(clamp)) == {"none"}
    for name in ("nav", ".filter", ".exports", "header button"):
        assert not page.locator(name).first.is_visible()


def test_a_dark_page_is_printed_on_white_and_is_dark_again(one, opened):
    page = opened(ts.views.logit_change(inspection(one), 0).html())
    page.emulate_media(color_scheme="dark")
    paper = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.evaluate(CHANGED.format("beforeprint"))
    assert page.evaluate(paper) == "rgb(255, 255, 255)" != dark
    page.evaluate(CHANGED.format("afterprint"))
    assert page.evaluate(paper) == dark


def test_every_tab_of_a_vectors_page_is_printed(one, opened):
    page = opened(small_report(one).html(), address="#v1/tokens")
    titles = page.locator("nav.tabs:not(.main) a").all_inner_texts()
    page.locator(".print-all").wait_for()
    # The tabs' data are read while the page is idle.
    page.evaluate("() => new Promise((done) => setTimeout(() => requestIdleCallback(done), 400))")
    page.evaluate(CHANGED.format("beforeprint"))
    sections = page.locator("section.printed")
    drawn = dict(zip(sections.locator("> h2").all_inner_texts(), sections.all(), strict=True))
    assert set(drawn) == set(titles) - {"Next tokens"}
    assert drawn["Response"].locator("table.stream tr").count() > 3
    assert drawn["What carries it"].locator(".bars").count() == 1
    assert drawn["Text"].locator(".compare").count() == 2
    assert "Print all tabs" in drawn["CircuitsVis"].inner_text()
    page.evaluate(CHANGED.format("afterprint"))
    assert sections.count() == 0


def test_the_button_prints_those_that_are_drawn_late_as_well(one, opened):
    page = opened(small_report(one).html(), address="#v1/tokens")
    page.evaluate(
        """() => { window.print = () => {
          dispatchEvent(new Event("beforeprint"));
          const parts = [...document.querySelectorAll("section.printed")];
          window.PRINTED = parts.map((part) => part.innerText);
          dispatchEvent(new Event("afterprint")); }; }"""
    )
    page.locator(".print-all").click()
    page.locator("section.printed").last.wait_for(state="attached")
    page.locator("section.printed").last.wait_for(state="detached")
    printed = {text.split("\n")[0]: text for text in page.evaluate("() => window.PRINTED")}
    assert len(printed) == page.locator("nav.tabs:not(.main) a").count() - 1
    assert "Head Selector" in printed["CircuitsVis"]
    assert "Print all tabs" not in printed["CircuitsVis"]


def test_all_rows_of_a_long_table_are_printed(one, opened):
    long = ts.random_bank(bank_of(one), n=200)
    page = opened(ts.report(long).html())
    rows = page.locator("tr[data-vector]")
    assert rows.count() < len(long)
    page.evaluate(CHANGED.format("beforeprint"))
    assert rows.count() == len(long)
    page.evaluate(CHANGED.format("afterprint"))
    assert rows.count() < len(long)
