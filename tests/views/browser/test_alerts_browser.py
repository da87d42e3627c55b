"""The list of alerts in a real browser: sorted, filtered, walked with keys, and long."""

import pytest
from browsing import FOREIGN, drawn, in_a_browser, settle
from conftest import bank_of
from test_alerts_view import alert
from test_views import ALERT_LOG, ALERTS, ATTACKS

import tl_steer as ts

pytestmark = in_a_browser

ROWS = ".windowed tr[data-row]"
PICKED = ".windowed tr[aria-selected=true]"


def many(n=120):
    """Alerts whose p-values, scores and times have orders of their own."""
    kinds = ("known perturbation", "unknown anomaly")
    return [
        alert(i, kind=kinds[i % 3 == 0], p_value=(i * 37 % n) / n, statistic=float(i * 53 % n))
        | {"label": "rude" if i % 10 == 0 else "", "trace": [0.0, i / 10, 5.0]}
        for i in range(n)
    ]


def requests(page):
    return page.locator(f"{ROWS} td:nth-child(6)").all_inner_texts()


def shown(page):
    return page.locator(".alert").inner_text()


@pytest.fixture
def listed(opened):
    return opened(ts.views.alerts_view(many()).html())


def test_the_picture_is_in_sight_with_120_alerts(listed):
    listed.set_viewport_size({"width": 1280, "height": 900})
    settle(listed)
    box = listed.locator(".alert svg.plot").bounding_box()
    assert box["y"] + box["height"] < 900
    assert listed.locator(".windowed").bounding_box()["y"] < 200
    assert "Request r119" in shown(listed), "the newest is open"


def test_a_click_shows_another_alert_and_the_address_says_which(listed):
    listed.locator(ROWS).nth(3).click()
    assert "Request r116" in shown(listed)
    assert listed.evaluate("() => location.hash") == "#?a=116"
    assert listed.locator(f"{PICKED} td").nth(5).inner_text() == "r116"
    points = listed.locator(".alert svg.plot circle")
    assert points.count() == 3
    assert listed.locator(".alert svg.plot circle.fill-less").count() == 1


def test_a_link_opens_its_alert(opened):
    page = opened(ts.views.alerts_view(many()).html(), address="#?a=7&s=p_value")
    assert "Request r7\n" in shown(page) + "\n"
    assert page.locator(PICKED).count() == 1, "it is scrolled to"
    assert page.locator("th[aria-sort=ascending]").inner_text() == "p"


@pytest.mark.parametrize(
    ("column", "key"),
    [(0, "at"), (1, "kind"), (3, "p_value"), (4, "statistic")],
)
def test_columns_sort_both_ways(listed, column, key):
    rows = many()
    button = listed.locator(".windowed th button").nth(column)
    button.click()
    head = listed.locator("th[aria-sort]")
    down = head.get_attribute("aria-sort") == "descending"
    for turn in (down, not down):
        ordered = sorted(range(120), key=lambda i: rows[i][key], reverse=turn)
        listed.locator(".windowed").evaluate("(box) => { box.scrollTop = 0; }")
        settle(listed)
        found = [int(name[1:]) for name in requests(listed)[:8]]
        assert [rows[i][key] for i in found] == [rows[i][key] for i in ordered[:8]]
        button.click()


def test_the_filter_counts_what_it_leaves_and_numbers_are_exact(listed):
    box, count = listed.locator("input.filter"), listed.locator("[role=status]").first
    box.fill("rude unknown")
    assert count.inner_text() == "4 of 120 alerts"
    box.fill("#3")
    assert count.inner_text() == "30 of 120 alerts"
    assert {
        text.split()[0] for text in listed.locator(f"{ROWS} td:nth-child(3)").all_inner_texts()
    } == {"#3"}
    box.fill("nowhere")
    assert count.inner_text() == "0 of 120 alerts"
    assert "q=nowhere" in listed.evaluate("() => location.hash")


def test_keys_walk_the_list_and_the_picture_follows(listed):
    listed.locator(".windowed").focus()
    for key, request in [("j", 118), ("ArrowDown", 117), ("k", 118), ("End", 0), ("Home", 119)]:
        listed.keyboard.press(key)
        assert f"Request r{request}\n" in shown(listed) + "\n", key
    active = listed.locator(".windowed").get_attribute("aria-activedescendant")
    assert listed.locator(f"#{active}").get_attribute("data-row") == "119"
    assert listed.evaluate("() => document.activeElement.className") == "windowed"


def test_of_thousands_only_those_in_sight_are_in_the_page(opened):
    page = opened(ts.views.alerts_view(many(5000)).html())
    assert page.locator(ROWS).count() < 60
    page.locator(".windowed").evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    settle(page)
    assert page.locator(ROWS).count() < 60
    assert requests(page)[-1] == "r0"
    assert page.locator(".windowed").get_attribute("aria-rowcount") == "5001"
    above = page.locator(".windowed").evaluate("(box) => box.scrollHeight")
    assert abs(above - 5000 * 30) < 100


def test_on_paper_all_rows_are_there(listed):
    listed.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert listed.locator(ROWS).count() == 120
    listed.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert listed.locator(ROWS).count() < 60


def test_on_a_phone_the_picture_is_under_the_list(listed):
    listed.set_viewport_size({"width": 390, "height": 800})
    settle(listed)
    first, second = (listed.locator(each).bounding_box() for each in (".windowed", ".alert"))
    assert second["y"] >= first["y"] + first["height"]
    assert first["height"] <= 302
    drawn(listed)


def test_alerts_about_no_token_and_tokens_without_scores_say_so(opened):
    page = opened(ts.views.alerts_view(ALERT_LOG).html())
    assert "traffic as a whole" in shown(page), "the newest is about drift"
    lost = [alert(0, trace=[1.0, None, None, 2.0])]
    page = opened(ts.views.alerts_view(lost).html())
    assert "2 could not be scored" in shown(page)
    assert page.locator(".alert svg.plot circle").count() == 2
    assert page.locator(".alert svg.plot path.base").get_attribute("d").count("M") == 2, "a gap"


def test_an_infinite_score_is_at_the_edge_and_marked(opened):
    table = {"token": ["a", "b", "c"], "score": [0.5, float("inf"), 2.0], "threshold": [1.0] * 3}
    page = opened(ts.views.alerts_view(table).html())
    points = page.locator("svg.plot circle")
    places = [float(point.get_attribute("cy")) for point in points.all()]
    assert places[1] < places[2] < places[0]
    assert page.locator("svg.plot text.infinite").all_text_contents() == ["∞"]


def test_a_table_of_tokens_has_no_list(opened):
    page = opened(ts.views.alerts_view(ALERTS).html())
    assert page.locator(".windowed").count() == 0
    assert "4 of 11 tokens fired" in page.locator("#root").inner_text()
    drawn(page)


def test_hostile_alerts_stay_text(opened):
    wild = [
        alert(i, label=text, kind=text, request=text)
        | {"tokens": [{"position": 1, "id": 1, "text": text}]}
        for i, text in enumerate(ATTACKS)
    ]
    page = opened(ts.views.alerts_view(wild).html())
    for row in page.locator(ROWS).all():
        row.click()
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    assert "<img src=x onerror" in page.locator(".windowed").inner_text()


def test_on_a_vectors_page_are_the_alerts_that_name_it(one, opened):
    page = opened(ts.report(bank_of(one), alerts=ALERT_LOG).html(), address="#v2/alerts")
    settle(page)
    assert page.locator(ROWS).count() == 2
    page.locator(".alert a").first.click()
    settle(page)
    assert page.evaluate("() => location.hash").startswith("#v2")
    drawn(page)
