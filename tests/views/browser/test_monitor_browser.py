"""A monitor's pictures in a real browser, compared with the numbers that they are of."""

import pytest
from browsing import FOREIGN, drawn, in_a_browser, settle
from test_monitor_view import ALPHA, clean as clean, log_of, monitor as monitor, steered as steered
from test_views import ATTACKS, monitored

import tl_steer as ts

pytestmark = in_a_browser


@pytest.fixture
def seen(monitor, clean, steered, opened, tmp_path):
    path = log_of(tmp_path / "a.sqlite", monitor.bank.digest(), [0.01, 0.03, 0.4, 0.9] * 40)
    pair = {"the same": (clean, steered)}
    view = ts.views.monitor_view(
        monitor, clean=clean, steered=steered, controls=pair, log=path, alpha=ALPHA
    )
    return view, opened(view.html())


def section(page, title):
    return page.locator(".charts section").filter(has=page.get_by_role("heading", name=title))


def test_all_pictures_are_there_and_fit(seen):
    _, page = seen
    titles = page.locator(".charts h3").all_inner_texts()
    assert [title.split()[0].lower() for title in titles] == [
        "scores",
        "scores",
        "detections",
        "promised",
        "alarms",
        "alerts",
    ]
    drawn(page)
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    settle(page)
    drawn(page)
    text = page.locator("svg.plot text").first
    assert text.bounding_box()["height"] > 9, "letters stay readable on a phone"


def heights(page, kind, title):
    """Where horizontal lines stand, in the picture's own units."""
    lines = section(page, title).locator(f"svg.plot line.{kind}")
    return [float(line.get_attribute("y1")) for line in lines.all()]


def test_both_thresholds_stand_where_their_numbers_are(seen):
    view, page = seen
    whole, known = view.data["thresholds"][0]
    first, second = heights(page, "less", "Scores over tokens")
    points = section(page, "Scores over tokens").locator("svg.plot circle")
    one = page.locator("select[aria-label=Request]").input_value()
    group = next(g for g in view.data["tokens"] if g["name"] == one.split(".")[0])
    scores = next(r for r in group["requests"] if r["row"] == int(one.split(".")[1]))["scores"]
    places = [float(point.get_attribute("cy")) for point in points.all()]
    low, high = scores.index(min(scores)), scores.index(max(scores))
    slope = (places[high] - places[low]) / (scores[high] - scores[low])
    assert first == pytest.approx(places[low] + slope * (whole - scores[low]), abs=0.1)
    assert second == pytest.approx(places[low] + slope * (known - scores[low]), abs=0.1)


def test_another_request_is_picked_and_linked_to(seen, opened):
    view, page = seen
    row = view.data["tokens"][0]["requests"][-1]["row"]
    page.locator("select[aria-label=Request]").select_option(f"clean.{row}")
    assert "no alert" in section(page, "Scores over tokens").inner_text()
    address = page.evaluate("() => location.hash")
    assert f"r=clean.{row}" in address
    again = opened(view.html(), address=address)
    assert again.locator("select[aria-label=Request]").input_value() == f"clean.{row}"


def test_what_is_over_the_threshold_is_called_an_alert(seen):
    view, page = seen
    one = view.data["tokens"][1]["requests"][0]
    assert one["p_values"] <= ALPHA
    page.locator("select[aria-label=Request]").select_option(f"steered.{one['row']}")
    said = section(page, "Scores over tokens").inner_text()
    kind = "known perturbation" if one["known_p"] <= ALPHA else "unknown anomaly"
    assert f"an alert, {kind}" in said


def test_axes_of_the_curve_are_switched(seen):
    _, page = seen
    box = section(page, "Detections")
    paths = {}
    for name in ("linear", "DET", "log axis"):
        box.get_by_role("button", name=name).click()
        assert box.get_by_role("button", name=name).get_attribute("aria-pressed") == "true"
        paths[name] = box.locator("svg.plot path.more").get_attribute("d")
        assert "NaN" not in paths[name]
        label = box.locator("svg.plot").get_attribute("aria-label")
        assert label.endswith(name)
    assert len(set(paths.values())) == 3
    assert box.locator("svg.plot path.control").count() == 1


def test_the_table_has_the_rates_with_intervals(seen):
    view, page = seen
    row = page.locator("table.rates tbody tr").first.inner_text().replace("\xa0", " ")
    share, low, high = view.data["roc"][0]["detected"]
    assert f"{100 * share:.0f} %" in row
    assert f"{100 * low:.0f} %" in row
    assert f"{100 * high:.0f} %" in row
    assert f"{view.data['roc'][0]['area']:.3f}" in row


def test_bars_and_points_say_what_they_are(seen):
    view, page = seen
    bar = section(page, "Alerts over time").locator("svg.plot rect.hover").first
    bar.hover()
    assert f"{view.data['time'][0]['requests'][0]} requests" in page.locator(".tip").inner_text()
    section(page, "Promised").locator("svg.plot circle").nth(3).hover()
    assert "promised" in page.locator(".tip").inner_text()


def test_hours_and_days_are_switched(seen):
    view, page = seen
    box = section(page, "Alerts over time")
    box.get_by_role("button", name="by day").click()
    days = len(view.data["time"][1]["requests"])
    assert box.locator("svg.plot rect.hover").count() == days
    assert "by=day" in page.evaluate("() => location.hash")


def test_a_monitor_alone_shows_its_calibration(monitor, opened):
    page = opened(ts.views.monitor_view(monitor, alpha=ALPHA).html())
    assert page.locator(".charts section").count() == 1
    assert "calibration (" in page.locator("#root").inner_text()
    drawn(page)


def test_hostile_names_stay_text(opened):
    page = opened(monitored().html())
    assert ATTACKS[0][:20] in page.locator("table.rates").inner_text()
    for node in page.locator("svg.plot circle, svg.plot rect.hover").all()[:12]:
        node.dispatch_event("mousemove")
    assert page.evaluate("() => window.HIT") is None
    assert page.evaluate(FOREIGN) == []
    assert "other" in section(page, "Alerts over time").inner_text()
