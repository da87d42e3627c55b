"""Views and the report in a real browser, from file://, with the network cut."""

import pytest
from browsing import FOREIGN, drawn, in_a_browser, location, settle
from conftest import bank_of
from test_views import (
    ATTACKS,
    INSIDE,
    all_views,
    full_report,
    inspection,
    poisoned,
    poisoned_generations,
)

import tl_steer as ts

pytestmark = in_a_browser

KINDS = [
    "attention_change",
    "logit_change",
    "likelihood",
    "logit_attribution",
    "residual_response",
    "steered_tokens",
    "generations",
    "dose_response",
    "bank_map",
    "selection_scores",
    "sweep",
    "scan",
    "alerts",
    "monitor",
]


def test_the_kinds_are_those_that_there_are(one):
    assert [view.kind for view in all_views(one)] == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_draws_offline_in_light_dark_and_on_a_phone(one, opened, kind):
    view = all_views(one)[KINDS.index(kind)]
    page = opened(view.html())
    assert page.locator("h1").inner_text() == view.title
    assert len(page.locator("#root").inner_text()) > len(view.title) + 20
    drawn(page)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    drawn(page)


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_are_shown_and_do_not_run(one, opened, kind):
    page = opened(all_views(one, poisoned(one))[KINDS.index(kind)].html())
    for node in page.locator("button:visible, .token:visible").all()[:12]:
        node.hover()
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []


def test_picking_a_token_shows_what_it_gains(one, opened):
    seen = inspection(one)
    page = opened(ts.views.logit_change(seen, 0).html())
    page.locator(".token").nth(2).click()
    assert "(token 2): " in page.locator(".card").inner_text()
    assert seen.word(int(seen.gained[0, 2, 0])) in page.locator(".card").inner_text()
    page.keyboard.press("ArrowRight")
    assert "(token 3)" in page.locator(".card").inner_text()


def test_choosing_tokens_changes_the_attribution(one, opened):
    page = opened(ts.views.logit_attribution(inspection(one), 0).html())
    before = page.locator(".bars").first.inner_text()
    page.locator("select").first.select_option("2")
    assert page.locator(".bars").first.inner_text() != before


def test_views_in_a_notebook_do_not_swallow_each_other(one, opened):
    seen = inspection(one)
    views = [view(seen, 0) for view in INSIDE[:3]]
    cells = "".join(f"<div class=cell>{view._repr_html_()}</div>" for view in views)
    page = opened(f"<!doctype html><body>{cells}<p id=after>after</p></body>")
    settle(page)
    assert page.locator("iframe").count() == 3
    assert page.locator("body > #after").inner_text() == "after"
    for frame, view in zip(page.frames[1:], views, strict=True):
        assert frame.locator("h1").inner_text() == view.title
        # A browser draws a frame, and so learns its height, when it is scrolled to.
        frame.frame_element().scroll_into_view_if_needed()
        settle(page)
        inside = frame.evaluate("() => document.documentElement.scrollHeight")
        outside = frame.frame_element().bounding_box()["height"]
        assert inside <= outside + 1
        with pytest.raises(Exception, match=r"SecurityError|cross-origin"):
            frame.evaluate("() => parent.document.body")


def vectors(page):
    # The browser tells a page of another address in its own time.
    page.locator("table.bank").wait_for()
    return [int(text) for text in page.locator("table.bank td.id").all_inner_texts()]


def test_the_report_sorts_filters_and_links(one, opened):
    page = opened(full_report(one).html())
    assert vectors(page) == [0, 1, 2, 3]
    bank = bank_of(one)
    page.get_by_role("button", name="|response|").click()
    falling = bank.responses.norm(dim=1).argsort(descending=True).tolist()
    assert vectors(page) == falling
    assert page.locator("th[aria-sort=descending]").inner_text() == "|response|"
    page.get_by_role("button", name="|response|").click()
    assert vectors(page) == falling[::-1]
    page.locator("input.filter").fill("#2")
    assert vectors(page) == [2]
    assert "1 of 4 vectors" in page.locator(".row > [role=status]").inner_text()
    page.locator("table.bank td.id a").click()
    assert location(page).endswith("#v2")
    assert page.locator("h1").inner_text().startswith("Vector 2")
    page.go_back()
    assert vectors(page) == [2]
    drawn(page)


