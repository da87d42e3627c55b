"""Sweeps and scans in a real browser: order, groups, links, keys and what is missing."""

import math

import pytest
from browsing import FOREIGN, drawn, in_a_browser, settle
from conftest import bank_of
from test_views import ATTACKS, PAIRS

import tl_steer as ts

pytestmark = in_a_browser

VALUES = [0.2, 0.9, -0.3, math.nan, 0.5]


def rows(n=5):
    return [
        {"vector": i, "label": "", "x": VALUES[i % 5], "x_low": VALUES[i % 5] - 0.1 - i / 50}
        | {"x_high": VALUES[i % 5] + 0.1 + i / 50, "y": float(i)}
        | {"verdict": ("systematic", "one-off")[i % 2]}
        for i in range(n)
    ]


def vectors(page):
    return [
        int(label.split(":")[0])
        for label in page.locator(".sweep .line").evaluate_all(
            "(lines) => lines.map((line) => line.getAttribute('aria-label'))"
        )
    ]


@pytest.fixture
def swept(opened):
    view = ts.views.sweep_view(rows())
    view.data["quantities"][0]["random"] = 0.4
    return opened(view.html())


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("value", [1, 4, 0, 2, 3]),
        ("vector", [0, 1, 2, 3, 4]),
        ("lower end", [1, 4, 0, 2, 3]),
        ("width of interval", [0, 1, 2, 4, 3]),
    ],
)
def test_rows_are_sorted_with_what_is_unknown_last(swept, by, expected):
    swept.locator("select").first.select_option(by)
    assert vectors(swept) == expected


def test_zero_and_the_random_median_are_lines_where_they_belong(swept):
    def across(number):
        line = swept.locator(f'.sweep .line[aria-label^="{number}:"] circle')
        return float(line.get_attribute("cx"))

    zero = float(swept.locator(".sweep line.zero").get_attribute("x1"))
    random = float(swept.locator(".sweep line.base.dash").get_attribute("x1"))
    slope = (across(1) - across(0)) / 0.7
    assert zero == pytest.approx(across(0) - 0.2 * slope)
    assert random == pytest.approx(across(0) + 0.2 * slope)
    assert across(2) < zero
    assert "random vectors' median, 0.40" in swept.locator("#root").inner_text()
    unknown = swept.locator('.sweep .line[aria-label^="3:"]')
    assert unknown.locator("circle").count() == 0
    assert unknown.locator("text").last.text_content() == "–"


def test_groups_and_quantities_are_in_the_address(swept, opened):
    swept.locator("select").nth(1).select_option("verdict")
    assert vectors(swept) == [4, 0, 2, 1, 3]
    swept.get_by_role("button", name="y", exact=True).click()
    address = swept.evaluate("() => location.hash")
    page = opened(ts.views.sweep_view(rows()).html(), address=address)
    assert vectors(page) == [4, 2, 0, 3, 1]
    assert page.locator(".sweep text", has_text="one-off (2)").count() == 1


def test_in_a_report_a_row_opens_its_vector_by_mouse_and_by_keys(one, opened):
    report = ts.report(bank_of(one), sweep=rows(4))
    page = opened(report.html(), address="#sweep")
    settle(page)
    page.locator('.sweep .line[tabindex="0"]').focus()
    page.keyboard.press("ArrowDown")
    second = vectors(page)[1]
    page.keyboard.press("Enter")
    settle(page)
    assert page.evaluate("() => location.hash").startswith(f"#v{second}")


def test_hundreds_of_rows_and_hostile_labels_fit(opened):
    wild = [
        {"vector": ATTACKS[i % 10], "label": ATTACKS[i % 9] * 99, "x": float(i % 7)}
        for i in range(250)
    ]
    page = opened(ts.views.sweep_view(wild).html())
    assert page.locator(".sweep .line").count() == 250
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    drawn(page)


def test_an_infinite_value_is_at_the_edge_and_marked(opened):
    table = [{"vector": i, "x": x} for i, x in enumerate([1.0, math.inf, -math.inf])]
    page = opened(ts.views.sweep_view(table).html())
    assert page.locator(".sweep .line circle").count() == 1
    marks = page.locator(".sweep .line text.infinite").all_text_contents()
    assert marks == ["∞", "−∞"]


SCAN = [
    {"source": f"blocks.{s}.hook_resid_post", "target": f"blocks.{t}.hook_resid_post"}
    | {"gain": gain, "texts": 0.5 * t, "error": error}
    for s, t, gain, error in [
        (0, 2, 1.5, None),
        (0, 4, math.inf, None),
        (2, 4, None, "the model overflows"),
    ]
]


@pytest.fixture
def scanned(opened):
    return opened(ts.views.scan_view(SCAN).html())


def test_cells_are_walked_with_keys_and_say_what_is_in_them(scanned):
    cursor = scanned.locator("[role=gridcell]")
    cursor.focus()
    scanned.keyboard.press("Home")
    assert "gain 1.50" in cursor.get_attribute("aria-label")
    scanned.keyboard.press("ArrowRight")
    assert "hook_resid_post: gain ∞" in cursor.get_attribute("aria-label")
    scanned.keyboard.press("ArrowDown")
    assert "1 failed" in cursor.get_attribute("aria-label")
    scanned.keyboard.press("Enter")
    assert "the model overflows" in scanned.locator("#root").inner_text()
    assert "c=1.1" in scanned.evaluate("() => location.hash")


def test_missing_and_infinite_cells_are_marked_and_in_the_legend(scanned):
    legend = scanned.locator(".grid-legend").inner_text()
    assert "no number" in legend
    assert "infinite" in legend
    assert scanned.locator(".grid-picture .grid-infinite").count() == 1


def test_axes_name_layers_and_a_click_shows_the_cells_of_a_pair(scanned, opened):
    texts = scanned.locator(".grid-picture text").all_text_contents()
    assert {"0", "2", "4"} <= set(texts)
    assert any("source" in text and "target" in text for text in texts)
    scanned.locator("[role=gridcell]").focus()
    scanned.keyboard.press("Home")
    cell = scanned.locator("[role=gridcell]").bounding_box()
    scanned.mouse.click(cell["x"] + cell["width"] / 2, cell["y"] + cell["height"] / 2)
    row = scanned.locator("tbody tr").inner_text().split()
    assert row == ["1.50", "1.00"]
    linked = opened(ts.views.scan_view(SCAN).html(), address="#?c=1.0&m=texts")
    assert linked.get_by_role("button", name="texts").get_attribute("aria-pressed") == "true"
    assert linked.locator("tbody tr").inner_text().split() == ["∞", "2.00"]


def test_settings_choose_cells_and_hostile_names_stay_text(opened):
    page = opened(ts.views.scan_view(PAIRS).html())
    page.locator("select").first.select_option("1")
    cursor = page.locator("[role=gridcell]")
    cursor.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    assert ATTACKS[0] in page.locator("#root").inner_text()
    drawn(page)