def test_every_page_of_the_report_draws_when_it_is_opened(one, opened):
    page = opened(full_report(one).html(), address="#v1/attention")
    assert page.locator("nav [aria-current=page]").last.inner_text() == "Attention"
    assert page.get_by_role("grid").count() == 2
    drawn(page)
    for name in page.locator("nav.tabs:not(.main) a").all_inner_texts():
        page.locator("nav.tabs:not(.main)").get_by_text(name, exact=True).click()
        settle(page)
        assert page.locator("nav.tabs:not(.main) [aria-current=page]").inner_text() == name
        drawn(page)
    for name in page.locator("nav.main a").all_inner_texts():
        page.locator("nav.main").get_by_text(name, exact=True).click()
        settle(page)
        assert page.locator("nav.main [aria-current=page]").inner_text() == name
        drawn(page)


def test_the_report_is_worked_with_the_keyboard(one, opened):
    page = opened(full_report(one).html())
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert location(page).endswith("#v1")
    page.keyboard.press("ArrowRight")
    assert location(page).endswith("#v2")
    page.keyboard.press("Escape")
    assert vectors(page) == [0, 1, 2, 3]


def test_the_report_turns_dark_and_fits_a_phone(one, opened):
    page = opened(full_report(one).html())
    page.set_viewport_size({"width": 390, "height": 800})
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(paper) != light
    drawn(page)
    page.goto(page.url.split("#")[0] + "#v1/response")
    settle(page)
    drawn(page)


def test_attacks_in_the_report_do_not_run(one, opened):
    page = opened(full_report(one, poisoned(one), title=ATTACKS[0]).html())
    assert page.evaluate("() => window.HIT") is None
    assert ATTACKS[0] in page.locator("h1").inner_text()
    for address in (
        "#v0",
        "#v1/tokens",
        "#v2/likelihood",
        "#map",
        "#dose",
        "#sweep",
        "#alerts",
        "#v0/alerts",
    ):
        page.goto(page.url.split("#")[0] + address)
        settle(page)
        assert page.evaluate("() => window.HIT") is None
        assert page.evaluate(FOREIGN) == []


def test_an_injected_script_would_not_run(one, browser, tmp_path):
    """The policy holds even if markup got in."""
    view = ts.views.steered_tokens(inspection(one), 0)
    page = view.html().replace(
        "<noscript>",
        "<script>window.HIT = 1</script><img src=x onerror='window.HIT = 1'><noscript>",
    )
    path = tmp_path / "injected.html"
    path.write_text(page)
    tab = browser.new_page()
    tab.goto(path.as_uri())
    settle(tab)
    assert tab.locator("h1").inner_text() == view.title
    assert tab.evaluate("() => window.HIT") is None
    tab.close()


def test_a_vector_that_is_not_there_is_said_to_be_missing(one, opened):
    page = opened(ts.report(bank_of(one)).html(), address="#v99")
    assert "no vector 99" in page.locator("#root").inner_text()
    page = opened(ts.report(bank_of(one)).html(), address="#v1")
    assert "Nothing was measured" in page.locator("#root").inner_text()


def test_generations_of_several_prompts_are_switched(opened):
    page = opened(ts.views.generations(poisoned_generations(3)).html())
    assert ATTACKS[1] in page.locator("tbody tr").nth(1).inner_text()
    page.locator("select").select_option("1")
    assert "</title></style>" in page.locator("tbody tr").nth(1).inner_text()


BARS = """(root, data, T) => {
  T.add(root, T.el("p", { class: "said" }, data.said));
  return T.bars(data.rows.map(([name, value]) => ({ name, value })));
}"""


def own():
    """Views of one's own whose data are attacks."""
    rows = [[attack, i] for i, attack in enumerate(ATTACKS)]
    svg = (
        '<svg viewBox="0 0 40 20" onload="window.HIT = 1"><script>window.HIT = 1</script>'
        '<image href="http://x.test/a.png" width="9" height="9"/>'
        '<rect width="40" height="20" style="fill: rgb(1, 2, 3)"/>'
        '<foreignObject width="9" height="9"><img xmlns="http://www.w3.org/1999/xhtml" src="x" '
        'onerror="window.HIT = 1"/></foreignObject></svg>'
    )
    html = (
        "<table><tr><th>kept<td style='color: rgb(1, 2, 3)'>cell</table><script>window.HIT = 1"
        f"</script>{ATTACKS[1]}<a href='http://x.test'>a link</a><iframe src='http://x.test'>"
    )
    return [
        ts.views.own_view("Bars", {"rows": rows, "said": " ".join(ATTACKS)}, script=BARS),
        ts.views.own_view("Image", svg=svg),
        ts.views.own_view("Table", html=html),
    ]


def test_views_of_ones_own_draw_and_attacks_in_them_do_not_run(opened):
    bars, image, table = (opened(view.html()) for view in own())
    assert bars.locator(".bars .name").all_inner_texts()[:3] == list(ATTACKS[:3])
    assert "window.HIT = 1" in bars.locator("p.said").inner_text()
    size = image.evaluate("() => document.querySelector('img.picture').naturalWidth")
    assert size > 0, "the image is drawn"
    assert "rgb(1, 2, 3)" in table.evaluate(
        "() => getComputedStyle(document.querySelector('td')).color"
    )
    assert table.locator("#root").inner_text().split() == ["Table", "kept", "cell", "a", "link"]
    for page in (bars, image, table):
        assert page.evaluate("() => window.HIT") is None
        drawn(page)


def test_a_view_of_ones_own_that_fails_says_so_and_leaves_the_rest(one, browser, tmp_path):
    wrong = ts.views.own_view("Wrong", [], script="const a = 1; a")
    stops = ts.views.own_view("Stops", [], script="() => nowhere.at.all")
    good = own()[0]
    path = ts.report(bank_of(one), views=[wrong, stops, good]).save(tmp_path / "report.html")
    tab = browser.new_page()
    for number, words in enumerate(["not a JavaScript function", "stopped: ReferenceError", "<s>"]):
        tab.goto(f"{path.as_uri()}#view-{number + 1}")
        settle(tab)
        assert words in tab.locator("#root").inner_text()
    tab.close()


def test_a_script_of_ones_own_reaches_no_network_and_not_the_notebook(browser, tmp_path):
    script = """(root, data, T) => {
      const tell = (text) => T.add(root, T.el("p", {}, text));
      fetch("http://x.test/").catch((error) => tell("refused: " + error.name));
      try { eval("1"); tell("evaluated"); } catch (error) { tell("no eval"); }
      try { parent.document.body; tell("reached"); } catch (error) { tell("no parent"); }
      root.insertAdjacentHTML("beforeend", "<img src=x onerror='window.HIT = 1'>");
    }"""
    view = ts.views.own_view("Reaching", [], script=script)
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><body>{view._repr_html_()}</body>")
    tab, asked = browser.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    settle(tab)
    frame = tab.frames[1]
    said = frame.locator("#root").inner_text()
    assert all(words in said for words in ("refused", "no eval", "no parent")), said
    assert frame.evaluate("() => window.HIT") is None
    assert not [url for url in asked if "x.test" in url]
    tab.close()


def test_the_report_shows_views_of_ones_own(one, opened):
    page = opened(full_report(one, views=[*own(), ts.views.bank_map(bank_of(one))]).html())
    for title in ("Bars", "Image", "Table"):
        page.locator("nav.main").get_by_text(title, exact=True).click()
        settle(page)
        assert page.locator("h2").inner_text() == title
        assert page.evaluate("() => window.HIT") is None
        drawn(page)
